"""What the focal side sees: only the past, in positions, the same in the corpus and in play."""

import numpy as np
import pytest
from episodes import make_episode
from rewards import default_reward

from emodistill.data.observations import (
    COMPACT,
    PERCEIVED,
    SITUATION,
    DialoguePrefix,
    Observer,
    observation_dim,
    situation_of,
)
from emodistill.data.transitions import TransitionDataset
from emodistill.emotions.perceiver import load_perceiver
from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.errors import UserError
from emodistill.negotiation.protocol import COUNTERPARTY, FOCAL, Turn
from emodistill.negotiation.scenarios import Scenario

LESS = Scenario("debt-1", "debt", 20, 120, {})
TURNS = [
    Turn(1, FOCAL, "Pay in 20 days!", offer=20, emotion="anger"),
    Turn(1, COUNTERPARTY, "I am so sorry, 120 days.", offer=120),
    Turn(2, FOCAL, "40 then.", offer=40, emotion="joy"),
    Turn(2, COUNTERPARTY, "100 days.", offer=100),
    Turn(3, FOCAL, "Still 40.", offer=40, emotion="joy"),
    Turn(3, COUNTERPARTY, "Still 100.", offer=100),
]


@pytest.fixture(scope="module")
def observer():
    return Observer(load_vocabulary(), load_perceiver("judge"))


def test_situation_by_hand():
    found = situation_of(DialoguePrefix(LESS, TURNS[:4]))
    assert found == pytest.approx([0.2, 0.8 - 0.2, 2 / 15, 0.2, 0.8, 0.2, 0.0])


def test_a_standstill_is_counted_and_averaged():
    found = situation_of(DialoguePrefix(LESS, TURNS))
    assert found[0] == 0.0
    assert found[5] == pytest.approx(0.1)  # mean of 0.2 and 0
    assert found[6] == pytest.approx(1 / 15)


def test_before_the_first_turn_the_gap_is_whole_and_nothing_is_perceived(observer):
    row = observer([DialoguePrefix(LESS, [])])[0]
    assert row[:SITUATION].tolist() == [0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0]
    assert not row[SITUATION:].any()


def test_messages_read_together_have_the_numbers_that_each_has_alone(observer):
    words = ["I am so sorry, 120 days.", "100 days!", None, "I am so sorry, 95 days.", "100 days!", ""]
    prefixes = [
        DialoguePrefix(LESS, [TURNS[0]] if text is None else [TURNS[0], Turn(1, COUNTERPARTY, text, offer=50)])
        for text in words
    ]
    together, alone = observer(prefixes), np.concatenate([observer([prefix]) for prefix in prefixes])
    assert np.array_equal(together, alone)
    seen = together[:, -PERCEIVED:]
    assert np.array_equal(seen[0], seen[3]) and not np.array_equal(seen[0], seen[1])
    assert not seen[2].any() and not seen[5].any() and seen[1].any()


def test_last_own_emotion_is_one_hot_and_perception_is_of_the_last_message(observer):
    row = observer([DialoguePrefix(LESS, TURNS[:2])])[0]
    vocabulary = observer.vocabulary
    own, perceived = row[SITUATION : SITUATION + len(vocabulary)], row[-PERCEIVED:]
    assert own.argmax() == vocabulary.index("anger") and own.sum() == 1
    assert perceived.sum() == pytest.approx(1, abs=1e-5)
    assert vocabulary.labels[perceived.argmax()] == "remorse"


def test_the_same_whatever_the_batch_and_blind_to_the_future(observer):
    views = [DialoguePrefix(LESS, TURNS[:i]) for i in (0, 2, 4)]
    together = observer(views)
    alone = np.concatenate([observer([view]) for view in views])
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_what_is_seen_does_not_depend_on_the_unit(observer):
    """A domain in which we want more, with the same positions, looks the same."""
    more = Scenario("disaster-1", "disaster", 120, 20, {})
    mirrored = [
        Turn(t.round, t.speaker, t.text, offer=None if t.offer is None else 140 - t.offer, emotion=t.emotion)
        for t in TURNS
    ]
    np.testing.assert_allclose(
        observer([DialoguePrefix(more, mirrored)]), observer([DialoguePrefix(LESS, TURNS)]), atol=1e-6
    )


def test_widths_are_as_announced():
    perceiver = load_perceiver("judge")
    for name in ("goemotions28", "ekman7"):
        for variant in ("full", "effects", "compact"):
            row = Observer(load_vocabulary(name), perceiver, variant)([DialoguePrefix(LESS, [])])
            assert row.shape == (1, observation_dim(name, variant))
    assert observation_dim("goemotions28", "compact") == COMPACT == 10


def test_effects_are_what_each_group_of_emotions_was_answered_with():
    observer = Observer(load_vocabulary(), load_perceiver("judge"), "effects")
    groups = load_vocabulary("ekman7")
    views = [DialoguePrefix(LESS, TURNS[:i]) for i in (0, 2, 6)]
    rows = observer(views)
    np.testing.assert_array_equal(
        rows[:, : -2 * len(groups)], Observer(load_vocabulary(), load_perceiver("judge"))(views)
    )
    moves, counts = rows[:, -2 * len(groups) : -len(groups)], rows[:, -len(groups) :]
    assert not rows[0, -2 * len(groups) :].any()
    anger, joy = groups.index("anger"), groups.index("joy")
    assert counts[1].tolist() == pytest.approx([1 / 15 if i == anger else 0 for i in range(len(groups))])
    assert not moves[1].any()  # 120 days is the counterparty's target
    expected = {anger: 0.0, joy: (0.2 + 0.0) / 2}
    assert moves[2].tolist() == pytest.approx([expected.get(i, 0.0) for i in range(len(groups))])
    assert counts[2][joy] == pytest.approx(2 / 15) and counts[2].sum() == pytest.approx(3 / 15)


def test_unknown_variant_and_unknown_emotion_are_errors(observer):
    with pytest.raises(UserError, match="full, effects, compact"):
        Observer(load_vocabulary(), load_perceiver("judge"), "huge")
    with pytest.raises(UserError, match="observation=huge: use full, effects, compact"):
        observation_dim("goemotions28", "huge")
    with pytest.raises(UserError, match="observation=huge: use full, effects, compact"):
        TransitionDataset("goemotions28", "huge", default_reward(), batch_size=4, batches_per_epoch=1)
    odd = [Turn(1, FOCAL, "x", emotion="greed"), Turn(1, COUNTERPARTY, "y")]
    with pytest.raises(UserError, match="unknown emotion 'greed'"):
        observer([DialoguePrefix(LESS, odd)])


def test_no_constant_feature_in_a_varied_set_of_views(observer):
    """Defect 14: the published observation has two features that never change."""
    episodes = [make_episode(rounds=4, number=n, seed=n) for n in range(8)]
    views = [DialoguePrefix(e.scenario, e.turns[:i]) for e in episodes for i in range(0, 8, 2)]
    varied = observer(views)[:, [0, 1, 2, 3, 4, 5]]
    assert (varied.std(0) > 0).all()
