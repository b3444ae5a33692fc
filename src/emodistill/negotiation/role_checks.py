"""Role violations: what a language model says that the person it plays would not say.

Four kinds, read off the words alone:

- `empty`: nothing is said;
- `label`: it begins with its own label, as in a script ("Creditor: ...");
- `other_side`: it speaks for the other side ("Debtor: I agree.") or claims to be it ("I'm the debtor.");
- `copied`: it repeats the directive, or says anything in square brackets.

A fifth, `unnamed`, is found where a model has to name its emotion first and does not (see `policy.agents`).

Only the first paragraph of a reply is ever said. A violation behind it is cut with the rest, and counted all the same.
"""

import re
from dataclasses import dataclass
from functools import cache
from typing import Literal

from emodistill.negotiation.domains import load_domain
from emodistill.negotiation.plain_text import SENTENCE_END
from emodistill.negotiation.protocol import Side, other

Violation = Literal["empty", "label", "other_side", "copied"]
_LABEL = r"(?:^|[\n.!?\"”])[\s*_#>\"“(]*(?:the )?(?:{names})[*_]*\s*:[*_]*"
_CLAIM = (
    r"\b(?:I am|I['’]m) (?:(?:the|your) (?:{names})\b|an? (?:{names})(?=\s*(?:[.;:!?]|$|who\b|here\b)))"
    r"|\bas (?:the|an?|your) (?:{names}),? (?:I|my|we)\b"
)
_BRACKETS = re.compile(r"\[[^\]\n]*(?:\]|$)", re.MULTILINE)
_LONG_CLAUSE, _OPENING_CLAUSE = 4, 3  # words of a directive's clause that are no coincidence; at the very start


def first_paragraph(text: str) -> str:
    """The words up to the first blank line, on one line."""
    return " ".join(_said(text).split())


def find_role_violation(text: str, domain: str, side: Side, directive: str = "") -> Violation | None:
    """The first role violation in what would be said of a reply, or None.

    Args:
        text: the reply as it came.
        side: who speaks.
        directive: what this turn was told to do.
    """
    said, marks = _said(text), _marks(domain, side)
    if not re.search(r"\w", said):
        return "empty"
    if marks.theirs.search(said) or marks.claim.search(said):
        return "other_side"
    if marks.mine.match(said):
        return "label"
    return "copied" if _BRACKETS.search(said) or any(_copied(said, clause) for clause in _clauses(directive)) else None


def violates_role_behind(text: str, domain: str, side: Side) -> bool:
    """Whether the part of a reply that is never said goes on for the other side."""
    return bool(_marks(domain, side).theirs.search(text.strip()[len(_said(text)) :]))


def without_role_violations(text: str, domain: str, side: Side, directive: str = "") -> str:
    """What is left of a reply without its role violations, on one line: possibly nothing."""
    said, marks = _said(text), _marks(domain, side)
    if theirs := marks.theirs.search(said):
        said = said[: theirs.start() + (said[theirs.start()] in ".!?")]
    said = _BRACKETS.sub(" ", marks.mine.sub("", said, count=1))
    clauses = _clauses(directive)
    kept = [
        sentence
        for sentence in SENTENCE_END.split(said.strip())
        if not marks.claim.search(sentence) and not any(_copied(sentence, clause) for clause in clauses)
    ]
    rest = " ".join(" ".join(kept).split()).lstrip(":;,.-) ")
    return rest if re.search(r"\w", rest) else ""


def _said(text: str) -> str:
    return text.strip().split("\n\n", 1)[0]


@dataclass(frozen=True)
class _Marks:
    """How a side's own label, the other's label and a claim to be the other look."""

    mine: re.Pattern[str]
    theirs: re.Pattern[str]
    claim: re.Pattern[str]


@cache
def _marks(domain: str, side: Side) -> _Marks:
    roles = load_domain(domain).roles
    own, their = _names(roles[side]), _names(roles[other(side)])
    return _Marks(
        re.compile(_LABEL.format(names=f"{own}|assistant"), re.IGNORECASE),
        re.compile(_LABEL.format(names=f"{their}|user|human|system"), re.IGNORECASE),
        re.compile(_CLAIM.format(names=their), re.IGNORECASE),
    )


def _names(role: str) -> str:
    """A role and its last word: people shorten "rescue coordinator" to "coordinator"."""
    return "|".join(re.escape(name) for name in dict.fromkeys((role, role.split()[-1])))


@cache
def _clauses(directive: str) -> tuple[str, ...]:
    parts = (part.strip().casefold() for part in re.split(r"[.:!?]", directive))
    return tuple(part for part in parts if len(part.split()) >= _OPENING_CLAUSE)


def _copied(text: str, clause: str) -> bool:
    words = " ".join(text.casefold().split())
    return words.startswith(clause) or (len(clause.split()) >= _LONG_CLAUSE and clause in words)
