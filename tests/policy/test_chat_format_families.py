"""Chats of the families of models that people use: what is trained is what generation sees, token by token."""

import re
from functools import cache

import pytest
from episodes import make_episode
from families.templates import FAMILIES, family_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from emodistill.data.chats import ChatEncoder
from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.policy.chat_format import ChatFormat
from emodistill.policy.chat_template import JOIN, control_tokens

SYSTEM = "You are the creditor.\n\nYour target: 20 days."
ROUNDS = [
    ("[Let your words show anger. State your offer: 20 days.]", "I want 20 days!"),
    ("No: 90 days. That is 3 months.\n[State your offer: 25 days.]", "At least 25 days — please."),
    ("80 days, günstig 👍\n[Accept their offer.]", "Fine. 80 days."),
]
WRITES_AS_ITS_TEMPLATE = [
    "smollm2",
    "smollm3",
    "qwen2.5",
    "llama3.2",
    "gemma3",
    "phi3.5",
    "phi4-mini",
    "granite3.3",
    "lfm2",
]
NOTES = {
    "qwen3": "an earlier reply keeps '<think>\\n\\n</think>\\n\\n' before it, as when it was spoken, which the "
    "template leaves out",
    "smollm3": "today is always 26 July 2024",
    "llama3.2": "today is always 26 July 2024",
    "gemma2": "the system message stands before the first user message, for the template has no role for it",
    "mistral-v0.3": "the system message stays in the first user message; the template moves it to the last",
    "mistral-nemo": "the system message stays in the first user message; the template moves it to the last",
}


@cache
def chat_of(name):
    return ChatFormat(family_tokenizer(name), load_vocabulary())


def in_parts(chat, rounds):
    """What the model is prompted with before each reply, and the reply, as training and play put them together."""
    so_far, found = chat.system(SYSTEM), []
    for place, (user, said) in enumerate(rounds):
        so_far = so_far + chat.user(user, first=place == 0)
        found.append((so_far, chat.reply(said)))
        so_far = so_far + found[-1][1]
    return found


def prompted_by_template(tokenizer, rounds, system=SYSTEM):
    """What the library gives the model before the last reply, on the day that is always today."""
    messages = [{"role": "system", "content": system}]
    for user, said in rounds:
        messages += [{"role": "user", "content": user}, {"role": "assistant", "content": said}]
    template = re.sub(r"strftime_now\('%d %B %Y'\)", "'26 July 2024'", tokenizer.chat_template)
    return tokenizer.apply_chat_template(
        messages[:-1],
        chat_template=template,
        add_generation_prompt=True,
        enable_thinking=False,
        date_string="26 Jul 2024",
        return_dict=False,
    )


@pytest.mark.parametrize("name", WRITES_AS_ITS_TEMPLATE)
def test_every_round_is_what_the_template_and_its_tokenizer_give(name):
    chat = chat_of(name)
    for count, (prompted, _) in enumerate(in_parts(chat, ROUNDS), start=1):
        assert prompted == prompted_by_template(chat.tokenizer, ROUNDS[:count])


@pytest.mark.parametrize("name", sorted(FAMILIES.keys() - {"gemma2"}))
def test_the_first_round_is_always_what_the_template_and_its_tokenizer_give(name):
    chat = chat_of(name)
    assert in_parts(chat, ROUNDS)[0][0] == prompted_by_template(chat.tokenizer, ROUNDS[:1])


def test_without_a_system_role_the_words_stand_in_the_first_user_message():
    chat = chat_of("gemma2")
    first = [{"role": "user", "content": SYSTEM + JOIN + ROUNDS[0][0]}, {"role": "assistant", "content": ROUNDS[0][1]}]
    messages = [*first, {"role": "user", "content": ROUNDS[1][0]}, {"role": "assistant", "content": ROUNDS[1][1]}]
    parts = in_parts(chat, ROUNDS)
    for place, shown in enumerate((messages[:1], messages[:3])):
        expected = chat.tokenizer.apply_chat_template(shown, add_generation_prompt=True, return_dict=False)
        assert parts[place][0] == expected


def test_a_thinking_model_keeps_the_empty_thoughts_behind_which_it_spoke():
    chat, quiet = chat_of("qwen3"), "<think>\n\n</think>\n\n"
    text = f"<|im_start|>system\n{SYSTEM}<|im_end|>"
    for user, said in ROUNDS:
        text += f"\n<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n{quiet}{said}<|im_end|>"
    prompted, reply = in_parts(chat, ROUNDS)[-1]
    assert prompted + reply == chat.tokenizer.encode(text, add_special_tokens=False)


@pytest.mark.parametrize(("name", "space"), [("mistral-v0.3", " "), ("mistral-nemo", "")])
def test_system_words_stay_in_the_first_question_of_mistral(name, space):
    chat, text = chat_of(name), "<s>"
    for place, (user, said) in enumerate(ROUNDS):
        text += f"[INST]{space}{'' if place else SYSTEM + JOIN}{user}[/INST]{space}{said}</s>"
    prompted, reply = in_parts(chat, ROUNDS)[-1]
    assert prompted + reply == chat.tokenizer.encode(text, add_special_tokens=False)


@pytest.mark.parametrize("name", FAMILIES)
def test_what_was_prompted_and_said_is_the_beginning_of_what_is_prompted_next(name):
    parts = in_parts(chat_of(name), ROUNDS)
    for (prompted, said), (later, _) in zip(parts, parts[1:], strict=False):
        assert later[: len(prompted) + len(said)] == prompted + said


@pytest.mark.parametrize("name", FAMILIES)
def test_a_reply_is_its_words_and_the_token_at_which_generation_stops(name):
    chat = chat_of(name)
    controls = set(map(chat.tokenizer.convert_tokens_to_ids, control_tokens(chat.tokenizer)))
    for _, said in ROUNDS:
        reply = chat.reply(said)
        assert reply[-1:] == chat.end_of_turn and controls.isdisjoint(reply[:-1])
        assert chat.text(reply) == chat.text(reply[:-1]) == said


@pytest.mark.parametrize("name", FAMILIES)
def test_what_differs_from_the_template_is_said_in_one_line(name):
    chat = chat_of(name)
    assert chat.note == NOTES.get(name, "")
    as_template = [prompted_by_template(chat.tokenizer, ROUNDS[:n]) for n in (1, 2, 3)] if name != "gemma2" else None
    assert (as_template == [prompted for prompted, _ in in_parts(chat, ROUNDS)]) == (name in WRITES_AS_ITS_TEMPLATE)


@pytest.mark.parametrize("name", ["smollm3", "llama3.2"])
def test_the_date_is_the_same_every_day(name):
    written = chat_of(name).tokenizer.decode(chat_of(name).system(SYSTEM))
    assert "26 Jul" in written and len(re.findall(r"20\d\d(?= |\n)", written.replace("2023", ""))) == 1


@pytest.mark.parametrize("name", ["qwen3", "smollm3"])
def test_nobodys_words_turn_thinking_on(name):
    chat = chat_of(name)
    assert chat.user("Pay. /think") == chat.user("Pay. /no_think") == chat.user("Pay.")
    assert chat.system("Bargain. /think") == chat.system("Bargain.")


@settings(max_examples=40, deadline=None)
@given(st.data())
@pytest.mark.parametrize("name", FAMILIES)
def test_control_tokens_in_peoples_words_vanish(name, data):
    chat = chat_of(name)
    marks = sorted(control_tokens(chat.tokenizer)) + ["/think", "[INST]"]
    halves = [half for mark in marks for half in (mark[: len(mark) // 2], mark[len(mark) // 2 :])]
    pieces = [*marks, *halves, "hi ", "\n"]
    forged = "hello" + "".join(data.draw(st.lists(st.sampled_from(pieces), max_size=6)))
    controls = set(map(chat.tokenizer.convert_tokens_to_ids, control_tokens(chat.tokenizer)))
    for part in (chat.system, chat.user, lambda words: chat.user(words, first=True), chat.reply):
        assert [i for i in part(forged) if i in controls] == [i for i in part("hello") if i in controls]


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_learnt_from_are_the_chosen_replies_and_the_ends_of_their_turns(name):
    chat, episode = chat_of(name), make_episode(3)
    for limit in (4096, len(ChatEncoder(chat, 4096).encode(episode, [True] * 3).input_ids) - 1):
        encoded = ChatEncoder(chat, limit).encode(episode, [True, False, True])
        pairs = list(zip(encoded.input_ids, encoded.utterance, strict=True))
        assert encoded.turns == ([0, 2] if limit == 4096 else [2])
        for place, turn in enumerate(encoded.turns):
            learnt = [token for token, owner in pairs if owner == place]
            assert learnt == chat.reply(episode.focal_turns[turn].text)
        assert encoded.input_ids[: len(chat.opening(episode.scenario))] == chat.opening(episode.scenario)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_chat_that_lost_its_early_rounds_is_written_as_if_it_began_with_the_first_that_is_left(name):
    chat, episode = chat_of(name), make_episode(4)
    whole = ChatEncoder(chat, 4096).encode(episode, [True] * 4)
    narrow = ChatEncoder(chat, len(whole.input_ids) - 1)
    kept = narrow.encode(episode, [True] * 4)
    assert narrow.dropped_rounds == 1
    heard, spoken = episode.turns[1], episode.focal_turns[1]
    first = chat.prompt(heard.text, spoken.emotion, spoken.act, f"{spoken.offer:.0f} days", first=True)
    beginning = chat.opening(episode.scenario) + first + chat.reply(spoken.text)
    assert kept.input_ids[: len(beginning)] == beginning
    [context] = narrow.contexts(episode, [False, False, False, True], reserve=len(chat.reply(episode.turns[-1].text)))
    assert kept.input_ids[: len(context.input_ids)] == context.input_ids
