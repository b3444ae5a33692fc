"""Personas drawn from the prior: the same everywhere, disjoint between their uses, around its kinds."""

import numpy as np
import pytest

from emodistill.counterparties.personas import Kinds, families, load_persona, named_personas, prior, reactions
from emodistill.counterparties.population import DRAWS, _reactions, digest, load_personas
from emodistill.counterparties.specs import SimulatedCounterpartySpec
from emodistill.errors import UserError


def numbers(persona):
    plain = (persona.patience, persona.opening, persona.reserve, persona.exponent, persona.temper)
    return (*plain, *np.concatenate([persona.early, persona.late, persona.mood]).tolist())


def table(word):
    """(N, 3, F) reactions of many draws."""
    return np.array([[persona.early, persona.late, persona.mood] for persona in load_personas(word)])


def test_a_draw_does_not_depend_on_how_many_are_drawn():
    few, many = load_personas("population:3"), load_personas("population:48")
    assert [numbers(persona) for persona in few] == [numbers(persona) for persona in many[:3]]
    assert [persona.name for persona in few] == ["population-0", "population-1", "population-2"]
    assert numbers(load_personas("population-2")[0]) == numbers(few[2])


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("population:48", "f5cce93bac64"),
        ("validation:16", "c4ec03484a2a"),
        ("test:16", "b3905db15f3f"),
        ("outside:16", "81b10051e81f"),
    ],
)
def test_the_draws_are_what_they_were(word, expected):
    """A corpus is found by its recipe: other numbers under the same words would pass for the old ones."""
    assert digest(load_personas(word)) == expected


def test_a_draw_from_outside_has_one_family_that_pulls_the_other_way():
    """Without that turn it is a draw with twice the spread: the same generator, followed by hand."""
    for number in range(20):
        rng = np.random.default_rng((prior().seed, DRAWS.index("outside"), number))
        unturned = _reactions(prior(), rng, 2.0)
        turned = int(rng.integers(len(families())))
        signs = np.where(np.arange(len(families())) == turned, -1.0, 1.0)
        persona = load_personas(f"outside-{number}")[0]
        assert np.allclose([persona.early, persona.late, persona.mood], unturned * signs, atol=0.0051)


def test_training_validation_and_test_draws_share_nobody():
    drawn = [numbers(persona) for kind in DRAWS for persona in load_personas(f"{kind}:48")]
    assert len(set(drawn)) == len(drawn) == 48 * len(DRAWS)
    assert not {numbers(load_persona(name)) for name in named_personas()} & set(drawn)


@pytest.mark.parametrize("kind", DRAWS)
def test_numbers_stay_within_their_ranges(kind):
    source = prior()
    for persona in load_personas(f"{kind}:200"):
        for name in ("patience", "opening", "reserve", "exponent", "temper"):
            low, high = getattr(source, name)
            assert low <= getattr(persona, name) <= high
        assert persona.voice in source.voices and 0 <= persona.opening < persona.reserve <= 1
    assert len({persona.patience for persona in load_personas(f"{kind}:200")}) == 4


def test_the_mean_of_many_draws_is_that_of_the_kinds():
    kinds = np.array([reactions(getattr(prior().kinds, name)) for name in Kinds.model_fields])
    drawn = table("population:2000")
    assert np.abs(drawn.mean(axis=0) - kinds.mean(axis=0)).max() < 0.06
    assert (np.sign(drawn[:, 0, families().index("anxious")]) == -1).mean() > 0.9


def test_draws_differ_and_mostly_lie_near_a_kind():
    kinds = np.array([reactions(getattr(prior().kinds, name)) for name in Kinds.model_fields])
    firm = table("population:400")[:, 0, families().index("firm")]
    assert (firm > 0.4).mean() > 0.3 and (firm < -0.2).mean() > 0.15  # anger pays with some and costs with others
    distance = np.abs(table("population:400")[:, None] - kinds).mean(axis=(2, 3))
    assert set(distance.argmin(axis=1)) == set(range(len(kinds)))


def test_draws_from_outside_lie_further_from_the_kinds_and_turn_one_family_round():
    mean = table("population:2000").mean(axis=0)
    inside, outside = np.abs(table("test:400") - mean).mean(), np.abs(table("outside:400") - mean).mean()
    assert outside > 1.3 * inside
    anxious = table("outside:400")[:, 0, families().index("anxious")]
    assert (anxious > 0).mean() > 2 * (table("test:400")[:, 0, families().index("anxious")] > 0).mean()


def test_the_voice_gives_no_reaction_away():
    drawn = load_personas("population:2000")
    voices = np.array([prior().voices.index(persona.voice) for persona in drawn])
    overall = np.array([numbers(persona) for persona in drawn])
    for voice in range(len(prior().voices)):
        mine = overall[voices == voice]
        assert len(mine) > 400
        error = overall.std(axis=0) / np.sqrt(len(mine))
        assert (np.abs(mine.mean(axis=0) - overall.mean(axis=0)) < 4.5 * error).all()


@pytest.mark.parametrize("word", ["crowd:4", "population", "population:", "population:-3", "test:x", "population:4.5"])
def test_a_word_that_means_nothing_is_named_with_what_can_be_given(word):
    with pytest.raises(UserError, match=f"no persona '{word}'; there are: vanilla, .*and draws: population:N"):
        load_personas(word)


@pytest.mark.parametrize("given", [48, None, ["vanilla", 3]])
@pytest.mark.parametrize("reader", [load_personas, SimulatedCounterpartySpec])
def test_what_is_no_word_is_refused_in_the_same_way(reader, given):
    with pytest.raises(UserError, match="no persona '(48|null|3)'; there are: vanilla, .*and draws: population:N"):
        reader(given)


@pytest.mark.parametrize("word", ["population:0", "test:999999"])
def test_too_few_or_too_many_draws_are_refused(word):
    with pytest.raises(UserError, match=f"personas={word}: from 1 to"):
        load_personas([word])


def test_words_may_be_mixed_and_their_draws_are_part_of_a_recipe():
    mixed = load_personas(["victim", "test:2", "outside-7"])
    assert [persona.name for persona in mixed] == ["victim", "test-0", "test-1", "outside-7"]
    assert mixed[0].voice == "victim"
    recipes = [
        SimulatedCounterpartySpec(words).recipe() for words in ("population:4", "validation:4", ["population:4"])
    ]
    assert recipes[0] == recipes[2] != recipes[1]
    assert recipes[0]["personas"] != recipes[1]["personas"]
