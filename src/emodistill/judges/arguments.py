"""A judge of what words do to move the other side: a reason, an answer, a number, nothing said twice.

It rewards what the persuadable counterparty is moved by (docs/persuadable.md) and reads it with other instruments:
where that one looks words up in lists, this one compares letters. A policy cannot win by fooling what scores it, for
the one that it plays against has other weaknesses. It serves the positive control of JPO alone: emotions mean nothing
to it.

    score = 1 + 9 * (0.35 reason + 0.35 answer + 0.30 number) * freshness * sense

Each part lies in [0, 1]. Freshness is a factor: as a share of the sum it would reward short replies that give no
reason, no answer and no number, because these repeat nothing either. Deterministic, and free.
"""

import hashlib
import re
from collections.abc import Collection, Iterable, Sequence
from functools import cache, partial

from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from emodistill.judges.request import (
    HIGHEST,
    LOWEST,
    Judgement,
    JudgeRequest,
    OnJudgement,
    announced,
    rubric_version,
)
from emodistill.negotiation.domains import domain_names, load_domain
from emodistill.negotiation.offers import OFFERS_LOGIC, parse_offer
from emodistill.negotiation.protocol import COUNTERPARTY, FOCAL
from emodistill.negotiation.scenarios import Scenario

LOGIC = 3  # raise it when the arithmetic in this file changes: part of the judge's version
SHARES = {"reason": 0.35, "answer": 0.35, "number": 0.30}
_GROUND = re.compile(
    r"\b(?:because|since|thanks to|due to|after all|that'?s why|that is why|the reason|only that|otherwise|until)\b"
    r"|\bso (?:that|i|i'm|we|you|they|he|she|it|this|there|let'?s|let|please|the|your)\b",
    re.IGNORECASE,
)
_SOFT = re.compile(
    r"\?|\b(?:could|would|might|may|maybe|perhaps|about|around|some|think|guess|hope|wish|why not)\b", re.I
)
_LETTERS = re.compile(r"[^\W\d_]+")
_SPLIT = re.compile(r"(?<=[.!?;])\s+")
_ENDS = (".", "!", "?", "\u2026", '"', "'", ")")
# Jaccard index of letter trigrams from which two words count as one: plan and plans do, pay and payment do not
_ALIKE = 0.5
_LONG = 4  # shortest word that carries matter
_GRAM = 6  # letters of the pieces that freshness compares


class ArgumentsJudge:
    """Scores by letters; see the formula above."""

    name = "arguments"

    @property
    def version(self) -> str:
        """The logic, how offers are read, and the rubrics, whose domains give the matter."""
        rubrics = "".join([str(OFFERS_LOGIC), *(rubric_version(load_domain(name)) for name in domain_names())])
        return f"{LOGIC} {hashlib.sha256(rubrics.encode()).hexdigest()[:12]}"

    def judge(self, requests: Sequence[JudgeRequest], on_judgement: OnJudgement | None = None) -> list[Judgement]:
        """One judgement per request, in order."""
        return announced([Judgement(self._score(request)) for request in requests], on_judgement)

    def parts(self, request: JudgeRequest) -> dict[str, float]:
        """The parts of one score, by name, for display; `freshness` and `sense` are factors."""
        text, scenario = request.utterance, request.scenario
        own = [turn.text for turn in request.history if turn.speaker == FOCAL]
        theirs = [turn.text for turn in request.history if turn.speaker == COUNTERPARTY]
        return {
            "reason": reason(scenario, text),
            "answer": answer(scenario, theirs[-1], text) if theirs else 0.0,
            "number": number(scenario, text),
            "freshness": freshness(text, own),
            "sense": sense(text),
        }

    def _score(self, request: JudgeRequest) -> float:
        parts = self.parts(request)
        mean = sum(share * parts[name] for name, share in SHARES.items())
        return round(LOWEST + (HIGHEST - LOWEST) * mean * parts["freshness"] * parts["sense"], 2)


def reason(scenario: Scenario, text: str) -> float:
    """1 for a sentence with a ground and a word like one of the case, half for two such words without a ground; else 0.

    A question is no reason, nor is an offer.
    """
    case, best = _case(scenario.domain, tuple(scenario.context.values())), 0.0
    for sentence in _beside_offers(scenario, text):
        alike = 0 if sentence.endswith("?") else _count_alike(matter(scenario, sentence), case)
        if alike and _GROUND.search(sentence):
            return 1.0
        best = max(best, 0.5 if alike > 1 else 0.0)
    return best


def answer(scenario: Scenario, heard: str, text: str) -> float:
    """0 to 1: 0.7 for a word like one that the other side just said beside its offer, 1 for two of them.

    Where there is none, 0.2 for a word like one of the domain's own phrases of help and of the other side's worries.
    Offers are left out on both sides: who says "payment" in one has answered nothing.
    """
    told, said = (set().union(*map(partial(matter, scenario), _beside_offers(scenario, one))) for one in (heard, text))
    echoes = _count_alike(said, told)
    if echoes:
        return 1.0 if echoes > 1 else 0.7
    return 0.2 if _count_alike(said, _phrases(scenario.domain, ("help", "other_side_worry"))) else 0.0


def number(scenario: Scenario, text: str) -> float:
    """1 for an offer that the neutral parser reads in a sentence that neither asks nor softens it, else half."""
    if parse_offer(text, scenario.domain) is None:
        return 0.0
    stating = [one for one in _SPLIT.split(text) if parse_offer(one, scenario.domain) is not None]
    return 1.0 if stating and not any(_SOFT.search(one) for one in stating) else 0.5


def freshness(text: str, earlier: Sequence[str]) -> float:
    """0 to 1: the share of its letter 6-grams that are new to the speaker, and that it has only once; 0.4 gives 0."""
    pieces = _pieces(text)
    if not pieces:
        return 0.0
    before = {piece for one in earlier for piece in _pieces(one)}
    new = len({piece for piece in pieces if piece not in before}) / len(pieces)
    return min(max((new - 0.4) / 0.4, 0.0), 1.0)


def sense(text: str) -> float:
    """0 to 1: language has its small words. Below a quarter of them a text is a heap; 60 words and more lose too.

    A text that breaks off within a sentence has half of it: otherwise a policy learns never to finish, because longer
    replies score more.
    """
    said = _LETTERS.findall(text.lower())
    if not said:
        return 0.0
    small = sum(word in ENGLISH_STOP_WORDS or len(word) < 3 for word in said) / len(said)
    ended = 1.0 if text.rstrip().endswith(_ENDS) else 0.5
    return ended * min(max((small - 0.15) / 0.1, 0.0), 1.0) * min(max((120 - len(said)) / 60, 0.0), 1.0)


def matter(scenario: Scenario, text: str) -> set[str]:
    """The words of a text that carry matter: long ones, but for those of every negotiation of this domain."""
    common = _common(scenario.domain)
    return {word for word in _LETTERS.findall(text.lower()) if len(word) >= _LONG and word not in common}


@cache
def _common(domain: str) -> frozenset[str]:
    """Stop words, and the words of the domain's prompts and roles."""
    rules = load_domain(domain)
    told = " ".join([*rules.prompt.values(), *rules.roles.values(), rules.quantity, rules.unit]).lower()
    return frozenset((*ENGLISH_STOP_WORDS, *_LETTERS.findall(told)))


@cache
def _case(domain: str, context: tuple[str, ...]) -> frozenset[str]:
    """The words of a situation and of the domain's own phrases for it."""
    said = _LETTERS.findall(" ".join(context).replace("_", " ").lower())
    of_context = {word for word in said if len(word) >= _LONG and word not in _common(domain)}
    return frozenset(of_context | _phrases(domain, ("reason", "stakes", "help", "other_side_worry")))


@cache
def _phrases(domain: str, slots: tuple[str, ...]) -> frozenset[str]:
    rules = load_domain(domain)
    said = _LETTERS.findall(" ".join(phrase for slot in slots for phrase in rules.slots.get(slot, ())).lower())
    return frozenset(word for word in said if len(word) >= _LONG and word not in _common(domain))


def _beside_offers(scenario: Scenario, text: str) -> list[str]:
    """The sentences in which the neutral parser reads no offer."""
    return [sentence for sentence in _SPLIT.split(text) if parse_offer(sentence, scenario.domain) is None]


def _count_alike(words: Iterable[str], others: Collection[str]) -> int:
    return sum(any(_alike(word, other) for other in others) for word in words)


@cache
def _alike(one: str, other: str) -> bool:
    first, second = _trigrams(one), _trigrams(other)
    return len(first & second) >= _ALIKE * len(first | second)


def _trigrams(word: str) -> set[str]:
    padded = f" {word} "
    return {padded[i : i + 3] for i in range(len(padded) - 2)}


def _pieces(text: str) -> list[str]:
    letters = "".join(_LETTERS.findall(text.lower()))
    return [letters[i : i + _GRAM] for i in range(len(letters) - _GRAM + 1)]
