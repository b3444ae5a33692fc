"""What IQL learns from: focal turns of the corpus as transitions, with the reward of each.

The order of this page is that of the data: `Reward` says what a turn earned, `build_transitions` turns episodes into a
table of `Transitions`, `TransitionBatches` cuts the table into batches, and `TransitionDataset` is all of it for the
DataModule, with the statistics that a selector must store.

Notation for shapes: N transitions, B rows of a table or batch, D observation.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from emodistill.checks import ABOVE_0, check_settings, is_number
from emodistill.data.batches import ResumableLoader
from emodistill.data.observations import DialoguePrefix, Observer, Variant, check_variant
from emodistill.data.schema import Episode
from emodistill.data.selection import judge_scores
from emodistill.emotions.perceiver import load_perceiver
from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.errors import UserError
from emodistill.judges.request import HIGHEST, LOWEST, Scorer
from emodistill.negotiation.protocol import COUNTERPARTY, FOCAL, MAX_ROUNDS, Side, Turn

logger = logging.getLogger(__name__)

SMALLEST_STD = 1e-3  # a feature that hardly varies is left at its own scale, not blown up to unit variance
SMALLEST_SCALE = 1e-6  # of rewards; where they vary less, their unit is kept

Scores = Callable[[Sequence[Episode]], Sequence[npt.NDArray[np.floating]]]


@dataclass(frozen=True)
class Reward:
    """The reward of a focal turn: three parts, each with a weight. `configs/stage/iql.yaml` has the numbers.

    Attributes:
        concession: weight of [clip(dx_counterparty, -limit, limit) - clip(-dx_focal, -limit, limit)] * (1 - t/T), where
            dx is the change of position of that side's standing offer over the round, t the rounds played before and T
            `MAX_ROUNDS` (people may play more than T of them: then 0, not less); plus `deal_bonus` at the end of an
            episode with a deal, minus `no_deal_penalty` at the end of one without.
        utility: weight of the episode's utility, at its end.
        judge: weight of the turn's judge score, from 0 (lowest) to 1 (highest).
        deal_bonus, no_deal_penalty: see `concession`.
        move_limit: `limit` above, in position.

    Raises:
        UserError: if one of them is no finite number, or `move_limit` is not above 0.
    """

    concession: float
    utility: float
    judge: float
    deal_bonus: float
    no_deal_penalty: float
    move_limit: float

    def __post_init__(self) -> None:
        allowed = dict.fromkeys(vars(self), (is_number, "a finite number")) | {"move_limit": ABOVE_0}
        check_settings(vars(self), allowed, "data.dataset.reward.")

    def of(self, episode: Episode, scores: npt.NDArray[np.floating] | None = None) -> npt.NDArray[np.floating]:
        """Rewards of the episode's focal turns, (turns,) float64.

        Args:
            scores: of the judge, (turns,); nan where one is missing, whose reward is nan if the judge has a weight.
        """
        rounds = sorted({turn.round for turn in episode.turns if turn.speaker == FOCAL})
        total = np.zeros(len(rounds))
        if self.concession:
            total += self.concession * self._concessions(episode, rounds)
        if self.utility:
            total[-1] += self.utility * episode.utility
        if self.judge:
            missing = np.full(len(rounds), np.nan)
            total += self.judge * (missing if scores is None else (scores - LOWEST) / (HIGHEST - LOWEST))
        return total

    def _concessions(self, episode: Episode, rounds: Sequence[int]) -> npt.NDArray[np.floating]:
        """The concession part for each round, (rounds,)."""
        theirs, ours = (_moves(episode, side, rounds) for side in (COUNTERPARTY, FOCAL))
        gained, given = (np.clip(moves, -self.move_limit, self.move_limit) for moves in (theirs, -ours))
        part: np.ndarray = (gained - given) * np.maximum(1 - (np.array(rounds) - 1) / MAX_ROUNDS, 0.0)
        part[-1] += self.deal_bonus if episode.end == "deal" else -self.no_deal_penalty
        return part


def _moves(episode: Episode, side: Side, rounds: Sequence[int]) -> npt.NDArray[np.floating]:
    """Change of position of one side's standing offer over each round, (rounds,); 0 where it has none before.

    An offer before the first of these rounds, in words that open the dialogue, stands already.
    """
    stated = {turn.round: turn.offer for turn in episode.turns if turn.speaker == side and turn.offer is not None}
    opening = [episode.scenario.position(offer) for number, offer in stated.items() if number < rounds[0]]
    moves, standing = np.zeros(len(rounds)), opening[-1] if opening else None
    for i, number in enumerate(rounds):
        if number in stated:
            position = episode.scenario.position(stated[number])
            moves[i] = 0.0 if standing is None else position - standing
            standing = position
    return moves


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
    step: Tensor  # (B,) long, 0-based turn within the episode, of those that show an emotion
    behaviour_prob: Tensor  # (B,) float32, probability with which the emotion was drawn; nan where unknown


def build_transitions(
    episodes: Sequence[Episode], observer: Observer, reward: Reward, scores: Scores | None = None
) -> TransitionEpisodes:
    """All focal turns that show an emotion, as transitions.

    An invalid episode gives none. A focal turn without an emotion is no transition; what it earned counts for the turn
    with an emotion before it, undiscounted, so the end of an episode always counts. Before the first emotion it counts
    for none. Where the
    reward has a judge part, a turn without a score is left out (its neighbours stay: a missing score is not a zero).
    Where that is the last one, so is its episode: what the others led to would be cut off.

    Raises:
        UserError: if no episode has a turn with an emotion, or the judge scored the last one of none.
    """
    valid = [episode for episode in episodes if episode.end != "invalid" and _acting(episode)]
    if not valid:
        raise UserError("the corpus has no valid episode with an emotion; IQL needs focal turns that show one")
    acting = [[episode.turns[i] for i in _acting(episode)] for episode in valid]
    observation = observer(
        [DialoguePrefix(episode.scenario, episode.turns[:i]) for episode in valid for i in _acting(episode)]
    )
    given = scores(valid) if scores else [None] * len(valid)
    rewards = np.concatenate([_earned(episode, reward, score) for episode, score in zip(valid, given, strict=True)])
    return _table(acting, observer, observation, rewards)


def _acting(episode: Episode) -> list[int]:
    """Indices of the focal turns that show an emotion."""
    return [i for i, turn in enumerate(episode.turns) if turn.speaker == FOCAL and turn.emotion is not None]


def _earned(episode: Episode, reward: Reward, scores: npt.NDArray[np.floating] | None) -> npt.NDArray[np.floating]:
    """Reward of each turn that shows an emotion, with that of the turns up to the next one; (acting turns,).

    A turn without an emotion has no judge part: that is about how an emotion was put in words.
    """
    shows = np.array([turn.emotion is not None for turn in episode.focal_turns])
    if scores is not None:
        scores = np.where(shows, scores, LOWEST)
    summed: npt.NDArray[np.floating] = np.add.reduceat(reward.of(episode, scores), np.flatnonzero(shows))
    return summed


def _table(
    acting: Sequence[Sequence[Turn]], observer: Observer, observation: np.ndarray, rewards: np.ndarray
) -> TransitionEpisodes:
    """The columns, without the rows whose reward is missing and the episodes whose last one is.

    Args:
        acting: of each episode the turns that show an emotion; (N,) in all.
        observation: (N, D).
        rewards: (N,), nan where missing.
    """
    lengths = [len(turns) for turns in acting]
    turns = [turn for members in acting for turn in members]
    last = np.cumsum(lengths) - 1
    terminal = np.zeros(len(turns), dtype=np.float32)
    terminal[last] = 1.0
    following = np.zeros_like(observation)
    following[:-1] = observation[1:]
    following[last] = 0.0
    actions = [observer.vocabulary.index(turn.emotion) for turn in turns if turn.emotion is not None]
    probabilities = [np.nan if turn.emotion_prob is None else turn.emotion_prob for turn in turns]
    ended = np.isfinite(rewards[last])
    if not ended.any():
        raise UserError(
            f"the judge scored the last turn of none of {len(ended)} episodes; see to it and run the same command "
            "again, or set data.dataset.reward.judge=0"
        )
    if not ended.all():
        text = "%d of %d episodes are left out: the judge gave no score to the last turn that shows an emotion"
        logger.warning(text, len(ended) - ended.sum(), len(ended))
    keep = torch.from_numpy(np.isfinite(rewards) & np.repeat(ended, lengths))
    transitions = Transitions(
        torch.from_numpy(observation),
        torch.tensor(actions),
        torch.tensor(rewards, dtype=torch.float32),
        torch.from_numpy(following),
        torch.from_numpy(terminal),
    )
    return TransitionEpisodes(
        Transitions(*(column[keep] for column in transitions)),
        torch.repeat_interleave(torch.arange(len(acting)), torch.tensor(lengths))[keep],
        torch.cat([torch.arange(length) for length in lengths])[keep],
        torch.tensor(probabilities, dtype=torch.float32)[keep],
    )


class TransitionBatches(ResumableLoader):
    """An epoch of `batches_per_epoch` shuffled batches; the table is gone through as often as that takes.

    Batches are cut straight out of the table: it fits in memory, and a loader that fetches rows one by one and stacks
    them again does in Python what one `index_select` does, at half the speed of IQL.

    An epoch is a stretch between validations and not a pass: each pass within it is a permutation of the table, so
    every row is used equally often to within one, and every batch is full.

    Under distributed training the ranks share out every batch: rank r takes its rows r, r + world size, r + 2 world
    size ... So a step has the same rows on any number of devices.
    """

    split_batches = True

    def __init__(self, table: Transitions, batch_size: int, batches_per_epoch: int, seed: int) -> None:
        super().__init__(batch_size, seed)
        if batches_per_epoch < 1:
            raise UserError(f"batches_per_epoch={batches_per_epoch}: it must be at least 1")
        check_finite(table)
        self.table, self.batches_per_epoch = table, batches_per_epoch

    @property
    def batches(self) -> int:
        return self.batches_per_epoch

    def __iter__(self) -> Iterator[Transitions]:
        order = self.order(self.epoch)
        for number in self._numbers():
            index = order[number * self.batch_size : (number + 1) * self.batch_size][self.rank :: self.world_size]
            yield Transitions(*(column.index_select(0, index) for column in self.table))

    def order(self, epoch: int) -> Tensor:
        """Rows of the table in the order of one epoch, (batches_per_epoch * batch_size,)."""
        count, length = self.batches_per_epoch * self.batch_size, len(self.table.action)
        generator = np.random.default_rng((self.seed, epoch))
        passes = [generator.permutation(length) for _ in range(-(-count // length))]
        return torch.from_numpy(np.concatenate(passes)[:count])


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


class TransitionDataset:
    """Transitions of the train split in shuffled batches; the whole val split as one batch.

    Args:
        vocabulary: name of the emotion vocabulary.
        observation: `full`, `compact` or `effects`, see `Observer`.
        reward: what a turn earned.
        batch_size: transitions an update.
        batches_per_epoch: updates between validations.
        judge: scores turns where the reward has a judge part; not asked otherwise.

    Attributes:
        dataset_stats: what a selector must store, as plain numbers and lists: vocabulary, observation, `stats_of`.

    Raises:
        UserError: if vocabulary or observation are unknown.
    """

    loader: type[ResumableLoader] = TransitionBatches

    def __init__(
        self,
        vocabulary: str,
        observation: Variant,
        reward: Reward,
        batch_size: int,
        batches_per_epoch: int,
        judge: Scorer | None = None,
    ) -> None:
        self.vocabulary, self.variant, self.reward = load_vocabulary(vocabulary), check_variant(observation), reward
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

    def finish(self) -> None:
        """Nothing is left out of transitions."""

    def train_batches(self, seed: int) -> TransitionBatches:
        return TransitionBatches(self.train, self.batch_size, self.batches_per_epoch, seed)

    def validation_batches(self) -> list[TransitionEpisodes]:
        return [self.validation]

    def _table(self, episodes: Sequence[Episode], observer: Observer) -> TransitionEpisodes:
        judge = self.judge if self.reward.judge else None
        scores = None if judge is None else lambda chosen: judge_scores(chosen, judge, shown_alone=True)
        return build_transitions(episodes, observer, self.reward, scores)


def reward_scale(rewards: Tensor, correction: int = 0) -> float:
    """The standard deviation of rewards; 1 where they are all the same, or one alone has none."""
    spread = float(rewards.std(correction=correction)) if len(rewards) > correction else 0.0
    return spread if spread > SMALLEST_SCALE else 1.0


def stats_of(table: Transitions, num_emotions: int) -> dict[str, Any]:
    """Standardisation, reward scale and seen emotions of a table, as plain numbers and lists.

    The reward scale makes advantages of the order of one.
    """
    std = table.observation.std(0) if len(table.observation) > 1 else torch.zeros(table.observation.shape[1])
    mask = torch.zeros(num_emotions, dtype=torch.bool).index_fill(0, torch.unique(table.action), True)
    return {
        "observation_mean": table.observation.mean(0).tolist(),
        "observation_std": torch.where(std > SMALLEST_STD, std, 1.0).tolist(),
        "reward_scale": reward_scale(table.reward, correction=1),
        "action_mask": mask.tolist(),
    }
