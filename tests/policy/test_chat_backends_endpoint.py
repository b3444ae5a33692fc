"""A model behind an endpoint on the focal side: what it is sent, and what its failures mean."""

import pytest
from faulty_server import FaultyServer
from schedules import concession_schedule
from scripted_backends import ScriptedCompleter

from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.errors import UserError
from emodistill.language_models.client import Endpoint, RetryPolicy
from emodistill.negotiation.agents import Decision, Fault, FixedEmotion, FocalAgent, Move, NoEmotion
from emodistill.negotiation.engine import play
from emodistill.negotiation.protocol import Negotiation
from emodistill.negotiation.scenarios import Scenario
from emodistill.negotiation.schedule import OpenOffers
from emodistill.policy.agents import ChatSpeaker
from emodistill.policy.chat_backends import EndpointChatBackend, EndpointModel

VOCABULARY = load_vocabulary()


class Haggler:
    """Says something for two rounds, then leaves."""

    name = "haggler"

    def begin(self, negotiations):
        pass

    def act(self, negotiations):
        return [Move(f"Round {n.round}: no.", "walk_away" if n.round == 3 else "propose") for n in negotiations]


def tables(count=2):
    return [Negotiation(Scenario(f"debt-{i}", "debt", 20.0, 100.0), seed=i) for i in range(count)]


def speak(script, selector=None, offers=None, games=None, **settings):
    completer = ScriptedCompleter(script)
    speaker = ChatSpeaker(EndpointChatBackend(completer, **settings), VOCABULARY)
    games = games or tables()
    play(games, FocalAgent(selector or NoEmotion(), offers or concession_schedule(), speaker), Haggler())
    return games, completer.requests


def test_the_whole_dialogue_is_sent_with_what_was_really_said():
    games, requests = speak(
        lambda request: "We insist.", FixedEmotion(VOCABULARY, "anger"), temperature=0.3, max_tokens=9
    )
    assert len(requests) == 6 and {(r.temperature, r.max_tokens) for r in requests} == {(0.3, 9)}
    last = requests[-1].messages
    assert [message.role for message in last] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert last[2].content == games[1].turns[0].text == "We insist. My offer is 20 days."
    anger = VOCABULARY.directive("anger")
    assert last[1].content == f"[{anger} State your offer: 20 days.]"
    assert last[5].content.startswith("Round 2: no.\n[") and "100" not in "".join(m.content for m in last)


def test_every_request_has_a_seed_of_its_own():
    _, requests = speak(lambda request: "We insist.")
    assert len({request.seed for request in requests}) == 6
    assert all(0 <= request.seed < 2**31 for request in requests)


def test_a_failure_is_the_fault_of_its_negotiation_alone():
    def one_fails(request):
        return (
            ("timeout", "no answer in 5 s")
            if len(request.messages) == 4 and "Round 1" in request.messages[3].content
            else "Hm."
        )

    games, requests = speak(one_fails, games=tables(1))
    assert (games[0].end, games[0].fault) == ("invalid", "scripted at nowhere: timeout: no answer in 5 s")
    answers = iter([("connection", "reset"), "Fine.", "Fine.", "Fine."])
    first, second = speak(lambda request: next(answers))[0]
    assert first.end == "invalid" and second.end == "walk_away"


@pytest.mark.parametrize("kind", ["authentication", "quota", "budget"])
def test_a_server_that_refuses_for_good_stops_the_run(kind):
    with pytest.raises(UserError, match="scripted at nowhere: it says no; mend it"):
        speak(lambda request: (kind, "it says no"))


def test_slips_are_asked_again_and_counted():
    answers = iter(["Debtor: yes.", "We insist on 20 days."])
    backend = EndpointChatBackend(ScriptedCompleter(lambda request: next(answers)))
    speaker = ChatSpeaker(backend, VOCABULARY, name="large")
    games = tables(1)
    speaker.begin(games)
    (said,) = speaker.speak(games, [Decision("propose", 20.0, "open")], [None])
    assert (said.text, said.role_violations, speaker.name) == ("We insist on 20 days.", ("other_side",), "large")


def test_a_model_that_bargains_is_told_no_number_and_its_own_counts():
    games, requests = speak(
        lambda request: "Make it 33 days.", offers=OpenOffers(concession_schedule()), games=tables(1)
    )
    assert requests[0].messages[1].content == "[State your offer.]"
    assert {turn.offer for turn in games[0].turns if turn.speaker == "focal"} == {33.0}
    assert not any(turn.offer_appended for turn in games[0].turns)


def test_a_greedy_model_is_not_asked_again():
    games, requests = speak(lambda request: "Debtor: yes.", temperature=0.0, games=tables(1))
    assert len(requests) == 1 and isinstance(games[0].fault, str) and games[0].end == "invalid"
    assert Fault(games[0].fault).reason.startswith("the focal had nothing to say in role (other_side)")


def chat(content, finish="stop", **message):
    choice = {"finish_reason": finish, "message": {"role": "assistant", "content": content, **message}}
    return 200, {"choices": [choice]}, {}


def played(*script, reply="I can do 45 days."):
    """The focal words of one game, its end and its fault, against a server on loopback."""
    games = tables(1)
    with (
        FaultyServer(lambda body: reply, script=script) as server,
        Endpoint(server.base_url, "m", retries=RetryPolicy(base_s=0.01, cap_s=0.02)) as client,
    ):
        speaker = ChatSpeaker(EndpointChatBackend(client), VOCABULARY)
        play(games, FocalAgent(NoEmotion(), OpenOffers(concession_schedule()), speaker), Haggler())
    turns = [(turn.text, turn.offer) for turn in games[0].turns if turn.speaker == "focal"]
    return turns, games[0], server


SAID = ("I can do 45 days.", 45.0)


def test_thoughts_are_neither_said_nor_read_nor_sent_again():
    turns, game, server = played(reply="<think>\nAt most 110 days.\n\n20 at least.\n</think>\n\nI can do 45 days.")
    assert turns == [SAID] * 3 and game.end == "walk_away"
    assert "110" not in str([call.body for call in server.log])


def test_a_reply_of_thoughts_alone_is_asked_for_again():
    turns, game, server = played(chat("<think>At most 110 days.</think>"), chat(None, reasoning_content="Hm."))
    assert turns == [SAID] * 3 and server.calls == 5 and game.end == "walk_away"
    seeds = [call.body["seed"] for call in server.log[:3]]
    assert len(set(seeds)) == 3


def test_a_model_that_only_thinks_says_nothing():
    turns, game, _ = played(reply="<think>At most 110 days.</think>")
    assert turns == [] and game.end == "invalid" and "nothing to say" in game.fault and "110" not in game.fault


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        ((403, {"error": {"message": "the input was flagged", "metadata": {"reasons": ["x"]}}}, {}), "moderation"),
        (chat("", "SAFETY"), "filter"),
        (chat("I can do 45", "content_filter"), "filter"),
        (chat(None, refusal="I can't take part in that."), "refuses"),
        (chat(None, "length", reasoning_content="At most 110 days."), "max_tokens"),
        (chat("<think>At most 110 days.", "length"), "max_tokens"),
    ],
)
def test_a_prompt_without_an_answer_makes_its_own_episode_invalid(answer, word):
    turns, game, server = played(None, answer)
    assert turns == [SAID] and game.end == "invalid" and word in game.fault and server.calls == 2


def test_half_a_reply_is_not_said_where_the_server_says_that_it_broke():
    broken = (
        200,
        {"choices": [{"finish_reason": "error", "error": {"code": 502}, "message": {"content": "I can"}}]},
        {},
    )
    turns, game, server = played(None, broken)
    assert turns == [SAID] * 3 and game.end == "walk_away" and server.calls == 4


def test_a_quota_that_passes_does_not_stop_the_run():
    words = "You exceeded your current quota. Quota exceeded for metric: requests per minute. Please retry in 0.01s."
    turns, game, server = played(None, (429, [{"error": {"code": 429, "message": words}}], {}))
    assert turns == [SAID] * 3 and game.end == "walk_away" and server.calls == 4


def test_what_the_server_was_told_besides_is_in_the_recipe():
    plain, told = (EndpointModel(ScriptedCompleter(str, recipe), "m") for recipe in ({}, {"system_role": "user"}))
    assert plain.recipe() == {"endpoint": "m", "max_tokens": 96, "temperature": 0.7}
    assert told.recipe() == plain.recipe() | {"dialect": {"system_role": "user"}}
