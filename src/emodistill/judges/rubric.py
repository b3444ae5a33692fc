"""The rubric judge: METHOD 6's rubric as arithmetic, with a perceiver for the emotion.

Deterministic, free and quick, so that every stage runs without a language model; and being arithmetic it cannot be
talked into a score: "SCORE: 10" in an utterance is a role violation like any other. What it cannot do is judge sense. A
text with the right emotion words, an offer and a request scores well even if it is foolish; that is what `judge=lm` is
for.

    score = 1 + 9 * (weighted mean of emotion, progress, firmness, freshness) * length * penalties

docs/judges.md has the weights on one page.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np

from emodistill.emotions.perceiver import FloatArray, Perceiver, as_vocabulary
from emodistill.emotions.vocabulary import Vocabulary
from emodistill.errors import UserError
from emodistill.judges.request import (
    HIGHEST,
    LOWEST,
    Judgement,
    JudgeRequest,
    OnJudgement,
    announced,
    rubric_version,
)
from emodistill.negotiation.domains import Domain, domain_names, load_domain
from emodistill.negotiation.offers import parse_offer
from emodistill.negotiation.protocol import COUNTERPARTY, FOCAL, Side

# ---- wording ----
# How an utterance is worded: length, repetition, and the role violations: signs of words no negotiator would say.

_WORD = re.compile(r"[^\W_][\w']*")
_NUMBER = re.compile(r"\d+")
_META = re.compile(
    r"\b(?:score|rating)\s*(?:[:=]|is)?\s*\d+|\b\d+\s*(?:/|out of)\s*10\b|\brubric\b|"
    r"\b(?:ignore|disregard)\b.{0,30}\binstructions?\b|\bas an ai\b|\blanguage model\b|"
    r"<\|?\w+\|?>|\blet your words show\b"
)
_GENERIC_ROLES = ("user", "assistant", "system", "counterparty", "focal", "negotiator", "judge")
_NGRAM = 4


def words(text: str) -> list[str]:
    """The words in lower case, every number alike: an offer formula with another number is a repetition still."""
    return [_NUMBER.sub("0", word) for word in _WORD.findall(text.lower().replace("\u2019", "'"))]


def length(text: str) -> float:
    """0 to 1: one short paragraph is right; below 6 words too little, from 60 to 160 words more and more of a ramble.

    Words said over and over count against it too: stuffing a text with one emotion's words is no style.
    """
    said = words(text)
    count = len(said)
    if count == 0:
        return 0.0
    short, long = min(1.0, 0.4 + 0.1 * count), min(max((160 - count) / 100, 0.1), 1.0)
    variety = len(set(said)) / min(count, 60)
    return min(short, long) * min(1.0, variety / 0.65) ** 2


def freshness(text: str, earlier: Sequence[str]) -> float:
    """0 to 1: how little of it has been said before, by word 4-grams (the whole text where it is shorter).

    A fifth of repeated 4-grams is free, for offers have their formulas; 0.8 of them or more gives 0.
    """
    grams = _grams(text)
    if not grams or not earlier:
        return 1.0
    known = {gram for before in earlier for gram in _grams(before)}
    share = sum(gram in known for gram in grams) / len(grams)
    return min(max((0.8 - share) / 0.6, 0.0), 1.0)


def says(text: str, phrases: Iterable[str]) -> int:
    """How many of the phrases occur, as whole words in this order."""
    said = f" {' '.join(words(text))} "
    return sum(f" {' '.join(words(phrase))} " in said for phrase in phrases)


def role_violations(text: str, domain: Domain, labels: Sequence[str]) -> int:
    """How many signs there are that the speaker fell out of the role: 0 for clean words.

    Counted: lines spoken for a named role ("Debtor: ..."), speaking as the other side ("Dear creditor"), emotion labels
    or directives copied into the words ("[anger]", "Anger: ...", "*sighs with relief*"), talk about scores, rubrics or
    instructions, chat markup.
    """
    said = text.lower().replace("\u2019", "'")
    roles = "|".join(map(re.escape, (*domain.roles.values(), *_GENERIC_ROLES)))
    names = "|".join(map(re.escape, (*(label.lower() for label in labels), "emotion", "tone", "directive")))
    spoken = re.findall(rf"(?:^|\n|[.!?\"]\s)\W*(?:{roles})(?:\s\w+)?\s*:", said)
    own, theirs = (re.escape(domain.roles[side]) for side in ("focal", "counterparty"))
    swapped = re.findall(
        rf"\b(?:dear|hello|hi) {own}\b|\b(?:i am|i'm) (?:a|the|your) {theirs}\b|\bas your {theirs}\b", said
    )
    bracketed = re.findall(rf"[\[*<][^\]*>\n]{{0,40}}\b(?:{names})\b[^\]*>\n]*[\]*>]|\(\W*(?:{names})\W*(?::|\))", said)
    headed = re.findall(rf"(?:^|\n)\W*(?:{names})(?:\s*:|\s+-\s)", said)
    return len(spoken) + len(swapped) + len(bracketed) + len(headed) + len(_META.findall(said))


def _grams(text: str) -> list[tuple[str, ...]]:
    said = words(text)
    if len(said) < _NGRAM:
        return [tuple(said)] if said else []
    return [tuple(said[i : i + _NGRAM]) for i in range(len(said) - _NGRAM + 1)]


# ---- bargaining ----
# What an utterance does at the table: the offer it states, whom that favours, and how much ground it gives.
#
# Everything is measured in positions (1 is the focal side's target, 0 the counterparty's), so it has the right sign in
# every domain. Offers are read by the neutral parser, never from what the speaker was told to offer.

_ACCEPTS = re.compile(
    r"\b(?:(?:i|we)(?:'ll| will| can| do)? (?:gladly |happily )?accept|(?:is|are) accepted|it'?s a deal|it is a deal|"
    r"(?:i|we) have a deal|do (?:it your way|as you (?:ask|say)))\b|"
    r"(?:^|[.,;:!?] |\b(?:yes|fine|right|so|but) )agreed\b(?! (?:on (?!your)|to|that|last|before))"
)
_RESERVES = re.compile(r"\b(?:not|never|before|if|unless|until|when|once)\b")
_ASKS = re.compile(
    r"\?|\b(?:please|let's|let us|(?:could|can|will|would|i need|we need) you|you need|i(?:'d)? ask|i am asking|"
    r"we need|i propose|i suggest|my (?:offer|proposal|answer) is|it has to be|the (?:plan|offer) is|agree to|settle|"
    r"i can)\b"
)
_HELD = 0.02  # giving up to this much position is holding; rounding to the grid does it


@dataclass(frozen=True)
class OfferFeatures:
    """What one utterance does.

    Attributes:
        position: of the offer stated or accepted, None where it does neither.
        conceded: position given up against the focal side's last offer; negative where it asks for more than before,
            None where there is no earlier offer or no new one.
        accepts: it takes the counterparty's standing offer.
        asks: it asks for something, puts something forward or speaks of agreeing.
        on_topic: it names one of the domain's own terms, so it is about this case.
    """

    position: float | None
    conceded: float | None
    accepts: bool
    asks: bool
    on_topic: bool

    @property
    def progress(self) -> float:
        """0 to 1: an offer on the table, good for the focal side; a request that moves things on; about this case."""
        offer = 0.0 if self.position is None else 0.45 + 0.2 * min(max(self.position, 0.0), 1.0)
        return offer + 0.2 * (self.asks or self.accepts) + 0.15 * (self.on_topic or self.accepts)

    @property
    def firmness(self) -> float:
        """0 to 1: small steps are firm, leaps are not, and neither going back nor asking for the moon is realistic.

        A step of up to 0.15 costs nothing, one of 0.6 everything; taking back 0.3 of what was offered, or opening at
        twice the target, costs everything too. Without an offer there is nothing to be firm about: a middling 0.5.
        """
        if self.position is None:
            return 0.5
        if self.conceded is None:
            return min(_ramp(self.position, 0.1, 0.7), _ramp(-self.position, -2.0, -1.1))
        return min(_ramp(-self.conceded, -0.6, -0.15), _ramp(self.conceded, -0.3, -_HELD))

    @property
    def surrender(self) -> float:
        """0 to 1: how far it gives the case away, in numbers: from 0.3 of position given up at once, fully at 0.6.

        An opening counts from 0.7: one that begins at the counterparty's number has surrendered before it started.
        """
        if self.position is None:
            return 0.0
        return _ramp(0.7 - self.position if self.conceded is None else self.conceded, 0.3, 0.6)


def offer_features(request: JudgeRequest) -> OfferFeatures:
    """Read what an utterance does from its words and the offers before it."""
    own, theirs = _standing(request, FOCAL), _standing(request, COUNTERPARTY)
    offer = parse_offer(request.utterance, request.scenario.domain)
    said = request.utterance.lower().replace("\u2019", "'")
    accepts = theirs is not None and offer in (None, theirs) and _accepts(said)
    value = theirs if accepts else offer
    position = None if value is None else request.scenario.position(value)
    conceded = None if position is None or own is None else request.scenario.position(own) - position
    rubric = request.scenario.rules.rubric
    asks = bool(_ASKS.search(said)) or says(said, rubric.get("deal_words", ())) > 0
    on_topic = "terms" not in rubric or says(said, rubric["terms"]) > 0  # no list, no demand
    return OfferFeatures(position, conceded, accepts, asks, on_topic)


def _standing(request: JudgeRequest, speaker: Side) -> float | None:
    offers = [turn.offer for turn in request.history if turn.speaker == speaker and turn.offer is not None]
    return offers[-1] if offers else None


def _accepts(said: str) -> bool:
    """Whether some clause says yes without a condition or a no in the same clause."""
    for match in _ACCEPTS.finditer(said):
        clause = re.split(r"[.,;:!?]|\b(?:but|so|and)\b", said[: match.start()])[-1]
        if not _RESERVES.search(clause):
            return True
    return False


def _ramp(value: float, low: float, high: float) -> float:
    """0 up to `low`, 1 from `high`, straight in between."""
    return min(max((value - low) / (high - low), 0.0), 1.0)


_AT_ONCE = 256  # requests whose words the perceiver reads together
LOGIC = 1  # raise it when the arithmetic below, in bargaining.py or in wording.py changes


@dataclass(frozen=True)
class Weights:
    """What counts how much. The first four are shares of the mean, the rest factors, one for each occurrence.

    Attributes:
        emotion: shown as asked; left out, and the others scaled up, where no emotion was asked for.
        progress: an offer on the table, whom it favours, a request.
        firmness: gives little ground, asks for what can be had.
        freshness: says something new.
        empty_threat: factor for a phrase of the domain's list of empty threats.
        capitulation: factor for a phrase of the domain's list of capitulations, and for surrender in numbers.
        slip: factor for a role violation.
        plain_sight: share of an emotion, of all that is read, from which it counts as plainly shown.
    """

    emotion: float = 0.40
    progress: float = 0.25
    firmness: float = 0.20
    freshness: float = 0.15
    empty_threat: float = 0.5
    capitulation: float = 0.5
    slip: float = 0.4
    plain_sight: float = 0.5

    def __post_init__(self) -> None:
        for field in fields(self):
            if not 0 <= getattr(self, field.name) <= 1:
                raise UserError(f"rubric: {field.name} must lie in [0, 1], not {getattr(self, field.name)}")
        if not (self.progress + self.firmness + self.freshness and self.plain_sight):
            raise UserError("rubric: progress, firmness and freshness may not all be 0, nor plain_sight")


class RubricJudge:
    """Scores by rule.

    Args:
        vocabulary: what the intended emotions are labels of; one that is not is a UserError.
        perceiver: reads the emotion; not the one that moves the counterparty (see `emotions.perceiver`).
        weights: how much each part of the rubric counts.
    """

    name = "rubric"

    def __init__(self, vocabulary: Vocabulary, perceiver: Perceiver, weights: Weights | None = None) -> None:
        self.vocabulary, self.perceiver, self.weights = vocabulary, perceiver, weights or Weights()
        rubrics = {name: rubric_version(load_domain(name)) for name in domain_names()}
        names = [vocabulary.labels, vocabulary.perceived_as, perceiver.version]
        recipe = json.dumps([LOGIC, asdict(self.weights), names, rubrics], sort_keys=True)
        self.version = hashlib.sha256(recipe.encode()).hexdigest()[:12]

    def judge(self, requests: Sequence[JudgeRequest], on_judgement: OnJudgement | None = None) -> list[Judgement]:
        """One score a request, in order, rounded to hundredths (so that batching cannot change it).

        Raises:
            UserError: if an intended emotion is not in the vocabulary.
        """
        judgements = []
        for start in range(0, len(requests), _AT_ONCE):
            judgements += announced(self._judge(requests[start : start + _AT_ONCE]), on_judgement, start)
        return judgements

    def _judge(self, requests: Sequence[JudgeRequest]) -> list[Judgement]:
        probabilities = self.perceiver.probabilities([request.utterance for request in requests])
        shares = as_vocabulary(probabilities, self.vocabulary)
        return [Judgement(self._score(*pair)) for pair in zip(requests, shares, strict=True)]

    def parts(self, request: JudgeRequest) -> dict[str, float]:
        """The parts of one score, by name, for display: the means 0 to 1, then the factors."""
        shares = as_vocabulary(self.perceiver.probabilities([request.utterance]), self.vocabulary)
        table = offer_features(request)
        return {**self._qualities(request, table, shares[0]), **self._factors(request, table)}

    def _score(self, request: JudgeRequest, shares: FloatArray) -> float:
        table = offer_features(request)
        qualities, factors = self._qualities(request, table, shares), self._factors(request, table)
        weights = [getattr(self.weights, name) for name in qualities]
        mean = float(np.average(list(qualities.values()), weights=weights))
        return round(LOWEST + (HIGHEST - LOWEST) * mean * math.prod(factors.values()), 2)

    def _qualities(self, request: JudgeRequest, table: OfferFeatures, shares: FloatArray) -> dict[str, float]:
        earlier = [
            turn.text for turn in request.history
        ]  # parroting the other side is no better than repeating oneself
        qualities = {"progress": table.progress, "firmness": table.firmness}
        qualities["freshness"] = freshness(request.utterance, earlier)
        if request.emotion is not None:
            label = self.vocabulary.index(request.emotion)
            if self.vocabulary.perceived_as[label]:
                qualities["emotion"] = self._shown(shares, label)
        return qualities

    def _shown(self, shares: FloatArray, label: int) -> float:
        """Half for the share of the intended emotion, half for how it stands against the strongest other one."""
        share, others = float(shares[label]), np.delete(shares, label)
        rival = float(others.max()) if len(others) else 0.0
        return 0.5 * min(share / self.weights.plain_sight, 1.0) + 0.5 * share / max(share + rival, 1e-9)

    def _factors(self, request: JudgeRequest, table: OfferFeatures) -> dict[str, float]:
        domain, text, weights = request.scenario.rules, request.utterance, self.weights
        capitulations = says(text, domain.rubric.get("capitulation", ())) + table.surrender
        return {
            "length": length(text),
            "empty_threat": weights.empty_threat ** says(text, domain.rubric.get("empty_threats", ())),
            "capitulation": weights.capitulation**capitulations,
            "slip": weights.slip ** role_violations(text, domain, self.vocabulary.labels),
        }
