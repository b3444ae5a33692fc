"""What IQL sees of the corpus: transitions, and the facts about them that a selector must store."""

import logging
from collections.abc import Sequence
from typing import Any

import torch

from emodistill.data.batches import TransitionBatches
from emodistill.data.observations import Observer, Variant
from emodistill.data.rewards import Reward
from emodistill.data.schema import Episode
from emodistill.data.selection import Scorer, judge_scores
from emodistill.data.transitions import TransitionEpisodes, Transitions, build_transitions
from emodistill.emotions.perceiver import load_perceiver
from emodistill.emotions.vocabulary import load_vocabulary

logger = logging.getLogger(__name__)
SMALLEST_STD = 1e-3  # a feature that hardly varies is left at its own scale, not blown up to unit variance


class TransitionView:
    """Transitions of the train split in shuffled batches; the whole val split as one batch.

    Args:
        vocabulary: name of the emotion vocabulary.
        observation: `full` or `compact`, see `Observer`.
        reward: weights of the reward's parts.
        batch_size: transitions an update.
        batches_per_epoch: updates between validations.
        judge: scores turns where the reward has a judge part.
    """

    def __init__(
        self,
        vocabulary: str,
        observation: Variant,
        reward: Reward,
        batch_size: int,
        batches_per_epoch: int,
        judge: Scorer | None = None,
    ) -> None:
        self.vocabulary, self.variant, self.reward = load_vocabulary(vocabulary), observation, reward
        self.batch_size, self.batches_per_epoch, self.judge = batch_size, batches_per_epoch, judge
        self.transition_facts: dict[str, Any] = {}

    def prepare(self, train: Sequence[Episode], validation: Sequence[Episode]) -> None:
        observer = Observer(self.vocabulary, load_perceiver("judge"), self.variant)
        self.train = self._table(train, observer).transitions
        self.validation = self._table(validation, observer)
        if unknown := int(torch.isnan(self.validation.behaviour_prob).sum()):
            logger.warning(
                "importance sampling is not available: %d of the %d turns validated on do not say how likely their "
                "emotion was; fitted Q evaluation needs no such number and chooses the checkpoint",
                unknown,
                len(self.validation.behaviour_prob),
            )
        self.transition_facts = {
            "labels": list(self.vocabulary.labels),
            "vocabulary": self.vocabulary.name,
            "fingerprint": self.vocabulary.fingerprint,
            "observation": self.variant,
            **facts_of(self.train, len(self.vocabulary)),
        }

    def train_batches(self, seed: int) -> TransitionBatches:
        return TransitionBatches(self.train, self.batch_size, self.batches_per_epoch, seed)

    def validation_batches(self) -> list[TransitionEpisodes]:
        return [self.validation]

    def _table(self, episodes: Sequence[Episode], observer: Observer) -> TransitionEpisodes:
        judge = self.judge if self.reward.judge else None
        scores = None if judge is None else lambda chosen: judge_scores(chosen, judge)
        return build_transitions(episodes, observer, self.reward, scores)


def facts_of(table: Transitions, num_emotions: int) -> dict[str, Any]:
    """Standardisation, reward scale and seen emotions of a table, as plain numbers and lists.

    The reward scale is the standard deviation of the rewards, so that advantages are of the order of one.
    """
    std = table.observation.std(0)
    seen = torch.zeros(num_emotions, dtype=torch.bool).index_fill(0, torch.unique(table.action), True)
    return {
        "observation_mean": table.observation.mean(0).tolist(),
        "observation_std": torch.where(std > SMALLEST_STD, std, 1.0).tolist(),
        "reward_scale": max(float(table.reward.std()), 1e-6),
        "seen": seen.tolist(),
    }
