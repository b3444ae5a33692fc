"""The emotions that a trained selector would choose over a corpus are those that it chooses in play."""

import pytest
from episodes import make_episode
from iql_cases import make

from emodistill.data.observations import Observer
from emodistill.emotions.perceiver import load_perceiver
from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.errors import UserError
from emodistill.learners.selector import IQLSelector, favourites
from emodistill.negotiation.protocol import Negotiation


def test_every_focal_turn_has_the_choice_of_play_after_the_turns_before_it():
    vocabulary = load_vocabulary()
    observer = Observer(vocabulary, load_perceiver("judge"))
    learner = make(observation_dim=observer.dim, num_emotions=len(vocabulary))
    for parameter in learner.parameters():
        parameter.data.mul_(8)  # or else an untrained policy has one favourite whatever it sees
    selector = IQLSelector(learner, observer)
    episodes = [make_episode(rounds, number=rounds % 2, seed=rounds) for rounds in (1, 4, 6)]
    found = favourites(selector, episodes)
    for episode, row in zip(episodes, found, strict=True):
        places = [i for i, turn in enumerate(episode.turns) if turn.speaker == "focal"]
        at_the_table = [Negotiation(episode.scenario, 0, turns=list(episode.turns[:i])) for i in places]
        assert row == [choice.emotion for choice in selector.select(at_the_table)]
    assert len({label for row in found for label in row}) > 1


def test_a_negative_temperature_would_prefer_what_is_liked_least():
    vocabulary = load_vocabulary()
    observer = Observer(vocabulary, load_perceiver("judge"))
    with pytest.raises(UserError, match=r"temperature=-0\.1: use 0 for the likeliest emotion"):
        IQLSelector(make(observation_dim=observer.dim, num_emotions=len(vocabulary)), observer, -0.1)
