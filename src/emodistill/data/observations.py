"""What the focal side sees before a turn, as numbers.

One function serves the corpus and live play, so a selector sees the same observation in both. Notation for shapes:
N turns, E emotions of the vocabulary, P = 28 perceived GoEmotions probabilities.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from emodistill.emotions.perceiver import GOEMOTIONS, Perceiver, normalise
from emodistill.emotions.vocabulary import Vocabulary, load_vocabulary
from emodistill.errors import UserError
from emodistill.negotiation.protocol import COUNTERPARTY, FOCAL, MAX_ROUNDS, Side, Turn
from emodistill.negotiation.scenarios import Scenario

FloatArray = npt.NDArray[np.float32]
Variant = Literal["full", "effects", "compact"]
STALLED = 0.01  # a counterparty move smaller than this, in position, counts as standing still
PERCEIVED = 28
SITUATION = 7
GROUPS = "ekman7"  # not the families of the simulation: whoever learns must not know those
COMPACT = 10


@dataclass(frozen=True)
class DialoguePrefix:
    """A focal side about to move: the scenario and every turn before."""

    scenario: Scenario
    turns: Sequence[Turn]


class Observer:
    """Turns the prefixes of dialogues into observations.

    `full` is the situation (7 numbers: the counterparty's last move, gap, t/T, both positions, the counterparty's mean
    move over three rounds, stalemate count), the last own emotion (one-hot, E) and the perceived emotion of the
    counterparty's last message (P). `effects` is `full` and, for each of Ekman's emotions (G = 7 with neutral, the
    grouping that GoEmotions publishes), how far the counterparty moved on average in answer to turns that showed one of
    them, 0 where none did, and how many did, / T: this counterparty's own record, by which parties can be told apart
    (2 G numbers). `compact` is 10 numbers, the size that the published code uses: the situation, the
    last own emotion as index / (E - 1), the perceived emotion as index / (P - 1) and its probability.
    """

    def __init__(self, vocabulary: Vocabulary, perceiver: Perceiver, variant: Variant = "full") -> None:
        self.vocabulary, self.perceiver, self.variant = vocabulary, perceiver, check_variant(variant)
        self._groups = _grouping(vocabulary)

    @property
    def dim(self) -> int:
        return _width(len(self.vocabulary), self.variant)

    def __call__(self, prefixes: Sequence[DialoguePrefix]) -> FloatArray:
        """Observations before these turns, (N, dim) float32."""
        perceived = self._perceived([_last_words(prefix.turns, COUNTERPARTY) for prefix in prefixes])
        own = np.stack([self._last_emotion(prefix.turns) for prefix in prefixes])
        situation = np.array([situation_of(prefix) for prefix in prefixes], dtype=np.float32)
        if self.variant == "effects":
            effects = np.stack([self._effects(prefix) for prefix in prefixes])
            return np.concatenate([situation, own, perceived, effects], axis=1)
        if self.variant == "full":
            return np.concatenate([situation, own, perceived], axis=1)
        index = own.argmax(1) / max(len(self.vocabulary) - 1, 1)
        seen = np.stack([index, perceived.argmax(1) / (PERCEIVED - 1), perceived.max(1)], axis=1)
        return np.concatenate([situation, seen.astype(np.float32)], axis=1)

    def perceived(self, prefix: DialoguePrefix) -> dict[str, float]:
        """The shares of GoEmotions in the counterparty's last words; empty where it has not spoken."""
        words = _last_words(prefix.turns, COUNTERPARTY)
        shares = self.perceiver.probabilities([words])[0].tolist() if words else []
        return dict(zip(GOEMOTIONS, shares, strict=False))

    def _perceived(self, messages: Sequence[str | None]) -> FloatArray:
        """(N, P) probabilities; a row of zeros where the counterparty has not spoken yet.

        Texts that a perceiver reads alike are read once: in a simulated corpus one in twelve is new.
        """
        distinct: dict[str, int] = {}
        place = np.array([distinct.setdefault(normalise(m), len(distinct)) if m else -1 for m in messages], dtype=int)
        nothing: FloatArray = np.zeros((1, PERCEIVED), dtype=np.float32)  # the last row, which place -1 takes
        read: FloatArray = np.concatenate([self.perceiver.probabilities(list(distinct)), nothing])
        return read.take(place, axis=0)

    def _effects(self, prefix: DialoguePrefix) -> FloatArray:
        """(2 G,): mean move of the counterparty in answer to each group of emotions, and turns that showed it / T.

        Its first offer counts here as a move from its own target; in the reward it does not count.
        """
        total, count = np.zeros((2, self._groups.shape[1]), dtype=np.float32)
        shown, standing = None, 0.0
        for turn in prefix.turns:
            if turn.speaker == FOCAL:
                shown = None if turn.emotion is None else self._groups[self.vocabulary.index(turn.emotion)]
                continue
            before = standing
            if turn.offer is not None:
                standing = prefix.scenario.position(turn.offer)
            if shown is not None:
                total, count = total + shown * (standing - before), count + shown
        return np.asarray(np.concatenate([total / np.where(count > 0, count, 1), count / MAX_ROUNDS]), dtype=np.float32)

    def _last_emotion(self, turns: Sequence[Turn]) -> FloatArray:
        row = np.zeros(len(self.vocabulary), dtype=np.float32)
        own = [turn.emotion for turn in turns if turn.speaker == FOCAL]
        if own and own[-1] is not None:
            row[self.vocabulary.index(own[-1])] = 1.0
        return row


def situation_of(prefix: DialoguePrefix) -> list[float]:
    """The seven numbers of the situation, positions as `Scenario.position` defines them."""
    theirs, ours = (positions(prefix, side) for side in (COUNTERPARTY, FOCAL))
    moves = np.diff(theirs)
    stalemate = 0
    for move in moves[::-1]:
        if abs(move) >= STALLED:
            break
        stalemate += 1
    last_own, last_theirs = (ours[-1] if ours else 1.0), (theirs[-1] if theirs else 0.0)
    return [
        float(moves[-1]) if len(moves) else 0.0,
        last_own - last_theirs,
        _elapsed(prefix.turns),
        last_theirs,
        last_own,
        float(moves[-3:].mean()) if len(moves) else 0.0,
        stalemate / MAX_ROUNDS,
    ]


def positions(prefix: DialoguePrefix, speaker: Side) -> list[float]:
    """Positions of the offers that one side has stated so far."""
    offers = [turn.offer for turn in prefix.turns if turn.speaker == speaker and turn.offer is not None]
    return [prefix.scenario.position(offer) for offer in offers]


def _grouping(vocabulary: Vocabulary) -> FloatArray:
    """(E, G): of each label its shares in the groups; zeros for one that is perceived as none of them."""
    groups = load_vocabulary(GROUPS).perceived_as
    shares = np.array([[len({*parts} & {*group}) for group in groups] for parts in vocabulary.perceived_as])
    return np.asarray(shares / np.maximum(shares.sum(axis=1, keepdims=True), 1), dtype=np.float32)


def _elapsed(turns: Sequence[Turn]) -> float:
    """t/T with t the rounds already played: 0 before the first turn."""
    return (turns[-1].round if turns else 0) / MAX_ROUNDS


def _last_words(turns: Sequence[Turn], speaker: Side) -> str | None:
    return next((turn.text for turn in reversed(turns) if turn.speaker == speaker), None)


def observation_dim(vocabulary: str, variant: Variant) -> int:
    """The width of an observation, for configs: name of a vocabulary and variant -> D.

    Raises:
        UserError: if one of them is unknown.
    """
    return _width(len(load_vocabulary(vocabulary)), check_variant(variant))


def check_variant(variant: Variant) -> Variant:
    """The variant itself.

    Raises:
        UserError: if it is unknown.
    """
    if variant not in get_args(Variant):
        raise UserError(f"observation={variant}: use {', '.join(get_args(Variant))}")
    return variant


def _width(num_emotions: int, variant: Variant) -> int:
    if variant == "compact":
        return COMPACT
    effects = 2 * len(load_vocabulary(GROUPS)) if variant == "effects" else 0
    return SITUATION + num_emotions + PERCEIVED + effects
