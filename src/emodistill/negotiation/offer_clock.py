"""Finds times of day in a clause ("10:30 pm", "22:30", "midnight", "by ten") as minutes after a domain's hour zero."""

import re
from collections.abc import Iterator

from emodistill.negotiation.offer_quantities import Durations, Quantity

_HALF = r" ?(?P<half>am|pm)\b| (?P<words>in the (?:morning|evening|afternoon)|at night|tonight)\b"
_NOT_A_TIME = r"(?![ -]*(?:minutes?|mins?|hours?|hrs?|h|days?|weeks?|pages?|points?|times?|more|of|%)\b|[\d%:/])"
_TIME = re.compile(
    r"(?<![\d:.$£€/])(?P<hour>\d{1,2})(?:[:h](?P<minute>[0-5]\d)|\.(?P<minute2>[0-5]\d)(?= ?[ap]m))?(?!\d)"
    rf"(?P<oclock> ?oclock\b)?(?:{_HALF})?|\b(?P<midnight>midnight)\b"
)
_BEFORE_A_BARE_HOUR = (
    r"(?:at|by|until|before|around|about|past|after|make (?:it|that)|(?:how|what) about|(?:down|up|back|over) to"
    r"|let us (?:say|do)|settle (?:on|for)"
    r"|(?:can|could|will|would) (?:you |we )?(?:only )?(?:do|accept|take)|agree (?:on|to)|say|(?:than|bedtime"
    r"|offer|answer|out|is)(?: is)?|to bed|(?:am|pm|\d) ?(?:-|or|to)|why not|not|never)"
)
_BARE = re.compile(
    rf"(?:^|\b{_BEFORE_A_BARE_HOUR} )(?:(?:about|around|exactly|like|maybe|say|at"
    rf"|by) )*(?P<hour>\d{{1,2}})(?:\.(?P<minute>[0-5]\d))?{_NOT_A_TIME}"
    r"(?= ?$|, |-?ish\b| (?:it is$|sharp|tops|max|then|please|at the latest|latest|exactly|or|if|and|on|every"
    r"|each|with|is|too|not|works?|for)\b)"
)
_SHIFT = re.compile(r" (?P<way>after|past|before) $")


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
        for match in _TIME.finditer(clause):
            minute, half = match["minute"] or match["minute2"], match["half"] or _half(match["words"])
            if match["midnight"] or minute or match["oclock"] or match["half"] or match["words"]:
                value = self._value(int(match["hour"] or 24), int(minute or 0), half)
                if value is not None:
                    yield Quantity(value, *match.span())

    def _bare(self, clause: str) -> Iterator[Quantity]:
        for match in _BARE.finditer(clause):
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


def _half(words: str | None) -> str:
    return {"in the morning": "am", "in the evening": "pm", "in the afternoon": "pm"}.get(words or "", "")


def _shifted(time: Quantity, spans: list[Quantity], clause: str) -> Quantity:
    """ "Half an hour after midnight": the time moved by the duration before it."""
    for span in spans:
        way = _SHIFT.fullmatch(clause[span.end : time.start])
        if way:
            value = time.value - span.value if way["way"] == "before" else time.value + span.value
            return Quantity(value, span.start, time.end)
    return time
