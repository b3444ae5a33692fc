"""Decides whose number a quantity is: the speaker's own offer, somebody else's, a fact, or something refused.

The order of the questions is the grammar: is it refused, is it the other side's, is it a fact about the world? What is
left is the speaker's. A quantity that the speaker puts forward ("I can do 45 days", "how about 45 days?", "45 days,
final") outranks one that merely stands there, and that one outranks what the speaker said before ("I said 40 days").
"""

import re
from enum import IntEnum

from emodistill.negotiation.offer_phrases import (
    ACCEPTING,
    CONDITION,
    FACT_AFTER,
    FORMER,
    HAPPENED,
    HARMLESS,
    IDIOM,
    LIMIT,
    NOT,
    OTHERS,
    OTHERS_AFTER,
    OWN,
    REFUSED_AFTER,
    REFUSED_NEXT,
    REFUSING,
    STAY,
    WITHIN,
)
from emodistill.negotiation.offer_quantities import Quantity
from emodistill.negotiation.offer_text import Clause


class Rank(IntEnum):
    """How much a quantity is the speaker's offer now."""

    NONE = 0
    FORMER = 1
    MENTIONED = 2
    PUT_FORWARD = 3


def rank(quantity: Quantity, clause: Clause, following: Clause | None) -> Rank:
    """How much a quantity of a clause is the speaker's own offer, given the clause that follows."""
    before = HARMLESS.sub("", clause.text[: quantity.start]).strip(" ,:-")
    after = clause.text[quantity.end :].strip(" ,:-")
    if _refused(before, after) or _others(before, after) or _fact(before, after):
        return Rank.NONE
    if quantity.vague and not _vague_counts(before):
        return Rank.NONE
    if FORMER.search(before):
        return Rank.FORMER
    if OWN.search(before) or OWN.search(after):
        return Rank.PUT_FORWARD
    if following is not None and (_echo(before, after, clause) or REFUSED_NEXT.search(following.text)):
        return Rank.NONE
    return Rank.PUT_FORWARD if len(f"{before} {after}".split()) <= 3 else Rank.MENTIONED


def _refused(before: str, after: str) -> bool:
    if REFUSED_AFTER.search(after):
        return True
    if LIMIT.search(before):  # "not more than 40 days" is an offer of 40, "can not stay up until 2 am" is none of 2
        return bool(STAY.search(before))
    if NOT.search(before) and not CONDITION.search(before):
        return True
    return bool(REFUSING.search(before)) and not WITHIN.search(before)


def _others(before: str, after: str) -> bool:
    if ACCEPTING.search(before):
        return False
    return bool(OTHERS.search(before) or OTHERS_AFTER.search(after))


def _fact(before: str, after: str) -> bool:
    return bool(HAPPENED.search(before) or FACT_AFTER.search(after))


def _vague_counts(before: str) -> bool:
    """Whether "a day" is a length of time and not a figure of speech: only where it is put forward."""
    if IDIOM.search(before):
        return False
    return bool(OWN.search(before) or re.search(r"\b(?:in|within|for|after)$|^$", before))


def _echo(before: str, after: str, clause: Clause) -> bool:
    """ "90 days? I can do 40." repeats the other side's number."""
    return clause.mark.startswith("?") and len(f"{before} {after}".split()) <= 2
