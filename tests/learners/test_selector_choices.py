"""The emotions that a trained selector would choose over a corpus are those that it chooses in play."""

import pytest
import torch
from episodes import make_episode, make_scenario
from iql_cases import make

from emodistill.data.observations import DialoguePrefix, Observer
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


def test_drawn_emotions_follow_the_softened_policy_and_state_their_probability():
    vocabulary = load_vocabulary("ekman7")
    observer = Observer(vocabulary, load_perceiver("judge"))
    learner = make(observation_dim=observer.dim, num_emotions=len(vocabulary))
    for parameter in learner.parameters():
        parameter.data.mul_(3)
    games = [Negotiation(make_scenario(0), seed) for seed in range(4000)]
    choices = IQLSelector(learner, observer, 2.0).select(games)
    observation = torch.from_numpy(observer([DialoguePrefix(games[0].scenario, [])]))
    policy = (learner(observation).double() / 2).softmax(-1)[0]
    assert policy.max() - policy.min() > 0.05
    for label, probability in zip(vocabulary.labels, policy.tolist(), strict=True):
        own = [choice for choice in choices if choice.emotion == label]
        assert all(choice.probability == pytest.approx(probability) for choice in own)
        assert len(own) / 4000 == pytest.approx(probability, abs=0.03)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_corpus_that_showed_nothing_that_is_allowed_leaves_the_choice_among_the_allowed(temperature):
    vocabulary = load_vocabulary("ekman7")
    observer = Observer(vocabulary, load_perceiver("judge"))
    learner = make(observation_dim=observer.dim, num_emotions=len(vocabulary))
    learner.stats.action_mask[:] = torch.tensor([label == "anger" for label in vocabulary.labels])
    games = [Negotiation(make_scenario(0), seed) for seed in range(8)]
    selector = IQLSelector(learner, observer, temperature)
    found = selector.select_among(games, [["joy", "neutral"]] * 4 + [["joy", "anger"]] * 4)
    assert {choice.emotion for choice in found[:4]} <= {"joy", "neutral"}
    assert {(choice.emotion, choice.probability) for choice in found[4:]} == {("anger", 1.0)}


def test_a_negative_temperature_would_prefer_what_is_liked_least():
    vocabulary = load_vocabulary()
    observer = Observer(vocabulary, load_perceiver("judge"))
    with pytest.raises(UserError, match=r"temperature=-0\.1: use 0 for the likeliest emotion"):
        IQLSelector(make(observation_dim=observer.dim, num_emotions=len(vocabulary)), observer, -0.1)
