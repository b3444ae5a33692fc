"""A real server on all three seats: it plays both sides of a corpus, judges in the training step, and sits opposite."""

import json

import pytest
from tiny_runs import Workplace

from emodistill.data.schema import read_episodes
from emodistill.judges.ledger import Ledger

pytestmark = pytest.mark.slow

BRIEF = (  # few and short rounds: the server writes one reply at a time
    "data.corpus.episodes_per_scenario=1",
    "schedule.rounds=2",
    "counterparty.agent.bargains=schedule",
    "counterparty.agent.schedule.schedule.rounds=2",
    "counterparty.agent.backend.max_tokens=8",
    "counterparty.agent.retries=0",
)
SELF_PLAY = (
    "data=selfplay",
    "counterparty=endpoint",
    "speaker=endpoint",
    "data.corpus.batch=4",
    "data.corpus.focal.retries=0",
    "speaker.max_tokens=8",
    *BRIEF,
)
JUDGED = (
    "judge=lm",
    "judge.judge.judge.num_examples=0",
    "judge.judge.judge.max_tokens=20",
    "judge.judge.every=4",
    "judge.judge.limit=10",  # this model passes no probe, and every batch would be withheld
    "learner.samples=2",
    "size.jpo_steps=2",
)


@pytest.fixture(scope="module")
def served(model_server):
    return [f"endpoint.base_url={model_server.base_url}", f"endpoint.model={model_server.model}"]


@pytest.fixture(scope="module")
def place(tmp_path_factory, served):
    place = Workplace(tmp_path_factory.mktemp("every_seat"))
    for stage in ("iql", "sft"):
        place.train(stage, "run", *served, *SELF_PLAY)
    place.train("jpo", "run", *served, *SELF_PLAY, *JUDGED)
    return place


def test_the_server_plays_both_sides_of_a_corpus(place):
    (file,) = place.folder.glob("corpora/selfplay-*/episodes.parquet")
    episodes = read_episodes(file)
    assert len(episodes) == 8 and {e.counterparty.split(":")[0] for e in episodes} == {"lm"}
    turns = [turn for episode in episodes for turn in episode.turns]
    assert len({turn.text for turn in turns}) > len(turns) / 2  # words of its own, not one sentence again and again
    assert all(turn.emotion_prob == pytest.approx(1 / 28) for e in episodes for turn in e.focal_turns)
    card = (file.parent / "README.md").read_text(encoding="utf-8")
    assert "invalid" in card and all(name not in card for name in ("sk-", "Bearer"))


def test_the_server_judges_in_the_training_step(place):
    """Replies sampled in both steps and at validation; what this small model cannot judge is missing, and says why."""
    ledger = Ledger(place.folder / "ledger.sqlite")
    rows = ledger.connection.execute(
        "SELECT score, reason, raw, prompt_tokens, attempts FROM judgements WHERE judge <> 'rubric'"
    ).fetchall()
    assert len(rows) >= 2 * 2 * 2
    for score, reason, raw, prompt_tokens, attempts in rows:
        assert (score is None) != (reason is None)
        assert score is None or 1 <= score <= 10
        if score not in (None, 1.0):  # a score comes from a reply that was billed; 1 also from a text without a word
            assert raw and prompt_tokens > 0 and attempts >= 1
    assert any(attempts for *_, attempts in rows)
    assert json.loads((place.folder / "run" / "jpo" / "finished.json").read_text())["steps"] == 2


def test_the_bill_is_that_of_the_run(place):
    spent = json.loads((place.folder / "run" / "spending.json").read_text())
    (tally,) = spent.values()
    assert tally["calls"] > 30 and tally["prompt_tokens"] > tally["completion_tokens"] > 0


def test_the_server_sits_opposite_and_speaks_for_an_arm_of_the_evaluation(place, served):
    changes = ["counterparty=endpoint", *BRIEF, "arms=[vanilla,endpoint_vanilla]", "retries=0"]
    backend = ["endpoint_backend.max_tokens=8", "name=opposite", "data=selfplay"]
    report = place.evaluate("run", *served, *backend, *changes)
    assert report["about"]["counterparty"].startswith("the language model")
    assert {cell["arm"]: cell["episodes"] for cell in report["cells"]} == {"vanilla": 1, "endpoint_vanilla": 1}
    for arm in ("vanilla", "endpoint_vanilla"):
        (episode,) = read_episodes(place.folder / "run" / "opposite" / "episodes" / f"{arm}.parquet")
        assert episode.counterparty.startswith("lm:") and len(episode.turns) >= 2
