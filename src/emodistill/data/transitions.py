"""What IQL sees of the corpus: transitions, and the facts about them that a selector must store."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from emodistill.data.observations import DialoguePrefix, Observer, Variant
from emodistill.data.schema import Episode
from emodistill.data.selection import Scorer, judge_scores
from emodistill.emotions.perceiver import load_perceiver
from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.errors import UserError
from emodistill.judges.request import LOWEST
from emodistill.negotiation.protocol import COUNTERPARTY, FOCAL, MAX_ROUNDS, Side

# The reward of a focal turn: concession, utility and judge parts, each with a weight (METHOD 5).

DEAL_BONUS = 2.0
MOVE_LIMIT = 2.0


@dataclass(frozen=True)
class Reward:
    """Weights of the three parts.

    Attributes:
        concession: [clip(dx_counterparty, -2, 2) - clip(-dx_focal, -2, 2)] * (1 - t/T), where dx is the change of
            position of that side's standing offer over the round and t the rounds played before (people may play more
            than T of them: then 0, not less); +2 at the end for a deal, -2 otherwise.
        utility: the episode's utility, at its end.
        judge: (score - 1) / 9 of the turn.
    """

    concession: float = 1.0
    utility: float = 0.0
    judge: float = 0.0

    def of(self, episode: Episode, scores: np.ndarray | None = None) -> np.ndarray:
        """Rewards of the episode's focal turns, (turns,) float64; nan where a judge
        score (nan in `scores`) is needed and missing."""
        rounds = sorted({turn.round for turn in episode.turns if turn.speaker == FOCAL})
        total = np.zeros(len(rounds))
        if self.concession:
            total += self.concession * concessions(episode, rounds)
        if self.utility:
            total[-1] += self.utility * episode.utility
        if self.judge:
            total += self.judge * (np.full(len(rounds), np.nan) if scores is None else (scores - 1) / 9)
        return total


def concessions(episode: Episode, rounds: Sequence[int]) -> np.ndarray:
    """The concession part for each round, (rounds,)."""
    moves = {side: _moves(episode, side, rounds) for side in (FOCAL, COUNTERPARTY)}
    theirs = np.clip(moves[COUNTERPARTY], -MOVE_LIMIT, MOVE_LIMIT)
    ours = np.clip(-moves[FOCAL], -MOVE_LIMIT, MOVE_LIMIT)
    part: np.ndarray = (theirs - ours) * np.maximum(1 - (np.array(rounds) - 1) / MAX_ROUNDS, 0.0)
    part[-1] += DEAL_BONUS if episode.end == "deal" else -DEAL_BONUS
    return part


def _moves(episode: Episode, side: Side, rounds: Sequence[int]) -> np.ndarray:
    """Change of position of one side's standing offer over each round; 0 where it has none before."""
    stated = {turn.round: turn.offer for turn in episode.turns if turn.speaker == side and turn.offer is not None}
    moves, standing = np.zeros(len(rounds)), None
    for i, number in enumerate(rounds):
        if number in stated:
            position = episode.scenario.position(stated[number])
            moves[i] = 0.0 if standing is None else position - standing
            standing = position
    return moves


# Transitions for the selector, read off episodes.
#
# Notation for shapes: N transitions, B batch, D observation, E emotions.

Scores = Callable[[Sequence[Episode]], Sequence[npt.NDArray[np.floating]]]


class Transitions(NamedTuple):
    """Focal turns, one row a turn."""

    observation: Tensor  # (B, D) float32
    action: Tensor  # (B,) long, emotion id
    reward: Tensor  # (B,) float32, raw: the learner divides by its reward scale
    next_observation: Tensor  # (B, D) float32, zeros after a terminal turn
    terminal: Tensor  # (B,) float32, 1 where the episode ended


class TransitionEpisodes(NamedTuple):
    """Transitions with what off-policy evaluation needs besides."""

    transitions: Transitions
    episode: Tensor  # (B,) long, which episode a row belongs to
    step: Tensor  # (B,) long, 0-based focal turn within the episode
    behaviour_prob: Tensor  # (B,) float32, probability with which the emotion was drawn; nan where unknown


def build_transitions(
    episodes: Sequence[Episode], observer: Observer, reward: Reward, scores: Scores | None = None
) -> TransitionEpisodes:
    """All focal turns that show an emotion, as transitions.

    An invalid episode gives none. A focal turn without an emotion is no transition, but what it earned is not lost: it
    counts for the turn with an emotion before it, undiscounted, so the end of an episode always counts. Where the
    reward has a judge part, a turn without a score is left out (its neighbours stay: a missing score is not a zero).

    Raises:
        UserError: if no episode has a turn with an emotion.
    """
    valid = [episode for episode in episodes if episode.end != "invalid" and _acting(episode)]
    if not valid:
        raise UserError("the corpus has no valid episode with an emotion; IQL needs focal turns that show one")
    views = [DialoguePrefix(episode.scenario, episode.turns[:i]) for episode in valid for i in _acting(episode)]
    observation = observer(views)
    given = scores(valid) if scores else [None] * len(valid)
    rewards = np.concatenate([_earned(episode, reward, score) for episode, score in zip(valid, given, strict=True)])
    return _table(valid, observer, observation, rewards)


def _acting(episode: Episode) -> list[int]:
    """Indices of the focal turns that show an emotion."""
    return [i for i, turn in enumerate(episode.turns) if turn.speaker == FOCAL and turn.emotion is not None]


def _ordinals(episode: Episode) -> list[int]:
    """The same turns, counted among the focal turns only."""
    focal = [turn for turn in episode.turns if turn.speaker == FOCAL]
    return [k for k, turn in enumerate(focal) if turn.emotion is not None]


def _earned(episode: Episode, reward: Reward, scores: npt.NDArray[np.floating] | None) -> npt.NDArray[np.floating]:
    """Reward of each turn that shows an emotion, with that of the turns up to the next one; (acting turns,).

    A turn without an emotion has no judge part: that is about how an emotion was put in words.
    """
    acting = _ordinals(episode)
    if scores is not None:
        silent = np.ones(len(scores), dtype=bool)
        silent[acting] = False
        scores = np.where(silent, LOWEST, scores)
    summed: npt.NDArray[np.floating] = np.add.reduceat(reward.of(episode, scores), acting)
    return summed


def _table(
    episodes: Sequence[Episode], observer: Observer, observation: np.ndarray, rewards: np.ndarray
) -> TransitionEpisodes:
    lengths = [len(_acting(episode)) for episode in episodes]
    turns = [episode.turns[i] for episode in episodes for i in _acting(episode)]
    last = np.cumsum(lengths) - 1
    terminal = np.zeros(len(turns), dtype=np.float32)
    terminal[last] = 1.0
    following = np.zeros_like(observation)
    following[:-1] = observation[1:]
    following[last] = 0.0
    actions = [observer.vocabulary.index(turn.emotion) for turn in turns if turn.emotion is not None]
    probabilities = [np.nan if turn.emotion_prob is None else turn.emotion_prob for turn in turns]
    keep = torch.from_numpy(np.isfinite(rewards))
    transitions = Transitions(
        torch.from_numpy(observation),
        torch.tensor(actions),
        torch.tensor(rewards, dtype=torch.float32),
        torch.from_numpy(following),
        torch.from_numpy(terminal),
    )
    return TransitionEpisodes(
        Transitions(*(column[keep] for column in transitions)),
        torch.repeat_interleave(torch.arange(len(episodes)), torch.tensor(lengths))[keep],
        torch.cat([torch.arange(length) for length in lengths])[keep],
        torch.tensor(probabilities, dtype=torch.float32)[keep],
    )


# Batches cut straight out of tensors, in an order that is a function of (seed, epoch).
#
# Transitions fit in memory, so a loader that fetches rows one by one and stacks them again does in Python what one
# `index_select` does: it halves the speed of IQL. And because the order follows from the seed and the epoch, a cursor
# of two numbers is all that a resumed run needs to go on at the very batch where it stopped.


class TransitionBatches:
    """An epoch of `batches_per_epoch` shuffled batches; the table is gone through as often as that takes.

    An epoch is a stretch between validations and not a pass: each pass within it is a permutation of the table, so
    every row is used equally often to within one, and every batch is full.

    Under distributed training a batch is `batch_size` rows on every rank: the ranks share one order, and rank r takes
    the rows r, r + world size, r + 2 world size ... of it, so that all of them together step through every row.

    Lightning calls `sampler.set_epoch` before each epoch. The DataModule carries `state_dict`, because Lightning 2.6
    drops the state of a loader where `trainer.estimated_stepping_batches` is read.
    """

    def __init__(self, table: Transitions, batch_size: int, batches_per_epoch: int, seed: int) -> None:
        if batch_size < 1 or batches_per_epoch < 1:
            raise UserError(
                f"batch_size={batch_size} and batches_per_epoch={batches_per_epoch}: both must be at least 1"
            )
        check_finite(table)
        self.table, self.batch_size, self.batches_per_epoch, self.seed = table, batch_size, batches_per_epoch, seed
        self.rank, self.world_size = 0, 1
        self.epoch = self.served = 0
        self._resume_from: dict[str, int] | None = None

    @property
    def sampler(self) -> "TransitionBatches":
        return self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.batches_per_epoch

    def __iter__(self) -> Iterator[Transitions]:
        state, self._resume_from = self._resume_from, None
        self.served = state["served"] if state is not None and state["epoch"] == self.epoch else 0
        order = self.order(self.epoch)[self.rank :: self.world_size]
        for start in range(self.served * self.batch_size, len(order), self.batch_size):
            self.served += 1
            index = order[start : start + self.batch_size]
            yield Transitions(*(column.index_select(0, index) for column in self.table))

    def order(self, epoch: int) -> Tensor:
        """Rows of the table in the order of one epoch, (batches_per_epoch * batch_size * world_size,)."""
        count, length = self.batches_per_epoch * self.batch_size * self.world_size, len(self.table.action)
        generator = np.random.default_rng((self.seed, epoch))
        passes = [generator.permutation(length) for _ in range(-(-count // length))]
        return torch.from_numpy(np.concatenate(passes)[:count])

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "served": self.served}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._resume_from = state


def check_finite(table: Transitions) -> None:
    """Refuse a table that is empty or has a number that is none.

    Raises:
        UserError: naming the column and the first row at fault.
    """
    if not len(table.action):
        raise UserError("there is no transition to learn from; the corpus has no valid episode that shows an emotion")
    for name, column in zip(table._fields, table, strict=True):
        bad = (~torch.isfinite(column)).reshape(len(column), -1).any(1).nonzero()
        if len(bad):
            raise UserError(
                f"transition {int(bad[0])} has a {name} that is not finite; check the corpus it was made from"
            )


logger = logging.getLogger(__name__)
SMALLEST_STD = 1e-3  # a feature that hardly varies is left at its own scale, not blown up to unit variance


class TransitionDataset:
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
        self.dataset_stats: dict[str, Any] = {}

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
        self.dataset_stats = {
            "labels": list(self.vocabulary.labels),
            "vocabulary": self.vocabulary.name,
            "fingerprint": self.vocabulary.fingerprint,
            "observation": self.variant,
            **stats_of(self.train, len(self.vocabulary)),
        }

    def train_batches(self, seed: int) -> TransitionBatches:
        return TransitionBatches(self.train, self.batch_size, self.batches_per_epoch, seed)

    def validation_batches(self) -> list[TransitionEpisodes]:
        return [self.validation]

    def _table(self, episodes: Sequence[Episode], observer: Observer) -> TransitionEpisodes:
        judge = self.judge if self.reward.judge else None
        scores = None if judge is None else lambda chosen: judge_scores(chosen, judge)
        return build_transitions(episodes, observer, self.reward, scores)


def stats_of(table: Transitions, num_emotions: int) -> dict[str, Any]:
    """Standardisation, reward scale and seen emotions of a table, as plain numbers and lists.

    The reward scale is the standard deviation of the rewards, so that advantages are of the order of one.
    """
    std = table.observation.std(0)
    mask = torch.zeros(num_emotions, dtype=torch.bool).index_fill(0, torch.unique(table.action), True)
    return {
        "observation_mean": table.observation.mean(0).tolist(),
        "observation_std": torch.where(std > SMALLEST_STD, std, 1.0).tolist(),
        "reward_scale": max(float(table.reward.std()), 1e-6),
        "action_mask": mask.tolist(),
    }
