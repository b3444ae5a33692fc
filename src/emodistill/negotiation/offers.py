"""What a turn does, read off its words, where no rule has decided it: accept, walk away, or propose.

It settles who gets a deal, so it is deterministic, the same for every speaker, and strict: a whole sentence must say so
and nothing else. "I accept your offer." accepts; "I accept that you are angry", "I would accept 60 days" and "I accept
if you wait" do not. Words that name a number of their own are an offer, whatever else they say. A model is told the two
sentences that always count; the rest of the list is what people say in their place.

Accepted forms (after an optional yes, okay, fine, all right, very well, good, thank you):

- I/we (can, will) accept / agree / take it / agree to / accept your, this, that, the, these, those offer, terms,
  proposal, deal, plan, date, time, conditions; accepted; agreed; deal; it is / that is / you have / we have a deal
- I/we am/are walking away / leaving / done negotiating / done talking / ending this, the, our negotiation, talk,
  conversation; I/we (will, must, have to) walk away; this negotiation is over; no deal
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from itertools import zip_longest

from emodistill.negotiation.domains import load_domain
from emodistill.negotiation.offer_patterns import (
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
from emodistill.negotiation.protocol import Act

# ---- offer_text ----
# Brings an utterance into the plain form that the offer grammar reads: lower case, digits, whole words, clauses.
#
# Everything a grammar would otherwise have to know twice is settled here: "forty-five" is 45, "can't" is "can not",
# "half past ten" is "10:30", "p.m." is "pm". What is left are clauses, because a "not" reaches to the end of its clause
# and no further.

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


# ---- offer_quantities ----
# Finds the quantities in a clause that could be an offer: durations in the domain's unit, or times of day.
#
# Only what carries a unit, a clock form or a plain cue ("make it 45") is a quantity; money, percentages, dates, ages and
# case numbers are not. Of a range ("2-3 weeks", "between 10 and 11 PM") only the last bound is one: a promise "in two to
# three weeks" is broken only after three, so that bound is what its speaker can be held to.

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
_OFFER_QUANTITIES_BARE = re.compile(
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
        match = alone or next(iter([*_OFFER_QUANTITIES_BARE.finditer(clause)][-1:]), None)
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


# ---- offer_clock ----
# Finds times of day in a clause ("10:30 pm", "22:30", "midnight", "by ten") as minutes after a domain's hour zero.

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


# ---- offer_grammar ----
# Decides whose number a quantity is: the speaker's own offer, somebody else's, a fact, or something refused.
#
# The order of the questions is the grammar: is it refused, is it the other side's, is it a fact about the world? What is
# left is the speaker's. A quantity that the speaker puts forward ("I can do 45 days", "how about 45 days?", "45 days,
# final") outranks one that merely stands there, and that one outranks what the speaker said before ("I said 40 days").


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


# ---- offers ----
# The neutral offer parser: what number, if any, does an utterance put on the table?
#
# It decides success for every arm alike, so it is deterministic, knows nothing of who speaks or what would suit them, and
# no model under test has a part in it. The way is: plain text and clauses (`offer_text`), candidate quantities
# (`offer_quantities`, `offer_clock`), whose they are (`offer_grammar`), and then the last of those that the speaker puts
# forward most clearly. Of a range it is the last bound ("2-3 weeks" is three weeks), as that is what the speaker can be
# held to; a month is 30 days and a year 365; a limit is an offer ("no later than 11 PM"); a quantity outside the domain's
# bounds is none. Numbers are not moved to the domain's grid: what was said is what counts.


def parse_offer(text: str, domain: str) -> float | None:
    """The offer an utterance makes, in the domain's unit, or None; the exact inverse of `Domain.say` on its grid.

    Never raises on any text.

    Raises:
        UserError: if there is no such domain.
    """
    return _reader(domain).read(text)


class OfferReader:
    """Reads offers in one style and unit; see `Domain` for the arguments."""

    def __init__(self, style: str, unit: str, bounds: tuple[float, float], clock_origin: int = 0) -> None:
        self._bounds, self._is_clock = bounds, style == "clock"
        self._quantities = Clock(clock_origin, bounds) if self._is_clock else Durations(unit)

    def read(self, text: str) -> float | None:
        """The last quantity that is most clearly put forward by the speaker, or None."""
        whole = plain(text, self._is_clock)
        parts = clauses(whole)
        best, offer = Rank.NONE, None
        for part, following in zip_longest(parts, parts[1:]):
            for quantity in self._quantities.find(part.text, whole):
                if not self._bounds[0] <= quantity.value <= self._bounds[1]:
                    continue
                standing = rank(quantity, part, following)
                if standing is not Rank.NONE and standing >= best:
                    best, offer = standing, quantity.value
        return offer


@cache
def _reader(domain: str) -> OfferReader:
    rules = load_domain(domain)
    return OfferReader(rules.style, rules.unit, rules.bounds, rules.clock_origin)


_LEAD = r"(?:(?:yes|okay|ok|fine|all right|alright|very well|good|thank you|thanks|then|so|well)\b[ ,]*)*"
_NOUNS = "offer|terms|proposal|deal|plan|date|time|conditions"
_WHAT = rf"(?:your|the|this|that|these|those)(?: new| latest| last| final)? (?:{_NOUNS})"
_ACCEPTS = re.compile(
    rf"{_LEAD}(?:(?:i|we)(?: can| will|'ll| do| gladly)? "
    rf"(?:(?:accept|agree|take it)|(?:accept|agree to|take)(?: {_WHAT}))"
    r"|(?:offer )?accepted|agreed|deal|(?:it is|it's|that is|that's|you have|you've got|we have|we've got) a deal)"
)
_LEAVES = re.compile(
    rf"{_LEAD}(?:(?:i am|i'm|we are|we're) (?:walking away|leaving|done (?:negotiating|talking)"
    r"|ending (?:this|the|our) (?:negotiation|talk|conversation))"
    r"|(?:i|we)(?: will|'ll| must| have to) walk away|this negotiation is over|no deal)"
)
_SENTENCE = re.compile(r"[^.!?\n]+[.!?]*")


def spoken_act(text: str, domain: str, standing: float | None) -> Act:
    """What the words do.

    Args:
        standing: the other side's standing offer; without one there is nothing to accept.
    """
    offer = parse_offer(text, domain)
    if offer is not None and offer != standing:
        return "propose"
    sentences = [match[0] for match in _SENTENCE.finditer(text.casefold().replace("’", "'"))]
    stated = [" ".join(s.strip(" \t\"'.!*").split()) for s in sentences if not s.rstrip("\"' ").endswith("?")]
    leaves = any(_LEAVES.fullmatch(sentence) for sentence in stated)
    accepts = standing is not None and any(_ACCEPTS.fullmatch(sentence) for sentence in stated)
    if leaves == accepts:  # neither, or both
        return "propose"
    return "accept" if accepts else "walk_away"
