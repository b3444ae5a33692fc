"""A CaSiNo dialogue in plain objects: who said or clicked what, who wanted what, and how both felt about the outcome.

Two people share three packages each of food, water and firewood; a package is worth 5, 4 or 3 points to a person, by
the priority it has for them. They write to each other, submit a deal by a form, accept or reject it, or walk away.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

POINTS = {"High": 5, "Medium": 4, "Low": 3}
PACKAGES = {"Food": 3, "Water": 3, "Firewood": 3}
MOST = 36  # all packages: 3 * (5 + 4 + 3)
ALONE = 5  # what each side gets where they part without a deal
Move = Literal["say", "submit", "accept", "reject", "walk_away"]
Share = Mapping[str, int]  # item -> packages


@dataclass(frozen=True)
class Message:
    """What one person wrote or clicked; `shares` says who would get how many packages, on `submit` only."""

    speaker: str
    move: Move
    text: str
    shares: Mapping[str, Share] | None = None


@dataclass(frozen=True)
class Participant:
    """One of the two.

    Attributes:
        items: priority (`High`, `Medium`, `Low`) -> item.
        reasons: priority -> why, in the person's own words.
        points: what they scored.
        satisfaction: with the outcome, 1 to 5.
        liking: of the other person, 1 to 5.
        profile: fingerprint of the answers about oneself; the files have no id of a person.
    """

    items: dict[str, str]
    reasons: dict[str, str]
    points: int
    satisfaction: int
    liking: int
    profile: str

    def worth(self, share: Share) -> int:
        """Points that a share gives this person, 0 to 36."""
        return sum(POINTS[priority] * share[item] for priority, item in self.items.items())


@dataclass(frozen=True)
class Dialogue:
    """One negotiation, checked: it ends with an accepted deal or with somebody walking away."""

    id: int
    messages: tuple[Message, ...]
    participants: dict[str, Participant]

    def other(self, name: str) -> str:
        return next(one for one in self.participants if one != name)

    @property
    def pair(self) -> tuple[str, ...]:
        """Who sat at the table, by profile, whatever their seats."""
        return tuple(sorted(person.profile for person in self.participants.values()))

    @property
    def deal(self) -> Mapping[str, Share] | None:
        """Who got how many packages, None where there was no deal."""
        return self.messages[-2].shares if self.messages[-1].move == "accept" else None
