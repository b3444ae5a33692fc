"""Thoughts are taken out of a model's text, however they are marked and wherever it was cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emodistill.language_models.thoughts import end_of_thought, has_words, without_thoughts

SAID = "I can do 45 days if we both sign today."
THOUGHT = "Okay. My limit is 110 days, but I could go down to 20."
PAIRS = [
    *(("<think>", "</think>"), ("<thinking>", "</thinking>"), ("<THINK>", "</THINK>"), ("<think >", "</think >")),
    *(("<thought>", "</thought>"), ("<reasoning>", "</reasoning>"), ("<reflection>", "</reflection>")),
    *(("<seed:think>", "</seed:think>"), ("<antThinking>", "</antThinking>"), ("<scratchpad>", "</scratchpad>")),
    *(('<think type="long">', "</think>"), ("&lt;think&gt;", "&lt;/think&gt;"), ("[THINK]", "[/THINK]")),
    *(("◁think▷", "◁/think▷"), ("<|begin_of_thought|>", "<|end_of_thought|>"), ("<unused94>thought", "<unused95>")),
    *(("<|START_THINKING|>", "<|END_THINKING|>"), ("<|channel>thought", "<channel|>"), ("<think>", "</thinking>")),
    ("<|START_THINKING|>", "<|END_THINKING|><|START_RESPONSE|>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("analysisWe know: ", "assistantfinal"),
    ("Here is my thought process:", "Here is my response:"),
]
IDS = [begins for begins, _ in PAIRS]
LONE = [ends for _, ends in PAIRS if not ends.startswith(("assistantfinal", "Here is"))]


@pytest.mark.parametrize(("begins", "ends"), PAIRS, ids=IDS)
@pytest.mark.parametrize("gap", ["", " ", "\n", "\n\n"])
def test_a_thought_before_the_words_is_left_out(begins, ends, gap):
    assert without_thoughts(f"{begins}{gap}{THOUGHT}{gap}{ends}{gap}{SAID}") == SAID
    assert without_thoughts(f"{begins}{gap}{ends}{gap}{SAID}") == SAID


@pytest.mark.parametrize(("begins", "ends"), PAIRS, ids=IDS)
def test_a_thought_that_never_ends_is_all_that_follows_it(begins, ends):
    assert without_thoughts(f"{begins}\n{THOUGHT}") == ""
    assert without_thoughts(f"{begins}\n{THOUGHT}\n\n{SAID}") == ""
    assert without_thoughts(f"{begins}\n{THOUGHT}\n{ends}") == ""


@pytest.mark.parametrize(("begins", "ends"), [pair for pair in PAIRS if pair[0][0] in "<&[◁"], ids=str)
def test_a_text_that_is_cut_anywhere_tells_nothing_of_its_thought(begins, ends):
    text = f"{begins}\n{THOUGHT}\n{ends}"
    assert {without_thoughts(text[:length]) for length in range(len(text) + 1)} == {""}
    text += f"\n{SAID}"
    assert all(SAID.startswith(without_thoughts(text[:length])) for length in range(len(text)))


@pytest.mark.parametrize("ends", LONE)
def test_a_thought_that_began_in_the_prompt_is_all_before_its_end(ends):
    assert without_thoughts(f"{THOUGHT}\n{ends}\n\n{SAID}") == SAID


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"First of all: <think>{THOUGHT}</think>{SAID}", f"First of all: {SAID}"),
        (f"{SAID} <think>{THOUGHT}</think>", SAID),
        (f"{SAID}\n<think>{THOUGHT}", SAID),
        (f"<think>{THOUGHT}</think> Hm. <think>{THOUGHT}</think>{SAID}", f"Hm. {SAID}"),
        (f"<think>a<think>{THOUGHT}</think>b</think>{SAID}", SAID),
        (f"<think>{THOUGHT}</think><answer>{SAID}</answer>", SAID),
        (f"<thinking>{THOUGHT}</thinking>\n<output>\n{SAID}\n</output>", SAID),
        (f"<think/>{SAID}", SAID),
        (f"<think />{SAID}", SAID),
        (f"<think>{THOUGHT}\n<|channel|>final<|message|>{SAID}<|return|>", SAID),
        ("<|channel|>analysis", ""),
        ("<|channel|>final", ""),
        ("<thin", ""),
        ("<", ""),
        ("[THIN", ""),
        (f"{SAID}<|im_end|>", SAID),
        (f"{SAID}<|im_end|>\n<|im_start|>user\nNo!", SAID),
        (f"{SAID}</s>", SAID),
        (f"{SAID}<end_of_turn>\n<start_of_turn>user\nNo!", SAID),
        (f"{SAID}<｜end▁of▁sentence｜>", SAID),
        (f"<|im_start|>assistant\n{SAID}", SAID),
        (f"<|start_header_id|>assistant<|end_header_id|>\n\n{SAID}<|eot_id|>", SAID),
    ],
)
def test_what_is_said_is_all_the_rest(text, said):
    assert without_thoughts(text) == said


@pytest.mark.parametrize(
    "text",
    [
        *(
            SAID,
            "",
            "I think 45 days is fair.",
            "If x < 45 days, I agree.",
            "45 days <3",
            "Here is my response: 45 days.",
        ),
        *("Less than <45> days.", "I am thinking [about it].", '{"score": 7}', "The analysis says 45 days.", "No :-["),
        *("Analysis: we need 45 days.", "My answer > your answer", "Two paragraphs.\n\nAnd 45 days.", "45 days | 2"),
    ],
)
def test_plain_words_stay_as_they_are(text):
    assert without_thoughts(text) == text.removesuffix("[")


@given(st.lists(st.sampled_from([*(mark for pair in PAIRS for mark in pair), "words", " ", "\n\n"]), max_size=12))
def test_nothing_is_said_between_marks_that_are_open_at_the_end(pieces):
    assert "limit" not in without_thoughts("".join([*pieces, "<think>", "limit"]))


@given(st.text())
def test_what_is_left_has_no_thought_left_in_it(text):
    assert without_thoughts(f"<think>limit</think>{text}") == without_thoughts(text)
    assert has_words(text) or not has_words(without_thoughts(text))


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("<|im_start|>assistant\n<think>\n", "</think>"),
        ("Aloud <think>not this</think> <seed:think>", "</seed:think>"),
        ("[THINK]", "[/THINK]"),
        ("◁think▷", "◁/think▷"),
        ("<|START_THINKING|>", "<|END_THINKING|>"),
        ("<|begin_of_thought|>", "<|end_of_thought|>"),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", None),
        ("<|im_start|>assistant\n", None),
        ("<|channel|>analysis<|message|>Hm.<|channel|>final<|message|>", None),
        ("", None),
    ],
)
def test_a_thought_that_a_text_breaks_off_in_has_an_end(text, end):
    assert end_of_thought(text) == end
    assert end is None or without_thoughts(f"{text}\n{end}\nSaid.").endswith("Said.")
