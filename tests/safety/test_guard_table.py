"""The table of mean returns under the guard: its best emotion among those that are left."""

import dataclasses

import pytest
from episodes import make_episode

from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.learners.selector import MeanReturnBaseline
from emodistill.negotiation.protocol import Negotiation
from emodistill.safety.guard import Guard

VOCABULARY = load_vocabulary("goemotions28")


def showing(emotion, number, deal):
    """An episode that shows one emotion in every turn and ends in a deal at `deal`."""
    played = make_episode(number=number)
    turns = tuple(dataclasses.replace(turn, emotion=emotion if turn.emotion else None) for turn in played.turns)
    return dataclasses.replace(played, turns=turns, end="deal", deal_value=deal)


@pytest.mark.parametrize(
    ("barred", "chosen"), [([], "anger"), (["anger"], "joy"), (["anger", "joy"], "caring"), (["caring"], "anger")]
)
def test_the_best_that_is_left(barred, chosen):
    given = {"caring": 85.0, "anger": 20.0, "joy": 50.0}
    episodes = [showing(emotion, i, deal) for i, (emotion, deal) in enumerate(given.items())]
    selector = Guard("test", (), {"debt": barred}).selector(
        MeanReturnBaseline(episodes, VOCABULARY, 0.99, 1), VOCABULARY
    )
    assert [choice.emotion for choice in selector.select([Negotiation(episodes[0].scenario, seed=0)])] == [chosen]
