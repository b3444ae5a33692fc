"""Personas of the simulated counterparty: its numbers, read from `assets/personas.yaml`.

F = 6 families of emotions. Emotions of one family act alike, so that what there is to learn is few strategies, not 28.
"""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Annotated

import numpy as np
import numpy.typing as npt
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.errors import UserError

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Constants:
    """What all personas share; `docs/counterparty.md` has the equations.

    Attributes:
        gain: position that a pull of 1 draws in one round.
        habituation: how fast a family that is repeated wears off.
        stale: what is left of a gain at most repetition; below 0, repetition grates.
        notice: the share from which a family is noticed in full, so that it wears off.
        memory: share of the exposure to a family that is left a round later.
        mood_memory: share of a mood that is left a round later.
        mood_generosity: how much mood speeds or slows the concessions.
        noise: standard deviation of a round's concession, in position.
        hostility_hazard: chance to walk away in a round, per unit of hostile mood.
        fatigue_hazard: the same, per round beyond the patience.
        audible: mood beyond which the lines turn cold or warm.
    """

    gain: float
    habituation: float
    stale: float
    notice: float
    memory: float
    mood_memory: float
    mood_generosity: float
    noise: float
    hostility_hazard: float
    fatigue_hazard: float
    audible: float


@dataclass(frozen=True)
class Persona:
    """One kind of counterparty.

    Attributes:
        patience: rounds over which it means to concede, and after which it tires.
        opening: position of its first offer if nothing moves it.
        reserve: the highest position it ever offers or accepts.
        exponent: above 1 it concedes late, below 1 early (Faratin et al. 1998).
        temper: the mood it returns to, in [-1, 1].
        voice: the persona in whose lines it speaks.
        early, late: (F,) pull of each family when early and far apart, when late and close.
        mood: (F,) what each family does to its mood.
    """

    name: str
    patience: int
    opening: float
    reserve: float
    exponent: float
    temper: float
    voice: str
    early: FloatArray
    late: FloatArray
    mood: FloatArray


def named_personas() -> tuple[str, ...]:
    """Names of those that were written by hand."""
    return tuple(_file().personas)


@cache
def load_persona(name: str) -> Persona:
    """A persona that was written by hand.

    Raises:
        UserError: if there is no such persona.
    """
    entries = _file().personas
    if name not in entries:
        raise UserError(f"no persona '{name}'; there are: {', '.join(entries)}")
    entry = entries[name]
    plain = entry.model_dump(exclude={"pull", "mood"})
    early, late, mood = reactions(entry)
    return Persona(name=name, voice=name, **plain, early=early, late=late, mood=mood)


def reactions(entry: "Reactions") -> FloatArray:
    """(3, F): early pull, late pull and change of mood."""
    return np.array([[*entry.pull[family], entry.mood[family]] for family in families()], dtype=float).T


def prior() -> "Prior":
    """What personas are drawn from."""
    return _file().prior


def constants() -> Constants:
    """What all personas share."""
    return _file().constants


def families() -> tuple[str, ...]:
    """Names of the families, in the order of every (F,) array."""
    return tuple(_file().families)


@cache
def grouping() -> FloatArray:
    """(28, F): 1 where an emotion belongs to a family. `neutral` belongs to none."""
    labels = load_vocabulary("goemotions28").labels
    table = np.zeros((len(labels), len(families())))
    for column, members in enumerate(_file().families.values()):
        table[[labels.index(member) for member in members], column] = 1.0
    return table


class Reactions(BaseModel):
    """What each family of emotions does, early and late, and to the mood."""

    model_config = ConfigDict(extra="forbid")
    pull: dict[str, tuple[float, float]]
    mood: dict[str, float]


class PersonaEntry(Reactions):
    """A persona as `personas.yaml` has it."""

    patience: Annotated[int, Field(ge=2)]
    opening: float
    reserve: float
    exponent: Annotated[float, Field(gt=0)]
    temper: Annotated[float, Field(ge=-1, le=1)]


class Kinds(BaseModel):
    """The four kinds between which drawn personas lie."""

    model_config = ConfigDict(extra="forbid")
    inferential_cooperative: Reactions
    inferential_competitive: Reactions
    affective_cooperative: Reactions
    affective_competitive: Reactions


class Prior(BaseModel):
    """What personas are drawn from, as `personas.yaml` has it; ranges are uniform."""

    model_config = ConfigDict(extra="forbid")
    seed: Annotated[int, Field(ge=0)]
    voices: Annotated[list[str], Field(min_length=1)]
    patience: tuple[Annotated[int, Field(ge=2)], int]
    opening: tuple[float, float]
    reserve: tuple[float, float]
    exponent: tuple[Annotated[float, Field(gt=0)], float]
    temper: tuple[Annotated[float, Field(ge=-1)], Annotated[float, Field(le=1)]]
    pull_spread: Annotated[float, Field(ge=0)]
    mood_spread: Annotated[float, Field(ge=0)]
    kinds: Kinds


class PersonaFile(BaseModel):
    """The whole of `personas.yaml`."""

    model_config = ConfigDict(extra="forbid")
    families: dict[str, list[str]]
    constants: Constants
    prior: Prior
    personas: dict[str, PersonaEntry]

    @model_validator(mode="after")
    def _all_react_to_every_family(self) -> "PersonaFile":
        entries: dict[str, Reactions] = {f"personas.{name}": entry for name, entry in self.personas.items()}
        entries |= {f"prior.kinds.{name}": getattr(self.prior.kinds, name) for name in Kinds.model_fields}
        for name, entry in entries.items():
            for key in ("pull", "mood"):
                if set(getattr(entry, key)) != set(self.families):
                    raise ValueError(f"{name}.{key} must name exactly {', '.join(self.families)}")
        if unknown := [voice for voice in self.prior.voices if voice not in self.personas]:
            raise ValueError(f"prior.voices: '{unknown[0]}' is no persona")
        return self


@cache
def _file() -> PersonaFile:
    return read_personas((files("emodistill") / "assets" / "personas.yaml").read_text(encoding="utf-8"))


def read_personas(text: str) -> PersonaFile:
    """Read the text of `personas.yaml`.

    Raises:
        UserError: naming the key that is missing, unknown or out of range.
    """
    try:
        return PersonaFile.model_validate(yaml.safe_load(text))
    except ValidationError as error:
        raise UserError.from_validation("assets/personas.yaml", error) from error
