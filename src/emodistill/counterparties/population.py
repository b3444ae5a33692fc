"""Personas drawn from a prior, so that a selector learns how parties differ and not the numbers of a few of them.

`population:N` are the N draws that corpora are played against; `validation:N`, `test:N` and `outside:N` are draws that
no corpus meets, the last with reactions that the prior hardly ever gives. Draw i of a kind is the same whatever N is,
on every machine and in every run. The numbers of the prior are in `assets/personas.yaml`, their sources in
`docs/counterparty.md`.

A party lies between four kinds, at two traits in [0, 1]: how far it feels an emotion rather than asking what it means
(Van Kleef 2009, Emotions as Social Information), and how far it wants to win rather than to get on. F = 6 families.
"""

import hashlib
import re
from collections.abc import Sequence
from functools import cache

import numpy as np

from emodistill.counterparties.personas import (
    FloatArray,
    Kinds,
    Persona,
    Prior,
    families,
    load_persona,
    named_personas,
    prior,
    reactions,
)
from emodistill.errors import UserError

DRAWS = ("population", "validation", "test", "outside")  # the place of each is part of its seed
LARGEST = 100_000
_DECIMALS = 2  # of every number drawn, so that no digest depends on the last bit of a sine


def load_personas(words: str | Sequence[str]) -> list[Persona]:
    """The personas of a configuration: names, `population:N` and its like, one or a list of them.

    Raises:
        UserError: if there is none, or one of the words is neither.
    """
    found = [persona for word in words_of(words) for persona in _personas(word)]
    if not found:
        raise UserError(f"the counterparty needs a persona; {_known()}")
    return found


def words_of(words: str | Sequence[str]) -> list[str]:
    """What `personas=` was given, as a list of names.

    Raises:
        UserError: if one of them is not a text, such as a bare 48.
    """
    given = [words] if isinstance(words, str) or not isinstance(words, Sequence) else list(words)
    wrong = [word for word in given if not isinstance(word, str)]
    if wrong:
        raise UserError(f"no persona '{'null' if wrong[0] is None else wrong[0]}'; {_known()}")
    return given


def digest(personas: Sequence[Persona]) -> str:
    """Twelve hex digits over all that was drawn: it tells two populations apart whose words are the same."""
    content = "\n".join(
        repr((p.patience, p.opening, p.reserve, p.exponent, p.temper, p.voice))
        + repr([row.tolist() for row in (p.early, p.late, p.mood)])
        for p in personas
    )
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def _personas(word: str) -> list[Persona]:
    if word in named_personas():
        return [load_persona(word)]
    match = re.fullmatch(rf"({'|'.join(DRAWS)})([:-])(\d{{1,6}})", word)
    if not match:
        raise UserError(f"no persona '{word}'; {_known()}")
    kind, single, number = match[1], match[2] == "-", int(match[3])
    if single:
        return [draw(kind, number)]
    if not 1 <= number <= LARGEST:
        raise UserError(f"personas={word}: from 1 to {LARGEST} can be drawn")
    return [draw(kind, i) for i in range(number)]


def _known() -> str:
    forms = ", ".join(f"{kind}:N" for kind in DRAWS)
    return f"there are: {', '.join(named_personas())}, and draws: {forms}"


@cache
def draw(kind: str, number: int) -> Persona:
    """The `number`-th draw of a kind, from 0; its name is `<kind>-<number>`."""
    source = prior()
    rng = np.random.default_rng((source.seed, DRAWS.index(kind), number))
    outside = kind == "outside"
    felt = _reactions(source, rng, 2.0 if outside else 1.0)
    turned = int(rng.integers(len(families())))
    if outside:
        felt[:, turned] *= -1.0
    early, late, mood = np.round(felt, _DECIMALS) + 0.0  # no negative zero
    ranges = (source.opening, source.reserve, source.exponent, source.temper)
    opening, reserve, exponent, temper = (round(float(rng.uniform(*bounds)), _DECIMALS) for bounds in ranges)
    patience = int(rng.integers(source.patience[0], source.patience[1] + 1))
    voice = source.voices[int(rng.integers(len(source.voices)))]
    return Persona(f"{kind}-{number}", patience, opening, reserve, exponent, temper, voice, early, late, mood)


def _reactions(source: Prior, rng: np.random.Generator, widening: float) -> FloatArray:
    """(3, F) early pull, late pull, change of mood: those of its kind, with spread of its own times `widening`."""
    feels, competes = np.sin(np.pi * rng.random(2) / 2) ** 2  # Beta(1/2, 1/2): mostly near one end
    kinds = np.stack([reactions(getattr(source.kinds, name)) for name in Kinds.model_fields])
    weights = np.outer([1 - feels, feels], [1 - competes, competes]).ravel()  # in the order of `Kinds`
    spread = np.array([[source.pull_spread], [source.pull_spread], [source.mood_spread]])
    own: FloatArray = np.tensordot(weights, kinds, axes=1)
    return own + widening * spread * rng.standard_normal(own.shape)
