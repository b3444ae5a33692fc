"""An utterance as plain text: lower case, digits for number words, one way to write each quantity, nothing said twice.

People write the same quantity in many ways ("1¼ hours", "an hour and a quarter", "75 minutes (1.25 h)", "22h30", "half
past ten", "NET60"). A table of rewrites brings each to the form that the offer parser reads: a number and a unit, or
"10:30". Each row has an example. The order of the rows matters: what one row writes, the next may read.
"""

import html
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import NamedTuple

LONGEST = 4000  # characters that are read, from the end: the last offer counts, and a runaway text stays cheap


class Rewrite(NamedTuple):
    """One row of the table.

    Attributes:
        written, read: an example, in lower case as far as the rows before have brought it.
        pattern, by: what is replaced by what, as in `re.sub`.
        only_if: the row is skipped in a text that holds none of these; empty: it never is.
    """

    written: str
    read: str
    pattern: re.Pattern[str]
    by: str | Callable[[re.Match[str]], str]
    only_if: tuple[str, ...] = ()

    def apply(self, text: str) -> str:
        for sign in self.only_if:
            if sign in text:
                break
        else:
            if self.only_if:
                return text
        return self.pattern.sub(self.by, text)


def plain(text: str, clock: bool) -> str:
    """The utterance as plain text, or "" if it holds nothing that could be a quantity.

    Args:
        clock: times of day are bargained over ("quarter to eleven", "2230 hrs"), not lengths of time.
    """
    text = characters(text[-LONGEST:])
    text = AM_PM_BEFORE_SENTENCE.sub(r"\1m. ", text).lower()
    text = _applied(NUMBERS, text)
    if not MAY_HOLD_A_QUANTITY.search(text):
        return ""
    return _applied(TABLES[clock], text).strip()


def words(text: str) -> str:
    """The utterance in lower case, without contractions and quotation marks; numbers stay as they are."""
    text = AM_PM_BEFORE_SENTENCE.sub(r"\1m. ", characters(text[-LONGEST:])).lower()
    return _applied(_ENDS[:1] + _ENDS[2:3], _applied(_MARKS, text)).strip()


def _applied(table: Sequence[Rewrite], text: str) -> str:
    for row in table:
        text = row.apply(text)
    return text


# Characters: what cannot be seen is left out, and every digit is one of 0-9.

_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff"
    "\ufff9-\ufffb\u20e3\U000e0000-\U000e007f]"
)
_RAISED = re.compile("[\u00b2\u00b3\u00b9\u2070-\u209c]")  # a footnote mark is no part of the number before it
_PARTS = "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅐⅛⅜⅝⅞⅑⅒"
_WITH_PART = re.compile(rf"(\d{{0,5}})[ -]?([{_PARTS}])")  # more digits are no offer, and may be no float
_HYPHEN = re.compile(r"(?<=[A-Za-z])[‒–−](?=[A-Za-z])")  # "thirty–three"
_OTHER_DIGIT = re.compile(r"[^\x00-\x7f]")
_LOOK = {
    "🔟": "10",
    "⁄": "/",
    "±": " plus or minus ",
    "→": " to ",
    "⇒": " to ",
    "≈": "~",
    "≃": "~",
    "∼": "~",
    "〜": "~",
}
_LOOK |= dict.fromkeys("’‘´ʼ", "'") | dict.fromkeys("‐‑", "-") | {"⟶": " to ", "➔": " to ", "➜": " to "}
_LOOKS = re.compile(f"[{''.join(_LOOK)}]")
# What lies between two sentences; "9 p.m." ends one only where the next begins with a capital.
SENTENCE_END = re.compile(r"(?<=[.!?])(?<![APap]\.[Mm]\.)\s+|(?<=[APap]\.[Mm]\.)\s+(?=[A-Z])")
AM_PM_BEFORE_SENTENCE = re.compile(r"(?<![A-Za-z])([APap])\. ?[Mm]\.\s+(?=[A-Z])")  # its last point ends the sentence


def characters(text: str) -> str:
    """The text without invisible characters, with plain digits, spaces and apostrophes."""
    if "&" in text:
        text = html.unescape(text)
    if text.isascii():
        return text
    text = _RAISED.sub("", _INVISIBLE.sub("", text))
    text = _HYPHEN.sub("-", text)
    text = _LOOKS.sub(lambda match: _LOOK[match[0]], text)
    text = _WITH_PART.sub(lambda match: f"{int(match[1] or 0) + unicodedata.numeric(match[2]):.12g}", text)
    return _OTHER_DIGIT.sub(_plain_digit, unicodedata.normalize("NFKC", text))


def _plain_digit(match: re.Match[str]) -> str:
    digit = unicodedata.digit(match[0], None)
    return match[0] if digit is None else str(digit)


# What the rows have in common.

UNIT_ALIASES = {
    "second": r"seconds|secs",  # in the plural alone: "my second offer" is none
    "minute": r"minutes?|mins?|(?<=\d)m",
    "hour": r"hours?|hrs?|(?:(?<=\d)|(?<=\d ))h",
    "day": r"days?|(?:(?<=\d)|(?<=\d ))d",
    "week": r"weeks?|wks?|(?:(?<=\d)|(?<=\d ))w",
    "fortnight": r"fortnights?",
    "month": r"months?|mths?|(?:(?<=\d)|(?<=\d ))mos?",
    "year": r"years?|yrs?",
}
MINUTES: dict[str, float] = {
    "second": 1 / 60,
    "minute": 1,
    "hour": 60,
    "day": 1440,
    "week": 10080,
    "fortnight": 20160,
    "month": 43200,
    "year": 525600,
}
PLAIN_UNIT = "|".join(UNIT_ALIASES.values())
QUALIFIER = r"(?:(?:full|whole|business|working|calendar|more|extra|additional|further|short|long|solid|other) )*"
# A number that is no part of a longer one, of a date, of money or of a percentage.
DIGITS = r"(?<![\d.,:$£€¥#/])(?<!thousand )\d{1,5}(?:\.\d{1,12})?(?![\d%])"
_UNIT = rf"(?:{PLAIN_UNIT})(?![a-z])"
_LENGTH = rf"(?:{DIGITS}|\b(?:an?|another)\b)[ -]?{QUALIFIER}{_UNIT}(?:(?<=h)[0-5]\d\b| (?:and )?\d{{1,2}} ?{_UNIT})?"
_TIME = r"\b\d{1,2}:[0-5]\d(?: ?[ap]m\b)?|\b\d{1,2} ?[ap]m\b|\bmidnight\b"
_UNITS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
_TEENS = ["ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_WORTH = {word: number for number, word in enumerate(_UNITS + _TEENS, 1)}
_WORTH |= {word: 10 * number for number, word in enumerate(_TENS, 2)} | {"fourty": 40, "a": 1, "zero": 0}
_TO_99 = (
    rf"(?:(?:{'|'.join([*_TENS, 'fourty'])})(?:[ -](?:{'|'.join(_UNITS)})\b)?|{'|'.join(_TEENS)}|{'|'.join(_UNITS)})"
)
_MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?"
    r"|nov(?:ember)?|dec(?:ember)?)\b"
)
_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_WEEKDAY = rf"(?:{'|'.join(_WEEKDAYS)})s?\b"
_DATE = "calendardate"
MAY_HOLD_A_QUANTITY = re.compile(
    rf"\d|midnight|{'|'.join(name for name in MINUTES)}|hrs?\b|mins?\b|wks?\b|yrs?\b|mths?"
)


def _worth(words: str) -> int:
    return sum(_WORTH[word] for word in re.split(r"[ -]", words))


def _number(match: re.Match[str]) -> str:
    hundreds, hundred, rest, small = match.groups()
    if hundred is None:
        return str(_worth(small))
    return str(100 * (_worth(hundreds) if hundreds else 1) + (_worth(rest) if rest else 0))


_PART_WORDS = {"hal": 2, "thi": 3, "qua": 4, "fou": 4, "fif": 5, "six": 6, "eig": 8}  # by their first three letters
_FRACTION = (
    r"(?:\b(?P<top>\d)/(?P<bottom>[2-8])(?![\d/])|(?P<decimal>(?<!\d)0?\.\d{1,12})"
    r"|(?:\b(?P<count>an?|\d)[ -])?\b(?P<part>half|halves|thirds?|quarters?|fourths?|fifths?|sixths?|eighths?)\b)"
)


def _fraction(match: re.Match[str]) -> float:
    if match["decimal"]:
        return float(match["decimal"])
    if match["top"]:
        return int(match["top"]) / int(match["bottom"])
    count = match["count"] or "a"
    return (int(count) if count.isdigit() else 1) / _PART_WORDS[match["part"][:3]]


def _fraction_of(match: re.Match[str]) -> str:
    whole, unit, part = match["whole"], match["unit"], match["part"] or ""
    if not whole and not match["of"]:
        if part and not part.startswith("hal") and not (part.startswith("quarter") and unit.startswith("hour")):
            return match[0]  # "the third week" is no third of one
        if match["top"] == str(int(match["bottom"] or 0) - 1) != "1" and re.match("(?:day|week|month)s", unit):
            return match[0]  # "2/3 weeks" are two or three
    return f"{int(whole or 0) + _fraction(match):.12g} "


def _sum(match: re.Match[str]) -> str:
    return str(int(match[1]) + int(match[2]))


def _unit_and_fraction(match: re.Match[str]) -> str:
    whole = match["whole"]
    return f"{(int(whole) if whole.isdigit() else 1) + _fraction(match):.12g} {match['unit']}"


def _amount(length: str) -> tuple[float, float]:
    """A length of time, as a row would read it, in minutes; and the size of its first unit."""
    number = re.match(r"\d+(?:\.\d+)?", length)
    size = next(
        MINUTES[name] for name, alias in UNIT_ALIASES.items() if re.search(rf"(?<![a-z])(?:{alias})(?![a-z])", length)
    )
    return (float(number[0]) if number else 1.0) * size, size


def _after_a_dash(match: re.Match[str]) -> str:
    """ "3 weeks - 21 days" says it twice, "2 weeks - 1 month" is a range, "10 days - 14 days" too."""
    (first, large), (second, small) = _amount(match["first"]), _amount(match["second"])
    return match["first"] if small < large or (small > large and second <= first) else match[0]


def _after_a_comma(match: re.Match[str]) -> str:
    """ "1 hour, 15 minutes" is one quantity, "3 weeks, 21 days" says it twice."""
    (_, large), (second, small) = _amount(match["first"]), _amount(match["second"])
    if small >= large:
        return match[0]
    return f"{match['first']} {match['second']}" if second < large else match["first"]


def _past_or_to(match: re.Match[str]) -> str:
    """ "Quarter to 11", "10 past 10"; "from 10 to 11" is a range, "3 to 11" too."""
    minutes_named, way = match["minutes"], match["way"]
    amount = {"half": 30, "quarter": 15}.get(minutes_named) or round(
        float(minutes_named) * (60 if "." in minutes_named else 1)
    )
    alone = minutes_named.isdigit() and not match["unit"]
    if (way == "of" and minutes_named != "quarter") or (alone and way in {"until", "of"}) or amount > 59:
        return match[0]
    if alone and (
        amount % 5
        or re.search(r"\b(?:from|between)(?: \w+)? $", match.string[max(0, match.start() - 30) : match.start()])
    ):
        return match[0]
    hour = 24 if match["hour"] == "midnight" else int(match["hour"])
    if hour > 24:
        return match[0]
    if way in {"to", "before", "until", "of"}:
        return f"{(hour - 1) or 12}:{60 - amount:02d}"
    return f"{hour}:{amount:02d}"


# The table. First numbers in words, which tell whether there is anything to read at all.

NUMBERS = [
    Rewrite("~~60~~ 45 days", " 45 days", re.compile(r"~~[^~\n]*~~"), "", ("~~",)),
    Rewrite("> 60 days?\n45 days", "\n45 days", re.compile(r"^[^\S\n]*>(?![=>]).*$", re.MULTILINE), "", (">",)),
    Rewrite("60 -> 45", "60 to 45", re.compile(r" ?[-=]+> ?"), " to ", (">",)),
    Rewrite("tenish", "ten-ish", re.compile(rf"\b({'|'.join(_UNITS + _TEENS + _TENS)})ish\b"), r"\1-ish", ("ish",)),
    Rewrite("half a dozen", "6", re.compile(r"\bhalf[ -](?:a )?dozen\b"), "6", ("dozen",)),
    Rewrite("a dozen", "12", re.compile(r"\b(?:a )?dozen\b"), "12", ("dozen",)),
    Rewrite("a couple of weeks", "2 weeks", re.compile(r"\b(?:a )?couple(?: of)?\b"), "2", ("couple",)),
    Rewrite(
        "one hundred and twenty-five",
        "125",
        re.compile(rf"\b(?:(?:(a|{_TO_99})[ -])?(hundred)\b(?:(?:[ -]and)?[ -]({_TO_99})\b)?|({_TO_99}|zero)\b)"),
        _number,
    ),
    Rewrite("2 point 5 weeks", "2.5 weeks", re.compile(r"(?<=\d) point (?=\d)"), ".", (" point ",)),
]

_NOT = ("n't", "nt")
_DASHES = tuple("—–‒−-")
_MARKS = [
    Rewrite("in -45 days", "in minus 45 days", re.compile(r"(?<!\d )(?<![^\s:(])[-−](?=\d)"), "minus ", ("-", "−")),
    Rewrite("- 45 days", "45 days", re.compile(r"^\s*[-•·▪‣] ", re.MULTILINE), "", ("-", "•", "·", "▪", "‣")),
    Rewrite("soon - 9 days", "soon — 9 days", re.compile(r"\s*—\s*|(?<!\s)\s+[-–‒−]+\s+|--+"), " — ", _DASHES),
    Rewrite("40–50", "40-50", re.compile(r"[‒–−]"), "-", tuple("‒–−")),
    Rewrite("can't", "can not", re.compile(r"\bca ?n'?not\b|\bcan ?'?t\b|\bcannot\b"), "can not", ("can", "ca n")),
    Rewrite("won't", "will not", re.compile(r"\bwon'?t\b"), "will not", ("won",)),
    Rewrite("shan't", "shall not", re.compile(r"\bshan'?t\b"), "shall not", ("shan",)),
    Rewrite("ain't", "is not", re.compile(r"\bain'?t\b"), "is not", ("ain",)),
    Rewrite(
        "don't",
        "do not",
        re.compile(r"\b(do|does|did|is|are|was|were|would|could|should|has|have|had|must|need)n'?t\b"),
        r"\1 not",
        _NOT,
    ),
    Rewrite("i'll", "i will", re.compile(r"\b(i|we|you|they|he|she|it|that|there)'ll\b"), r"\1 will", ("'ll",)),
    Rewrite("we'd", "we would", re.compile(r"\b(i|we|you|they|he|she|it|that)'d\b"), r"\1 would", ("'d",)),
    Rewrite("you've", "you have", re.compile(r"\b(i|we|you|they)'ve\b"), r"\1 have", ("'ve",)),
    Rewrite("im", "i am", re.compile(r"\b(i)'?m\b"), r"\1 am", ("i'm", "im")),
    Rewrite("they're", "they are", re.compile(r"\b(we|you|they)'re\b"), r"\1 are", ("'re",)),
    Rewrite("it's", "it is", re.compile(r"\b(it|that|what|there|he|she|how|who|here)'s\b"), r"\1 is", ("'s",)),
    Rewrite("lets", "let us", re.compile(r"\blet'?s\b"), "let us", ("let",)),
    Rewrite("going to", "will", re.compile(r"\b(?:gonna|going to)\b"), "will", ("gonna", "going to")),
    Rewrite("wanna", "want to", re.compile(r"\bwanna\b"), "want to", ("wanna",)),
    Rewrite("till", "until", re.compile(r"\btil\b|'til\b|\btill\b"), "until", ("til",)),
    Rewrite("10 p.m.", "10 pm", re.compile(r"(?<![a-z])([ap])\. ?m\."), r"\1m", ("a.", "p.")),
    Rewrite("10 o'clock", "10 oclock", re.compile(r"\bo ?'? ?clock\b"), "oclock", ("clock",)),
    Rewrite("weeks' time", "weeks time", re.compile(r"\b(\w+)'(?=\s|$)"), r"\1", ("'",)),
]

_APPROXIMATE = [
    Rewrite("40~50", "40-50", re.compile(r"(?<=\d)(?: ?~ ?|\.\.\.?)(?=\d)"), "-", ("~", "..")),
    Rewrite("~45", "about 45", re.compile(r"~ ?(?=\d)"), "about ", ("~",)),
    Rewrite("ca. 45", "about 45", re.compile(r"\b(?:c|ca|approx)(?:\.|(?<=ca)|(?<=approx)) ?(?=\d)"), "about ", ("c",)),
    Rewrite("45-ish days", "45 days", re.compile(r"(?<=\d|[smkhd])(?: |-)?ish\b"), "", ("ish",)),
    Rewrite("45-odd days", "45 days", re.compile(rf"(?<=\d)[ -]odd(?= {_UNIT})"), "", ("odd",)),
    Rewrite("45 or so days", "45 days", re.compile(rf"(?<=\d) or so(?= {_UNIT})"), "", (" or so",)),
    Rewrite("45+ days", "45 days", re.compile(r"(?<=\d)\+(?![\d/])"), "", ("+",)),
    Rewrite(
        "45 plus or minus 5 days",
        "45 days",
        re.compile(rf"(?<=\d),? *(?:plus or minus|plus/minus|\+/-|give or take) *\d+(?= ?{_UNIT})"),
        "",
        ("plus", "+", "give"),
    ),
    Rewrite(
        "45 days, give or take a week",
        "45 days",
        re.compile(
            r",? *(?:\bplus or minus|\bplus/minus|\+/-|\bgive or take)(?: *(?:an?|\d+)\b(?: (?:few )?[a-z]+)?)?"
        ),
        "",
        ("plus", "+", "give"),
    ),
    Rewrite(
        "30 + 5 days",
        "35 days",
        re.compile(rf"(?<![\d.,:$£€+])\b(\d{{1,3}}) ?(?:\+|plus) ?(\d{{1,3}})(?= ?{_UNIT})"),
        _sum,
        ("+", "plus"),
    ),
    Rewrite("+45 days", "45 days", re.compile(r"(?<![^\s:(])\+(?=\d)"), "", ("+",)),
    Rewrite(
        "minus 45 days",
        "negative days",
        re.compile(
            r"(?<!months )(?<!weeks )(?<!days )(?<!hours )(?<!month )(?<!week )(?<!hour )(?<!year )"
            r"\b(?:minus|negative|t ?-) ?\d[\d.,]*(?<!,)(?<!\.)"
        ),
        "negative",
        ("minus", "negative", "t-", "t -"),
    ),
]

_SEPARATORS = [
    Rewrite("1,440", "1440", re.compile(r"(?<=\d),(?=\d{3}(?!\d))"), "", (",",)),
    Rewrite(
        "1 440 minutes",
        "1440 minutes",
        re.compile(rf"(?<![\d.,:/])([1-9]\d{{0,2}})[ '_](\d{{3}})(?= ?{_UNIT})"),
        r"\1\2",
    ),
    Rewrite(
        "1.440 minutes",
        "1440 minutes",
        re.compile(r"(?<![\d.,:/])([1-9]\d{0,2})\.(\d{3})(?= ?(?:minutes?|mins?|days?)\b)"),
        r"\1\2",
        (".",),
    ),
    Rewrite("37,5 days", "37.5 days", re.compile(rf"(?<![\d,.])(\d{{1,3}}),(\d\d?)(?=[ -]?{_UNIT})"), r"\1.\2", (",",)),
    Rewrite("1,5", "1.5", re.compile(r"(?<![\d,.])(\d),(\d)(?![\d,])"), r"\1.\2", (",",)),
]

_DATES = [
    Rewrite(
        "on 2025-03-29 at 10",
        f"on {_DATE} at 10",
        re.compile(r"(?<!\d)\d{4}([-/.])(?:0?[1-9]|1[0-2])\1[0-3]?\d(?!\d)(?:t(?=\d))?"),
        _DATE,
    ),
    Rewrite(
        "29.03.2025",
        _DATE,
        re.compile(rf"(?<![\d.,/:-])[0-3]?\d([./-])[0-3]?\d\1(?:19|20)?\d\d(?!\d)(?![ -]?{_UNIT})"),
        _DATE,
    ),
    Rewrite(
        "15th of june",
        _DATE,
        re.compile(
            rf"\b[0-3]?\d(?:st|nd|rd|th)?(?: of)? {_MONTH}(?:,? 20\d\d)?"
            rf"|\b{_MONTH}(?: the)? [0-3]?\d(?:st|nd|rd|th)?\b(?!:)(?![ -]?{_UNIT})(?:,? 20\d\d)?"
            r"|\b[0-3]?\d(?:st|nd|rd|th)?(?: of)? may(?= ?[.,;!?]| 20\d\d|$)"
            r"|(?<!\bi )(?<!we )(?<!you )\bmay [0-3]?\d(?:st|nd|rd|th)?\b"
        ),
        _DATE,
        tuple(["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]),
    ),
    Rewrite(
        "by 3/29",
        f"by {_DATE}",
        re.compile(rf"\b(on|by|until|before) (?:the )?[0-3]?\d/[0-3]?\d\b(?![/\d])(?![ -]?{_UNIT})"),
        rf"\1 {_DATE}",
        ("/",),
    ),
    Rewrite(
        "friday the 13",
        _DATE,
        re.compile(rf"\b{_WEEKDAY} (?:the )?\d{{1,2}}(?:st|nd|rd|th)?\b(?! ?(?:{_UNIT}|:|[ap]m|oclock))"),
        _DATE,
        _WEEKDAYS,
    ),
    Rewrite(
        "a week from friday",
        _DATE,
        re.compile(
            rf"{_WEEKDAY} in {_LENGTH}|{_LENGTH}(?: time)? (?:from|after|on|before|following) (?:next |this"
            rf" |the |easter )?(?:{_WEEKDAY}|{_DATE})"
        ),
        _DATE,
        (*_WEEKDAYS, _DATE),
    ),
]

_CORRECTED = [
    Rewrite("1:30 hours", "1h30", re.compile(r"\b(\d{1,2}):([0-5]\d) ?h(?:rs?|ours?)?\b"), r"\1h\2", (":",)),
    Rewrite(
        "45 instead of 60 days",
        "45 days instead of 60 days",
        re.compile(
            rf"(?<![\d.,:$£€])\b(\d{{1,3}})(?=,? (?:instead of|rather than|(?:and )?not|down from)"
            rf" \d{{1,3}}[ -]?({_UNIT}))"
        ),
        r"\1 \2",
        ("instead of", "rather than", " not ", "down from"),
    ),
    Rewrite("no: 45 days", "no, 45 days", re.compile(r"\b(no|nope):"), r"\1,", ("no:", "nope:")),
    Rewrite("not 60 days: 45", "not 60 days, 45", re.compile(rf"(\bnot {_LENGTH}):"), r"\1,", (":",)),
]

_NET_TERMS = [
    Rewrite(
        "2/10 net60",
        "60 days",
        re.compile(
            rf"(?:\b\d{{1,2}}/\d{{1,2}},? )?\b(?:net[ -]?|n ?/ ?|n(?=\d\d)|[td] ?\+ ?)(\d{{1,3}})\b(?![.:]?\d)(?:"
            rf" ?days?\b)?"
            rf"(?![ -]?{_UNIT})"
        ),
        r"\1 days",
        ("net", "n/", "n /", "t+", "t +", "d+", "d +", *(f"n{digit}" for digit in range(1, 10))),
    ),
]

_FRACTIONS = [
    Rewrite("within the hour", "within an hour", re.compile(r"\bwithin the (?=hour\b)"), "within an ", ("within the",)),
    Rewrite(
        "hour and a half",
        "an hour and a half",
        re.compile(
            r"(^|[.,;:!?] |\b(?:about|in|within|maybe|for|need|around|roughly|say|or) )"
            r"(?=(?:day|hour|week|month|year) and (?:an? )?(?:half|quarter)\b)"
        ),
        r"\1an ",
        (" and ",),
    ),
    Rewrite(
        "2-and-a-half weeks",
        "2.5 weeks",
        re.compile(
            rf"(?:(?<![\d.,:/$£€])\b(?P<whole>\d{{1,3}})(?:[ -]and[ -]|[ -](?=\d/)))?{_FRACTION}(?P<of>[ -]of)?"
            rf"(?:[ -](?:an?|1))?[ -]?(?={QUALIFIER}(?P<unit>{_UNIT}))"
        ),
        _fraction_of,
        ("/", "hal", "third", "quarter", "fourth", "fifth", "sixth", "eighth", "0.", " ."),
    ),
    Rewrite(
        "a week and a half",
        "1.5 week",
        re.compile(
            rf"\b(?P<whole>an?|\d{{1,3}})[ -](?P<unit>{_UNIT})[ -]and[ -]{_FRACTION}(?! ?(?:{_UNIT}|of"
            rf"|an?)\b)(?![\d/])"
            r"(?<!third)(?<!fourth)(?<!fifth)"
        ),
        _unit_and_fraction,
        ("and",),
    ),
    Rewrite(
        "2 1/2",
        "2.5",
        re.compile(r"(?<![\d.,:/$£€])\b(\d{1,3})(?:[ -]and[ -](?:an?|1)[ -]half|(?:[ -]and)?[ -]1/2)\b"),
        r"\1.5",
        ("half", "1/2"),
    ),
    Rewrite("2-to-3-week", "2 to 3-week", re.compile(r"(?<=\d)-(to|or)-(?=\d)"), r" \1 ", ("-to-", "-or-")),
    Rewrite(
        "30/60/90 days",
        "30 or 60 or 90 days",
        re.compile(rf"(?<![\d/])(\d{{1,3}})/(?:(\d{{1,3}})/)?(\d{{1,3}})(?=[ -]?{_UNIT})"),
        lambda match: " or ".join(number for number in match.groups() if number),
        ("/",),
    ),
]

_NO_TIME = r"(?![ -]*(?:minute|min\b|mins\b|hour|hrs?\b|day|week|page|point|times?\b|more|%))"
_CLOCK = [
    Rewrite("10p", "10 pm", re.compile(r"(?<=\d)(?:([ap])| ([ap]) ?m)\b(?! ?m)"), r" \1\2m", ("a", "p")),
    Rewrite("10:30:00", "10:30", re.compile(r"\b(\d{1,2}:[0-5]\d):[0-5]\d\b"), r"\1", (":",)),
    Rewrite("10:30h", "10:30", re.compile(r"(?<=:)([0-5]\d) ?h(?:rs?|ours?)?\b"), r"\1", ("h",)),
    Rewrite("22.15h", "22:15", re.compile(r"\b(\d{1,2})\.([0-5]\d) ?h\b"), r"\1:\2", ("h",)),
    Rewrite("22h", "22:00", re.compile(r"(?<![\d:.])(1[3-9]|2[0-4]) ?h(?:rs)?\b(?!\d)"), r"\1:00", ("h",)),
    Rewrite(
        "2230 hrs",
        "22:30",
        re.compile(r"(?<![\d:.$£€/-])([01]\d|2[0-4])([0-5]\d) ?(?:h(?:rs?|ours?)?\b|z\b)"),
        r"\1:\2",
        ("h", "z"),
    ),
    Rewrite(
        "1030 pm",
        "10:30 pm",
        re.compile(r"(?<![\d:.$£€/-])(1?\d)([0-5]\d)(?= ?[ap]m\b)"),
        r"\1:\2",
        ("m",),
    ),
    Rewrite(
        "10-30 pm",
        "10:30 pm",
        re.compile(
            r"(?<![\d:.])(\d{1,2})(?:[ -](1[3-9]|[2-5]\d)(?= ?[ap]m\b)|-(25|[345][05])\b(?![:.]?\d))" + _NO_TIME
        ),
        r"\1:\2\3",
    ),
    Rewrite(
        "in bed by 2230",
        "in bed by 22:30",
        re.compile(
            r"(\bat |\b(?:by|until|before|around|about|make (?:it|that)|say|than|out|bed) (?!20[12]\d)|^(?!20[12]\d)"
            r"|[.!?,:] (?!20[12]\d))([01]\d|2[0-4])([0-5][05])(?![\d:%-])(?=[ .,;!?]|$)" + _NO_TIME
        ),
        r"\1\2:\3",
    ),
    Rewrite(
        "15 past 10",
        "10:15",
        re.compile(
            r"(?<![\d:.$/])\b(?:an? )?(?P<minutes>half|quarter|0?\.5|\d{1,2})(?P<unit>[ -](?:minutes?|mins?))?[ -]"
            r"(?P<way>past|after|to|before|until|of)[ -](?:the )?(?P<hour>\d{1,2}(?=[ap]m\b)|\d{1,2}\b"
            r"|midnight\b)(?![:.]\d)(?! or\b)" + _NO_TIME
        ),
        _past_or_to,
        ("past", "after", "to", "before", "until", "of"),
    ),
    Rewrite("half 10", "10:30", re.compile(r"\b(?:an? )?half (\d{1,2})\b" + _NO_TIME), r"\1:30", ("half ",)),
    Rewrite("10 oh 5", "10:05", re.compile(r"\b(\d{1,2}) oh (\d)\b" + _NO_TIME), r"\1:0\2", (" oh ",)),
    Rewrite(
        "10 30",
        "10:30",
        re.compile(r"(?<![\d:.$£€/-])\b(1?\d|2[0-4]) ([0-5][05])\b(?![:.]?\d)" + _NO_TIME),
        r"\1:\2",
    ),
]

# What is said twice: the first holds.
_SAME = (
    r"(?:i\. ?e\.,?|ie\b,?|that is(?: to say)?\b,?|in other words\b,?|namely\b,?|which (?:is|means|makes)\b"
    r"|meaning\b,?"
    r"|a\.?k\.?a\.?|equals?\b|equivalent to\b|viz\.?|=|/)"
)
_NOT_COMPARED = (
    r"(?! ?(?:more|less|longer|later|earlier|sooner|shorter|fewer|too|than|over|above|below|apart"
    r"|away)\b)"
)


_OPEN, _CLOSED = r" ?[(\[{]", r"[^()\[\]{}\n]*(?:[)\]}]|$)"


def _said_twice(quantity: str) -> list[Rewrite]:
    """The rows for lengths of time or for times of day."""
    return [
        Rewrite(
            "your offer, 60 days, is too long" if quantity == _LENGTH else "your offer, 10:30 pm, is too late",
            "your offer 60 days is too long" if quantity == _LENGTH else "your offer 10:30 pm is too late",
            re.compile(
                r"(\b(?:your|my|our|the|this|that|his|her|their) (?:\w+ )?(?:offer|figure|number|proposal|demand"
                rf"|request|deadline|terms?|date|time|bedtime|suggestion|idea|plan)), ((?:{quantity})), (?=\w)"
            ),
            r"\1 \2 ",
            (", ",),
        ),
        Rewrite(
            "3 (3) weeks",
            "3 weeks",
            re.compile(rf"(?<![\d.,:$£€/#-])\b(\d{{1,3}}){_OPEN}(?=[^)\]}}]*(?:\d|{_UNIT})){_CLOSED}"),
            r"\1",
            ("(", "[", "{"),
        ),
        Rewrite(
            "3 weeks from now (21 days)" if quantity == _LENGTH else "10:30 pm (22:30)",
            "3 weeks from now" if quantity == _LENGTH else "10:30 pm",
            re.compile(rf"((?:{quantity})(?: [a-z]+){{0,3}}){_OPEN}(?=[^)\]}}]*(?:\d|{_UNIT})){_CLOSED}"),
            r"\1",
            ("(", "[", "{"),
        ),
        Rewrite(
            "3 weeks, that is 21 days," if quantity == _LENGTH else "10:30 pm / 22:30,",
            "3 weeks," if quantity == _LENGTH else "10:30 pm,",
            re.compile(
                rf"({quantity})(?: from (?:now|today))?(?:[,.;:]| —)? ?{_SAME} ?(?:about |exactly |just"
                rf" )?(?:{quantity})"
                rf"{_NOT_COMPARED}"
            ),
            r"\1",
            (
                "i.",
                " ie",
                "that is",
                "in other",
                "namely",
                "which ",
                "meaning",
                "a.k",
                "aka",
                "equal",
                "equiv",
                "viz",
                "=",
                "/",
            ),
        ),
    ]


_DURATIONS = [
    Rewrite(
        "3 weeks — 21 days",
        "3 weeks",
        re.compile(rf"(?P<first>{_LENGTH}) — (?:that is,? |or )?(?P<second>{_LENGTH}){_NOT_COMPARED}"),
        _after_a_dash,
        ("—",),
    ),
    Rewrite(
        "1 hour, 15 minutes",
        "1 hour 15 minutes",
        re.compile(
            rf"(?P<first>{_LENGTH}), (?P<second>\d{{1,3}} {_UNIT}){_NOT_COMPARED}(?! ?(?:is|are|would|will|max)\b)"
        ),
        _after_a_comma,
        (",",),
    ),
]

_ENDS = [
    Rewrite("(45 “days”)", " 45  days  ", re.compile(r"[*_`#~\"“”„«»()\[\]{}<>|\\]"), " "),
    Rewrite("soon — 9 days", "soon, 9 days", re.compile(r"\s*—\s*"), ", ", ("—",)),
    Rewrite("45   days", "45 days", re.compile(r"[^\S\n]{2,}|[^\S\n ]"), " "),
    Rewrite(
        "not, as you know, 45", "not 45", re.compile(r"(\b(?:not|never)), [^,.!?;\n]{1,50},"), r"\1", ("not,", "never,")
    ),
]
_SHARED = [*_MARKS, *_APPROXIMATE, *_SEPARATORS]
# By whether times of day are bargained over.
TABLES = {
    False: [*_SHARED, *_CORRECTED, *_NET_TERMS, *_FRACTIONS, *_DATES, *_said_twice(_LENGTH), *_DURATIONS, *_ENDS],
    True: [*_SHARED, *_DATES, *_CLOCK, *_FRACTIONS, *_said_twice(_TIME), *_ENDS],
}
