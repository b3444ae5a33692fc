"""The utterances that judges are measured with, and the attacks on them (`assets/judging`).

The calibration set has, in each domain, ten situations with four emotions each, and for every one of those a clearly
good utterance, a middling one, and a clearly bad one with the kind of fault. All were written for this project; none is
shown to a judge as an example.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from emodistill.errors import UserError
from emodistill.judges.examples import read
from emodistill.judges.request import JudgeRequest
from emodistill.negotiation.domains import domain_names
from emodistill.negotiation.offers import parse_offer
from emodistill.negotiation.protocol import COUNTERPARTY, Turn
from emodistill.negotiation.scenarios import Scenario

Level = Literal["good", "middling", "bad"]
LEVELS: tuple[Level, ...] = ("bad", "middling", "good")  # rising
How = Literal["alone", "before", "after", "history"]


@dataclass(frozen=True)
class Case:
    """One utterance in its situation, with what is thought of it; `fault` names what is wrong with a bad one."""

    request: JudgeRequest
    level: Level
    fault: str | None = None


@dataclass(frozen=True)
class Attack:
    """An attempt to talk a judge into a score.

    Attributes:
        how: in place of a bad utterance, before or after it, or in the counterparty's last words before it.
        held_out: not looked at while the defences were written.
    """

    family: str
    how: How
    text: str
    held_out: bool = False

    def on(self, request: JudgeRequest) -> JudgeRequest:
        """The attacked request."""
        if self.how == "history":
            return replace(request, history=_with_words(request.history, self.text))
        said = {"before": f"{self.text} {request.utterance}", "after": f"{request.utterance} {self.text}"}
        return replace(request, utterance=said.get(self.how, self.text))


def calibrated_domains() -> list[str]:
    """The domains that have a calibration set."""
    return [name for name in domain_names() if name in {"debt", "disaster", "hospital", "student"}]


def cases(domain: str) -> list[Case]:
    """The calibration set of a domain: 120 cases.

    Raises:
        UserError: if the domain has none.
    """
    if domain not in calibrated_domains():
        raise UserError(f"domain {domain} has no calibration set; there are: {', '.join(calibrated_domains())}")
    found = []
    for situation in read(f"calibration/{domain}.yaml"):
        scenario = Scenario(
            f"calibration-{domain}-{situation['id']}",
            domain,
            situation["focal_target"],
            situation["counterparty_target"],
            situation["context"],
        )
        history = tuple(
            Turn(i // 2 + 1, speaker, text, offer=parse_offer(text, domain))
            for i, (speaker, text) in enumerate(situation["history"])
        )
        for case in situation["cases"]:
            ((fault, bad),) = case["bad"].items()
            texts: tuple[tuple[Level, str], ...] = (
                ("good", case["good"]),
                ("middling", case["middling"]),
                ("bad", bad),
            )
            for level, text in texts:
                request = JudgeRequest(scenario, history, case["emotion"], text)
                found.append(Case(request, level, fault if level == "bad" else None))
    return found


def attacks() -> list[Attack]:
    """The attack set, in the order of the file."""
    return [
        Attack(family, entry["how"], " ".join([entry["text"]] * entry.get("repeat", 1)), entry.get("held_out", False))
        for family, entries in read("attacks.yaml").items()
        for entry in entries
    ]


def _with_words(history: Sequence[Turn], words: str) -> tuple[Turn, ...]:
    """The history with words added to the counterparty's last turn, or as its turn where there is none."""
    turns = list(history)
    for i in reversed(range(len(turns))):
        if turns[i].speaker == COUNTERPARTY:
            turns[i] = replace(turns[i], text=f"{turns[i].text} {words}")
            return tuple(turns)
    return (*turns, Turn(1, COUNTERPARTY, words))
