"""A real server on all three seats: it plays both sides of a corpus, judges in the training step, and sits opposite.

The model that speaks has random weights; the one that judges gives one score for everything.
"""

import json

import pytest
from families.speaking import ENDS, save_speaking
from tiny_model import build_tiny_model
from tiny_runs import Workplace

from emodistill.data.schema import read_episodes
from emodistill.judges.ledger import Ledger

pytestmark = pytest.mark.slow

VERDICT = '{"score": 7}'
BRIEF = (
    "data.corpus.episodes_per_scenario=1",
    "schedule.rounds=2",
    "counterparty.agent.bargains=schedule",
    "counterparty.agent.schedule.schedule.rounds=2",
    "counterparty.agent.backend.max_tokens=8",
)
SELF_PLAY = (
    "data=selfplay",
    "counterparty=endpoint",
    "speaker=endpoint",
    "data.corpus.batch=4",
    "speaker.max_tokens=8",
    *BRIEF,
)
JUDGED = (
    "judge=lm",
    "+endpoint@judge.judge.judge.completer=default",
    "judge.judge.judge.num_examples=0",
    "judge.judge.judge.max_tokens=20",
    "judge.judge.every=4",
    "judge.judge.limit=10",  # it scores the probe as everything else, and every batch would be withheld
    "learner.samples=2",
    "size.jpo_steps=2",
)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of the model that speaks and of the one that judges."""
    folder = tmp_path_factory.mktemp("models")
    speaker, judge = folder / "speaker", folder / "judge"
    build_tiny_model(speaker)
    tokenizer = save_speaking("gemma3", judge, VERDICT)
    for place, ends, pad in (
        (speaker, [2], 0),
        (judge, tokenizer.convert_tokens_to_ids(ENDS["gemma3"]), tokenizer.pad_token_id),
    ):
        config = {"do_sample": True, "eos_token_id": ends, "pad_token_id": pad}
        (place / "generation_config.json").write_text(json.dumps(config), encoding="utf-8")
    return str(speaker), str(judge)


@pytest.fixture(scope="module")
def served(server_of_any_model, models):
    return [f"endpoint.base_url={server_of_any_model}", f"endpoint.model={models[0]}"]


@pytest.fixture(scope="module")
def place(tmp_path_factory, served, server_of_any_model, models):
    place = Workplace(tmp_path_factory.mktemp("every_seat"))
    for stage in ("iql", "sft"):
        place.train(stage, "run", *served, *SELF_PLAY)
    judge = "judge.judge.judge.completer"
    judged = [*JUDGED, f"{judge}.base_url={server_of_any_model}", f"{judge}.model={models[1]}"]
    place.train("jpo", "run", *served, *SELF_PLAY, *judged)
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
    """Sampled replies, in steps and at validation, have the judge's score, or less: they are nonsense."""
    ledger = Ledger(place.folder / "ledger.sqlite")
    rows = ledger.connection.execute(
        "SELECT score, reason, raw, prompt_tokens FROM judgements WHERE judge <> 'rubric'"
    ).fetchall()
    asked = [row for row in rows if row[2]]
    assert len(rows) >= 2 * 2 * 2 and {row[1] for row in rows} == {None}
    assert {row[2] for row in asked} == {VERDICT} and all(row[3] > 0 for row in asked)
    assert max(row[0] for row in asked) == 7.0 and {row[0] for row in rows if not row[2]} <= {1.0}
    assert json.loads((place.folder / "run" / "jpo" / "finished.json").read_text())["steps"] == 2


def test_the_bill_is_that_of_the_run(place, models):
    spent = json.loads((place.folder / "run" / "spending.json").read_text())
    of_speaker, of_judge = (next(tally for name, tally in spent.items() if model in name) for model in models)
    assert len(spent) == 2 and of_judge["calls"] > 2
    assert of_speaker["calls"] > 20 and of_speaker["prompt_tokens"] > of_speaker["completion_tokens"] > 0


def test_the_server_sits_opposite_and_speaks_for_an_arm_of_the_evaluation(place, served):
    changes = ["counterparty=endpoint", *BRIEF, "arms=[vanilla,endpoint_vanilla]"]
    backend = ["endpoint_backend.max_tokens=8", "name=opposite", "data=selfplay"]
    report = place.evaluate("run", *served, *backend, *changes)
    assert report["about"]["counterparty"].startswith("the language model")
    assert {cell["arm"]: cell["episodes"] for cell in report["cells"]} == {"vanilla": 1, "endpoint_vanilla": 1}
    for arm in ("vanilla", "endpoint_vanilla"):
        (episode,) = read_episodes(place.folder / "run" / "opposite" / "episodes" / f"{arm}.parquet")
        assert episode.counterparty.startswith("lm:") and len(episode.turns) >= 2
