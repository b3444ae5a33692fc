"""The language of patterns: plain text, and what each element matches."""

import pytest

from emodistill.errors import UserError
from emodistill.safety.detector import PlainText, compile_phrase

LISTS = {"bad": ["evil", "very mean", "mean"]}


def found(pattern: str, text: str) -> str | None:
    """The words of the original text that a pattern matches."""
    form = PlainText.of(text)
    match = compile_phrase(pattern, LISTS).expression.search(form.text)
    if match is None:
        return None
    start, end = form.original(match.start(), match.end() - 1)
    return text[start:end]


@pytest.mark.parametrize(
    ("pattern", "text", "words"),
    [
        ("you will pay", "Oh, you'll PAY now.", "you'll PAY"),
        ("you will pay", "You — will, pay", "You — will, pay"),
        ("you will pay", "You will payback.", None),
        ("you will pay", "You will. Pay!", None),
        ("can not", "I can’t.", "can’t"),
        ("nobody is", "No one is here", "No one is"),
        ("you (are|were) <bad>", "you were very mean to us", "you were very mean"),
        ("you (are)? <bad>", "you mean man", "you mean"),
        ("you ~2 stop", "you must now stop", "you must now stop"),
        ("you ~2 stop", "you must right now stop", None),
        ("you ~2 stop", "you will never stop", None),
        ("you *2 stop", "you will never stop", "you will never stop"),
        ("^ stop", "Please. Stop it", "Stop"),
        ("^ stop", "Please stop it", None),
        ("or else $", "Pay, or else!", "or else"),
        ("or else $", "Pay, or else we talk.", None),
        ("at 10:15", "Bed at 10:15 PM", "at 10:15"),
        ("(one|two three) four", "two, three four", "two, three four"),
    ],
)
def test_what_a_pattern_matches(pattern, text, words):
    assert found(pattern, text) == words


@pytest.mark.parametrize("pattern", ["you (are", "<worse>", "~3", "(a)?", "you ) are", "a | b"])
def test_what_is_no_pattern(pattern):
    with pytest.raises(UserError, match="pattern"):
        compile_phrase(pattern, LISTS)


@pytest.mark.parametrize("pattern", ["you (are|were) <bad>", "if *5 (stop it|leave)", "(a)? clown"])
def test_a_text_without_the_cues_cannot_match(pattern):
    phrase = compile_phrase(pattern, LISTS)
    for text in ("you were evil", "you are mean", "if you then stop it", "if they leave", "a clown", "clown"):
        form = PlainText.of(text).text
        if phrase.expression.search(form):
            assert phrase.cues & set(form.split()), text
