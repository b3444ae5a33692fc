"""The judge that asks the simulation: it plays the corpus's episodes on, and no other corpus."""

from dataclasses import replace

import numpy as np
import pytest
from schedules import concession_schedule

from emodistill.counterparties.persuadable import PersuadableCounterpartySpec
from emodistill.counterparties.simulation_judge import SimulationJudge
from emodistill.counterparties.specs import SimulatedCounterpartySpec
from emodistill.data.chats import ChatContext
from emodistill.data.schema import Episode
from emodistill.data.selection import judge_requests
from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.errors import UserError
from emodistill.judges.ledger import Ledger, LedgerJudge, judgement_key
from emodistill.judges.request import JudgeRequest, Origin
from emodistill.negotiation.agents import FocalAgent, UniformEmotion
from emodistill.negotiation.engine import play
from emodistill.negotiation.generator import generate_scenarios
from emodistill.negotiation.phrasebook import PhrasebookSpeaker
from emodistill.negotiation.protocol import COUNTERPARTY, FOCAL, Negotiation

SPECS = {"behavioural": SimulatedCounterpartySpec, "persuadable": PersuadableCounterpartySpec}
PERSONAS = ["population:3"]


class Terse(PhrasebookSpeaker):
    """Leaves every other offer to be appended."""

    def speak(self, negotiations, decisions, emotions):
        spoken = super().speak(negotiations, decisions, emotions)
        return [f"{text.split('.')[0]}." if n.round % 2 else text for n, text in zip(negotiations, spoken, strict=True)]


@pytest.fixture(scope="module", params=SPECS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def judge(kind):
    return SimulationJudge(SPECS[kind](PERSONAS))


@pytest.fixture(scope="module")
def episodes(kind):
    """Twelve episodes of two domains, as a corpus has them."""
    scenarios = [*generate_scenarios("debt", 2, 0), *generate_scenarios("hospital", 2, 0)]
    vocabulary = load_vocabulary()
    focal = FocalAgent(UniformEmotion(vocabulary), concession_schedule(), Terse(vocabulary))
    games = [Negotiation(scenario, seed) for scenario in scenarios for seed in (0, 1, 2)]
    play(games, focal, SPECS[kind](PERSONAS).open())
    return [Episode.of(game, "train", "uniform", "teacher") for game in games]


def gave(episode, place):
    """Position that the counterparty's turn at a place gave beyond what stood before; from the stored turns alone."""
    position = episode.scenario.position
    stood = [t.offer for t in episode.turns[:place] if t.speaker == COUNTERPARTY and t.offer is not None]
    before = position(stood[-1]) if stood else 0.0
    answer = episode.turns[place]
    if place + 1 == len(episode.turns):
        return episode.utility - before
    return position(answer.offer) - before


def test_the_corpus_s_own_words_bring_what_the_corpus_says_they_brought(judge, episodes):
    appended, followed = 0, 0
    for episode in episodes:
        found = iter(judge.continued(judge_requests(episode)))
        for place, turn in enumerate(episode.turns):
            if turn.speaker != FOCAL:
                continue
            one = next(found)
            appended += turn.offer_appended
            if place + 1 < len(episode.turns):
                followed += 1
                assert one.answer == episode.turns[place + 1].text
                assert one.concession == pytest.approx(gave(episode, place + 1), abs=1e-12)
            else:
                assert one.answer is None
    assert appended > 10 and followed > 40


def test_all_replies_of_a_call_are_answered_as_each_alone(judge, episodes):
    requests = [request for episode in episodes[:3] for request in judge_requests(episode)]
    together = judge.judge(requests)
    assert together == [judge.judge([request])[0] for request in reversed(requests)][::-1]
    assert all(1 <= one.score <= 10 for one in together) and len({one.score for one in together}) > 5


def context_of(episode, turn=1, **changes):
    """The context of a focal turn, and a function that makes the request of a reply."""
    place = [i for i, t in enumerate(episode.turns) if t.speaker == FOCAL][turn]
    spoken = episode.turns[place]
    origin = Origin(episode.counterparty, episode.seed, spoken.act, spoken.offer)
    rest = (spoken.emotion, episode.scenario.id, "", spoken.offer)
    return ChatContext([0], episode.scenario, episode.turns[:place], *rest, origin=replace(origin, **changes))


def test_words_are_worth_what_the_party_does_on_hearing_them(judge, episodes):
    """By hand: the same party, the same draws, other words."""
    texts = ["This is unacceptable! I am furious with you!", "Thank you so much. I am really grateful for your help."]
    seen = set()
    for episode in episodes:
        context = context_of(episode)
        for text, found in zip(texts, judge.continued([context.request(text) for text in texts]), strict=True):
            game = Negotiation(episode.scenario, episode.seed)
            party = judge.counterparty.open()
            for turn in context.history:
                if turn.speaker == COUNTERPARTY:
                    party.act([game])
                game.play(turn)
            before = episode.scenario.position(game.standing[COUNTERPARTY])
            said = f"{text} My offer is {episode.scenario.rules.say(context.offer)}."
            spoken = replace(episode.turns[len(context.history)], text=said, offer_appended=True)
            game.play(spoken)
            (move,) = party.act([game])
            assert found.answer == move.text
            if move.act == "propose":
                assert found.concession == pytest.approx(episode.scenario.position(move.offer) - before, abs=1e-12)
            assert found.mood == party.state(game).mood
            seen.add((text, round(found.concession, 6)))
    assert len(seen) > 12


def test_the_score_is_the_formula_and_counts_both_parts(judge, episodes):
    requests = [request for episode in episodes for request in judge_requests(episode)]
    found, scores = judge.continued(requests), [one.score for one in judge.judge(requests)]
    expected = [5.5 + 4.5 * (one.concession + 0.2 * one.mood) / 1.2 for one in found]
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    cold = SimulationJudge(judge.counterparty, mood=0.0)
    assert cold.version != judge.version
    np.testing.assert_allclose(
        [one.score for one in cold.judge(requests)], [5.5 + 4.5 * one.concession for one in found], atol=1e-4
    )


def test_the_ledger_keeps_the_same_words_to_two_parties_apart(judge, episodes, tmp_path):
    """In the first round all episodes of a scenario have the same context: only their origins differ."""
    first = [context_of(episode, 0).request("I am glad that we talk.") for episode in episodes[:3]]
    assert len({(request.utterance, request.history, request.scenario.id) for request in first}) == 1
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        scores = LedgerJudge(judge, ledger).scores(first)
        assert ledger.count() == 3 and len(set(scores)) > 1
        assert LedgerJudge(judge, ledger, offline=True).scores(first) == scores


def test_the_key_of_any_other_judge_knows_of_no_episode(episodes):
    class Other:
        name, version = "other", "1"

    request = context_of(episodes[0]).request("Fine.")
    assert judgement_key(Other(), request) == judgement_key(Other(), replace(request, origin=None))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"counterparty": "lm:plain"}, "was played against 'lm:plain'"),
        ({"counterparty": "casino"}, "was played against 'casino'"),
        ({"seed": 3}, "does otherwise than in the corpus"),  # the same persona, other draws
        ({"seed": 1}, "was played against"),
    ],
)
def test_another_corpus_is_refused_in_one_sentence(judge, episodes, changes, says):
    with pytest.raises(UserError, match=says) as refused:
        judge.judge([context_of(episodes[0], 3, **changes).request("Fine.")])
    assert str(refused.value).startswith("judge=simulation") and str(refused.value).count(". ") == 0
    assert "or another judge" in str(refused.value)


def test_words_of_no_episode_and_parties_that_are_no_simulation_are_refused(judge, episodes):
    with pytest.raises(UserError, match="belongs to no episode"):
        judge.judge([JudgeRequest(episodes[0].scenario, (), None, "Fine.")])

    class Person:
        def describe(self):
            return "a person"

    with pytest.raises(UserError, match="this counterparty is a person"):
        SimulationJudge(Person())
    with pytest.raises(UserError, match="mood=-1"):
        SimulationJudge(judge.counterparty, mood=-1.0)


def test_it_says_that_it_is_not_offline(judge, caplog):
    with caplog.at_level("WARNING"):
        SimulationJudge(judge.counterparty)
    assert "this is not offline training" in caplog.text and "not offline" in judge.name
