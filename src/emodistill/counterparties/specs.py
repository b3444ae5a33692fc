"""Counterparties by configuration: how each is opened, and what of it is part of a corpus's identity (`recipe`)."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from emodistill.counterparties.language_model import LanguageModelCounterparty
from emodistill.counterparties.population import digest, load_personas, words_of
from emodistill.counterparties.simulation import BehaviouralCounterparty
from emodistill.emotions.perceiver import load_perceiver
from emodistill.errors import UserError
from emodistill.negotiation.agents import Agent
from emodistill.negotiation.schedule import CounterpartySchedule
from emodistill.policy.chat_backends import ChatBackendSpec


class SimulatedCounterpartySpec:
    """The documented behavioural simulation.

    Args:
        personas: names, `population:N` and its like, one or a list of them; a negotiation's goes by its seed.

    Raises:
        UserError: if one of them is not a text.
    """

    depends_on_assets, is_local_model = True, False

    def __init__(self, personas: str | Sequence[str]) -> None:
        self.personas = words_of(personas)

    def recipe(self) -> dict[str, Any]:
        return {"simulation": self.personas, "personas": digest(load_personas(self.personas))}

    def describe(self) -> str:
        return f"a documented behavioural simulation (personas {', '.join(self.personas)})"

    def open(self) -> Agent:
        return BehaviouralCounterparty(load_perceiver("counterparty"), self.personas)


class LanguageModelCounterpartySpec:
    """A language model, here or behind an endpoint.

    Args:
        backend: which one.
        bargains: `schedule` decides its numbers and it says them; `model` leaves numbers, acceptance and leaving to it.
        schedule: those numbers.
        personas: names of those that take part; a negotiation's goes by its seed.
        sentences: what the prompt says of each persona; an empty sentence says nothing.
        retries: how often a reply that breaks the role is asked for again.

    Raises:
        UserError: if a persona has no sentence, or `bargains` is neither.
    """

    depends_on_assets = False

    def __init__(
        self,
        backend: ChatBackendSpec,
        bargains: Literal["schedule", "model"],
        schedule: CounterpartySchedule,
        personas: str | Sequence[str],
        sentences: Mapping[str, str],
        retries: int,
    ) -> None:
        personas = [personas] if isinstance(personas, str) else personas
        unknown = [persona for persona in personas if persona not in sentences]
        if unknown:
            raise UserError(f"counterparty: no persona '{unknown[0]}'; there are {', '.join(sentences) or 'none'}")
        if bargains not in ("schedule", "model"):
            raise UserError(f"counterparty.agent.bargains={bargains}: use schedule or model")
        self.backend, self.bargains, self.schedule, self.retries = backend, bargains, schedule, retries
        self.personas = {persona: sentences[persona] for persona in personas}
        self.is_local_model = backend.is_local

    def recipe(self) -> dict[str, Any]:
        numbers: dict[str, Any] = {"bargains": self.bargains}
        if self.bargains == "schedule":
            numbers |= {"schedule": vars(self.schedule.schedule), "noise": self.schedule.noise}
        # Corpora are found by a hash of this, so a key keeps its name: "voice" is the backend.
        return {"voice": self.backend.recipe(), **numbers, "personas": self.personas, "retries": self.retries}

    def describe(self) -> str:
        whose = "numbers from a schedule" if self.bargains == "schedule" else "numbers of its own"
        return f"the language model {self.backend.describe()} with {whose}"

    def open(self) -> Agent:
        offers = self.schedule if self.bargains == "schedule" else None
        return LanguageModelCounterparty(self.backend.open(), offers, self.personas, self.retries)
