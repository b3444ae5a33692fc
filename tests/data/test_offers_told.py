"""Where the model bargains its own number, training must not tell it either: one prompt in play and in training."""

import pytest
from schedules import concession_schedule
from scripted_backends import ScriptedCompleter
from tiny_model import build_tokenizer

from emodistill.data.chats import ChatEncoder
from emodistill.data.schema import Episode
from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.negotiation.agents import FocalAgent, Move, UniformEmotion
from emodistill.negotiation.engine import play
from emodistill.negotiation.protocol import Negotiation
from emodistill.negotiation.scenarios import Scenario
from emodistill.negotiation.schedule import OpenOffers
from emodistill.policy.agents import ChatSpeaker
from emodistill.policy.chat_backends import EndpointChatBackend
from emodistill.policy.chat_format import ChatFormat

VOCABULARY = load_vocabulary()


class Yields:
    """Comes down from 100 days by 25 a round."""

    name = "yields"

    def begin(self, negotiations):
        pass

    def act(self, negotiations):
        return [Move(f"I need {125 - 25 * n.round} days.", "propose", 125.0 - 25 * n.round) for n in negotiations]


@pytest.mark.parametrize("told", [True, False])
def test_training_tells_what_play_told(told):
    offers = concession_schedule() if told else OpenOffers(concession_schedule())
    completer = ScriptedCompleter(lambda request: f"I say {20 + len(request.messages)} days.")
    agent = FocalAgent(UniformEmotion(VOCABULARY), offers, ChatSpeaker(EndpointChatBackend(completer), VOCABULARY))
    (game,) = play([Negotiation(Scenario("debt-0", "debt", 20.0, 100.0), 3)], agent, Yields())
    assert game.end == "deal" and len(game.turns) >= 5
    chat = ChatFormat(build_tokenizer(), VOCABULARY)
    episode = Episode.of(game, "train", "uniform", "lm")
    contexts = ChatEncoder(chat, 4096, told).contexts(episode, [True] * len(episode.focal_turns), reserve=8)
    for context, request in zip(contexts, completer.requests, strict=True):
        system, *rest = request.messages
        tokens = chat.system(system.content)
        for message in rest:
            tokens += chat.user(message.content) if message.role == "user" else chat.reply(message.content)
        assert context.input_ids == tokens
        assert (context.offer is None) == (not told or context is contexts[-1] and game.turns[-1].act == "accept")


def test_acceptance_stays_with_the_rule():
    schedule, game = concession_schedule(), Negotiation(Scenario("debt-0", "debt", 20.0, 100.0), 0)
    assert OpenOffers(schedule).decide(game).offer is None
    game.standing["counterparty"] = 20.0
    assert OpenOffers(schedule).decide(game) == schedule.decide(game) and schedule.decide(game).act == "accept"
