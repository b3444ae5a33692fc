"""Counterparties: a documented simulation, a language model, or an arm. Importing this package loads none of them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emodistill.counterparties.language_model import LanguageModelCounterparty
    from emodistill.counterparties.personas import Persona, load_persona
    from emodistill.counterparties.simulation import BehaviouralCounterparty, BehaviouralOffers
    from emodistill.counterparties.specs import LanguageModelCounterpartySpec, SimulatedCounterpartySpec
    from emodistill.counterparties.trained_arm import ArmCounterparty

_MODULES = {
    "ArmCounterparty": "trained_arm",
    "BehaviouralCounterparty": "simulation",
    "BehaviouralOffers": "simulation",
    "LanguageModelCounterparty": "language_model",
    "LanguageModelCounterpartySpec": "specs",
    "Persona": "personas",
    "SimulatedCounterpartySpec": "specs",
    "load_persona": "personas",
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
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
