"""Which turns are learnt from: ranks within a scenario, never over the whole corpus."""

from dataclasses import replace

import numpy as np
import pytest
from episodes import make_episode

from emodistill.data.selection import (
    AdvantageWeights,
    AllTurns,
    ExpressedTurns,
    PositiveAdvantage,
    TopAdvantage,
    TopJudged,
    TopReturn,
    judge_scores,
)
from emodistill.emotions.perceiver import load_perceiver
from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.errors import UserError


def corpus():
    return [make_episode(rounds=5, number=n, seed=s) for n in (0, 1) for s in (0, 1)]


def test_every_scenario_gets_its_share_however_easy_it_is():
    """Defect 11: ranked over the corpus, scenario 1, whose values are all higher, would take everything."""
    episodes = corpus()
    values = [np.arange(5.0) + 100 * int(e.scenario.id[-1]) + e.seed / 2 for e in episodes]
    chosen = TopAdvantage(0.2, lambda _: values)(episodes)
    taken = {
        scenario: sum(sum(m) for m, e in zip(chosen, episodes, strict=True) if e.scenario.id == scenario)
        for scenario in ("debt-000", "debt-001")
    }
    assert taken == {"debt-000": 2, "debt-001": 2}
    assert [m.index(True) if any(m) else None for m in chosen] == [4, 4, 4, 4]


def test_the_share_is_rounded_up_and_missing_values_are_never_chosen():
    episodes = corpus()[:1]
    values = [np.array([np.nan, 5.0, 1.0, np.nan, 0.0])]
    assert TopAdvantage(0.34, lambda _: values)(episodes) == [[False, True, True, False, False]]
    assert TopAdvantage(1.0, lambda _: values)(episodes) == [[False, True, True, False, True]]


def test_positive_advantage_and_all():
    episodes = corpus()[:1]
    assert PositiveAdvantage(lambda _: [np.array([-1.0, 0.0, 2.0, np.nan, 1.0])])(episodes) == [
        [False, False, True, False, True]
    ]
    assert AllTurns()(episodes) == [[True] * 5]


def test_return_takes_whole_episodes():
    good = replace(make_episode(rounds=2, seed=1), end="deal", deal_value=25.0)
    assert TopReturn(0.5)([make_episode(rounds=2), good]) == [[False, False], [True, True]]


def test_invalid_episodes_are_never_chosen():
    broken = [replace(e, end="invalid", fault="timeout") for e in corpus()]
    rules = [
        AllTurns(),
        TopReturn(1.0),
        TopAdvantage(1.0, lambda es: [np.ones(5)] * len(es)),
        PositiveAdvantage(lambda es: [np.ones(5)] * len(es)),
    ]
    for rule in rules:
        assert not any(any(mask) for mask in rule(broken))


class LengthJudge:
    """Scores by length; has nothing to say about the second round."""

    def scores(self, requests):
        return [
            None if request.utterance.startswith("Round 1") else float(len(request.history)) for request in requests
        ]


def test_judge_scores_keep_their_place_and_missing_ones_stay_missing():
    scores = judge_scores(corpus()[:2], LengthJudge())
    for row in scores:
        np.testing.assert_array_equal(row, [0.0, np.nan, 4.0, 6.0, 8.0])
    assert TopJudged(0.2, LengthJudge())(corpus()[:1]) == [[False, False, False, False, True]]


def test_a_judge_is_not_paid_for_invalid_episodes():
    class Counting(LengthJudge):
        asked = 0

        def scores(self, requests):
            self.asked += len(requests)
            return super().scores(requests)

    good, judge = corpus()[0], Counting()
    broken = replace(corpus()[1], end="invalid", fault="timeout")
    assert TopJudged(0.2, judge)([broken, good, broken]) == [[False] * 5, [False] * 4 + [True], [False] * 5]
    assert judge.asked == len(good.focal_turns)


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.5])
def test_a_share_that_is_none_is_refused(fraction):
    with pytest.raises(UserError, match=f"fraction={fraction}"):
        TopReturn(fraction)


def test_only_turns_that_show_what_they_were_asked_for_are_expressed():
    episode = make_episode(rounds=4)
    said = [
        ("gratitude", "Thank you so much, I am grateful. My offer is 20 days.", False),
        ("anger", "Thank you so much, I am grateful. My offer is 20 days.", False),
        ("gratitude", "Thank you so much, I am grateful. My offer is 20 days.", True),
        (None, "My offer is 20 days.", False),
    ]
    turns, spoken = [], iter(said)
    for turn in episode.turns:
        if turn.speaker == "focal":
            emotion, text, appended = next(spoken)
            turn = replace(turn, emotion=emotion, text=text, offer_appended=appended)
        turns.append(turn)
    rule = ExpressedTurns(load_vocabulary(), load_perceiver("judge"))
    changed = replace(episode, turns=tuple(turns))
    assert rule([changed]) == [[True, False, False, True]]
    assert rule([replace(changed, end="invalid", fault="timeout")]) == [[False] * 4]
    assert rule([]) == []


def test_weights_by_advantage_have_mean_one_and_a_limit():
    values = [np.array([0.0, np.log(3.0)]), np.array([np.nan, 50.0])]
    episodes = [make_episode(rounds=2), make_episode(rounds=2, seed=1)]
    weights, every = AdvantageWeights(lambda _: values, 1.0, 5.0), [[True, True]] * 2
    (a, b), (unknown, largest) = weights(episodes, every)
    assert b / a == pytest.approx(3.0) and largest / a == pytest.approx(5.0) and unknown == 1.0
    assert a + b + largest == pytest.approx(3.0)
    (alone, _), _ = weights(episodes, [[True, False], [True, False]])
    assert alone == pytest.approx(1.0)  # the mean is of what is learnt from
    broken = [episodes[0], replace(episodes[1], end="invalid", fault="timeout")]
    assert weights(broken, every) == [pytest.approx([0.5, 1.5]), [1.0, 1.0]]
    with pytest.raises(UserError, match="temperature=0"):
        AdvantageWeights(lambda _: values, 0.0, 5.0)
