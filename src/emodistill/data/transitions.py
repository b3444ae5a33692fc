"""Transitions for the selector, read off episodes.

Notation for shapes: N transitions, B batch, D observation, E emotions.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from emodistill.data.observations import Observer, View
from emodistill.data.rewards import Reward
from emodistill.data.schema import Episode
from emodistill.errors import UserError
from emodistill.judges.request import LOWEST
from emodistill.negotiation.protocol import FOCAL

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
    views = [View(episode.scenario, episode.turns[:i]) for episode in valid for i in _acting(episode)]
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
