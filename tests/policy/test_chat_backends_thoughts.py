"""A model that may think before it speaks: within its budget, heard by nobody, and forgotten with the next message."""

import pytest
from families.templates import family_tokenizer
from tiny_model import random_llama

from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.errors import UserError
from emodistill.negotiation.generator import generate_scenarios
from emodistill.negotiation.protocol import FOCAL, Negotiation
from emodistill.policy.chat_backends import Dialogue, LocalChatBackend, LocalModel
from emodistill.policy.chat_format import ChatFormat
from emodistill.policy.generation import ChatGenerator

SYSTEM = "You sell a bicycle."
BUDGET = 40


def thinking(name):
    return ChatFormat(family_tokenizer(name), load_vocabulary(), thinking=True)


@pytest.mark.parametrize("name", ["qwen3", "smollm3"])
def test_a_prompt_is_the_templates_own_with_thinking_on_and_the_mark_that_begins_a_thought(name):
    chat = thinking(name)
    messages = [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": "I offer 80."},
        {"role": "assistant", "content": "Make it 90."},
        {"role": "user", "content": "85."},
    ]
    template = chat.tokenizer.chat_template.replace("strftime_now('%d %B %Y')", "'26 July 2024'")
    shown = chat.tokenizer.apply_chat_template(
        messages, chat_template=template, tokenize=False, add_generation_prompt=True, enable_thinking=True
    )
    past = chat.system(SYSTEM) + chat.user("I offer 80.", first=True) + chat.reply("Make it 90.")
    prompt = past + chat.user("85.", thought=True)
    assert prompt == chat.tokenizer.encode(shown + "<think>\n", add_special_tokens=False)
    assert chat.tokenizer.decode(chat.end_of_thought) == "\n</think>\n\n"
    assert chat.tokenizer.convert_ids_to_tokens(chat.thought_mark) == "</think>"


def test_a_model_that_knows_no_end_of_a_thought_cannot_think():
    with pytest.raises(UserError, match=r"'meta-llama.*no token that ends a thought"):
        thinking("llama3.2")


def test_an_adapter_is_not_asked_to_think():
    with pytest.raises(UserError, match="thought_tokens=64: adapters are trained without thoughts"):
        LocalModel("embedded", adapter="somewhere", thought_tokens=64)


def test_thoughts_stay_within_their_budget_and_are_neither_said_nor_kept():
    chat, model = thinking("qwen3"), random_llama(vocab_size=512).eval()
    speaker = ChatGenerator(model, chat.tokenizer, 1.0, None, 8, stop_ids=chat.end_of_turn)
    thinker = ChatGenerator(model, chat.tokenizer, 1.0, None, BUDGET, stop_ids=[*chat.end_of_turn, chat.thought_mark])
    backend = LocalChatBackend(speaker, chat, thinker=thinker)
    speaker.context = thinker.context = 2 * BUDGET + 100
    dialogues = [Dialogue(Negotiation(scenario, 0), FOCAL, SYSTEM) for scenario in generate_scenarios("debt", 12)]
    read = {}  # what the speaker is given, by dialogue
    extend = speaker.extend_and_sample

    def watched(sessions, new, seeds):
        read.update({id(session): [*session.tokens, *tokens] for session, tokens in zip(sessions, new, strict=True)})
        return extend(sessions, new, seeds)

    speaker.extend_and_sample = watched
    cut, lengths = set(), []
    for round_ in range(4):
        asked = f"Offer {round_}?"
        replies = backend.reply(dialogues, [asked] * 12, range(100 * round_, 100 * round_ + 12))
        for dialogue, said in zip(dialogues, replies, strict=True):
            session = backend._encoded[id(dialogue)].session
            history = chat.user(asked, first=True, thought=True)
            kept = dialogue.exchanges[backend._encoded[id(dialogue)].dropped :]
            if kept:
                rounds = [chat.user(q, first=not i) + chat.reply(a) for i, (q, a) in enumerate(kept)]
                history = sum(rounds, []) + chat.user(asked, thought=True)
            before, given = chat.system(SYSTEM) + history, read[id(session)]
            assert given[: len(before)] == before
            thought = given[len(before) :]
            end = chat.end_of_thought
            assert thought[-2:] == end[-2:] and thought.count(chat.thought_mark) == 1
            cut.add(thought[-len(end) :] == end)
            lengths.append(len(thought) - 2)
            assert chat.tokenizer.decode(thought).strip() not in said and "think>" not in said
            dialogue.exchanges.append((asked, said or "Hm."))
    assert cut == {True, False}  # most were cut: with these weights all tokens are about as likely
    assert max(lengths) <= BUDGET + 1 and backend.dropped_rounds > 0
    assert backend.usage.completion_tokens == speaker.written + thinker.written


def test_a_model_by_configuration_thinks_before_it_speaks(tmp_path):
    random_llama(vocab_size=512).save_pretrained(tmp_path)
    family_tokenizer("qwen3").save_pretrained(tmp_path)
    quiet, thinks = (LocalModel(str(tmp_path), "float32", max_new_tokens=4, thought_tokens=n) for n in (None, 8))
    assert thinks.recipe() == quiet.recipe() | {"thought_tokens": 8}
    [scenario] = generate_scenarios("debt", 1)
    for source, most in ((quiet, 4), (thinks, 12)):
        backend = source.open()
        backend.reply([Dialogue(Negotiation(scenario, 0), FOCAL, SYSTEM)], ["I offer 80."], [0])
        assert most - 4 < backend.usage.completion_tokens <= most
