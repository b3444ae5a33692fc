"""The judge that is learnt from outcomes: it finds what was planted, nothing where there is nothing, and says so."""

from dataclasses import replace

import numpy as np
import pytest

from emodistill.data.corpus import CorpusFile
from emodistill.data.schema import Episode, write_episodes
from emodistill.emotions.perceiver import load_perceiver
from emodistill.errors import UserError
from emodistill.evaluation.judge_effects import within_groups
from emodistill.judges import outcome
from emodistill.judges.outcome import Fit, OutcomeJudge, Reader, effect, fitted
from emodistill.judges.request import JudgeRequest
from emodistill.negotiation.protocol import COUNTERPARTY, FOCAL, Turn
from emodistill.negotiation.scenarios import Scenario

SCENARIO = Scenario("debt-000", "debt", focal_target=30.0, counterparty_target=130.0)
JOY = ("I am so happy about this, it is a joy.", "What a delight, I am really happy.", "I am glad and full of joy.")
ANGER = ("I am furious and angry about this.", "I hate this, it makes me so angry.", "This makes me mad and furious.")
ROUNDS = 6


def played(number, split="train", move=None, words=None):
    """An episode in which anger gains ten days early and joy ten days late, and nothing gains anything else.

    Args:
        move: days gained by joy or by anger (`joyful`) in a round; the rule above by default.
        words: those of the focal side, drawn by the number by default.
    """
    rng = np.random.default_rng(number)
    days, turns = 130.0, []
    for place in range(ROUNDS):
        joyful = bool(rng.integers(2))
        said = words or str(rng.choice(JOY if joyful else ANGER))
        gained = 10.0 * (joyful == (place >= ROUNDS // 2)) if move is None else move(joyful, place)
        days -= gained + float(rng.integers(3))
        offer = 30.0 + place
        turns.append(Turn(place + 1, FOCAL, f"{said} I can move to {offer:g} days.", offer=offer))
        turns.append(Turn(place + 1, COUNTERPARTY, f"I can pay in {days:g} days.", offer=days))
    name = f"debt/{number}"
    return Episode(name, split, SCENARIO, "uniform", "teacher", "test", number, tuple(turns), "deadline", None)


def stored(tmp_path, episodes, name="episodes.parquet"):
    """A corpus on the disk."""
    write_episodes(episodes, tmp_path / name)
    return CorpusFile(str(tmp_path / name))


@pytest.fixture(scope="module")
def perceiver():
    return load_perceiver("judge")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EMODISTILL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "outcome"


@pytest.fixture
def learnt(tmp_path, perceiver):
    """The judge of a corpus with the planted effect."""
    return OutcomeJudge(perceiver, stored(tmp_path, [played(number) for number in range(120)]))


def at(place, *texts, number=1000):
    """Requests in the `place`-th round of an episode that nobody learnt from."""
    turns = played(number).turns[: 2 * place]
    return [JudgeRequest(SCENARIO, turns, None, f"{text} I can move to {30 + place} days.") for text in texts]


def scores(judge, requests):
    return [judgement.score for judgement in judge.judge(requests)]


def test_an_effect_that_was_planted_is_found_with_the_state_that_it_depends_on(learnt):
    happy, angry = "It makes me happy, what a joy.", "I am angry, it makes me furious."
    early, late = (scores(learnt, at(place, happy, angry)) for place in (1, 4))
    assert early[1] > early[0] + 3 and late[0] > late[1] + 3
    assert all(1 <= score <= 10 for score in (*early, *late))


def followed(judge, episodes):
    """Rank correlation of scores with the days then gained, within rounds."""
    requests = [JudgeRequest(e.scenario, e.turns[:i], None, e.turns[i].text) for e in episodes for i in range(2, 12, 2)]
    gained = [e.turns[i - 1].offer - e.turns[i + 1].offer for e in episodes for i in range(2, 12, 2)]
    groups = [len(request.history) for request in requests]
    return within_groups(np.array(scores(judge, requests)), np.array(gained), groups, groups)[0]


def test_answers_that_were_shuffled_teach_no_preference(learnt, tmp_path, perceiver):
    fresh = [played(number, "val") for number in range(2000, 2040)]
    assert followed(learnt, fresh) > 0.6
    rng = np.random.default_rng(0)
    noise = [played(number, move=lambda joyful, place: 10.0 * rng.integers(2)) for number in range(120)]
    shuffled = OutcomeJudge(perceiver, stored(tmp_path, noise, "shuffled.parquet"))
    assert abs(followed(shuffled, fresh)) < 0.3
    assert shuffled.fit.known[0] < learnt.fit.known[0] / 2


def test_only_the_training_split_is_learnt_from(learnt, tmp_path, perceiver):
    against = [played(number, "val", lambda joyful, place: 10.0 * joyful) for number in range(60)]
    elsewhere = replace(SCENARIO, id="debt-001")
    others = [replace(one, episode_id=f"{one.episode_id}/val", scenario=elsewhere) for one in against]
    both = OutcomeJudge(perceiver, stored(tmp_path, [*learnt.corpus.episodes(), *others], "both.parquet"))
    assert both.fit.version == learnt.fit.version and both.version == learnt.version


def test_scores_do_not_depend_on_the_batch(learnt, perceiver):
    requests = [request for place in range(ROUNDS) for request in at(place, *JOY, *ANGER, "We should talk.")]
    together = scores(learnt, requests)
    alone = OutcomeJudge(perceiver, fit=None, corpus=learnt.corpus)
    assert [scores(alone, [request])[0] for request in reversed(requests)] == together[::-1]
    assert len(set(together)) > 20


def test_what_the_corpus_never_varies_is_doubted(learnt, perceiver):
    """Every turn there states its offer, and nobody ever threatens: nothing is known of words that do otherwise."""
    (plain,) = at(4, JOY[0])
    silent = replace(plain, utterance=f"{JOY[0]} I can move a little, so please think about it.")
    threat = replace(plain, utterance=f"{JOY[0]} I will sue you and ruin you. I can move to 34 days.")
    first, *others = scores(learnt, [plain, silent, threat])
    assert max(others) < first - 3
    blind = OutcomeJudge(perceiver, learnt.corpus, doubt=0.0)
    assert min(scores(blind, [plain, silent])) > 6


def test_sense_is_a_factor(learnt, perceiver):
    class Half:
        version = "half"

        def of(self, requests):
            return [0.5] * len(requests)

    requests = at(4, *JOY)
    halved = OutcomeJudge(perceiver, learnt.corpus, sense=Half())
    assert scores(halved, requests) == pytest.approx([(1 + score) / 2 for score in scores(learnt, requests)], abs=0.02)
    assert halved.version != learnt.version


def test_the_version_names_all_that_decides_and_nothing_else(learnt, tmp_path, perceiver):
    assert OutcomeJudge(perceiver, learnt.corpus).version == learnt.version
    assert OutcomeJudge(perceiver, learnt.corpus, doubt=2.0).version != learnt.version
    other = OutcomeJudge(perceiver, stored(tmp_path, [played(number) for number in range(60)], "other.parquet"))
    assert other.version != learnt.version
    assert OutcomeJudge(load_perceiver("counterparty"), learnt.corpus).version != learnt.version


def test_a_fit_is_made_once_and_kept(learnt, cache, perceiver, monkeypatch):
    version, (file,) = learnt.version, cache.glob("*.npz")
    with monkeypatch.context() as patched:
        patched.setattr(outcome, "fitted", None)
        assert OutcomeJudge(perceiver, learnt.corpus).version == version
        assert OutcomeJudge(perceiver, fit=file).version == version  # without the corpus
    again = fitted(learnt.corpus.episodes(), Reader(perceiver))
    assert again.version == learnt.fit.version
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match="is no fit of judge=outcome; delete it"):
        Fit.read(file)


def test_without_a_corpus_it_refuses_in_a_sentence(tmp_path, perceiver):
    with pytest.raises(UserError, match="learns from a corpus, and there is none"):
        OutcomeJudge(perceiver)
    with pytest.raises(UserError, match="gone.parquet does not exist"):
        OutcomeJudge(perceiver, CorpusFile(str(tmp_path / "gone.parquet"))).judge(at(0, JOY[0]))
    for doubt in (-1, float("nan"), "much"):  # with nan every score would be missing
        with pytest.raises(UserError, match=f"doubt={doubt}: a number of at least 0"):
            OutcomeJudge(perceiver, fit="some.npz", doubt=doubt)
    untrained = stored(tmp_path, [played(0, "val")])
    with pytest.raises(UserError, match="no answered focal turn in its training split"):
        OutcomeJudge(perceiver, untrained).judge(at(0, JOY[0]))
    single = stored(tmp_path, [played(number, words="We need to settle.") for number in range(3)])
    with pytest.raises(UserError, match="fewer than two emotions are read first in"):
        OutcomeJudge(perceiver, single).judge(at(0, JOY[0]))


def test_effects_are_positions_gained_and_ends_count_at_their_utility():
    opening = (Turn(1, FOCAL, "30 days.", offer=30.0), Turn(1, COUNTERPARTY, "120 days.", offer=120.0))
    asked = Turn(2, FOCAL, "50 days.", offer=50.0)

    def after(answer, end="deadline", deal=None):
        turns = (*opening, asked, answer)
        return effect(Episode("e", "train", SCENARIO, "uniform", "t", "c", 0, turns, end, deal), 3)

    assert effect(Episode("e", "train", SCENARIO, "u", "t", "c", 0, opening, "deadline", None), 1) == pytest.approx(0.1)
    assert after(Turn(2, COUNTERPARTY, "100 days.", offer=100.0)) == pytest.approx(0.2)
    assert after(Turn(2, COUNTERPARTY, "Hm.")) == 0.0
    assert after(Turn(2, COUNTERPARTY, "Yes.", "accept"), "deal", 50.0) == pytest.approx(0.7)
    assert after(Turn(2, COUNTERPARTY, "No.", "walk_away"), "walk_away") == pytest.approx(-0.1)
