"""Hand-made scenarios and episodes for tests, without agents: words that say what they offer, nothing more."""

from emodistill.data.schema import Episode
from emodistill.negotiation.protocol import COUNTERPARTY, FOCAL, Turn
from emodistill.negotiation.scenarios import Scenario

EMOTIONS = ("anger", "joy", "caring", "neutral")


def make_scenario(number: int = 0) -> Scenario:
    context = {
        "Credit Type": "Working capital loan",
        "Outstanding Balance (USD)": "12500",
        "Recovery Stage": "Early",
        "Cash Flow Situation": "Tight until the harvest",  # seen by the counterparty only
        "Debtor Target Days": "91",  # listed nowhere: seen by nobody
    }
    return Scenario(f"debt-{number:03}", "debt", 20.0, 91.0, context)


def make_episode(
    rounds: int = 3, number: int = 0, seed: int = 0, emotions: bool = True, end: str = "deadline"
) -> Episode:
    turns = []
    for i in range(rounds):
        offer, answer = 20.0 + i + seed, 91.0 - i
        emotion = EMOTIONS[(i + seed) % len(EMOTIONS)] if emotions else None
        turns.append(Turn(i + 1, FOCAL, f"Round {i}: I want {offer:g} days.", "propose", offer, emotion, 0.25))
        turns.append(Turn(i + 1, COUNTERPARTY, f"Reply {i}: give me {answer:g} days.", "propose", answer))
    scenario = make_scenario(number)
    name = f"debt/{scenario.id}/test/{seed}"
    return Episode(name, "train", scenario, "uniform", "test", "behavioural:vanilla", seed, tuple(turns), end, None)
