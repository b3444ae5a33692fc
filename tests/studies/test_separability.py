"""Whether Q's promises come true: by hand on made-up turns, and on an untrained selector's own."""

import numpy as np
import pytest
import torch
from episodes import make_episode
from rewards import default_reward

from emodistill.data.observations import Observer, observation_dim
from emodistill.emotions.perceiver import load_perceiver
from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.learners.iql import IQLLearner
from emodistill.learners.selector import IQLSelector
from emodistill.reporting.figures.curves import Bin
from emodistill.studies.separability import called, q_turns, rank_correlation, resampled, result_of, slope

DISCOUNT = 0.9


def selector():
    """A selector nobody trained, whose corpus never showed grief and paid in units of 2."""
    torch.manual_seed(0)
    width = observation_dim("goemotions28", "full")
    rates = {"q": 1e-3, "v": 1e-3, "policy": 1e-3}
    learner = IQLLearner(width, 28, [8], DISCOUNT, 0.7, 3.0, 100.0, 0.005, rates)
    vocabulary = load_vocabulary("goemotions28")
    learner.stats.reward_scale.fill_(2.0)
    learner.stats.action_mask[vocabulary.index("grief")] = False
    return IQLSelector(learner, Observer(vocabulary, load_perceiver("judge"), "full"))


def test_a_turn_is_held_against_the_other_emotions_and_the_value_of_its_state():
    own = selector()
    turns = q_turns([make_episode(rounds=2)], own, default_reward(concession=0.0, utility=1.0), DISCOUNT)
    observation = turns.table.transitions.observation
    values = 2.0 * own.learner.q_values(observation)
    seen = own.learner.stats.action_mask
    chosen = values.gather(1, turns.table.transitions.action[:, None])[:, 0]
    assert turns.predicted == pytest.approx(chosen.numpy(), abs=1e-6)
    assert turns.advantage == pytest.approx((chosen - values[:, seen].mean(1)).numpy(), abs=1e-6)
    state = 2.0 * own.learner.v(own.learner.stats.standardise(observation))[:, 0].detach().numpy()
    assert turns.beyond == pytest.approx(turns.realised - state, abs=1e-6)
    assert turns.drawn.tolist() == [True, True]


def test_an_emotion_is_drawn_only_where_chance_chose_it():
    certain, unknown = make_episode(rounds=1, number=1), make_episode(rounds=1, number=2)
    for episode, probability in ((certain, 1.0), (unknown, None)):
        object.__setattr__(episode.turns[0], "emotion_prob", probability)
    turns = q_turns(
        [make_episode(rounds=1), certain, unknown], selector(), default_reward(concession=0.0, utility=1.0), DISCOUNT
    )
    assert turns.drawn.tolist() == [True, False, False]


def test_each_training_seed_has_a_name_of_its_own():
    found = {key: [0.5, 0.4, 0.6] for key in ("kept", "correlation", "bias", "returned")} | {"fitted_q": 0.5}
    rows = [{"arm": "random", "condition": "", "training_seed": seed, **found} for seed in (0, 7)]
    bins = [Bin(called(row, True), 0.1, 0.2, 0.1, 0.3) for row in rows]
    shown = result_of(rows, bins, several=True)
    names = ["random, training seed 0", "random, training seed 7"]
    assert [line.split(":")[0] for line in shown.verdicts[1:]] == [bin.label for bin in bins] == names
    assert "training_seed" in [column.key for column in shown.tables[0].columns]
    alone = result_of(rows[:1], bins[:1], several=False)
    assert alone.verdicts[1].startswith("random: ")
    assert "training_seed" not in [column.key for column in alone.tables[0].columns]


def promises(kept, scenarios=40, each=6, seed=0):
    """Turns whose return beyond the state is `kept` of what Q promised, and noise that scenarios share."""
    rng = np.random.default_rng(seed)
    promised = rng.normal(0, 1, (scenarios, each))
    came = 3.0 + kept * promised + rng.normal(0, 1, (scenarios, 1)) + rng.normal(0, 0.5, (scenarios, each))
    return promised.ravel(), came.ravel(), np.repeat(np.arange(scenarios), each).tolist()


@pytest.mark.parametrize("kept", [0.0, 0.5, 1.0])
def test_what_is_kept_of_a_promise_is_found(kept):
    found, low, high = resampled(slope, *promises(kept))
    assert low < kept < high and high - low < 0.6 and low < found < high


def test_turns_that_nobody_drew_are_left_out():
    promised, came, scenarios = promises(1.0)
    chosen = np.arange(len(promised)) % 2 == 0
    came = np.where(chosen, came, -10 * promised)
    assert resampled(slope, promised, came, scenarios, chosen)[1] > 0 > resampled(slope, promised, came, scenarios)[2]


def test_without_two_scenarios_or_any_variation_nothing_is_said():
    nothing = [float("nan")] * 3
    assert resampled(slope, np.arange(3.0), np.arange(3.0), [0, 0, 0]) == pytest.approx(nothing, nan_ok=True)
    flat = resampled(rank_correlation, np.ones(4), np.arange(4.0), [0, 0, 1, 1])
    assert flat == pytest.approx(nothing, nan_ok=True)
