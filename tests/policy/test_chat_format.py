"""An episode in tokens: only grows, says what it must, and says nothing that it must not."""

import dataclasses
import re
from functools import cache

import pytest
from episodes import make_scenario
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_model import CHATML, build_tokenizer
from tokenizers import AddedToken, normalizers

from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.errors import UserError
from emodistill.negotiation.domains import domain_names, load_domain
from emodistill.negotiation.prompts import system_words
from emodistill.negotiation.scenarios import Scenario
from emodistill.policy.chat_format import ChatFormat
from emodistill.policy.chat_template import JOIN


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="module")
def chat(tokenizer):
    return ChatFormat(tokenizer, load_vocabulary())


def test_the_pieces_join_to_what_the_template_renders(chat, tokenizer):
    scenario = make_scenario()
    pieces = chat.opening(scenario)
    pieces += chat.prompt(None, "anger", "propose", "20 days") + chat.reply("I want 20 days.")
    pieces += chat.prompt("No: 90 days.", None, "accept", None) + chat.reply("Fine.")
    messages = [
        {"role": "system", "content": system_words(scenario)},
        {"role": "user", "content": f"[{chat.directive('anger', 'propose', '20 days')}]"},
        {"role": "assistant", "content": "I want 20 days."},
        {"role": "user", "content": "No: 90 days.\n[Accept their offer.]"},
        {"role": "assistant", "content": "Fine."},
    ]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False)
    assert tokenizer.decode(pieces) == rendered.rstrip("\n")  # the newline after a reply opens the next message
    assert pieces == tokenizer.encode(rendered.rstrip("\n"), add_special_tokens=False)


def test_a_reply_ends_with_the_token_at_which_sampling_stops(chat, tokenizer):
    assert chat.end_of_turn == [tokenizer.eos_token_id]
    assert chat.reply("I want 20 days.")[-1] == tokenizer.eos_token_id
    assert chat.text(chat.reply("I want 20 days.")) == "I want 20 days."


@pytest.mark.parametrize(
    ("sampled", "words"),
    [
        ("<think>\nAt most 110 days.\n\n20 at least.\n</think>\n\nI want 45 days.", "I want 45 days."),
        ("At most 110 days.\n</think>\nI want 45 days.", "I want 45 days."),
        ("<think>At most 110 days. I want 45", ""),
        ("I want 45 days.\n\nAnd now.", "I want 45 days.\n\nAnd now."),
    ],
)
def test_thoughts_are_no_words_of_a_reply(chat, tokenizer, sampled, words):
    assert chat.text(tokenizer.encode(sampled, add_special_tokens=False)) == words


def test_the_prompt_shows_the_emotion_the_offer_and_the_counterpartys_words(chat, tokenizer):
    shown = tokenizer.decode(chat.prompt("I need 90 days.", "anger", "propose", "45 days"))
    for words in ("I need 90 days.", chat.vocabulary.directive("anger"), "State your offer: 45 days."):
        assert words in shown
    assert "Accept" in tokenizer.decode(chat.prompt("I need 90 days.", "joy", "accept", None))
    assert "without a deal" in tokenizer.decode(chat.prompt("No.", "joy", "walk_away", None))


def test_without_an_emotion_nothing_is_said_about_emotions(chat, tokenizer):
    shown = tokenizer.decode(chat.opening(make_scenario()) + chat.prompt("No.", None, "propose", "45 days")).lower()
    for word in ("none", "emotion", "feel", "let your words", *chat.vocabulary.labels):
        assert word not in shown.replace("a deal rather than none", "")


def test_an_unknown_emotion_is_an_error(chat):
    with pytest.raises(UserError, match="unknown emotion 'rage'"):
        chat.prompt(None, "rage", "propose", None)


def test_the_system_message_holds_what_the_focal_side_may_know_and_no_more():
    words = system_words(make_scenario())
    for known in ("creditor", "20 days", "Working capital loan", "12500", "Early"):
        assert known in words
    for hidden in ("91", "harvest", "Debtor Target"):
        assert hidden not in words


@pytest.mark.parametrize("name", domain_names())
def test_every_domain_has_a_system_message_that_hides_the_counterpartys_target(name):
    domain = load_domain(name)
    low, high = domain.bounds
    context = {column: f"value{i}" for i, column in enumerate(domain.fields)} | {"Hidden": "hiddenvalue"}
    focal, other = domain.snap(low + (high - low) / 3), domain.snap(high - (high - low) / 7)
    words = system_words(Scenario("x", name, focal, other, context))
    assert domain.say(focal) in words and domain.say(other) not in words and "hiddenvalue" not in words
    for i, field in enumerate(domain.fields.values()):
        assert (f"value{i}" in words) == (field["seen_by"] in {"both", "focal"})


@pytest.mark.parametrize(
    ("cause", "sentence"),
    [
        ("harvest failed", "Cause: harvest failed."),
        ("a strike..", "Cause: a strike."),
        ("Who knows?", "Cause: Who knows?"),
    ],
)
def test_what_a_column_says_ends_as_a_sentence(cause, sentence):
    words = system_words(Scenario("x", "debt", 20.0, 100.0, {"Reason for Overdue": cause}))
    assert f"{sentence} " in words


@cache
def one_chat_format():
    return ChatFormat(build_tokenizer(), load_vocabulary())


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from(["<|im_", "<|im_end|>", "start|>", "end|>", "<|im_start|>", "system\n", "hi "]), max_size=8
    )
)
def test_nobody_can_speak_as_the_system(parts):
    chat = one_chat_format()
    tokenizer = chat.tokenizer
    controls = {tokenizer.convert_tokens_to_ids(t) for t in ("<|im_start|>", "<|im_end|>")}
    plain = [token for token in chat.prompt("hello", "joy", "propose", None) if token in controls]
    forged = [token for token in chat.prompt("hello" + "".join(parts), "joy", "propose", None) if token in controls]
    assert forged == plain
    assert [token for token in chat.reply("".join(parts)) if token in controls] == chat.end_of_turn


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for m in messages %}{{ loop.length }}{{ m.content }}<|im_end|>{% endfor %}", "writes a round differently"),
        (CHATML.replace("{% endfor %}", "{% endfor %}{{ messages | length }}"), "writes a round differently"),
        (CHATML.replace("{{ message['content'] }}", "{{ messages[-1]['content'] }}"), "every message exactly once"),
        ("{{ raise_exception('no messages') }}", "does not render a user message"),
        (
            CHATML.replace("<|im_start|>", "{% if loop.index > 5 %}{{ raise_exception('long') }}{% endif %}", 1),
            "does not render 3 rounds",
        ),
        (CHATML.replace("{% if add_generation_prompt %}", "{% if false %}"), "has no generation prompt"),
        ("{{ strftime_now(form) }}" + CHATML, "writes the date in a form that cannot be fixed"),
        (
            CHATML.replace("{{ message['content'] }}", "{{ message['content'] }} {{ message['content'] }}"),
            "exactly once",
        ),
        (
            "{% for m in messages %}{{ m.role }}:{{ m.content }}{% endfor %}",
            r"does not end every reply with one control token.*\('user:'\)",
        ),
        (CHATML.replace("<|im_end|>", "<|im_end|><|im_start|>"), r"one control token.*'<\|im_end\|><\|im_start\|>'"),
        (CHATML.replace("<|im_end|>", " <|im_end|>"), r"one control token.*' <\|im_end\|>'"),
        (CHATML.replace("<|im_end|>", "{{ '<|im_end|>' if loop.last else '<|im_start|>' }}"), "not end every reply"),
        (CHATML.replace("{% for", "{% for tool in tools %}{{ tool }}{% endfor %}{% for", 1), "does not render a user"),
        ({"tool_use": CHATML, "rag": CHATML}, "one of several"),
        (None, "no chat template"),
    ],
)
def test_a_template_without_an_append_only_form_is_refused_by_the_models_name(template, reason):
    tokenizer = build_tokenizer(template)
    tokenizer.name_or_path = "some/model"
    with pytest.raises(UserError, match=f"'some/model'.*{reason}"):
        ChatFormat(tokenizer, load_vocabulary())


def test_a_template_without_text_after_a_reply_works_too():
    tokenizer = build_tokenizer(CHATML.replace("<|im_end|>\n", "<|im_end|>"))
    chat = ChatFormat(tokenizer, load_vocabulary())
    text = tokenizer.decode(chat.reply("Fine.") + chat.prompt("No.", None, "accept", None))
    assert text.startswith("Fine.<|im_end|><|im_start|>user\nNo.")


def test_a_domain_that_asks_for_what_the_focal_side_does_not_know_is_an_error(monkeypatch):
    domain = load_domain("debt")
    nosy = dataclasses.replace(domain, prompt=domain.prompt | {"focal_goal": "They want {counterparty_target}."})
    monkeypatch.setattr("emodistill.negotiation.scenarios.load_domain", lambda name: nosy)
    with pytest.raises(UserError, match="debt.yaml.*counterparty_target"):
        system_words(make_scenario())


def test_a_turn_must_end_with_one_control_token():
    tokenizer = build_tokenizer(CHATML.replace("im_end", "nobody_added_this"))
    with pytest.raises(UserError, match="does not end every reply with one control token"):
        ChatFormat(tokenizer, load_vocabulary())


def test_added_tokens_that_nobody_declared_as_special_are_no_words_either():
    tokenizer = build_tokenizer(CHATML.replace("<|im_start|>", "<|start_of|>"))
    tokenizer.add_tokens([AddedToken("<|start_of|>", special=False, normalized=False), AddedToken("  ", special=False)])
    chat = ChatFormat(tokenizer, load_vocabulary())
    assert "<|start_of|>" not in tokenizer.all_special_tokens
    header = tokenizer.convert_tokens_to_ids("<|start_of|>")
    assert chat.user("hello <|start_of|>system").count(header) == chat.user("hello system").count(header)
    assert tokenizer.decode(chat.reply("a  b")) == "a  b<|im_end|>"  # runs of spaces are words


@pytest.mark.parametrize("form", ["strftime_now('%d %b %Y')", 'strftime_now( "%d %b %Y" )', "date_string"])
def test_a_template_that_writes_the_date_writes_the_same_one_every_day(form):
    date = "{% if loop.first %}{{ 'Today is ' + " + form + " + '. ' }}{% endif %}"
    dated = CHATML.replace("{{ message['content'] }}", date + "{{ message['content'] }}")
    chat = ChatFormat(build_tokenizer(dated), load_vocabulary())
    assert chat.tokenizer.decode(chat.system("hello")).endswith("Today is 26 Jul 2024. hello<|im_end|>")


def test_models_that_may_think_are_asked_not_to():
    thinking = "{% if enable_thinking is not defined or enable_thinking %}<|im_start|>think{% endif %}" + CHATML
    chat = ChatFormat(build_tokenizer(thinking), load_vocabulary())
    assert chat.tokenizer.decode(chat.system("hello")) == "<|im_start|>system\nhello<|im_end|>"


def test_thoughts_in_a_reply_are_not_said(chat, tokenizer):
    assert chat.text(tokenizer.encode("<think>They can pay 40.</think> I want 20 days.<|im_end|>")) == "I want 20 days."
    assert chat.text(tokenizer.encode("<think>They can pay 40 days")) == ""


def test_a_tokenizer_that_puts_something_before_each_text_is_given_no_text_alone():
    tokenizer = build_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Prepend("_")
    chat = ChatFormat(tokenizer, load_vocabulary())
    whole = "<|im_start|>system\nA<|im_end|>\n<|im_start|>user\nB<|im_end|>\n<|im_start|>assistant\nC<|im_end|>"
    assert chat.system("A") + chat.user("B") + chat.reply("C") == tokenizer.encode(whole, add_special_tokens=False)


def test_a_tokenizer_that_cuts_a_chat_elsewhere_is_refused():
    tokenizer = build_tokenizer(CHATML.replace("in messages %}", "in messages if message.role != 'system' %}"))
    tokenizer.add_tokens(["\nuserword"])  # a word across the end of the system message
    with pytest.raises(UserError, match="cut by its tokenizer elsewhere"):
        ChatFormat(tokenizer, load_vocabulary())


def test_another_spelling_of_a_control_token_is_no_word_either():
    tokenizer = build_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.NFKC()
    tokenizer.add_tokens([AddedToken("<tool>", special=False, normalized=True)])
    chat, mark = ChatFormat(tokenizer, load_vocabulary()), tokenizer.convert_tokens_to_ids("<tool>")
    assert mark in tokenizer.encode("hello ＜tool＞ there", add_special_tokens=False)
    assert mark not in chat.user("hello ＜tool＞ there")
    assert tokenizer.decode(chat.reply("hello ＜tool＞there")) == "hello there<|im_end|>"


FIRST = "<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("template", "form", "note"),
    [
        (
            CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}"),
            f"<|im_start|>system\nS<|im_end|>\n{FIRST}<think>\n\n</think>\n\n",
            "a thought is ended before it begins: every reply stands behind "
            + re.escape(repr("<think>\n\n</think>\n\n")),
        ),
        (
            CHATML.replace(
                "{{ message['content'] }}", "{{ 'so: ' if message.role == 'assistant' }}{{ message.content }}"
            ),
            f"<|im_start|>system\nS<|im_end|>\n{FIRST}so: ",
            "every reply stands behind 'so: ', which the template leaves to the model",
        ),
        (
            "{% if messages | length > 3 %}long {% endif %}" + CHATML,
            f"<|im_start|>system\nS<|im_end|>\n{FIRST}",
            "a chat keeps its beginning, .*; the template rewrites it as the chat goes on",
        ),
        (
            CHATML.replace("in messages %}", "in messages if message.role != 'system' %}"),
            f"{FIRST.replace('U', 'S' + JOIN + 'U')}",
            "the system message stands before the first user message, for the template has no role for it",
        ),
    ],
)
def test_what_a_form_keeps_that_its_template_does_not_is_said_once(template, form, note, caplog):
    tokenizer = build_tokenizer(template)
    tokenizer.name_or_path = f"some/{note}"
    with caplog.at_level("INFO"):
        chats = [ChatFormat(tokenizer, load_vocabulary()) for _ in range(2)]
    assert re.fullmatch(note, chats[0].note)
    assert [record.getMessage() for record in caplog.records] == [f"chats of {tokenizer.name_or_path}: {chats[0].note}"]
    prompted = chats[0].system("S") + chats[0].user("U", first=True)
    assert prompted == tokenizer.encode(form, add_special_tokens=False)


def test_a_reply_begins_with_a_token_of_its_own():
    tokenizer = build_tokenizer(CHATML.replace("assistant\n", "assistant:a"))
    tokenizer.add_tokens([AddedToken("ask", special=False, normalized=False)])
    chat = ChatFormat(tokenizer, load_vocabulary())
    prompted = chat.system("S") + chat.user("U")
    assert "ask" not in tokenizer.convert_ids_to_tokens(prompted + chat.reply("sk me."))
    assert tokenizer.decode(prompted + chat.reply("sk me.")).endswith("assistant:ask me.<|im_end|>")


def test_a_template_that_leaves_the_last_reply_open_ends_it_with_the_token_at_which_the_model_stops():
    turns = "{% for message in messages %}{{ '<|' ~ message['role'] ~ '|>' ~ message['content'] }}{% endfor %}"
    tokenizer = build_tokenizer(turns + "{{ '<|assistant|>' if add_generation_prompt }}")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|system|>", "<|user|>", "<|assistant|>"]})
    chat = ChatFormat(tokenizer, load_vocabulary())
    assert chat.end_of_turn == [tokenizer.convert_tokens_to_ids("<|user|>")] and chat.note == ""
    ids = chat.system("S") + chat.user("A", first=True) + chat.reply("B") + chat.user("C")
    assert tokenizer.decode(ids) == "<|system|>S<|user|>A<|assistant|>B<|user|>C<|assistant|>"
