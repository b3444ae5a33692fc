"""Finds the quantities in a clause that could be an offer: durations in the domain's unit, or times of day.

Only what carries a unit, a clock form or a plain cue ("make it 45") is a quantity; money, percentages, dates, ages and
case numbers are not. Of a range ("2-3 weeks", "between 10 and 11 PM") only the last bound is one: a promise "in two to
three weeks" is broken only after three, so that bound is what its speaker can be held to.
"""

import re
from dataclasses import dataclass

_MINUTES = {"minute": 1, "hour": 60, "day": 1440, "week": 10080, "fortnight": 20160, "month": 43200, "year": 525600}
_ALIASES = {
    "minute": r"minutes?|mins?|(?<=\d)m",
    "hour": r"hours?|hrs?|(?<=\d)h",
    "day": r"days?|(?<=\d)d",
    "week": r"weeks?|wks?|(?<=\d)w",
    "fortnight": r"fortnights?",
    "month": r"months?|mths?",
    "year": r"years?|yrs?",
}
_UNIT = "|".join(f"(?P<{name}_>{alias})" for name, alias in _ALIASES.items())
_PLAIN_UNIT = "|".join(_ALIASES.values())
_DIGITS = r"(?<![\d.,:$£€¥#/])(?<!thousand )\d{1,5}(?:\.\d{1,3})?(?![\d%])"
_QUALIFIER = r"(?:(?:full|whole|business|working|calendar|more|extra|additional|further|short|long|solid|other) )*"
_AMOUNT = (
    rf"(?P<number>{_DIGITS})(?P<and_half> and (?:a|1) half| and (?:a|1) quarter)?"
    r"|(?P<quarters>\b3 quarters of (?:a|an|1)\b)|(?P<quarter>\b(?:a )?quarter of (?:a|an|1)\b)"
    r"|(?P<half>\bhalf (?:a|an|1)\b|\ba half\b|\bhalf\b)|(?P<one>\b(?:a|an|another)\b)"
)
_DURATION = re.compile(
    rf"(?:{_AMOUNT})[ -]?{_QUALIFIER}(?:{_UNIT})(?:(?![a-z0-9])|(?<=h)(?=\d\d))"
    r"(?P<plus> and (?:a|1) half\b| and (?:a|1) quarter\b| and 3 quarters\b)?"
    rf"(?P<or> or (?P<second>\d{{1,2}})\b(?![ -]?(?:{_PLAIN_UNIT})\b))?"
    rf"(?P<tail>(?: ?(?:and )?|-)(?P<rest>[0-5]?\d)(?= ?m\b| ?min|(?! ?(?:{_PLAIN_UNIT}|%|pm"
    rf"|am)\b)(?!\d))(?: ?(?:minutes?|mins?|m)\b)?)?"
)
_JOINED = re.compile(r",? (?:and )?")
_BARE_CUE = (
    r"(?:make (?:it|that)|(?:how|what) about|settle (?:on|for|at)|meet (?:me |you )?(?:at|on)|let us (?:say|do"
    r"|go with|try|call it)"
    r"|(?:can|could|will|would) (?:you |we )?(?:(?:only|just|maybe|also|even|still) )?(?:do|accept|take|offer"
    r"|live with|agree (?:to|on)|stretch to"
    r"|(?:go|come|move) (?:(?:up|down) )?(?:to|with))|(?:i|we) (?:offer|propose|say|accept)|(?:offer|proposal"
    r"|limit|answer|maximum)(?: is|:)?|(?:my|our) number is"
    r"|(?:stay|stick|stand) (?:at|with|to)|(?:up|down|over) to|agree (?:on|to)|counter (?:with|at)|net|say"
    r"|why not|(?:go|deal) (?:with|at))"
)
_BARE = re.compile(
    rf"\b{_BARE_CUE} (?:(?:about|around|just|only|maybe|say|at) )*(?P<number>{_DIGITS})(?![.:]\d)"
    r"(?= ?$|,| (?:then|max|maximum|tops|final|flat|please|if|today|now|or|at most|at the most|right|and|not|from)\b)"
)
_ONLY = re.compile(
    rf"^(?:to |at |then |now |maybe |say |only |for )*(?P<number>{_DIGITS})(?: (?:max|tops|final|flat|then|please"
    rf"|at most|it is))?$"
)
_MONEY = re.compile(r"[$£€¥%]|\b(?:usd|eur|gbp|dollars?|euros?|pounds?|bucks|percent|cents?)\b")


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
        self._base = _MINUTES.get(singular)
        self._own = re.compile(rf"(?P<number>{_DIGITS})[ -]?{re.escape(singular)}s?\b")

    def find(self, clause: str, whole: str) -> list[Quantity]:
        """All quantities of a clause, in order; `whole` is the utterance, which tells whether it speaks of money."""
        found = self.with_unit(clause)
        if found or (self._base is not None and _MONEY.search(whole)):
            return found
        alone = _ONLY.match(clause) if self.with_unit(whole) else None
        match = alone or next(iter([*_BARE.finditer(clause)][-1:]), None)
        return [Quantity(float(match["number"]), *match.span("number"))] if match else []

    def with_unit(self, clause: str) -> list[Quantity]:
        if self._base is None:
            return [Quantity(float(match["number"]), *match.span()) for match in self._own.finditer(clause)]
        found: list[Quantity] = []
        largest = 0
        for match in _DURATION.finditer(clause):
            size = next(_MINUTES[name] for name in _ALIASES if match[f"{name}_"])
            quantity = Quantity(
                _minutes(match, size) / self._base, match.start(), _end(match, size), bool(match["one"])
            )
            if found and size < largest and _JOINED.fullmatch(clause[found[-1].end : quantity.start]):
                first = found.pop()  # "two weeks and three days" is one quantity
                quantity = Quantity(first.value + quantity.value, first.start, quantity.end)
            found.append(quantity)
            largest = size
        return found


def _minutes(match: re.Match[str], size: int) -> float:
    if match["number"]:
        amount = float(match["number"]) + _part(match["and_half"])
    else:
        amount = 0.75 if match["quarters"] else 0.25 if match["quarter"] else 0.5 if match["half"] else 1.0
    if match["second"]:  # "a week or two"
        amount = float(match["second"])
    minutes_named = float(match["rest"]) if match["tail"] and size == _MINUTES["hour"] else 0.0
    return (amount + _part(match["plus"])) * size + minutes_named


def _part(words: str | None) -> float:
    if not words:
        return 0.0
    return 0.5 if "half" in words else 0.75 if "3" in words else 0.25


def _end(match: re.Match[str], size: int) -> int:
    """Digits after a unit belong to it only after hours ("1h30", "one hour thirty")."""
    return match.start("tail") if match["tail"] and size != _MINUTES["hour"] else match.end()
