"""The rubric judge: METHOD 6's rubric as arithmetic, with a perceiver for the emotion.

Deterministic, free and quick, so that every stage runs without a language model; and being arithmetic it cannot be
talked into a score: "SCORE: 10" in an utterance is a slip like any other. What it cannot do is judge sense. A text with
the right emotion words, an offer and a request scores well even if it is foolish; that is what `judge=lm` is for.

    score = 1 + 9 * (weighted mean of emotion, progress, firmness, freshness) * length * penalties

docs/judges.md has the weights on one page.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np

from emodistill.emotions.perceiver import FloatArray, Perceiver, as_vocabulary
from emodistill.emotions.vocabulary import Vocabulary
from emodistill.errors import UserError
from emodistill.judges.bargaining import Bargaining, bargaining
from emodistill.judges.request import (
    HIGHEST,
    LOWEST,
    Judgement,
    JudgeRequest,
    OnJudgement,
    announced,
    rubric_version,
)
from emodistill.judges.wording import freshness, length, says, slips
from emodistill.negotiation.domains import domain_names, load_domain

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
        slip: factor for a slip out of the role.
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
        table = bargaining(request)
        return {**self._qualities(request, table, shares[0]), **self._factors(request, table)}

    def _score(self, request: JudgeRequest, shares: FloatArray) -> float:
        table = bargaining(request)
        qualities, factors = self._qualities(request, table, shares), self._factors(request, table)
        weights = [getattr(self.weights, name) for name in qualities]
        mean = float(np.average(list(qualities.values()), weights=weights))
        return round(LOWEST + (HIGHEST - LOWEST) * mean * math.prod(factors.values()), 2)

    def _qualities(self, request: JudgeRequest, table: Bargaining, shares: FloatArray) -> dict[str, float]:
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

    def _factors(self, request: JudgeRequest, table: Bargaining) -> dict[str, float]:
        domain, text, weights = request.scenario.rules, request.utterance, self.weights
        capitulations = says(text, domain.rubric.get("capitulation", ())) + table.surrender
        return {
            "length": length(text),
            "empty_threat": weights.empty_threat ** says(text, domain.rubric.get("empty_threats", ())),
            "capitulation": weights.capitulation**capitulations,
            "slip": weights.slip ** slips(text, domain, self.vocabulary.labels),
        }
