"""The neutral parser: which number does an utterance put on the table, and does it accept, walk away or propose?

It decides success for every arm alike, so it is deterministic, knows nothing of who speaks or what would suit them, and
no model under test has a part in it.

An utterance becomes plain text and clauses; each clause is searched for quantities (lengths of time, or times of day);
each quantity gets a rank, which says how much it is the speaker's own offer; and the last of those with the highest
rank is the offer. Of a range it is the last bound ("2-3 weeks" is three weeks): a promise "in two to three weeks" is
broken only after three, so that bound is what its speaker can be held to. A month is 30 days and a year 365; a limit is
an offer ("no later than 11 PM"); a quantity outside the domain's bounds is none. Numbers are not moved to the domain's
grid: what was said is what counts.

`plain_text` makes an utterance plain, the patterns stand in `offer_patterns`; `acts` tells who accepts and who leaves.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from itertools import zip_longest

from emodistill.negotiation import offer_patterns as patterns
from emodistill.negotiation.acts import read_act
from emodistill.negotiation.domains import load_domain
from emodistill.negotiation.plain_text import DIGITS, MINUTES, UNIT_ALIASES, plain, words
from emodistill.negotiation.protocol import Act

OFFERS_LOGIC = 3  # raise it when a text is read differently: part of the version of every judge that reads offers
NEAR = 300  # characters on either side of a quantity, within its clause, that say whose it is


def parse_offer(text: str, domain: str) -> float | None:
    """The offer an utterance makes, in the domain's unit, or None; the exact inverse of `Domain.say` on its grid.

    Never raises on any text.

    Raises:
        UserError: if there is no such domain.
    """
    return _reader(domain).read(text)


def parse_act(text: str, domain: str, standing_offer: float | None) -> Act:
    """Whether an utterance accepts, walks away or proposes.

    See `acts` for what does. Words that name a number of their own are an offer, whatever else they say.

    Args:
        standing_offer: the other side's standing offer; without one there is nothing to accept.

    Raises:
        UserError: if there is no such domain.
    """
    act = read_act(_reader(domain).words(text, standing_offer), standing_offer is not None)
    return act if act == "propose" or parse_offer(text, domain) in {None, standing_offer} else "propose"


class OfferReader:
    """Reads offers in one style and unit; see `Domain` for the arguments."""

    def __init__(self, style: str, unit: str, bounds: tuple[float, float], clock_origin: int = 0) -> None:
        self._bounds, self._is_clock = bounds, style == "clock"
        self._quantities = Clock(clock_origin, bounds) if self._is_clock else Durations(unit)

    def read(self, text: str) -> float | None:
        """The last quantity that is most clearly put forward by the speaker, or None."""
        whole = plain(text, self._is_clock)
        if not whole:
            return None
        parts = clauses(whole)
        best, offer, stated = Rank.NONE, None, Rank.NONE  # the last one is that of the sentence so far
        for part, following in zip_longest(parts, parts[1:]):
            if stated is Rank.PUT_FORWARD and patterns.PROVISO.match(part.text):
                stated = Rank.NONE if _ends(part) else stated
                continue
            for quantity in self._quantities.find(part.text, whole):
                if not self._bounds[0] <= quantity.value <= self._bounds[1]:
                    continue
                found = rank(quantity, part, following)
                if found is not Rank.NONE and found >= best:
                    best, offer = found, quantity.value
                stated = max(stated, found)
            stated = Rank.NONE if _ends(part) else stated
        return offer

    def words(self, text: str, standing: float | None) -> str:
        """The utterance in plain words, with "that" for the number that stands: "90 days works for me"."""
        whole = plain(text, self._is_clock)
        if not whole or standing is None:
            return words(text)
        for quantity in reversed(self._quantities.find(whole, whole)):
            if quantity.value == standing:
                whole = f"{whole[: quantity.start]}that{whole[quantity.end :]}"
        return whole


@cache
def _reader(domain: str) -> OfferReader:
    rules = load_domain(domain)
    return OfferReader(rules.style, rules.unit, rules.bounds, rules.clock_origin)


# Clauses matter because a "not" reaches to the end of its clause and no further.


@dataclass(frozen=True, slots=True)
class Clause:
    """A stretch of plain text that one "not" or one subject governs, and the mark that ends it ("" for none)."""

    text: str
    mark: str


def clauses(text: str) -> list[Clause]:
    """The clauses of plain text, in order; none is empty."""
    found, start = [], 0
    for match in patterns.CLAUSE_BREAK.finditer(text):
        found += _without_run_ons(text[start : match.start()], match["mark"] or "")
        start = match.end()
    return found + _without_run_ons(text[start:], "")


def _without_run_ons(text: str, mark: str) -> list[Clause]:
    """Also splits "you want 90 days I can do 40": a new subject after a number begins a clause of its own."""
    parts, start = [], 0
    for match in patterns.RUN_ON.finditer(text):
        if re.search(r"\d", text[start : match.start()]):
            parts.append(Clause(text[start : match.start()].strip(" ,:"), ""))
            start = match.end()
    parts.append(Clause(text[start:].strip(" ,:"), mark))
    return [part for part in parts if part.text]


# Quantities. Only what carries a unit, a clock form or a plain cue ("make it 45") is one; money, percentages, dates,
# ages and case numbers are not.


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number in the domain's unit, and where it stands in its clause; `vague` where an article was the number."""

    value: float
    start: int
    end: int
    vague: bool = False


class Durations:
    """Reads lengths of time in days, hours or minutes; any other unit ("euros", "points") by its own name alone."""

    def __init__(self, unit: str) -> None:
        singular = unit.removesuffix("s")
        self._minutes = MINUTES.get(singular)
        self._own = re.compile(rf"(?P<number>{DIGITS})[ -]?{re.escape(singular)}s?\b")

    def find(self, clause: str, whole: str) -> list[Quantity]:
        """All quantities of a clause, in order; `whole` is the utterance, which tells whether it speaks of money."""
        found = self.with_unit(clause)
        if found or (self._minutes is not None and patterns.MONEY.search(whole)):
            return found
        named = bool(self.with_unit(whole))
        alone = (patterns.NUMBER_ALONE.match(clause) or patterns.NUMBER_WISHED.search(clause)) if named else None
        match = alone or next(iter([*patterns.BARE_NUMBER.finditer(clause)][-1:]), None)
        return [Quantity(float(match["number"]), *match.span("number"))] if match else []

    def with_unit(self, clause: str) -> list[Quantity]:
        """The quantities that name their unit."""
        if self._minutes is None:
            return [Quantity(float(match["number"]), *match.span()) for match in self._own.finditer(clause)]
        found: list[Quantity] = []
        largest = 0.0
        for match in patterns.DURATION.finditer(clause):
            size = next(MINUTES[name] for name in UNIT_ALIASES if match[f"{name}_"])
            value = round(_minutes(match, size) / self._minutes, 6)  # a third of an hour is 20 minutes
            quantity = Quantity(value, match.start(), _end(match, size), bool(match["one"]))
            joined = found and patterns.JOINED_DURATIONS.fullmatch(clause[found[-1].end : quantity.start])
            if joined and (size < largest or joined["sign"]):
                first = found.pop()  # "two weeks and three days" is one quantity, "a month minus a day" too
                value = first.value + (-value if joined["sign"] == "minus" else value)
                quantity = Quantity(value, first.start, quantity.end)
            found.append(quantity)
            largest = size
        return found


def _minutes(match: re.Match[str], size: float) -> float:
    amount = float(match["second"] or match["number"] or 1)  # of "a week or two" the second counts
    minutes_named = float(match["rest"]) if match["tail"] and size == MINUTES["hour"] else 0.0
    return amount * size + minutes_named


def _end(match: re.Match[str], size: float) -> int:
    """Digits after a unit belong to it only after hours ("1h30", "one hour thirty")."""
    return match.start("tail") if match["tail"] and size != MINUTES["hour"] else match.end()


class Clock:
    """Reads times of day; without am or pm the reading that lies within the bounds is meant.

    Args:
        origin: the hour that is 0, e.g. 21.
        bounds: smallest and largest offer, in minutes after the origin.
    """

    def __init__(self, origin: int, bounds: tuple[float, float]) -> None:
        self._origin, self._bounds = origin, bounds
        self._durations = Durations("minutes")

    def find(self, clause: str, whole: str) -> list[Quantity]:
        """All times of a clause, in order; `whole` is not needed here."""
        found = {quantity.end: quantity for quantity in (*self._bare(clause), *self._explicit(clause))}
        spans = self._durations.with_unit(clause)
        return [_shifted(found[end], spans, clause) for end in sorted(found)]

    def _explicit(self, clause: str) -> Iterator[Quantity]:
        for match in patterns.TIME.finditer(clause):
            minute, half = match["minute"] or match["minute2"], match["half"] or _am_or_pm(match["words"])
            if match["midnight"] or minute or match["oclock"] or match["half"] or match["words"]:
                value = self._value(int(match["hour"] or 24), int(minute or 0), half)
                if value is not None:
                    yield Quantity(value, *match.span())

    def _bare(self, clause: str) -> Iterator[Quantity]:
        for match in patterns.BARE_TIME.finditer(clause):
            value = self._value(int(match["hour"]), int(match["minute"] or 0), "")
            if value is not None:
                yield Quantity(value, match.start("hour"), match.end())

    def _value(self, hour: int, minute: int, half: str) -> float | None:
        if hour > 24 or (half and hour > 12 and half == "am"):
            return None
        hours = {"am": [hour % 12], "pm": [hour % 12 + 12]}.get(half, [hour % 24, (hour + 12) % 24])
        if hour == 0 or hour > 12:
            hours = [hour % 24]
        low, high = self._bounds
        times = [option * 60 + minute - self._origin * 60 for option in hours]
        values = [float((time - low) % 1440 + low) for time in times]  # the day starts at the smallest offer
        return next((value for value in values if value <= high), None)


def _am_or_pm(words: str | None) -> str:
    return {"in the morning": "am", "in the evening": "pm", "in the afternoon": "pm"}.get(words or "", "")


def _shifted(time: Quantity, spans: list[Quantity], clause: str) -> Quantity:
    """ "Half an hour after midnight": the time moved by the duration before it."""
    for span in spans:
        way = patterns.SHIFT.fullmatch(clause[span.end : time.start])
        if way:
            value = time.value - span.value if way["way"] == "before" else time.value + span.value
            return Quantity(value, span.start, time.end)
    return time


# Whose number it is: the speaker's own offer, somebody else's, a fact, or something refused. The order of the questions
# is the grammar: is it refused, is it the other side's, is it a fact about the world? What is left is the speaker's.


class Rank(IntEnum):
    """How much a quantity is the speaker's offer now: "I said 40 days", then "40 days", then "I can do 40 days"."""

    NONE = 0
    FORMER = 1
    MENTIONED = 2
    PUT_FORWARD = 3


def rank(quantity: Quantity, clause: Clause, following: Clause | None) -> Rank:
    """How much a quantity of a clause is the speaker's own offer, given the clause that follows."""
    before = patterns.HARMLESS.sub("", clause.text[max(0, quantity.start - NEAR) : quantity.start]).strip(" ,:-")
    after = clause.text[quantity.end : quantity.end + NEAR].strip(" ,:-")
    if _refused(before, after) or _others(before, after) or _fact(before, after):
        return Rank.NONE
    if quantity.vague and not _vague_counts(before):
        return Rank.NONE
    if following is not None and patterns.QUOTED_NEXT.search(following.text):
        return Rank.NONE
    if patterns.FORMER.search(before):
        return Rank.FORMER
    if patterns.OWN.search(before) or patterns.OWN.search(after):
        return Rank.PUT_FORWARD
    if following is not None and (_echo(before, after, clause) or _taken_back(following.text)):
        return Rank.NONE
    return Rank.PUT_FORWARD if len(f"{before} {after}".split()) <= 3 else Rank.MENTIONED


def _refused(before: str, after: str) -> bool:
    if patterns.REFUSED_AFTER.search(after):
        return True
    if patterns.LIMIT.search(before):  # "not more than 40 days" offers 40; "can not stay up until 2 am" offers nothing
        return bool(patterns.STAY.search(before))
    if patterns.NOT.search(before) and not patterns.CONDITION.search(before):
        return True
    return bool(patterns.REFUSING.search(before)) and not patterns.WITHIN.search(before)


def _others(before: str, after: str) -> bool:
    if patterns.ACCEPTING.search(before):
        return False
    return bool(patterns.OTHERS.search(before) or patterns.OTHERS_AFTER.search(after))


def _fact(before: str, after: str) -> bool:
    if patterns.AWAY.search(after) and not patterns.COMING.search(before):
        return True
    return bool(patterns.HAPPENED.search(before) or patterns.FACT_AFTER.search(after))


def _taken_back(following: str) -> bool:
    return bool(patterns.REFUSED_NEXT.search(following) or patterns.OTHERS_NEXT.search(following))


def _vague_counts(before: str) -> bool:
    """Whether "a day" is a length of time and not a figure of speech: only where it is put forward."""
    if patterns.IDIOM.search(before):
        return False
    return bool(patterns.OWN.search(before) or re.search(r"\b(?:in|within|for|after)$|^$", before))


def _ends(clause: Clause) -> bool:
    """Whether the sentence ends with this clause."""
    return clause.mark[:1] in {".", "!", "?", ";", "\n"}


def _echo(before: str, after: str, clause: Clause) -> bool:
    """ "90 days? I can do 40." repeats the other side's number."""
    return clause.mark.startswith("?") and len(f"{before} {after}".split()) <= 2
