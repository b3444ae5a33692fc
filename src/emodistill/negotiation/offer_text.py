"""Brings an utterance into the plain form that the offer grammar reads: lower case, digits, whole words, clauses.

Everything a grammar would otherwise have to know twice is settled here: "forty-five" is 45, "can't" is "can not",
"half past ten" is "10:30", "p.m." is "pm". What is left are clauses, because a "not" reaches to the end of its clause
and no further.
"""

import re
import unicodedata
from dataclasses import dataclass

LONGEST = 4000  # characters that are read, from the end: the last offer counts, and a runaway text stays cheap
_UNITS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
_TEENS = ["ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_WORTH = {word: number for number, word in enumerate(_UNITS + _TEENS, 1)}
_WORTH |= {word: 10 * number for number, word in enumerate(_TENS, 2)} | {"fourty": 40, "a": 1, "zero": 0}
_ONES, _TEN_TO_19, _BY_TEN = "|".join(_UNITS), "|".join(_TEENS), "|".join([*_TENS, "fourty"])
_TO_99 = rf"(?:(?:{_BY_TEN})(?:[ -](?:{_ONES})\b)?|{_TEN_TO_19}|{_ONES})"
_NUMBER = re.compile(rf"\b(?:(?:(a|{_TO_99}) )?(hundred)\b(?:(?: and)? ({_TO_99})\b)?|({_TO_99}|zero)\b)")
_HOUR = rf"(?:twenty[ -](?:one|two|three)|ten|eleven|twelve|{_ONES})"
_PAST = {"half": 30, "quarter": 15, "five": 5, "ten": 10, "twenty": 20, "twenty five": 25}
_PAST_OR_TO = re.compile(
    rf"\b(?:a )?(half|quarter|twenty[ -]five|twenty|ten|five)(?: minutes?)? ?(past|after|to|before|) ({_HOUR}"
    rf"|\d\d?|midnight)\b"
    r"(?![ -]*(?:minute|min\b|hour|day|page|o))"
)
_HOUR_MINUTE = re.compile(
    rf"\b({_HOUR})[ -]((?:{_BY_TEN})(?:[ -](?:{_ONES}))?|{_TEN_TO_19}|oh five)\b(?![ -]*(?:minute|min\b|hour|day"
    rf"|page))"
)
_CONTRACTIONS = [
    (re.compile(pattern), plain)
    for pattern, plain in [
        (r"\bca ?n'?not\b|\bcan ?'?t\b|\bcannot\b", "can not"),
        (r"\bwon'?t\b", "will not"),
        (r"\bshan'?t\b", "shall not"),
        (r"\bain'?t\b", "is not"),
        (r"\b(do|does|did|is|are|was|were|would|could|should|has|have|had|must|need)n'?t\b", r"\1 not"),
        (r"\b(i|we|you|they|he|she|it|that|there)'ll\b", r"\1 will"),
        (r"\b(i|we|you|they|he|she|it|that)'d\b", r"\1 would"),
        (r"\b(i|we|you|they)'ve\b", r"\1 have"),
        (r"\b(i)'?m\b", r"\1 am"),
        (r"\b(we|you|they)'re\b", r"\1 are"),
        (r"\b(it|that|what|there|he|she|how|who|here)'s\b", r"\1 is"),
        (r"\blet'?s\b", "let us"),
        (r"\b(?:gonna|going to)\b", "will"),
        (r"\bwanna\b", "want to"),
        (r"\btil\b|'til\b|\btill\b", "until"),
        (r"\b(?:a )?couple(?: of)?\b", "2"),
        (r"\b(?:a )?dozen\b", "12"),
        (r"(?<![a-z])([ap])\. ?m\.", r"\1m"),
        (r"\bo ?' ?clock\b", "oclock"),
        (r"\b(\w+)'(?=\s|$)", r"\1"),
    ]
]
_LEFT_OUT = re.compile(r"[*_`#~\"“”„«»()\[\]{}<>|\\]")
_HALF_DAY_THEN_SENTENCE = re.compile(r"(?<![A-Za-z])([APap])\. ?[Mm]\.\s+(?=[A-Z])")
_INSERTED = re.compile(r"(\b(?:not|never)), [^,.!?;\n]{1,50},")


@dataclass(frozen=True, slots=True)
class Clause:
    """A stretch of plain text that one "not" or one subject governs, and the mark that ends it ("" for none)."""

    text: str
    mark: str


def plain(text: str, clock: bool) -> str:
    """The utterance in lower case, with digits for number words and whole words for contractions.

    Args:
        clock: spoken times of day ("quarter to eleven", "ten thirty") become digits too.
    """
    text = unicodedata.normalize("NFKC", _fractions(text[-LONGEST:]))
    text = _HALF_DAY_THEN_SENTENCE.sub(r"\1m. ", text).lower()
    text = re.sub(r"[’‘´ʼ]", "'", text)
    text = re.sub(r"[‐‑‒–−]", "-", re.sub(r"\s*—\s*|\s+[-–]+\s+|--+", ", ", text))
    text = _LEFT_OUT.sub(" ", text)
    for pattern, replacement in _CONTRACTIONS:
        text = pattern.sub(replacement, text)
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    text = re.sub(r"(?<![\d,.])(\d),(\d)(?![\d,])", r"\1.\2", text)
    if clock:
        text = _HOUR_MINUTE.sub(_hour_minute, _PAST_OR_TO.sub(_past_or_to, text))
    text = _NUMBER.sub(_number, text)
    text = re.sub(r"[^\S\n]+", " ", text)
    return _INSERTED.sub(r"\1", text).strip()


def _fractions(text: str) -> str:
    text = re.sub(r"(\d) ?(?:½|1/2\b)", r"\1.5", text)
    return re.sub(r"½|\b1/2\b", "half", text)


def _worth(words: str) -> int:
    return sum(_WORTH[word] for word in re.split(r"[ -]", words))


def _number(match: re.Match[str]) -> str:
    hundreds, hundred, rest, small = match.groups()
    if hundred is None:
        return str(_worth(small))
    return str(100 * (_worth(hundreds) if hundreds else 1) + (_worth(rest) if rest else 0))


def _hour(words: str) -> int:
    if words == "midnight":
        return 24
    return int(words) if words.isdigit() else _worth(words)


def _past_or_to(match: re.Match[str]) -> str:
    minutes = _PAST[match[1].replace("-", " ")]
    if match[2] == "" and match[1] != "half":  # "half ten" is 10:30, "ten ten" is left to hour and minute
        return match[0]
    hour = _hour(match[3])
    if match[2] in {"to", "before"}:
        hour, minutes = (hour - 1) or 12, 60 - minutes
    return f"{hour}:{minutes:02d}"


def _hour_minute(match: re.Match[str]) -> str:
    minutes = 5 if match[2] == "oh five" else _worth(match[2])
    return f"{_hour(match[1])}:{minutes:02d}"


_SUBJECT = r"(?:i|we|let us|how about|what about|my|our|you|please|make)\b"
_VERB = r"(?:can|could|will|would|need|propose|offer|want|ask|suggest|accept|agree|settle|that|this|it)\b"
_BREAK = re.compile(
    r"(?P<mark>(?<!\d)\.|\.(?!\d)|[!?;\n]+|,(?! (?:or|nor|then|let alone|much less)\b))"
    r"|\b(?:but|however|though|although|because|so(?! (?:far|long|late|much))|unless|while|whereas|which|yet(?= ))\b"
    r"|\binstead\b(?! of)"
    rf"|\band (?={_SUBJECT}|{_VERB}|not\b|never\b)"
)
_RUN_ON = re.compile(
    r"(?<=\w) (?=(?:i|we) (?:can|could|will|would|need|want|propose|offer|am|have|must|say)\b|(?:let us"
    r"|how about)\b|if )"
)


def clauses(text: str) -> list[Clause]:
    """The clauses of plain text, in order; none is empty."""
    found, start = [], 0
    for match in _BREAK.finditer(text):
        found += _without_run_ons(text[start : match.start()], match["mark"] or "")
        start = match.end()
    return found + _without_run_ons(text[start:], "")


def _without_run_ons(text: str, mark: str) -> list[Clause]:
    """Also splits "you want 90 days I can do 40": a new subject after a number begins a clause of its own."""
    parts, start = [], 0
    for match in _RUN_ON.finditer(text):
        if re.search(r"\d", text[start : match.start()]):
            parts.append(Clause(text[start : match.start()].strip(" ,:"), ""))
            start = match.end()
    parts.append(Clause(text[start:].strip(" ,:"), mark))
    return [part for part in parts if part.text]
