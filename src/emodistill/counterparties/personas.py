"""Personas of the simulated counterparty: all its numbers, read from `assets/personas.yaml`.

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
# The two groups of configs/counterparty/behavioural.yaml.
TRAINING_PERSONAS = ("vanilla", "pressure", "victim", "threat")
TEST_PERSONAS = ("charmer", "stoic", "panicked")


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
        early, late: (F,) pull of each family when early and far apart, when late and close.
        mood: (F,) what each family does to its mood.
    """

    name: str
    patience: int
    opening: float
    reserve: float
    exponent: float
    temper: float
    early: FloatArray
    late: FloatArray
    mood: FloatArray


@cache
def load_persona(name: str) -> Persona:
    """A persona by name.

    Raises:
        UserError: if there is no such persona.
    """
    entries = _file().personas
    if name not in entries:
        raise UserError(f"no persona '{name}'; there are: {', '.join(entries)}")
    entry = entries[name]
    pull = np.array([entry.pull[family] for family in families()], dtype=float)
    mood = np.array([entry.mood[family] for family in families()], dtype=float)
    plain = entry.model_dump(exclude={"pull", "mood"})
    return Persona(name=name, **plain, early=pull[:, 0], late=pull[:, 1], mood=mood)


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


class PersonaEntry(BaseModel):
    """A persona as `personas.yaml` has it."""

    model_config = ConfigDict(extra="forbid")
    patience: Annotated[int, Field(ge=2)]
    opening: float
    reserve: float
    exponent: Annotated[float, Field(gt=0)]
    temper: Annotated[float, Field(ge=-1, le=1)]
    pull: dict[str, tuple[float, float]]
    mood: dict[str, float]


class PersonaFile(BaseModel):
    """The whole of `personas.yaml`."""

    model_config = ConfigDict(extra="forbid")
    families: dict[str, list[str]]
    constants: Constants
    personas: dict[str, PersonaEntry]

    @model_validator(mode="after")
    def _every_persona_has_every_family(self) -> "PersonaFile":
        for name, entry in self.personas.items():
            for key in ("pull", "mood"):
                if set(getattr(entry, key)) != set(self.families):
                    raise ValueError(f"personas.{name}.{key} must name exactly {', '.join(self.families)}")
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
