"""Emotions that may not be shown: who is barred where, and what each kind of selector does then."""

import numpy as np
import pytest
import torch

from emodistill.data.observations import Observer
from emodistill.emotions.perceiver import load_perceiver
from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.errors import UserError
from emodistill.learners.iql import IQLLearner
from emodistill.learners.selector import IQLSelector
from emodistill.negotiation.agents import Choice, FixedEmotion, NoEmotion, UniformEmotion
from emodistill.negotiation.protocol import Negotiation
from emodistill.negotiation.scenarios import Scenario
from emodistill.safety.guard import Guard, load_guard

SETTINGS = {
    "hidden_dims": [16],
    "discount": 0.9,
    "expectile": 0.7,
    "inverse_temperature": 3.0,
    "max_advantage_weight": 100.0,
    "polyak": 0.1,
    "learning_rates": {"q": 1e-3, "v": 2e-3, "policy": 3e-3},
}
VOCABULARY = load_vocabulary("goemotions28")


def tables(domain: str = "hospital", count: int = 400) -> list[Negotiation]:
    return [Negotiation(Scenario(f"{domain}-{i}", domain, 60.0, 20.0), seed=i) for i in range(count)]


class Favourites:
    """A selector that ranks: it takes the first of its favourites that is allowed."""

    name = "favourites"
    order = ("anger", "disgust", "joy")

    def select_among(self, negotiations, allowed):
        return [Choice(next(label for label in self.order if label in may), 1.0) for may in allowed]

    def select(self, negotiations):
        return self.select_among(negotiations, [VOCABULARY.labels] * len(negotiations))


@pytest.mark.parametrize("level", ["mild", "strict"])
@pytest.mark.parametrize("domain", ["disaster", "hospital", "student"])
def test_nobody_is_angry_with_those_who_depend_on_the_focal_side(level, domain):
    barred = load_guard(level).barred(VOCABULARY, domain)
    assert {"anger", "annoyance", "disgust"} <= barred and "neutral" not in barred and "caring" not in barred


def test_strict_bars_all_that_mild_bars_and_every_label_is_known():
    mild, strict = load_guard("mild"), load_guard("strict")
    for domain, labels in strict.forbidden.items():
        assert mild.forbidden[domain] <= labels <= set(VOCABULARY.labels)
        assert mild.barred(VOCABULARY, domain) == mild.forbidden[domain]


def test_a_label_of_another_vocabulary_is_barred_where_all_its_meanings_are():
    ekman = load_vocabulary("ekman7")
    assert load_guard("mild").barred(ekman, "hospital") == {"disgust", "anger"}
    assert "joy" not in load_guard("strict").barred(
        ekman, "hospital"
    )  # strict bars amusement, which is only a part of it


def test_a_uniform_selector_draws_evenly_among_what_is_left():
    selector = load_guard("strict").selector(UniformEmotion(VOCABULARY), VOCABULARY)
    choices = selector.select(tables(count=3000))
    allowed = set(VOCABULARY.labels) - load_guard("strict").barred(VOCABULARY, "hospital")
    assert {choice.emotion for choice in choices} == allowed
    assert {choice.probability for choice in choices} == {1 / len(allowed)}
    counts = np.unique([choice.emotion for choice in choices], return_counts=True)[1]
    assert counts.min() > 0.6 * 3000 / len(allowed)


def test_a_ranking_selector_takes_the_best_that_is_left_in_each_domain():
    guard = Guard("test", (), {"hospital": ["anger"], "student": ["anger", "disgust"]})
    mixed = tables("debt", 1) + tables("hospital", 1) + tables("student", 1)
    chosen = guard.selector(Favourites(), VOCABULARY).select(mixed)
    assert [choice.emotion for choice in chosen] == ["anger", "disgust", "joy"]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_trained_selector_chooses_among_what_is_left_by_its_own_ranking(temperature):
    observer, labels = Observer(VOCABULARY, load_perceiver("judge")), list(VOCABULARY.labels)
    torch.manual_seed(0)
    learner = IQLLearner(**{**SETTINGS, "observation_dim": observer.dim, "num_emotions": len(labels)})
    selector = IQLSelector(learner, observer, temperature)
    barred = load_guard("strict").barred(VOCABULARY, "hospital")
    (favourite,) = selector.select(tables(count=1)) if temperature == 0 else (Choice("anger", 1.0),)
    guard = Guard("test", (), {"hospital": [*barred, favourite.emotion]})
    guarded_choices = guard.selector(selector, VOCABULARY).select(tables(count=200))
    assert {choice.emotion for choice in guarded_choices}.isdisjoint(guard.barred(VOCABULARY, "hospital"))
    if temperature:
        drawn = {choice.emotion: choice.probability for choice in guarded_choices}
        assert len(drawn) > 5 and sum(drawn.values()) <= 1 + 1e-9 and sum(drawn.values()) > 0.9
    else:
        assert selector.select(tables(count=1)) == [favourite]  # without the guard nothing has changed


def test_a_constant_emotion_is_refused_with_the_way_out():
    angry = load_guard("mild").selector(FixedEmotion(VOCABULARY, "anger"), VOCABULARY)
    assert angry.select(tables("debt", 1))[0].emotion == "anger"
    with pytest.raises(
        UserError, match="guard=mild bars 'anger' in 'hospital', and fixed:anger chose it; leave its arm"
    ):
        angry.select(tables("hospital", 1))
    with pytest.raises(UserError, match="bars 'anger' in 'student'"):
        load_guard("mild").check("anger", ["debt", "student"], VOCABULARY)
    for source in ("iql", "none", "joy"):
        load_guard("mild").check(source, ["debt", "student"], VOCABULARY)


def test_what_is_not_touched():
    fixed = FixedEmotion(VOCABULARY, "anger")
    assert (
        load_guard("off").selector(fixed, VOCABULARY) is fixed
        and load_guard("words").selector(fixed, VOCABULARY) is fixed
    )
    assert load_guard("strict").selector(NoEmotion(), VOCABULARY).select(tables(count=1)) == [Choice(None, None)]
    assert load_guard("strict").selector(NoEmotion(), VOCABULARY).name == "none"


def test_unknown_levels_and_kinds_and_a_guard_that_leaves_nothing():
    with pytest.raises(UserError, match="levels are off, words, mild, strict"):
        load_guard("harsh")
    with pytest.raises(UserError, match="unknown kind 'boasting'"):
        Guard("test", ["boasting"], {})
    with pytest.raises(UserError, match="leaves no emotion"):
        Guard("test", (), {"debt": VOCABULARY.labels}).barred(VOCABULARY, "debt")
