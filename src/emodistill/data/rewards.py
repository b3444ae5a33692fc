"""The reward of a focal turn: concession, utility and judge parts, each with a weight (METHOD 5)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from emodistill.data.schema import Episode
from emodistill.negotiation.protocol import COUNTERPARTY, FOCAL, MAX_ROUNDS, Speaker

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


def _moves(episode: Episode, side: Speaker, rounds: Sequence[int]) -> np.ndarray:
    """Change of position of one side's standing offer over each round; 0 where it has none before."""
    stated = {turn.round: turn.offer for turn in episode.turns if turn.speaker == side and turn.offer is not None}
    moves, standing = np.zeros(len(rounds)), None
    for i, number in enumerate(rounds):
        if number in stated:
            position = episode.scenario.position(stated[number])
            moves[i] = 0.0 if standing is None else position - standing
            standing = position
    return moves
