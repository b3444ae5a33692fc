"""Which focal turns of a corpus the expression policy learns from.

SFT teaches how to say an emotion, not which one, so by default it learns from all turns: a chat costs the same whether
one of its turns is learnt from or all of them. Rules that keep the best turns rank them *within each scenario*: a rank
over the whole corpus would keep the turns of easy scenarios, whatever was said in them.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from emodistill.data.schema import Episode
from emodistill.emotions.perceiver import Perceiver, as_vocabulary
from emodistill.emotions.vocabulary import Vocabulary
from emodistill.errors import UserError
from emodistill.judges.request import JudgeRequest, Origin, Scorer
from emodistill.negotiation.protocol import FOCAL, Turn

Mask = list[bool]
Values = npt.NDArray[np.floating]


class Selection(Protocol):
    def __call__(self, episodes: Sequence[Episode]) -> list[Mask]:
        """For each episode, which of its focal turns are selected: one list an episode."""


class AllTurns:
    """Every focal turn of every valid episode."""

    def __call__(self, episodes: Sequence[Episode]) -> list[Mask]:
        return [[episode.end != "invalid"] * len(episode.focal_turns) for episode in episodes]


class ExpressedTurns:
    """Every turn that shows what it was asked for: the perceiver reads the emotion first, and the offer is said.

    A turn that nobody asked for an emotion needs its offer alone; so does one whose emotion the perceiver cannot read.

    Args:
        perceiver: not the counterparty's, which decides what the words are worth.
    """

    def __init__(self, vocabulary: Vocabulary, perceiver: Perceiver) -> None:
        self.vocabulary, self.perceiver = vocabulary, perceiver

    def __call__(self, episodes: Sequence[Episode]) -> list[Mask]:
        texts = [turn.text for episode in episodes for turn in episode.focal_turns]
        if not texts:
            return [[] for _ in episodes]
        first = iter(as_vocabulary(self.perceiver.probabilities(texts), self.vocabulary).argmax(1).tolist())
        return [
            [self._expressed(turn, next(first)) and episode.end != "invalid" for turn in episode.focal_turns]
            for episode in episodes
        ]

    def _expressed(self, turn: Turn, read: int) -> bool:
        if turn.offer_appended:
            return False
        if turn.emotion is None:
            return True
        label = self.vocabulary.index(turn.emotion)
        return label == read or not self.vocabulary.perceived_as[label]


class TopAdvantage:
    """The best `fraction` of turns by advantage within their (domain, scenario) stratum, at least one a stratum."""

    def __init__(self, fraction: float, advantages: Callable[[Sequence[Episode]], list[Values]]) -> None:
        self.fraction, self.advantages = _checked(fraction), advantages

    def __call__(self, episodes: Sequence[Episode]) -> list[Mask]:
        return top_within_scenario(episodes, self.advantages(episodes), self.fraction)


class PositiveAdvantage:
    """Every turn whose advantage is above 0."""

    def __init__(self, advantages: Callable[[Sequence[Episode]], list[Values]]) -> None:
        self.advantages = advantages

    def __call__(self, episodes: Sequence[Episode]) -> list[Mask]:
        found = zip(episodes, self.advantages(episodes), strict=True)
        return [[bool(value > 0) and episode.end != "invalid" for value in values] for episode, values in found]


class AdvantageWeights:
    """How much each turn counts in SFT: exp(advantage / temperature), at most `largest`, then divided by their mean.

    The mean is over the selected turns that have an advantage, and is 1 afterwards. A turn without an advantage, and
    all turns of an invalid episode, count 1.

    Source:
        Peng et al. 2019, advantage-weighted regression, https://arxiv.org/abs/1910.00177
    """

    def __init__(
        self, advantages: Callable[[Sequence[Episode]], list[Values]], temperature: float, largest: float
    ) -> None:
        if not temperature > 0 or not largest >= 1:
            raise UserError(f"weights: temperature={temperature} must be above 0, and largest={largest} at least 1")
        self.advantages, self.temperature, self.largest = advantages, temperature, largest

    def __call__(self, episodes: Sequence[Episode], selected: Sequence[Mask]) -> list[list[float]]:
        """One weight for each focal turn of each episode.

        Args:
            selected: which of them are learnt from.
        """
        found = self.advantages(episodes)
        raw = [np.minimum(np.exp(np.minimum(row / self.temperature, 50.0)), self.largest) for row in found]
        known = [
            value
            for episode, row, chosen in zip(episodes, raw, selected, strict=True)
            if episode.end != "invalid"
            for value, yes in zip(row, chosen, strict=True)
            if yes and not math.isnan(value)
        ]
        mean = float(np.mean(known)) if known else 1.0
        return [
            [1.0 if math.isnan(value) or episode.end == "invalid" else float(value / mean) for value in row]
            for episode, row in zip(episodes, raw, strict=True)
        ]


class TopReturn:
    """Every turn of the best `fraction` of episodes by utility within their (domain, scenario) stratum."""

    def __init__(self, fraction: float) -> None:
        self.fraction = _checked(fraction)

    def __call__(self, episodes: Sequence[Episode]) -> list[Mask]:
        best = top_within_scenario(episodes, [np.array([episode.utility]) for episode in episodes], self.fraction)
        return [chosen * len(episode.focal_turns) for episode, chosen in zip(episodes, best, strict=True)]


class TopJudged:
    """The best `fraction` of turns by judge score within their stratum; a turn without a score is never selected."""

    def __init__(self, fraction: float, judge: "Scorer") -> None:
        self.fraction, self.judge = _checked(fraction), judge

    def __call__(self, episodes: Sequence[Episode]) -> list[Mask]:
        valid = [episode for episode in episodes if episode.end != "invalid"]  # the judge is not paid for the others
        scores = iter(judge_scores(valid, self.judge))
        values = [
            np.full(len(episode.focal_turns), math.nan) if episode.end == "invalid" else next(scores)
            for episode in episodes
        ]
        return top_within_scenario(episodes, values, self.fraction)


def judge_scores(episodes: Sequence[Episode], judge: Scorer, shown_alone: bool = False) -> list[Values]:
    """Judge scores of all focal turns, one (focal turns,) array an episode; nan where the judge gave none.

    Args:
        shown_alone: ask about the turns that show an emotion alone; the others have nan.
    """
    requests = [judge_requests(episode) for episode in episodes]

    def is_asked(request: JudgeRequest) -> bool:
        return request.emotion is not None or not shown_alone

    scores = iter(judge.scores([request for row in requests for request in row if is_asked(request)]))
    found = [[next(scores) if is_asked(request) else None for request in row] for row in requests]
    return [np.array([math.nan if score is None else score for score in row]) for row in found]


def origin_of(episode: Episode, turn: Turn) -> Origin:
    """What a judge that plays an episode on has to know of one of its focal turns."""
    return Origin(episode.counterparty, episode.seed, turn.act, turn.offer, turn.offer_appended)


def judge_requests(episode: Episode) -> list[JudgeRequest]:
    """What a judge is asked about each focal turn of an episode."""
    return [
        JudgeRequest(
            episode.scenario, tuple(episode.turns[:i]), turn.emotion, turn.text, origin=origin_of(episode, turn)
        )
        for i, turn in enumerate(episode.turns)
        if turn.speaker == FOCAL
    ]


def top_within_scenario(episodes: Sequence[Episode], values: Sequence[Values], fraction: float) -> list[Mask]:
    """Masks of the best `fraction` of values in each (domain, scenario); nan and invalid episodes are left out."""
    strata: dict[tuple[str, str], list[tuple[float, int, int]]] = defaultdict(list)
    for k, (episode, row) in enumerate(zip(episodes, values, strict=True)):
        if episode.end != "invalid":
            stratum = strata[episode.scenario.domain, episode.scenario.id]
            stratum.extend((float(value), k, i) for i, value in enumerate(row) if not math.isnan(value))
    masks = [[False] * len(row) for row in values]
    for stratum in strata.values():
        ranked = sorted(stratum, key=lambda entry: (-entry[0], entry[1], entry[2]))
        for _, k, i in ranked[: math.ceil(fraction * len(ranked))]:
            masks[k][i] = True
    return masks


def _checked(fraction: float) -> float:
    if not 0 < fraction <= 1:
        raise UserError(f"selection fraction={fraction}: a share above 0 and at most 1 is needed")
    return fraction
