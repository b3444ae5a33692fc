"""Thoughts in a model's text: what it tells itself before it speaks. Nobody may hear, parse or judge them.

Servers and chat templates are meant to keep them apart, and often do not: the opening mark stands in the prompt, or
`max_tokens` ends the text in the middle of a thought. So the rule is strict. What stands between an opening and a
closing mark is a thought; so is everything behind an opening mark that is never closed, and everything before a closing
mark that was never opened.
"""

import re
from collections.abc import Iterator
from typing import Literal

Mark = Literal["opens", "closes", "resumes", "answers", "ends", "silent"]
"""What a mark does: begin a thought; end it; end it where there is one and be words elsewhere; begin the answer, so
that all before it was thought; end the turn once something was said; nothing."""

_TAG = (
    r"(?:[a-z]+[:_])?(?:ant)?"
    r"(?:think(?:ing|s)?|thoughts?|reason(?:ing)?|reasoning_content|reflection|scratchpad|analysis|monologue)"
)
_MARKS: tuple[tuple[Mark, str, str], ...] = (  # what it does, how it looks, and an example
    (
        "opens",
        rf"(?:<|&lt;)\s*{_TAG}(?:\s[^<>]*?)?(?<!/)(?:>|&gt;|(?:&g?t?)?\Z)",
        "<think> (DeepSeek R1, Qwen 3), <seed:think>",
    ),
    ("closes", rf"(?:<|&lt;)\s*/\s*{_TAG}\s*(?:>|&gt;)", "</think>"),
    ("opens", r"\[think(?:ing)?\]", "[THINK] (Magistral)"),
    ("closes", r"\[/think(?:ing)?\]", "[/THINK]"),
    ("opens", r"◁think(?:ing)?▷", "◁think▷ (Kimi VL)"),
    ("closes", r"◁/think(?:ing)?▷", "◁/think▷"),
    ("opens", r"<unused94>", "<unused94>thought (MedGemma)"),
    ("closes", r"<unused95>", "<unused95>"),
    ("opens", r"<\|(?:begin_of_thought|start_thinking|think(?:ing)?)\|>", "<|START_THINKING|> (Command A)"),
    ("closes", r"<\|(?:end_of_thought|end_thinking|/think(?:ing)?)\|>", "<|END_THINKING|>"),
    ("answers", r"<\|(?:begin_of_solution|start_response)\|>", "<|START_RESPONSE|>"),
    (
        "answers",
        r"<\|channel\|>\s*final\b[^<>]*(?:<\|message\|>|(?:<[|a-z]*)?\Z)",
        "<|channel|>final<|message|> (gpt-oss)",
    ),
    ("opens", r"<\|channel\|>[^<>]*(?:<\|message\|>|(?:<[|a-z]*)?\Z)", "<|channel|>analysis<|message|>"),
    ("opens", r"(?:\A|assistant)(?:analysis|commentary)(?=(?-i:[A-Z]))", "analysisWe need (gpt-oss, marks dropped)"),
    ("resumes", r"assistantfinal", "assistantfinalI can do 45 days."),
    ("opens", r"<\|channel>\s*\w*", "<|channel>thought (Gemma 4)"),
    ("closes", r"<channel\|>", "<channel|>"),
    ("opens", r"\A\s*here(?:['’]s| is) my thought process:", "Here is my thought process: (Granite 3.2)"),
    ("resumes", r"here(?:['’]s| is) my response:", "Here is my response:"),
    (
        "ends",
        r"<[|｜](?:im_end|eot_id|eom_id|end|endoftext|return|end[_▁]of[_▁](?:turn|sentence|text))[|｜]>",
        "<|im_end|>",
    ),
    ("ends", r"</s>|<end_of_turn>|\[/?inst\]", "<end_of_turn> (Gemma)"),
    ("ends", r"<(?:\|(?:im_start|start|start_header_id)\||start_of_turn)>\s*\w*", "<|im_start|>user"),
    ("silent", r"<[|｜][^|｜<>\s]{1,40}[|｜]>|<s>", "any other control token"),
    ("silent", rf"</?\s*(?:final_)?(?:answer|output|response|reply|final)\s*>|<\s*{_TAG}\s*/>", "<answer>, <think/>"),
)
_ANY = re.compile("|".join(f"(?P<m{i}>{look})" for i, (_, look, _) in enumerate(_MARKS)), re.IGNORECASE)
_CUT_MARK = re.compile(  # "<thi"
    r"(?:(?:[<◁]|&lt;)[/|]?[a-z_:]{0,20}\|?|<unused\d*|&l?t?|\[/?(?:t|th|thi|thin|think)?)\Z", re.IGNORECASE
)


def without_thoughts(text: str) -> str:
    """What is left of a model's text without thoughts and control tokens: possibly nothing.

    What follows the end of the model's turn is left out too.
    """
    said, thinking, over = "", False, False
    for before, what, mark in _pieces(text):
        said += "" if thinking or over else before
        over = over or (what == "ends" and not thinking and has_words(said))
        if what == "answers" or (what == "closes" and not thinking):
            said, over = "", False
        if what == "resumes" and not thinking:
            said += "" if over else mark
        elif what in ("opens", "closes", "resumes", "answers"):
            thinking = what == "opens"
    return _CUT_MARK.sub("", said.strip()).strip()


def end_of_thought(text: str) -> str | None:
    """The mark that ends the thought with which a text breaks off; None where it does not."""
    opened = None
    for _, what, mark in _pieces(text):
        if what in ("opens", "closes", "resumes", "answers"):
            opened = mark.strip() if what == "opens" else None
    pairs = (("<", "</"), ("[", "[/"), ("◁", "◁/"), ("start", "end"), ("START", "END"), ("begin", "end"))
    ends = [opened.replace(start, end, 1) for start, end in pairs if start in opened] if opened else []
    return next((mark for mark in ends if _does(mark) == "closes"), None)


def has_words(text: str) -> bool:
    """Whether a text says anything: a letter or a digit is enough."""
    return re.search(r"[^\W_]", text) is not None


def _does(mark: str) -> Mark | None:
    """What a text does that is one mark and no more."""
    found = _ANY.fullmatch(mark)
    return _MARKS[int((found.lastgroup or "m0")[1:])][0] if found else None


def _pieces(text: str) -> Iterator[tuple[str, Mark, str]]:
    """The text before each mark, what the mark does, and the mark; at last what follows all of them."""
    begin = 0
    for found in _ANY.finditer(text):
        yield text[begin : found.start()], _MARKS[int((found.lastgroup or "m0")[1:])][0], found.group()
        begin = found.end()
    yield text[begin:], "silent", ""
