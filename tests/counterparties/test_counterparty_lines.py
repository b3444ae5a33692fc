"""Every line, with every filling, in every domain."""

import itertools
import re

import numpy as np
import pytest

from emodistill.counterparties.personas import named_personas
from emodistill.counterparties.simulation import ACTS, MOODS, lines, say
from emodistill.emotions.perceiver import GOEMOTIONS, load_perceiver
from emodistill.negotiation.domains import domain_names, load_domain
from emodistill.negotiation.offers import parse_offer
from emodistill.negotiation.scenarios import Scenario

PERSONAS = named_personas()
OFFERS = {
    "debt": (1, 7, 30, 45, 120),
    "disaster": (5, 60, 90, 145),
    "hospital": (1, 14, 29, 120),
    "student": (-30, 5, 90, 185),
}
STATED = ("open", "hold", "concede")
UNFIT = re.compile(
    r"\b(kill|die|dead|death|suicide|hell|damn|shut up|sex\w*|drunk|beer|drug\w*|gun|weapon|hit you|beat you"
    r"|hurt you|blood|stupid|idiot|ugly|hate you|worthless)\b",
    re.IGNORECASE,
)


@pytest.mark.parametrize("domain", domain_names())
def test_the_offer_parser_reads_exactly_the_offer_in_every_line(domain: str) -> None:
    rules, wrong = load_domain(domain), []
    for persona, mood, act in itertools.product(PERSONAS, MOODS, STATED):
        for line, offer in itertools.product(lines(persona, domain, mood, act), OFFERS[domain]):  # type: ignore[arg-type]
            text = line.replace("{offer}", rules.say(offer))
            if parse_offer(text, domain) != offer:
                wrong.append(text)
    assert not wrong, wrong[:10]


@pytest.mark.parametrize("domain", domain_names())
def test_lines_that_end_the_talk_state_no_offer(domain: str) -> None:
    for persona, mood, act in itertools.product(PERSONAS, MOODS, ("accept", "walk_away")):
        for line in lines(persona, domain, mood, act):  # type: ignore[arg-type]
            assert "{" not in line
            assert parse_offer(line, domain) is None, line


def test_lines_that_state_an_offer_do_so_once_and_leave_no_other_slot() -> None:
    for persona, mood, act, domain in itertools.product(PERSONAS, MOODS, STATED, (*domain_names(), "unheard-of")):
        found = lines(persona, domain, mood, act)  # type: ignore[arg-type]
        assert len(found) >= 2
        for line in found:
            assert re.findall(r"{\w+}", line) == ["{offer}"], line
            assert line[0].isupper() and len(line.split()) <= 30, line


def test_lines_are_fit_for_minors() -> None:
    for persona, mood, act in itertools.product(PERSONAS, MOODS, ACTS):
        for line in lines(persona, "student", mood, act):
            assert not UNFIT.search(line), line


@pytest.mark.parametrize(
    ("persona", "mood", "expected"),
    [
        ("vanilla", "cold", {"disappointment", "disapproval"}),
        ("vanilla", "warm", {"gratitude", "joy"}),
        ("pressure", "even", {"desire"}),
        ("pressure", "cold", {"annoyance"}),
        ("victim", "cold", {"sadness"}),
        ("victim", "even", {"sadness", "remorse"}),
        ("victim", "warm", {"gratitude", "relief"}),
        ("threat", "cold", {"anger", "disgust"}),
        ("threat", "even", {"anger"}),
        ("charmer", "even", {"amusement", "love", "admiration", "joy"}),
        ("stoic", "even", {"neutral"}),
        ("panicked", "cold", {"fear"}),
    ],
)
def test_persona_and_mood_can_be_heard(persona: str, mood: str, expected: set[str]) -> None:
    texts = [line for domain in domain_names() for act in STATED for line in lines(persona, domain, mood, act)]  # type: ignore[arg-type]
    shares = load_perceiver("judge").probabilities([text.replace("{offer}", "30 days") for text in texts]).mean(axis=0)
    assert GOEMOTIONS[int(np.argmax(shares))] in expected


def test_say_reaches_every_line_and_fills_in_the_offer() -> None:
    scenario = Scenario("s", "debt", 20.0, 120.0)
    said = {say("victim", scenario, "warm", "concede", 45.0, draw) for draw in np.linspace(0, 1, 400, endpoint=False)}
    assert said == {line.replace("{offer}", "45 days") for line in lines("victim", "debt", "warm", "concede")}
