"""Whatever the focal side says, the counterparty answers by the rules of the table."""

import math

import pytest

from emodistill.counterparties.personas import named_personas
from emodistill.counterparties.simulation import BehaviouralCounterparty
from emodistill.emotions.perceiver import load_perceiver
from emodistill.errors import UserError
from emodistill.negotiation.protocol import Negotiation, Turn
from emodistill.negotiation.scenarios import Scenario


@pytest.mark.parametrize("text", ["", "   ", "42", "😡😡😡", "?!" * 3000, "\x00\n{offer} {can}", "no offer from me"])
@pytest.mark.parametrize("persona", named_personas())
def test_garbage_is_answered_not_raised(text: str, persona: str) -> None:
    negotiation = Negotiation(Scenario("d", "student", 30.0, 210.0), 0)
    agent = BehaviouralCounterparty(load_perceiver("counterparty"), [persona])
    agent.begin([negotiation])
    while negotiation.end is None:
        negotiation.play(Turn(negotiation.round, "focal", text))
        move = agent.act([negotiation])[0]
        assert move.text and (move.offer is None or math.isfinite(move.offer))
        negotiation.play(Turn(negotiation.round, "counterparty", move.text, move.act, move.offer))
    assert negotiation.end in ("walk_away", "deadline")


@pytest.mark.parametrize("offer", [-5000.0, 0.0, 1e9])
def test_absurd_offers_end_or_go_on_within_the_rules(offer: float) -> None:
    negotiation = Negotiation(Scenario("a", "debt", 20.0, 110.0), 0)
    negotiation.play(Turn(1, "focal", "Here.", offer=offer))
    move = BehaviouralCounterparty(load_perceiver("counterparty"), ["vanilla"]).act([negotiation])[0]
    assert move.act == ("accept" if offer == 1e9 else "propose")


def test_unknown_or_missing_personas_are_user_errors() -> None:
    with pytest.raises(UserError, match="no persona 'bully'; there are: vanilla"):
        BehaviouralCounterparty(load_perceiver("counterparty"), ["vanilla", "bully"])
    with pytest.raises(UserError, match="needs a persona"):
        BehaviouralCounterparty(load_perceiver("counterparty"), [])


def test_the_memory_of_texts_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emodistill.counterparties.simulation._REMEMBERED", 3)
    agent = BehaviouralCounterparty(load_perceiver("counterparty"), named_personas())
    for round in range(8):
        negotiation = Negotiation(Scenario("a", "debt", 20.0, 110.0), 0)
        negotiation.play(Turn(1, "focal", f"Reading {'very ' * round}slowly."))
        agent.act([negotiation])
    assert len(agent._perceived) <= 4
