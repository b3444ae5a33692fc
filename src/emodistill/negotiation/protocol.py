"""The rules of the table: who may do what, and when it is over. Its numbers are in `assets/protocol.yaml`."""

import math
import zlib
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from emodistill.errors import UserError
from emodistill.files import load_yaml
from emodistill.negotiation.scenarios import Scenario

Side = Literal["focal", "counterparty"]
Act = Literal["propose", "accept", "walk_away"]
End = Literal["deal", "walk_away", "deadline", "invalid"]
FOCAL: Side = "focal"
COUNTERPARTY: Side = "counterparty"


class Limits(BaseModel):
    """The numbers of `assets/protocol.yaml`, which says what each is."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    max_rounds: PositiveInt
    tolerance: Annotated[float, Field(ge=0, lt=1)]


def read_limits(text: str) -> Limits:
    """Read the asset's text.

    Raises:
        UserError: naming the key that is missing, unknown or out of range.
    """
    try:
        return Limits.model_validate(load_yaml(text))
    except ValidationError as error:
        raise UserError.from_validation("assets/protocol.yaml", error) from error


_LIMITS = read_limits((files("emodistill") / "assets" / "protocol.yaml").read_text(encoding="utf-8"))
MAX_ROUNDS = _LIMITS.max_rounds
TOLERANCE = _LIMITS.tolerance


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn as it is stored.

    Attributes:
        round: 1-based; a round is one focal turn and one counterparty turn.
        offer: in the domain's unit, or None where the turn states none; the standing offer then stays.
        emotion: the emotion the speaker was asked to show, or None.
        emotion_prob: probability with which the behaviour policy drew that emotion, or None.
        offer_appended: the speaker's own words did not state the offer, or did not accept, so a sentence was added.
        role_violations: what was wrong with each attempt at these words that broke the role, see `role_checks`.
    """

    round: int
    speaker: Side
    text: str
    act: Act = "propose"
    offer: float | None = None
    emotion: str | None = None
    emotion_prob: float | None = None
    offer_appended: bool = False
    role_violations: tuple[str, ...] = ()


def other(speaker: Side) -> Side:
    return COUNTERPARTY if speaker == FOCAL else FOCAL


@dataclass
class Negotiation:
    """A negotiation under way: the turns so far and, once it is over, how it ended.

    Attributes:
        seed: with the scenario's id, fixes every random draw of this negotiation.
        counterparty: name of who sits opposite, e.g. `behavioural:victim`; the counterparty sets it.
        standing: each side's standing offer, None before its first.
        end: None while it goes on.
        deal_value: agreed value in the domain's unit, None without a deal.
        fault: why the episode is invalid, None otherwise.
    """

    scenario: Scenario
    seed: int
    max_rounds: int = MAX_ROUNDS
    tolerance: float = TOLERANCE
    counterparty: str = ""
    turns: list[Turn] = field(default_factory=list)
    standing: dict[Side, float | None] = field(default_factory=lambda: {FOCAL: None, COUNTERPARTY: None})
    end: End | None = None
    deal_value: float | None = None
    fault: str | None = None

    def __post_init__(self) -> None:
        identity = zlib.crc32(f"{self.scenario.domain}/{self.scenario.id}".encode())
        self.rng: dict[Side, np.random.Generator] = {
            side: np.random.default_rng((self.seed, identity, i)) for i, side in enumerate((FOCAL, COUNTERPARTY))
        }

    @property
    def next_speaker(self) -> Side:
        return FOCAL if len(self.turns) % 2 == 0 else COUNTERPARTY

    @property
    def round(self) -> int:
        """The round of the next turn, 1-based."""
        return len(self.turns) // 2 + 1

    @property
    def utility(self) -> float:
        """Utility to the focal side so far: 0 without a deal."""
        return self.scenario.utility(self.deal_value)

    def offers(self, speaker: Side) -> list[float]:
        """The offers one side has stated so far, in order."""
        return [turn.offer for turn in self.turns if turn.speaker == speaker and turn.offer is not None]

    def play(self, turn: Turn) -> None:
        """Add a turn and settle whether the negotiation is over.

        Raises:
            ValueError: if it is over already, or the turn is not the next side's.
        """
        if self.end is not None:
            raise ValueError(f"scenario {self.scenario.id}: the negotiation is over ({self.end})")
        if (turn.speaker, turn.round) != (self.next_speaker, self.round):
            raise ValueError(f"scenario {self.scenario.id}: turn {turn.round}/{turn.speaker} is out of order")
        if turn.offer is not None and not math.isfinite(turn.offer):
            self.break_off(f"the {turn.speaker}'s offer in round {turn.round} is {turn.offer}, not a number")
            return
        self.turns.append(turn)
        if turn.act == "accept":
            self._accept(turn.speaker)
        elif turn.act == "walk_away":
            self.end = "walk_away"
        else:
            self._propose(turn)

    def break_off(self, reason: str) -> None:
        """A fault cut the episode short: it is invalid, which is no result of the negotiation.

        Raises:
            ValueError: if it is over already; a fault afterwards must not undo a result.
        """
        if self.end is not None:
            raise ValueError(f"scenario {self.scenario.id}: the negotiation is over ({self.end})")
        self.end, self.fault = "invalid", reason

    def _accept(self, speaker: Side) -> None:
        value = self.standing[other(speaker)]
        if value is None:
            self.break_off(f"the {speaker} accepted in round {self.turns[-1].round}, but no offer stands")
        else:
            self.end, self.deal_value = "deal", value

    def _propose(self, turn: Turn) -> None:
        if turn.offer is not None:
            self.standing[turn.speaker] = turn.offer
        mine, theirs = self.standing[turn.speaker], self.standing[other(turn.speaker)]
        if turn.offer is not None and mine is not None and theirs is not None:
            ours = self.scenario.position(self.standing[FOCAL])  # type: ignore[arg-type]  # neither side is None here
            gap = ours - self.scenario.position(self.standing[COUNTERPARTY])  # type: ignore[arg-type]
            if abs(gap) <= self.tolerance + 1e-9:
                self.end, self.deal_value = "deal", (mine + theirs) / 2
            elif gap < 0:  # each side now offers the other more than it asks
                self.end, self.deal_value = "deal", theirs
        if self.end is None and turn.speaker == COUNTERPARTY and turn.round >= self.max_rounds:
            self.end = "deadline"
