"""The fit of the sense's constants: it finds what is planted, and refuses what cannot be told apart."""

import numpy as np
import pytest

from emodistill.errors import UserError
from emodistill.judges.sense import Signs
from emodistill.judges.validation.sense_fit import FLUENT, RELEVANT, STEEPNESS, fitted, material
from emodistill.judges.validation.senseless import CAUGHT
from emodistill.negotiation.offers import parse_offer

KINDS = ["good", "teacher", "off_topic", "heap", "nonsense", "repetition", "non_sequitur"]
NAMES = (*FLUENT, *RELEVANT[:3])


def replies(gap, number=40):
    """Features where heaps and nonsense are `gap` less fluent, and what is off the topic gains as much less."""
    rng = np.random.default_rng(0)
    found, kinds = [], []
    for kind in KINDS:
        for _ in range(number):
            one = dict(zip(NAMES, rng.normal(size=len(NAMES)), strict=True))
            one["mean"] -= gap * (kind in ("heap", "nonsense"))
            one["gain"] -= gap * (kind in ("non_sequitur", "off_topic"))
            found.append(one)
            kinds.append(kind)
    return found, np.full(len(kinds), 9.0), kinds, np.zeros(len(kinds))


def sign(weights, one, names):
    return weights[0] + sum(weight * one[name] for weight, name in zip(weights[1:], names, strict=True))


def test_what_is_planted_is_found_and_good_replies_keep_their_scores():
    features, scores, kinds, own = replies(gap=8.0)
    signs = fitted(features, scores, kinds, own)
    assert signs.fluent[1] > 3 * max(np.abs(signs.fluent[2:]))
    assert signs.relevant[1] > 3 * max(np.abs(signs.relevant[2:]))
    lost = [sign(signs.fluent, one, FLUENT) for one, kind in zip(features, kinds, strict=True) if kind == "heap"]
    kept = [
        min(sign(signs.fluent, one, FLUENT), sign(signs.relevant, one, RELEVANT))
        for one, kind in zip(features, kinds, strict=True)
        if kind in ("good", "teacher")
    ]
    assert np.mean(np.array(lost) < -1) >= 0.95 and np.mean(np.array(kept) >= 0) >= 0.95


def caught(signs, features, kinds, kind):
    """Share of replies of a kind that score below 4 where the arithmetic alone gives 9."""
    signs_of = [
        min(sign(signs.fluent, one, FLUENT), sign(signs.relevant, one, RELEVANT), 0.0)
        for one, other in zip(features, kinds, strict=True)
        if other == kind
    ]
    return np.mean(1 + 8 * np.exp(signs_of) < CAUGHT)


def test_of_thresholds_that_catch_enough_of_each_kind_those_are_taken_that_cost_good_replies_least():
    features, scores, kinds, own = replies(gap=4.0)
    signs = fitted(features, scores, kinds, own)
    assert min(caught(signs, features, kinds, kind) for kind in ("heap", "nonsense", "non_sequitur")) >= 0.95
    stricter = Signs(
        fluent=(signs.fluent[0] - STEEPNESS, *signs.fluent[1:]),
        relevant=(signs.relevant[0] - STEEPNESS, *signs.relevant[1:]),
    )
    assert caught(stricter, features, kinds, "good") > caught(signs, features, kinds, "good")
    assert caught(signs, features, kinds, "good") < 0.1
    milder = Signs(
        fluent=(signs.fluent[0] + STEEPNESS / 2, *signs.fluent[1:]),
        relevant=(signs.relevant[0] + STEEPNESS / 2, *signs.relevant[1:]),
    )
    assert min(caught(milder, features, kinds, kind) for kind in ("heap", "nonsense", "non_sequitur")) < 0.95


def test_what_cannot_be_told_apart_is_refused():
    with pytest.raises(UserError, match="cannot tell sense from nonsense"):
        features, scores, kinds, own = replies(gap=0.0)
        fitted(features, scores, kinds, own)


def test_the_teacher_says_the_offer_of_the_good_reply():
    found = material(["debt"])
    good = [case.request for case in found if case.level == "good" and not case.fault]
    offers = {(one.scenario.id, one.emotion, parse_offer(one.utterance, "debt")) for one in good}
    teacher = [case.request for case in found if case.fault == "teacher"]
    assert len(teacher) >= 20
    assert {(one.scenario.id, one.emotion, parse_offer(one.utterance, "debt")) for one in teacher} <= offers
    assert not {one.utterance for one in teacher} & {one.utterance for one in good}
