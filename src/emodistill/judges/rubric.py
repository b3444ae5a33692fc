"""The rubric judge: the rubric of docs/method.md as arithmetic, with a perceiver that reads the emotion.

Deterministic, free and quick; and being arithmetic it cannot be talked into a score: "SCORE: 10" in an utterance is a
role violation like any other. What arithmetic over words cannot do is judge sense: a heap with the right emotion words,
an offer and a request would score well. That is what the factor `sense` is for, which asks a frozen language model how
likely the words are (`judges.sense`); without it, this judge needs no model.

    score = 1 + 9 * (weighted mean of emotion, progress, firmness, freshness) * length * penalties * sense

`Weights` says how much each part counts (configs/judge/member/rubric.yaml). Text features (length, freshness, role
violations) read the words alone. Offer features (progress, firmness, surrender) are measured in positions, where 1 is
the focal side's target and 0 the counterparty's, so they have the right sign in every domain; offers are read by the
neutral parser, never from what the speaker was told to offer. docs/judges.md has all of it on one page.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Protocol

import numpy as np

from emodistill.checks import is_number
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
from emodistill.negotiation.offers import OFFERS_LOGIC, parse_offer
from emodistill.negotiation.protocol import COUNTERPARTY, FOCAL, Side

LOGIC = 1  # raise it when the arithmetic in this file changes: part of the judge's version
_AT_ONCE = 256  # requests whose utterances the perceiver reads together


@dataclass(frozen=True)
class Weights:
    """How much each part counts. The first four are shares of the mean; the next three factors, once per occurrence.

    Attributes:
        emotion: the emotion shows as asked; left out, and the others scaled up, where no emotion was asked for.
        progress: an offer, whom it favours, a request.
        firmness: gives little ground, asks for what can be had.
        freshness: says something new.
        empty_threat: for a phrase of the domain's list of empty threats.
        capitulation: for a phrase of the domain's list of capitulations, and for surrender in numbers.
        role_violation: for a sign that the speaker fell out of the role.
        plain_sight: the emotion's share of all that the perceiver reads from which it counts as fully shown.
    """

    emotion: float = 0.40
    progress: float = 0.25
    firmness: float = 0.20
    freshness: float = 0.15
    empty_threat: float = 0.5
    capitulation: float = 0.5
    role_violation: float = 0.4
    plain_sight: float = 0.5

    def __post_init__(self) -> None:
        for field in fields(self):
            if not is_number(getattr(self, field.name), 0, 1):
                raise UserError(f"rubric: {field.name} must lie in [0, 1], not {getattr(self, field.name)}")
        if not (self.progress + self.firmness + self.freshness and self.plain_sight):
            raise UserError("rubric: progress, firmness and freshness may not all be 0, nor plain_sight")


class SenseOfReplies(Protocol):
    """What the rubric judge takes as its sense; see `judges.sense`."""

    @property
    def version(self) -> str: ...

    def of(self, requests: Sequence[JudgeRequest]) -> Sequence[float]:
        """From 0 (none) to 1, one number a request, in order."""


class RubricJudge:
    """Scores by rule.

    Args:
        vocabulary: of the emotions that are asked for; another emotion is a UserError.
        perceiver: reads the emotion; not the one that moves the counterparty (see `emotions.perceiver`).
        weights: how much each part of the rubric counts.
        sense: says from 0 to 1 whether a reply makes sense; None leaves that factor out.
    """

    name = "rubric"
    by_itself = "model"  # see `Judge`; without sense it is quicker still

    def __init__(
        self,
        vocabulary: Vocabulary,
        perceiver: Perceiver,
        weights: Weights | None = None,
        sense: "SenseOfReplies | None" = None,
    ) -> None:
        self.vocabulary, self.perceiver, self.weights, self.sense = vocabulary, perceiver, weights or Weights(), sense

    @cached_property
    def version(self) -> str:
        """Twelve hex digits of all that decides a score."""
        by_name = asdict(self.weights)
        by_name["slip"] = by_name.pop("role_violation")  # its name in the versions of stored scores
        rubrics = {name: rubric_version(load_domain(name)) for name in domain_names()}
        names = [self.vocabulary.labels, self.vocabulary.perceived_as, self.perceiver.version]
        recipe = [LOGIC, OFFERS_LOGIC, by_name, names, rubrics, *([] if self.sense is None else [self.sense.version])]
        return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12]

    def judge(self, requests: Sequence[JudgeRequest], on_judgement: OnJudgement | None = None) -> list[Judgement]:
        """One score per request, in order, rounded to hundredths (so that batching cannot change it).

        Raises:
            UserError: if an emotion that was asked for is not in the vocabulary.
        """
        judgements: list[Judgement] = []
        for start in range(0, len(requests), _AT_ONCE):
            batch = requests[start : start + _AT_ONCE]
            judged = [self._judgement(*one) for one in zip(batch, self._shares(batch), self._sense(batch), strict=True)]
            judgements += announced(judged, on_judgement, start)
        return judgements

    def parts(self, request: JudgeRequest) -> dict[str, float]:
        """The parts of one score, by name, for display: the qualities, 0 to 1, then the factors."""
        offer = offer_features(request)
        factors = self._factors(request, offer, self._sense([request])[0])
        return {**self._qualities(request, offer, self._shares([request])[0]), **factors}

    def _shares(self, requests: Sequence[JudgeRequest]) -> FloatArray:
        """(N, A) share of each label of the vocabulary in what the perceiver reads."""
        return as_vocabulary(self.perceiver.probabilities([one.utterance for one in requests]), self.vocabulary)

    def _sense(self, requests: Sequence[JudgeRequest]) -> Sequence[float | None]:
        return [None] * len(requests) if self.sense is None else self.sense.of(requests)

    def _judgement(self, request: JudgeRequest, shares: FloatArray, sense: float | None) -> Judgement:
        """The score, and as its parts the qualities times the factors: their weighted mean is the score."""
        offer = offer_features(request)
        qualities, factors = self._qualities(request, offer, shares), self._factors(request, offer, sense)
        weights, factor = [getattr(self.weights, name) for name in qualities], math.prod(factors.values())
        mean = float(np.average(list(qualities.values()), weights=weights))
        parts = {name: round(quality * factor, 4) for name, quality in qualities.items()}
        return Judgement(round(LOWEST + (HIGHEST - LOWEST) * mean * factor, 2), parts=parts)

    def _qualities(self, request: JudgeRequest, offer: "OfferFeatures", shares: FloatArray) -> dict[str, float]:
        earlier = [
            turn.text for turn in request.history
        ]  # of both sides: parroting is no better than repeating oneself
        qualities = {"progress": offer.progress, "firmness": offer.firmness}
        qualities["freshness"] = freshness(request.utterance, earlier)
        if request.emotion is not None:
            label = self.vocabulary.index(request.emotion)
            if self.vocabulary.perceived_as[label]:
                qualities["emotion"] = self._emotion(shares, label)
        return qualities

    def _emotion(self, shares: FloatArray, label: int) -> float:
        """0 to 1: half for the share of the intended emotion, half for its lead over the strongest other one."""
        share, others = float(shares[label]), np.delete(shares, label)
        rival = float(others.max()) if len(others) else 0.0
        return 0.5 * min(share / self.weights.plain_sight, 1.0) + 0.5 * share / max(share + rival, 1e-9)

    def _factors(self, request: JudgeRequest, offer: "OfferFeatures", sense: float | None) -> dict[str, float]:
        domain, text, weights = request.scenario.rules, request.utterance, self.weights
        capitulations = count_phrases(text, domain.rubric.get("capitulation", ())) + offer.surrender
        violations = count_role_violations(text, domain, self.vocabulary.labels)
        return {
            "length": length(text),
            "empty_threat": weights.empty_threat ** count_phrases(text, domain.rubric.get("empty_threats", ())),
            "capitulation": weights.capitulation**capitulations,
            "role_violation": weights.role_violation**violations,
            **({} if sense is None else {"sense": sense}),
        }


# Text features: what the words alone say.

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
    """The words in lower case, with every number as 0: an offer's formula with another number is still a repetition."""
    return [_NUMBER.sub("0", word) for word in _WORD.findall(text.lower().replace("\u2019", "'"))]


def length(text: str) -> float:
    """0 to 1: one short paragraph is right; less than 6 words is too little, and from 60 to 160 words it falls to 0.1.

    Repeated words count against it too, or a text could be stuffed with one emotion's words.
    """
    said = words(text)
    count = len(said)
    if count == 0:
        return 0.0
    short, long = min(1.0, 0.4 + 0.1 * count), min(max((160 - count) / 100, 0.1), 1.0)
    variety = len(set(said)) / min(count, 60)
    return min(short, long) * min(1.0, variety / 0.65) ** 2


def freshness(text: str, earlier: Sequence[str]) -> float:
    """0 to 1: how little of it was said before, by word 4-grams (the whole text where it is shorter).

    A fifth of repeated 4-grams is free, because offers have their formulas; a share of 0.8 or more gives 0.
    """
    own = grams(text)
    if not own or not earlier:
        return 1.0
    known = {gram for before in earlier for gram in grams(before)}
    share = sum(gram in known for gram in own) / len(own)
    return min(max((0.8 - share) / 0.6, 0.0), 1.0)


def count_phrases(text: str, phrases: Iterable[str]) -> int:
    """How many of the phrases occur, as whole words in this order."""
    said = f" {' '.join(words(text))} "
    return sum(f" {' '.join(words(phrase))} " in said for phrase in phrases)


def count_role_violations(text: str, domain: Domain, labels: Sequence[str]) -> int:
    """Signs that the speaker fell out of the role; 0 for a clean utterance.

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


def grams(text: str) -> list[tuple[str, ...]]:
    """The word 4-grams of a text, or its words as one where it has fewer."""
    said = words(text)
    if len(said) < _NGRAM:
        return [tuple(said)] if said else []
    return [tuple(said[i : i + _NGRAM]) for i in range(len(said) - _NGRAM + 1)]


# Offer features: the offer that an utterance states, whom it favours, and how much ground it gives.

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
    """What one utterance does in the negotiation.

    Attributes:
        position: of the offer stated or accepted, None where it does neither.
        conceded: position given up since the focal side's last offer; negative where it asks for more than before,
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
        """0 to 1: an offer, the better for the focal side the more; a request or an acceptance; about this case."""
        offer = 0.0 if self.position is None else 0.45 + 0.2 * min(max(self.position, 0.0), 1.0)
        return offer + 0.2 * (self.asks or self.accepts) + 0.15 * (self.on_topic or self.accepts)

    @property
    def firmness(self) -> float:
        """0 to 1: small concessions are firm; large ones, a withdrawn offer and an excessive demand are not.

        A concession of up to 0.15 costs nothing, one of 0.6 everything; taking back 0.3 of what was offered, or opening
        at twice the target, costs everything too. Without an offer there is nothing to be firm about: 0.5.
        """
        if self.position is None:
            return 0.5
        if self.conceded is None:
            return min(_ramp(self.position, 0.1, 0.7), _ramp(-self.position, -2.0, -1.1))
        return min(_ramp(-self.conceded, -0.6, -0.15), _ramp(self.conceded, -0.3, -_HELD))

    @property
    def surrender(self) -> float:
        """0 to 1: how far it gives the case away: from 0.3 of position conceded in one step, fully at 0.6.

        An opening offer is measured from 0.7: one at the counterparty's number gives everything away.
        """
        if self.position is None:
            return 0.0
        return _ramp(0.7 - self.position if self.conceded is None else self.conceded, 0.3, 0.6)


def offer_features(request: JudgeRequest) -> OfferFeatures:
    """Read what an utterance does, from its words and the offers before it."""
    own, theirs = _standing(request, FOCAL), _standing(request, COUNTERPARTY)
    offer = parse_offer(request.utterance, request.scenario.domain)
    said = request.utterance.lower().replace("\u2019", "'")
    accepts = theirs is not None and offer in (None, theirs) and _accepts(said)
    value = theirs if accepts else offer
    position = None if value is None else request.scenario.position(value)
    conceded = None if position is None or own is None else request.scenario.position(own) - position
    rubric = request.scenario.rules.rubric
    asks = bool(_ASKS.search(said)) or count_phrases(said, rubric.get("deal_words", ())) > 0
    on_topic = "terms" not in rubric or count_phrases(said, rubric["terms"]) > 0  # no list, no demand
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
