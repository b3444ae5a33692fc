"""The focal agent put together from its parts, and the dialogue acts."""

from collections.abc import Sequence

import pytest

from emodistill.negotiation.agents import Choice, Decision, Fault, FocalAgent, Move, Utterance, dialogue_act
from emodistill.negotiation.offers import parse_act, parse_offer
from emodistill.negotiation.plain_text import SENTENCE_END
from emodistill.negotiation.protocol import COUNTERPARTY, FOCAL, Negotiation, Turn
from emodistill.negotiation.scenarios import Scenario

LESS = Scenario("debt-0", "debt", 30, 130)
MORE = Scenario("disaster-0", "disaster", 160, 60)


class Says:
    """A selector, an offer policy and a speaker in one: always the same emotion, decision and words."""

    name = "says"

    def __init__(self, text: str, decision: Decision) -> None:
        self._text, self._decision = text, decision

    def begin(self, negotiations: Sequence[Negotiation]) -> None:
        """Nothing to prepare."""

    def select(self, negotiations: Sequence[Negotiation]) -> list[Choice]:
        return [Choice("joy", 0.25)] * len(negotiations)

    def decide(self, negotiation: Negotiation) -> Decision:
        return self._decision

    def speak(
        self, negotiations: Sequence[Negotiation], decisions: Sequence[Decision], emotions: Sequence[str | None]
    ) -> list[str]:
        assert list(emotions) == ["joy"] * len(negotiations)
        return [self._text] * len(negotiations)


def focal_move(text: str, decision: Decision) -> Move:
    parts = Says(text, decision)
    [move] = FocalAgent(parts, parts, parts).act([Negotiation(LESS, 0)])
    assert isinstance(move, Move)
    assert (move.emotion, move.emotion_prob, move.act) == ("joy", 0.25, decision.act)
    return move


def test_a_stated_offer_is_left_as_it_was_said() -> None:
    move = focal_move("Only for you: 45 days.", Decision("propose", 45.0, "open"))
    assert (move.text, move.offer, move.offer_appended) == ("Only for you: 45 days.", 45.0, False)


@pytest.mark.parametrize(
    ("text", "offer"),
    [("Only for you: 45 days.", 45.0), ("I can do 60 days.", 60.0), ("I can do 60 days. My offer is 45 days.", 45.0)],
)
def test_words_that_were_said_before_state_the_offer_that_is_in_them(text: str, offer: float) -> None:
    """What was decided counts only where the words end with the sentence that stated it."""
    parts = Says("unused", Decision("propose", 45.0, "hold"))
    [move] = FocalAgent(parts, parts, parts).recall([Negotiation(LESS, 0)], [Utterance(text, (), "joy")])
    assert (move.text, move.offer, move.emotion) == (text, offer, "joy")


@pytest.mark.parametrize(
    "text", ["", "I hear you.", "I can do 60 days.", "You want 130 days?", "I can never accept", "No:"]
)
def test_a_missing_or_wrong_offer_is_appended_and_counted(text: str) -> None:
    move = focal_move(text, Decision("propose", 45.0, "hold"))
    assert (move.offer, move.offer_appended) == (45.0, True)
    assert move.text.startswith(text.rstrip(":")) and move.text.endswith("My offer is 45 days.")
    assert parse_offer(move.text, "debt") == 45.0


def test_without_a_decided_offer_the_speakers_number_counts() -> None:
    move = focal_move("I can do 60 days.", Decision("propose", None, "hold"))
    assert (move.text, move.offer, move.offer_appended) == ("I can do 60 days.", 60.0, False)
    assert focal_move("I hear you.", Decision("propose", None, "hold")).offer is None


def accepting_move(text: str) -> Move:
    """What is said where a standing offer of 60 days is accepted."""
    negotiation = Negotiation(LESS, 0)
    for speaker, offer in ((FOCAL, 45.0), (COUNTERPARTY, 60.0)):
        negotiation.play(Turn(1, speaker, f"{offer:g} days.", "propose", offer))
    parts = Says(text, Decision("accept", None, "close"))
    [move] = FocalAgent(parts, parts, parts).act([negotiation])
    assert isinstance(move, Move) and (move.act, move.offer) == ("accept", None)
    # the other side hears what was decided: words of acceptance, or its own number
    assert parse_act(move.text, "debt", 60.0) == "accept" or parse_offer(move.text, "debt") == 60.0
    return move


@pytest.mark.parametrize(
    "text",
    [
        "Agreed, 60 days it is!",
        "I accept.",
        "Fine, deal.",
        "I am so glad. Let's say full payment in 60 days!",
        "You want 60? My offer is 60 days.",
    ],
)
def test_an_acceptance_makes_no_offer_and_is_left_as_it_was_said(text: str) -> None:
    move = accepting_move(text)
    assert (move.text, move.offer_appended) == (text, False)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "I accept 60 days."),
        ("I hear you.", "I hear you. I accept 60 days."),
        ("No:", "No. I accept 60 days."),
        ("I'll move to 95 days.", "I accept 60 days."),
        ("Thank you! I can accept it in 75 days", "Thank you! I accept 60 days."),
        ("I wonder. What if we say 60 days?", "I wonder. I accept 60 days."),
        ("Let's say 60 days. No, let's say 70 days.", "I accept 60 days."),
        ("You want 130 days? Let's say 40 days. It hurts.", "You want 130 days? It hurts. I accept 60 days."),
    ],
)
def test_an_acceptance_that_nobody_would_hear_is_appended_and_no_other_offer_left(text: str, said: str) -> None:
    move = accepting_move(text)
    assert (move.text, move.offer_appended) == (said, True)


def test_a_time_in_the_middle_of_a_sentence_does_not_end_it() -> None:
    split = SENTENCE_END.split("Sleep matters. Let's say 9 p.m. tonight! Or 10 P.M. Good night.")
    assert split == ["Sleep matters.", "Let's say 9 p.m. tonight!", "Or 10 P.M.", "Good night."]


@pytest.mark.parametrize("scenario", [LESS, MORE], ids=["less", "more"])
def test_dialogue_acts_read_the_positions_on_the_table(scenario: Scenario) -> None:
    def after(*positions: float) -> Negotiation:
        negotiation = Negotiation(scenario, 0)
        for position in positions:
            offer = scenario.value_at(position)
            negotiation.play(Turn(negotiation.round, negotiation.next_speaker, "words", "propose", offer))
        return negotiation

    def act(positions: Sequence[float], offer: float) -> str:
        return dialogue_act(after(*positions), "propose", scenario.value_at(offer))

    assert dialogue_act(Negotiation(scenario, 0), "propose", scenario.focal_target) == "open"
    assert act([1, 0, 1, 0.1], 0.9) == "concede"
    assert act([1, 0, 1, 0.1], 1) == "hold"
    assert act([1, 0, 1, 0], 1) == "press"
    assert dialogue_act(after(1, 0), "accept", None) == "close"


def test_a_speaker_that_fails_faults_its_negotiation_alone() -> None:
    class Unsteady(Says):
        def speak(self, negotiations, decisions, emotions):  # type: ignore[no-untyped-def]  # as above
            return [Fault("line dead"), Utterance("Only 45 days.", ("empty", "label"))]

    parts = Unsteady("", Decision("propose", 45.0, "open"))
    played = [Negotiation(LESS, seed) for seed in range(2)]
    fault, move = FocalAgent(parts, parts, parts).act(played)
    assert fault == Fault("line dead")
    assert isinstance(move, Move) and (move.offer, move.role_violations) == (45.0, ("empty", "label"))
