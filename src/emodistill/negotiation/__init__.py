"""Bargaining: domains and their scenarios, the rules of a negotiation, agents, offers and the words around them."""

from emodistill.negotiation.agents import (
    Agent,
    Choice,
    Decision,
    Fault,
    FixedEmotion,
    FocalAgent,
    Move,
    NoEmotion,
    OfferPolicy,
    Selector,
    Speaker,
    UniformEmotion,
)
from emodistill.negotiation.domains import Domain, domain_names, load_domain
from emodistill.negotiation.engine import play
from emodistill.negotiation.generator import generate_scenarios
from emodistill.negotiation.offers import parse_act, parse_offer
from emodistill.negotiation.phrasebook import PhrasebookSpeaker
from emodistill.negotiation.protocol import COUNTERPARTY, FOCAL, Negotiation, Side, Turn
from emodistill.negotiation.scenarios import Scenario, load_csv
from emodistill.negotiation.schedule import ConcessionSchedule

__all__ = [
    "COUNTERPARTY",
    "FOCAL",
    "Agent",
    "Choice",
    "ConcessionSchedule",
    "Decision",
    "Domain",
    "Fault",
    "FixedEmotion",
    "FocalAgent",
    "Move",
    "Negotiation",
    "NoEmotion",
    "OfferPolicy",
    "PhrasebookSpeaker",
    "Scenario",
    "Selector",
    "Side",
    "Speaker",
    "Turn",
    "UniformEmotion",
    "domain_names",
    "generate_scenarios",
    "load_csv",
    "load_domain",
    "parse_act",
    "parse_offer",
    "play",
]
