"""Counterparties: a documented simulation, a language model, or an arm. Importing this package loads none of them."""

from typing import TYPE_CHECKING

from emodistill.lazy import lazy_attributes

if TYPE_CHECKING:
    from emodistill.counterparties.language_model import LanguageModelCounterparty
    from emodistill.counterparties.personas import Persona, load_persona
    from emodistill.counterparties.population import load_personas
    from emodistill.counterparties.simulation import BehaviouralCounterparty, BehaviouralOffers
    from emodistill.counterparties.specs import LanguageModelCounterpartySpec, SimulatedCounterpartySpec
    from emodistill.counterparties.trained_arm import ArmCounterparty

_MODULES = {
    "language_model": ("LanguageModelCounterparty",),
    "personas": ("Persona", "load_persona"),
    "population": ("load_personas",),
    "simulation": ("BehaviouralCounterparty", "BehaviouralOffers"),
    "specs": ("LanguageModelCounterpartySpec", "SimulatedCounterpartySpec"),
    "trained_arm": ("ArmCounterparty",),
}
__all__ = [
    "ArmCounterparty",
    "BehaviouralCounterparty",
    "BehaviouralOffers",
    "LanguageModelCounterparty",
    "LanguageModelCounterpartySpec",
    "Persona",
    "SimulatedCounterpartySpec",
    "load_persona",
    "load_personas",
]

__getattr__ = lazy_attributes(__name__, _MODULES)
