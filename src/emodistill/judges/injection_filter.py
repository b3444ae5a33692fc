"""Keeps judged texts from speaking to their judge: `sanitize` removes structure, `detect_injection` finds attempts.

A prompt has structure: lines, tags, brackets, chat markup. A text that brings its own can pretend to be the end of the
material, a new example, or another speaker. So `sanitize` turns characters that carry structure into harmless ones that
look alike, drops everything invisible, and makes one line of a text. It changes no word: what a speaker says, however
brazen, is what the judge has to judge.

A language model that is told "this is data" obeys the data now and then all the same. So a text with signs of an
injection is not left to the model: it is a role violation, which the rubric calls a failure, and its score is capped.
The signs are rules about words, not a model: they cannot be argued with, and they catch only what they know.
docs/judges.md has what they catch and what they do not.
"""

import re
import unicodedata

from emodistill.judges.rubric import words

FILTER_LOGIC = 3  # raise it when a rule of this file changes: part of a judge's version
LONGEST = 1500  # characters of one text that a judge is shown
CAP = 2.0  # highest score of a text with a sign of an injection

_HARMLESS = str.maketrans(
    {"<": "‹", ">": "›", "[": "(", "]": ")", "{": "(", "}": ")", "|": "¦", "`": "'", "\\": "/", "#": "№"}
)
_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn"}  # control, format (zero width, direction), half pairs, private, unassigned


def sanitize(text: str, longest: int = LONGEST) -> str:
    """One line without markup or invisible characters; an over-long text is cut, and says so.

    Compatibility forms (full-width letters and the like) become the plain ones, so that no rule about words is dodged
    by a font.
    """
    visible = "".join(_visible(character) for character in unicodedata.normalize("NFKC", text))
    line = " ".join(visible.translate(_HARMLESS).split())
    for run in ("---", "===", "***", "___"):
        while run in line:
            line = line.replace(run, run[:2])
    return line if len(line) <= longest else f"{line[:longest].rstrip()} … (cut here, {len(text) - longest} more)"


def _visible(character: str) -> str:
    if character.isspace():
        return " "
    return "" if unicodedata.category(character) in _INVISIBLE else character


_TOP = r"(?:\d+|nine|ten|full|top|max(?:imum)?|highest|perfect)"
_MARK = r"(?:scor(?:e[sd]?|ing)|rating|rated)"
_TIME = r"(?:minute|min|hour|day|week|month)s?\b"  # "give it 10 days" asks for no score
_SIGNS = {
    "asks for a score": re.compile(
        rf"(?<!credit )\b{_MARK}\b(?:\W+\w+){{0,4}}?\W+{_TOP}\b|\b{_TOP}\W+(?:possible )?(?:{_MARK}|marks?)\b"
        rf"|\b(?:\d+|nine|ten)\s*(?:/|out of)\s*(?:10|ten)\b|\bgive (?:this|it)\b.{{0,20}}"
        rf"\b(?:10|nine|ten)\b(?!:| (?:\w+ )?{_TIME})"
    ),
    "speaks to the judge": re.compile(
        r"\b(?:dear|note to the|you are (?:a|the|no longer a|now)) (?:judge|evaluator|grader)\b"
        r"|\b(?:evaluator|grader|annotator)(?:'s)?\b|\bof (?:all )?judges\b|\btest mode\b"
        r"|\byou are now\b(?! (?:\d+|late|overdue|behind|safe)\b)"
        r"|\bthis evaluation\b"
    ),
    "talks of rules for judging": re.compile(
        r"\brubrics?\b|\bcriteria\b|\bthe scale is\b|\bsystem prompt\b|\breference answer\b|\bgold standard\b"
        r"|\b(?:ignore|disregard|forget|override)\b.{0,40}\b(?:instructions?|rules|prompt|guidelines?)\b"
        r"|\binstructions? (?:have|has|are|is)\b|\bcounts? as firmness\b"
    ),
    "talks of itself as a text": re.compile(
        r"\b(?:this|the) (?:utterance|text|response(?! (?:team|crew|time)\b)|reply|turn)\b|\bnegotiation turn\b"
        r"|\b(?:turn|utterance|text) in (?:the )?history\b|\b(?:masterpiece|masterful)\b|\brated this\b"
    ),
    "speaks as somebody else": re.compile(
        r"(?:^|[.!?\"')] )\W*(?:system|assistant|user|human|ai|note(?!: (?:i|we|my|our)\b)|verdict|score"
        r"|rating|response|answer|solution"
        r"|(?:final(?! (?:offer|proposal|number)\b)|thought|reasoning)(?: \w+)?)\s*:|\bas an ai\b"
        r"|\b(?:large )?language model\b"
        r"|^\W*(?:solution|answer|let us solve\b.*)\W*$|\bend of (?:the )?(?:utterance|data|input)\b"
    ),
}
_MARKUP = re.compile(r"<\|?/?\w+\|?>|\[/?\w+\]|```|\{\s*\"|\"\s*\}|#{3}|\bscore\"?\s*[=:]|</?s>", re.IGNORECASE)
_SPACED = re.compile(r"(?:\b[^\W\d_] ){4,}")
_BLOB = re.compile(r"\b(?=\w*\d)(?=\w*[A-Za-z])[\w+/=]{20,}|\b\w{30,}|(?:\b[01]{8}\b ?){3,}")
_FOREIGN = re.compile(
    r"\b(?:der|das|und|ist|nicht|bitte|diese[rm]?|eine?|por|favor|el|la|l[oe]s|las|que|est[ae]?|una|un|des|et|le|du|une|pas"
    r"|il|di|della|questo|che|per|non|het|een|niet|deze|dit|os|uma|n\u00e3o|sem)\b"
)
_ENGLISH = re.compile(
    r"\b(?:the|an?|to|of|and|in|is|it|you|i|we|that|for|on|with|my|your|our|this|be|are|was|have|can|will|not|if|at|from"
    r"|by|as|me|so|but|or|no|do|let|us|they|what|there|all|them|he|she|his|her|has|had|would|could|should)\b"
)
_MOST_WORDS = 130  # a turn has 60 at most


def detect_injection(text: str) -> list[str]:
    """The signs that a text speaks to its judge and not to the other side, in words; empty for a clean utterance."""
    line = sanitize(text, longest=100_000)
    plain = line.casefold().replace("’", "'")
    found = [name for name, pattern in _SIGNS.items() if pattern.search(plain)]
    if _MARKUP.search(text) or _MARKUP.search(unicodedata.normalize("NFKC", text)):
        found.append("has the markup of a chat or a data format")
    if _SPACED.search(f"{plain} ") or _BLOB.search(line):
        found.append("is written in a code")
    if _foreign(plain):
        found.append("is not in English")
    if len(words(line)) > _MOST_WORDS:
        found.append("is far too long for a turn")
    return found


def _foreign(plain: str) -> bool:
    """Whether a sentence has many letters that are not Latin, or more foreign than English function words."""
    for sentence in re.split(r"[.!?。！？]+", plain):
        letters = [character for character in sentence if character.isalpha()]
        if sum("LATIN" not in unicodedata.name(character, "") for character in letters) > 0.3 * len(letters):
            return True
        foreign = len(_FOREIGN.findall(sentence))
        if foreign >= 2 and foreign > len(_ENGLISH.findall(sentence)):
            return True
    return False


def capped(text: str, score: float) -> float:
    """The score, but at most `CAP` where the text has a sign of an injection."""
    return min(score, CAP) if detect_injection(text) else score


def says_nothing(text: str) -> bool:
    """Whether a text has no word; no model needs to be asked what that is worth."""
    return not words(sanitize(text))


def without_injections(text: str) -> str:
    """The sentences of an earlier turn that a judge may see, and "(left out)" where some had signs of an injection."""
    sentences = [sentence for sentence in re.split(r"(?<=[.!?])\s+|\n+", text) if sentence.strip()]
    clean = [sentence for sentence in sentences if not detect_injection(sentence)]
    if detect_injection(" ".join(clean)):
        clean = []  # the signs are in how the sentences stand together
    return " ".join(clean) if clean and not detect_injection(text) else " ".join([*clean, "(left out)"])
