"""The equations of docs/counterparty.md, one property each, without words."""

from dataclasses import replace
from importlib.resources import files

import numpy as np
import pytest
import yaml
from tiny_runs import CONFIGS

from emodistill.counterparties.personas import (
    FloatArray,
    Persona,
    constants,
    families,
    grouping,
    load_persona,
    named_personas,
    read_personas,
)
from emodistill.counterparties.population import load_personas
from emodistill.counterparties.simulation import next_position, planned, stages, state, walk_away_chance
from emodistill.emotions.perceiver import GOEMOTIONS
from emodistill.errors import UserError
from emodistill.negotiation.protocol import Negotiation, Turn
from emodistill.negotiation.scenarios import Scenario

PERSONAS = [*load_personas(named_personas()), *load_personas("population:6")]
NO_EFFECT = np.zeros(len(families()))
by_persona = pytest.mark.parametrize("persona", PERSONAS, ids=lambda persona: persona.name)


def shares(family: str, mass: float = 1.0) -> FloatArray:
    row = NO_EFFECT.copy()
    row[families().index(family)] = mass
    return row


def pull(persona: Persona, family: str, stage: float, mass: float = 1.0) -> float:
    return state(persona, constants(), [shares(family, mass)], [stage]).pull


def mood(persona: Persona, *heard: str) -> float:
    return state(persona, constants(), [shares(family) for family in heard], [0.5] * len(heard)).mood


def test_every_emotion_but_neutral_is_in_exactly_one_family() -> None:
    assert dict(zip(GOEMOTIONS, grouping().sum(axis=1), strict=True)) == {
        label: float(label != "neutral") for label in GOEMOTIONS
    }


def test_the_study_of_counterparties_plays_every_hand_written_persona() -> None:
    config = yaml.safe_load((CONFIGS / "study" / "counterparties.yaml").read_text(encoding="utf-8"))
    assert config["study"]["conditions"]["named_personas"]["play"] == [f"personas=[{','.join(named_personas())}]"]


def test_an_empty_name_is_no_persona() -> None:
    with pytest.raises(UserError, match=f"there are: {', '.join(named_personas())}$"):
        load_persona("")


def edited(old: str, new: str) -> str:
    text = (files("emodistill") / "assets" / "personas.yaml").read_text(encoding="utf-8")
    assert old in text
    return text.replace(old, new, 1)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("gain: 0.16", "gains: 0.16", "constants.gain is missing"),
        ("patience: 8", "patience: 1", "personas.vanilla.patience=1"),
        ("patience: [6, 9]", "patience: [1, 9]", "prior.patience.0=1"),
        ("voices: [vanilla", "voices: [nobody", "prior.voices: 'nobody' is no persona"),
        ("inferential_cooperative:", "cooperative:", "prior.kinds.inferential_cooperative is missing"),
        ("firm: [0.8, -0.3]", "firm: [0.8]", "personas.vanilla.pull.firm.1 is missing"),
        ("{firm: [0.8, -0.3], ", "{", "personas.vanilla.pull must name exactly firm, letdown"),
        ("mood: {firm: -0.3, ", "mood: {", "prior.kinds.inferential_cooperative.mood must name exactly firm"),
        ("temper: 0.0", "temper: 0.0\n    charm: 1", "there is no key personas.vanilla.charm"),
    ],
)
def test_a_faulty_persona_is_named_with_its_key(old: str, new: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^assets/personas.yaml: {message}"):
        read_personas(edited(old, new))


def test_an_unknown_persona_is_named_with_those_that_exist() -> None:
    with pytest.raises(UserError, match="no persona 'bully'; there are: vanilla, .*panicked"):
        load_persona("bully")


@pytest.mark.parametrize(
    ("persona", "family", "early", "late"),
    [
        ("vanilla", "firm", 1, -1),  # anger gets concessions (Van Kleef 2004), and spoils the end of a cooperative talk
        ("vanilla", "warm", -1, 1),
        ("pressure", "firm", 1, 1),
        ("pressure", "anxious", -1, -1),  # fear is exploited (Brooks & Schweitzer 2011)
        ("pressure", "letdown", -1, -1),
        ("victim", "warm", 1, 1),  # kindness is returned
        ("victim", "bright", -1, -1),
        ("threat", "firm", -1, -1),  # hostile parties retaliate
        ("threat", "letdown", 1, 1),  # disappointment does not provoke (Lelieveld 2012)
        ("threat", "inquiring", 1, 1),
        ("charmer", "bright", 1, 1),
        ("stoic", "inquiring", 1, 1),
        ("panicked", "warm", 1, 1),
    ],
)
def test_signs_of_the_susceptibilities(persona: str, family: str, early: int, late: int) -> None:
    who = load_persona(persona)
    assert np.sign(pull(who, family, stage=0.0)) == early
    assert np.sign(pull(who, family, stage=1.0)) == late


@by_persona
def test_anger_lowers_the_mood_and_warmth_lifts_it(persona: Persona) -> None:
    assert mood(persona, "firm") < persona.temper < mood(persona, "warm")


def test_the_same_anger_insults_a_threat_and_hardly_touches_pressure() -> None:
    drop = {name: load_persona(name).temper - mood(load_persona(name), "firm") for name in ("threat", "pressure")}
    assert drop["threat"] > 5 * drop["pressure"] > 0


@by_persona
@pytest.mark.parametrize("family", families())
def test_the_effect_is_proportional_to_what_is_perceived(persona: Persona, family: str) -> None:
    assert pull(persona, family, 0.3, mass=0.5) == pytest.approx(0.5 * pull(persona, family, 0.3))
    assert state(persona, constants(), [NO_EFFECT], [0.3]).pull == 0.0


@by_persona
def test_repeating_a_gain_wears_it_off_until_it_grates(persona: Persona) -> None:
    for family, late in zip(families(), persona.late, strict=True):
        if late <= 0:
            continue
        pulls = [state(persona, constants(), [shares(family)] * count, [1.0] * count).pull for count in (1, 2, 3, 6)]
        assert pulls[0] == pytest.approx(late)
        assert pulls[0] > pulls[1] > pulls[2] >= pulls[3]
        assert constants().stale * late <= pulls[3] < 0


@by_persona
def test_repeating_a_harm_never_makes_it_good(persona: Persona) -> None:
    for family, late in zip(families(), persona.late, strict=True):
        if late < 0:
            assert state(persona, constants(), [shares(family)] * 5, [1.0] * 5).pull == pytest.approx(late)


def test_a_pause_restores_part_of_the_effect() -> None:
    persona, warm, other = load_persona("victim"), shares("warm"), shares("inquiring")
    at_once = state(persona, constants(), [warm, warm], [0.5] * 2).pull
    later = state(persona, constants(), [warm, other, other, warm], [0.5] * 4).pull
    assert at_once < later < pull(persona, "warm", 0.5)


def test_mood_fades_to_the_temper_when_nothing_is_felt() -> None:
    persona = load_persona("threat")
    moods = [
        state(persona, constants(), [shares("firm"), *[NO_EFFECT] * n], [0.5] * (n + 1)).mood for n in (0, 1, 5, 30)
    ]
    assert moods == sorted(moods) and moods[0] < moods[1]
    assert moods[-1] == pytest.approx(persona.temper, abs=1e-3)


def test_mood_stays_within_bounds() -> None:
    assert mood(load_persona("threat"), *["firm"] * 15) == -1.0
    assert mood(load_persona("victim"), *["warm", "inquiring"] * 7) <= 1.0


def test_stages_run_from_early_and_apart_to_late_and_close() -> None:
    scenario, persona = Scenario("s", "debt", 20.0, 120.0), load_persona("vanilla")
    negotiation = Negotiation(scenario, seed=0)
    assert stages(persona, negotiation) == []
    for round in range(1, 10):
        negotiation.play(Turn(round, "focal", "x", offer=20.0 + 4 * round))
        negotiation.play(Turn(round, "counterparty", "x", offer=120.0 - 4 * round))
    found = stages(persona, negotiation)
    assert found == sorted(found) and len(set(found)) == 9
    assert found[0] == pytest.approx(0.02)  # round 1, 4 of 100 days closed
    assert found[-1] == pytest.approx((1 + 0.68) / 2)


@by_persona
def test_the_plan_rises_from_opening_to_reserve_within_the_patience(persona: Persona) -> None:
    plan = [planned(persona, round) for round in range(1, 16)]
    assert plan[0] == pytest.approx(persona.opening)
    assert plan == sorted(plan)
    assert plan[persona.patience - 1 :] == pytest.approx([persona.reserve] * (16 - persona.patience))


@by_persona
@pytest.mark.parametrize("draw", [-3.0, 0.0, 3.0])
def test_offers_never_go_back_nor_beyond_the_reserve(persona: Persona, draw: float) -> None:
    for family in families():
        now, last = state(persona, constants(), [shares(family)], [0.2]), None
        for round in range(1, 16):
            position = next_position(persona, constants(), now, last, round, draw)
            assert (last or 0.0) <= position <= persona.reserve
            last = position


def test_pull_and_mood_move_the_offer() -> None:
    persona, now = load_persona("vanilla"), state(load_persona("vanilla"), constants(), [], [])
    offers = [
        next_position(persona, constants(), replace(now, pull=pull, mood=mood), 0.2, 4, 0.0)
        for pull, mood in ((-0.3, 0.0), (0.0, -0.5), (0.0, 0.0), (0.0, 0.5), (0.5, 0.5))
    ]
    assert offers == sorted(offers) and len(set(offers)) == 5


@by_persona
def test_the_chance_to_walk_away_rises_with_hostility_and_fatigue(persona: Persona) -> None:
    calm = replace(state(persona, constants(), [], []), mood=0.1)
    cross, furious = replace(calm, mood=-0.4), replace(calm, mood=-1.0)
    middle, late = persona.patience - 1, persona.patience + 3
    assert walk_away_chance(persona, constants(), furious, 1) == 0.0
    chances = [walk_away_chance(persona, constants(), now, middle) for now in (calm, cross, furious)]
    assert chances[0] == 0.0 and chances == sorted(chances) and len(set(chances)) == 3
    assert walk_away_chance(persona, constants(), calm, late) > 0.2
    assert walk_away_chance(persona, constants(), furious, 15) <= 0.9
