"""A second simulation, moved by emotions as the first one is, and also by what good bargainers do with words.

A reply draws more if it gives a reason of this case, answers the worry that the counterparty just named and states one
number plainly, and less if it repeats what its speaker said before. Everything else is the behavioural counterparty,
equation by equation: this one adds a term to the pull and a sentence to the lines.

It is a positive control. Against it a learner of expression has something to win that the judge `arguments` rewards
with other instruments; it says nothing about people. `docs/persuadable.md` has every equation, constant and source.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from emodistill.counterparties.simulation import BehaviouralCounterparty, State
from emodistill.counterparties.specs import SimulatedCounterpartySpec
from emodistill.emotions.perceiver import Perceiver, load_perceiver
from emodistill.errors import UserError
from emodistill.negotiation.agents import Agent, Move
from emodistill.negotiation.domains import domain_names, load_domain
from emodistill.negotiation.offers import parse_offer
from emodistill.negotiation.phrasebook import ACTS, BUSINESSLIKE, bundled
from emodistill.negotiation.protocol import COUNTERPARTY, FOCAL, Negotiation, Turn
from emodistill.negotiation.scenarios import Scenario

_OTHER = "other"  # worries of a domain that the file does not name
_WORD = re.compile(r"[a-z][a-z'-]*[a-z]|[a-z]")
_SENTENCE = re.compile(r"[^.!?;]+[.!?;]?")
_NUMBER = re.compile(r"\d+(?::\d+)?")
_CASE_SLOTS = ("reason", "stakes", "goal", "help", "other_side_worry", "shared_interest")


Words = Annotated[frozenset[str], BeforeValidator(lambda text: str(text).split())]


class Weights(BaseModel):
    """The constants of `assets/persuadable.yaml`, which says what each is."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    reason: Annotated[float, Field(ge=0)]
    answer: Annotated[float, Field(ge=0)]
    number: Annotated[float, Field(ge=0)]
    repeat: Annotated[float, Field(ge=0)]
    expected: float
    fresh_from: Annotated[float, Field(ge=0, le=1)]
    stale_from: Annotated[float, Field(gt=0, le=1)]
    plain: Annotated[float, Field(ge=0, le=1)]
    longest: Annotated[int, Field(ge=1)]

    @model_validator(mode="after")
    def _fresh_before_stale(self) -> "Weights":
        if self.fresh_from >= self.stale_from:
            raise ValueError("fresh_from must lie below stale_from")
        return self


class Worry(BaseModel):
    """What the counterparty names, and words that take it up."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    says: Annotated[str, Field(min_length=1)]
    about: Annotated[list[str], Field(min_length=1)]


class PersuasionFile(BaseModel):
    """The whole of `assets/persuadable.yaml`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    constants: Weights
    connectives: list[str]
    hedges: list[str]
    addresses: list[str]
    function_words: Words
    general_words: Words
    worries: dict[str, list[Worry]]
    worry: str

    @model_validator(mode="after")
    def _worries_of_every_domain(self) -> "PersuasionFile":
        if missing := [name for name in (*domain_names(), _OTHER) if not self.worries.get(name)]:
            raise ValueError(f"worries must name at least one for {', '.join(missing)}")
        if "{worry}" not in self.worry:
            raise ValueError("worry must hold the slot {worry}")
        return self


def read_persuasion(text: str) -> PersuasionFile:
    """Read the text of `persuadable.yaml`.

    Raises:
        UserError: naming the key that is missing, unknown or out of range.
    """
    try:
        return PersuasionFile.model_validate(yaml.safe_load(text))
    except ValidationError as error:
        raise UserError.from_validation("assets/persuadable.yaml", error) from error


@cache
def persuasion() -> PersuasionFile:
    """What the counterparty listens for."""
    return read_persuasion(_text())


def _text() -> str:
    return (files("emodistill") / "assets" / "persuadable.yaml").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Reading:
    """What the words of one focal turn do, each in [0, 1].

    Attributes:
        reason: 1 where a sentence grounds something in a matter of this case, half where it only tells it.
        answer: 1 where a sentence takes up the worry that the counterparty just named.
        number: 1 where the speaker's own words state one number, and plainly.
        fresh: 1 where it says nothing that was said before, 0 where it is a repetition.
    """

    reason: float
    answer: float
    number: float
    fresh: float

    @property
    def pull(self) -> float:
        """w_r reason + w_a answer + w_n number, worn off by repetition, minus w_d of the repetition and c."""
        weights = persuasion().constants
        gained = weights.reason * self.reason + weights.answer * self.answer + weights.number * self.number
        return self.fresh * gained - weights.repeat * (1 - self.fresh) - weights.expected


def read_turn(scenario: Scenario, before: Sequence[Turn], turn: Turn) -> Reading:
    """What a focal turn does after the turns `before` it.

    A reply that nobody could follow (a heap of keywords, or no end of words) has no reason, answer or number, and is as
    good as a repetition.
    """
    if not _followed(turn.text):
        return Reading(0.0, 0.0, 0.0, 0.0)
    own = [earlier.text for earlier in before if earlier.speaker == FOCAL]
    theirs = [earlier.text for earlier in before if earlier.speaker == COUNTERPARTY]
    return Reading(
        reasoned(scenario, turn.text),
        float(bool(theirs) and answers(scenario, theirs[-1], turn.text)),
        float(not turn.offer_appended and states_number(scenario, turn.text)),
        freshness(turn.text, own),
    )


def reasoned(scenario: Scenario, text: str) -> float:
    """How well the reply is grounded in this case, by its best sentence that does not ask.

    1 for a connective with a word of this case; half for two words of this case in a statement without a number,
    such as "You can have weekly instalments and a pause on late fees." that leaves the rest to the hearer; else 0.
    """
    matter, best = _matter(scenario.domain, tuple(scenario.context.values())), 0.0
    for sentence in _sentences(text):
        said = _words(sentence)
        about = len(matter & set(said))
        if sentence.endswith("?") or not about:
            continue
        if _has_phrase(said, persuasion().connectives):
            return 1.0
        if about > 1 and not _NUMBER.search(sentence):
            best = 0.5
    return best


def answers(scenario: Scenario, heard: str, text: str) -> bool:
    """Whether a sentence takes up the worry named in `heard` and speaks to the other side."""
    named = [worry for worry in _worries(scenario.domain) if worry.says in heard]
    about = [word for worry in named for word in worry.about]
    return any(
        _has_phrase(said, about) and _has_phrase(said, persuasion().addresses) for said in map(_words, _sentences(text))
    )


def states_number(scenario: Scenario, text: str) -> bool:
    """Whether there is one number, in a sentence that neither hedges nor asks."""
    holding = [sentence for sentence in _sentences(text) if _NUMBER.search(sentence)]
    if len(set(_NUMBER.findall(text))) != 1 or parse_offer(text, scenario.domain) is None:
        return False
    return not any(s.endswith("?") or _has_phrase(_words(s), persuasion().hedges) for s in holding)


def freshness(text: str, earlier: Sequence[str]) -> float:
    """0 to 1: how little of its matter the speaker has said before, or twice in this reply."""
    said = [word for word in _words(text) if word not in persuasion().function_words]
    if not said:
        return 0.0
    new = set(said)
    within = 1 - len(new) / len(said)
    before = max((len(new & set(_words(one))) / len(new) for one in earlier), default=0.0)
    low, high = persuasion().constants.fresh_from, persuasion().constants.stale_from
    return 1 - min(max((max(within, before) - low) / (high - low), 0.0), 1.0)


def _followed(text: str) -> bool:
    said = _words(text)
    if not said or len(said) > persuasion().constants.longest:
        return False
    return sum(word in persuasion().function_words for word in said) / len(said) >= persuasion().constants.plain


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower().replace("\u2019", "'"))


def _sentences(text: str) -> list[str]:
    return [sentence.strip() for sentence in _SENTENCE.findall(text) if sentence.strip()]


def _has_phrase(said: Sequence[str], phrases: Sequence[str]) -> bool:
    joined = f" {' '.join(said)} "
    return any(f" {phrase} " in joined for phrase in phrases)


def _worries(domain: str) -> list[Worry]:
    worries = persuasion().worries
    return worries.get(domain, worries[_OTHER])


@cache
def _matter(domain: str, context: tuple[str, ...]) -> frozenset[str]:
    """The words of this case: of its context and of the domain's own phrases, without those that every offer has."""
    rules, book, listed = load_domain(domain), bundled(), persuasion()
    phrases = [phrase for slot in _CASE_SLOTS for phrase in rules.slots.get(slot, ())]
    formulas = [sentence for act in ACTS for sentence in book.sentences(BUSINESSLIKE, act, domain)]
    offers = {word for text in (*formulas, rules.quantity, rules.unit) for word in _words(text)}
    said = {word for text in (*context, *phrases) for word in _words(text.replace("_", " ")) if len(word) > 2}
    return frozenset(said - offers - listed.function_words - listed.general_words)


class PersuadableCounterparty(BehaviouralCounterparty):
    """The behavioural counterparty whose pull of a focal turn also depends on what its words do (see `Reading`)."""

    def __init__(self, perceiver: Perceiver, personas: str | Sequence[str]) -> None:
        super().__init__(perceiver, personas)
        self.name = "persuadable"

    def state(self, negotiation: Negotiation) -> State:
        """As before, with the pull of the last focal turn's words added."""
        felt = super().state(negotiation)
        spoken = [place for place, turn in enumerate(negotiation.turns) if turn.speaker == FOCAL]
        if not spoken:
            return felt
        turn = negotiation.turns[spoken[-1]]
        reading = read_turn(negotiation.scenario, negotiation.turns[: spoken[-1]], turn)
        return replace(felt, pull=felt.pull + reading.pull)

    def _move(self, negotiation: Negotiation) -> Move:
        """A line as before; one that goes on bargaining also names a worry, which changes from round to round."""
        move = super()._move(negotiation)
        if move.act != "propose":
            return move
        worries = _worries(negotiation.scenario.domain)
        named = worries[(negotiation.seed // len(self.personas) + negotiation.round) % len(worries)].says
        return replace(move, text=f"{move.text} {persuasion().worry.format(worry=named)}")


class PersuadableCounterpartySpec(SimulatedCounterpartySpec):
    """The persuadable simulation by configuration; personas as for the behavioural one."""

    def recipe(self) -> dict[str, Any]:
        return {**super().recipe(), "persuadable": hashlib.sha256(_text().encode()).hexdigest()[:12]}

    def describe(self) -> str:
        return f"{super().describe()} that is also moved by reasons, answers and plain numbers"

    def open(self) -> Agent:
        return PersuadableCounterparty(load_perceiver("counterparty"), self.personas)
