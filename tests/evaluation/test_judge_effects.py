"""What followed a turn is read from the episode, and correlations are those within groups."""

import numpy as np
import pytest

from emodistill.data.schema import Episode
from emodistill.evaluation import judge_effects
from emodistill.evaluation.judge_effects import effects, within_groups
from emodistill.judges.request import Judgement
from emodistill.negotiation.protocol import Turn
from emodistill.negotiation.scenarios import Scenario

SCENARIO = Scenario("debt-000", "debt", focal_target=30.0, counterparty_target=130.0)


def episode(seed, words, answer, act="propose"):
    """The debtor stands at 120 days (position .1); after `words` comes `answer`."""
    turns = (
        Turn(1, "focal", "30 days.", offer=30.0),
        Turn(1, "counterparty", "120 days.", offer=120.0),
        Turn(2, "focal", words, emotion="joy", offer=60.0),
        Turn(2, "counterparty", "Well.", offer=answer, act=act),
    )
    return Episode(
        f"e{seed}", "val", SCENARIO, "uniform", "teacher", "behavioural:stoic", seed, turns, "deadline", None
    )


class ByLength:
    name, version = "length", "1"

    def judge(self, requests, on_judgement=None):
        return [Judgement(min(10.0, 1.0 + len(request.utterance) / 10)) for request in requests]


def test_concessions_are_moves_in_position_and_acceptance_takes_the_offer():
    played = [episode(0, "a", 110.0), episode(1, "b", None, "accept"), episode(2, "c", None, "walk_away")]
    second = [one for one in effects(played) if one.group[2] == 2]
    assert [one.concession for one in second] == [
        pytest.approx(0.1),
        pytest.approx(0.6),
        pytest.approx(np.nan, nan_ok=True),
    ]
    assert [one.request.utterance for one in second] == ["a", "b", "c"] and len(second[0].request.history) == 2
    first = [one for one in effects(played) if one.group[2] == 1]
    assert len(first) == 3 and np.isnan([one.concession for one in first]).all()  # nothing to move from
    assert effects(played[:2]) == []  # too small a group


def test_differences_between_groups_do_not_count():
    groups = [0, 0, 0, 1, 1, 1]
    scores, effect = np.array([1.0, 2, 3, 7, 8, 9]), np.array([9.0, 8, 7, 30, 20, 10])
    value, low, high = within_groups(scores, effect, groups)
    assert value == low == high == pytest.approx(-1) and np.corrcoef(scores, effect)[0, 1] > 0
    assert within_groups(scores, -effect, groups)[0] == pytest.approx(1)
    assert np.isnan(within_groups(np.ones(6), effect, groups)).all()
    assert np.isnan(within_groups(scores, np.full(6, np.nan), groups)).all()


def test_a_judge_that_likes_what_works_correlates(tmp_path):
    played = [episode(i, "w" * (10 + 5 * i), 118.0 - 5 * i) for i in range(6)]
    line = judge_effects.row("length", ByLength(), effects(played), seed=0)
    assert line.startswith("| `length` | 12 | 2 | +1.00 [+1.00, +1.00] |")
