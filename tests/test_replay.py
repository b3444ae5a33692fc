"""A training run from the ledger alone: nobody is asked, and every weight is the same."""

import pytest
import torch
from tiny_runs import begun

from emodistill.judges.ledger import Ledger
from emodistill.judges.rubric import RubricJudge

RUNS = {"sampled": (), "corpus": ("data.dataset.utterances=corpus",)}


class Unreachable(RubricJudge):
    """The rubric judge by name and version; there is nobody there to ask."""

    def judge(self, requests, on_judgement=None):
        raise ConnectionError("no network")


OFFLINE = ("judge.offline=true", "judge.judge._target_=test_replay.Unreachable")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return begun(tmp_path_factory, "replay", "iql", "sft")


def rows(place):
    with Ledger(place.folder / "ledger.sqlite") as ledger:
        return ledger.connection.execute("SELECT * FROM judgements ORDER BY key").fetchall()


@pytest.mark.parametrize("words", RUNS)
def test_a_run_is_replayed_without_anybody_being_asked(place, words):
    ends = []
    for run, extra in ((f"{words}-first", ()), (f"{words}-again", OFFLINE)):
        place.copy("run", run, ["iql", "sft"])
        place.train("jpo", run, *RUNS[words], *extra)
        ends.append(place.weights(run, "jpo"))
        stored = rows(place)
    assert ends[0].keys() == ends[1].keys() and all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert rows(place) == stored and stored


def test_what_the_ledger_does_not_have_stays_missing_offline(place, caplog):
    place.copy("run", "other", ["iql", "sft"])
    trainer = place.train("jpo", "other", "seed=5", *OFFLINE, "learner.judging.max_unscored_batches=null")
    assert trainer.callback_metrics["train/reward_missing"] == 1.0
    assert any("offline=true asks nobody" in message for message in caplog.messages)
