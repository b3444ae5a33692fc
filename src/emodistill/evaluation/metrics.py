"""Accumulating metrics over episodes, as torchmetrics. Invalid episodes count only as invalid."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from emodistill.data.schema import Episode
from emodistill.emotions.perceiver import Perceiver, as_vocabulary
from emodistill.emotions.vocabulary import Vocabulary


class _Mean(Metric):
    """A mean over episodes or turns; nan where nothing counted."""

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0, dtype=torch.long), dist_reduce_fx="sum")

    def add(self, values: Sequence[float]) -> None:
        self.total += float(sum(values))
        self.count += len(values)

    def compute(self) -> Tensor:
        return self.total / self.count if self.count > 0 else torch.tensor(torch.nan, dtype=torch.float64)


class SuccessRate(_Mean):
    """Share of valid episodes that ended in a deal."""

    higher_is_better = True

    def update(self, episodes: Sequence[Episode]) -> None:
        self.add([float(episode.end == "deal") for episode in valid(episodes)])


class MeanUtility(_Mean):
    """Mean utility over valid episodes, 0 without a deal."""

    higher_is_better = True

    def update(self, episodes: Sequence[Episode]) -> None:
        self.add([episode.utility for episode in valid(episodes)])


class Outcome(_Mean):
    """Mean utility of the deals alone."""

    higher_is_better = True

    def update(self, episodes: Sequence[Episode]) -> None:
        self.add([episode.utility for episode in valid(episodes) if episode.end == "deal"])


class Rounds(_Mean):
    """Mean number of rounds of valid episodes."""

    higher_is_better = False

    def update(self, episodes: Sequence[Episode]) -> None:
        self.add([float(episode.turns[-1].round) for episode in valid(episodes)])


class OfferRate(_Mean):
    """Share of focal proposals whose own words stated the offer that was decided (the rest were appended)."""

    higher_is_better = True

    def update(self, episodes: Sequence[Episode]) -> None:
        turns = [turn for episode in valid(episodes) for turn in episode.focal_turns if turn.act == "propose"]
        self.add([float(not turn.offer_appended) for turn in turns])


class Faithfulness(_Mean):
    """Share of focal turns whose intended emotion is the one that `perceiver` names first."""

    higher_is_better = True

    def __init__(self, perceiver: Perceiver, vocabulary: Vocabulary, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.perceiver, self.vocabulary = perceiver, vocabulary

    def update(self, episodes: Sequence[Episode]) -> None:
        turns = [(turn.text, turn.emotion) for episode in valid(episodes) for turn in episode.focal_turns]
        self.add([float(yes) for yes in recognised(turns, self.perceiver, self.vocabulary)])


def recognised(
    utterances: Sequence[tuple[str, str | None]], perceiver: Perceiver, vocabulary: Vocabulary
) -> list[bool]:
    """Whether `perceiver` names the intended emotion first, for each (text, emotion).

    Left out are turns without an emotion, and those with one that no perceiver can name (an empty `perceived_as`).
    """
    shown = [(text, emotion) for text, emotion in utterances if emotion is not None and vocabulary.perceived(emotion)]
    if not shown:
        return []
    first = as_vocabulary(perceiver.probabilities([text for text, _ in shown]), vocabulary).argmax(1).tolist()
    return [vocabulary.index(emotion) == best for (_, emotion), best in zip(shown, first, strict=True)]


def valid(episodes: Sequence[Episode]) -> list[Episode]:
    return [episode for episode in episodes if episode.end != "invalid"]


def episode_metrics(perceiver: Perceiver, vocabulary: Vocabulary) -> MetricCollection:
    """All of the above, under the names they have in reports."""
    return MetricCollection(
        {
            "success": SuccessRate(),
            "outcome": Outcome(),
            "utility": MeanUtility(),
            "rounds": Rounds(),
            "stated_offers": OfferRate(),
            "faithfulness": Faithfulness(perceiver, vocabulary),
        },
        compute_groups=False,
    )
