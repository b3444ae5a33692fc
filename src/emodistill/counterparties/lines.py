"""What the simulated counterparty says: written lines by persona, mood and act, with words of the domain in slots.

The focal side learns persona and mood from these words alone, through its own perceiver.
"""

from functools import cache
from importlib.resources import files
from typing import Any, Literal

import yaml

from emodistill.negotiation.scenarios import Scenario

Mood = Literal["cold", "even", "warm"]
LineAct = Literal["open", "hold", "concede", "accept", "walk_away"]
MOODS: tuple[Mood, ...] = ("cold", "even", "warm")
ACTS: tuple[LineAct, ...] = ("open", "hold", "concede", "accept", "walk_away")


@cache
def _read(name: str) -> dict[str, Any]:
    folder = files("emodistill") / "assets" / "counterparty_lines"
    raw: dict[str, Any] = yaml.safe_load((folder / f"{name}.yaml").read_text(encoding="utf-8"))
    return raw


def lines(persona: str, domain: str, mood: Mood, act: LineAct) -> list[str]:
    """All lines for one situation; an offer is left as the slot `{offer}`."""
    words = _read("situations")
    slots: dict[str, list[str]] = words.get(domain, words["other"])
    filled = list(_read(persona)[mood][act])
    for slot, fillers in slots.items():
        filled = [
            line.replace(f"{{{slot}}}", filler)
            for line in filled
            for filler in (fillers if f"{{{slot}}}" in line else fillers[:1])
        ]
    return [line[0].upper() + line[1:] for line in filled]


@cache
def _choices(persona: str, domain: str, mood: Mood, act: LineAct) -> list[str]:
    return lines(persona, domain, mood, act)


def say(persona: str, scenario: Scenario, mood: Mood, act: LineAct, offer: float | None, draw: float) -> str:
    """A line chosen by `draw`, uniform in [0, 1), with the offer in words of the domain."""
    choices = _choices(persona, scenario.domain, mood, act)
    line = choices[int(draw * len(choices))]
    return line if offer is None else line.replace("{offer}", scenario.rules.say(offer))
