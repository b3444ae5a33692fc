"""What a study took: playing, and the stages that it plays."""

import json

from emodistill.evaluation.results import Cost, Played
from emodistill.studies.costs import Costs, trained_stages


def stage(folder, steps=10, seconds=None, tokens=None):
    folder.mkdir(parents=True)
    took = {} if seconds is None else {"throughput/training_seconds": seconds, "throughput/training_tokens": tokens}
    (folder / "finished.json").write_text(json.dumps({"steps": steps, **took}))


def test_playing_is_added_up_and_an_unknown_price_stays_unknown():
    parts = [Played("a", [], cost=Cost(1.0, 10, 2, 0.5)), Played("b", [], cost=Cost(2.0, 5, 1, 0.25))]
    rows = Costs()(parts).tables[0].rows
    assert rows[-1]["seconds"] == 3.0 and rows[-1]["prompt_tokens"] == 15 and rows[-1]["money"] == 0.75
    assert Costs()([*parts, Played("c", [], cost=Cost(1.0, money=None))]).tables[0].rows[-1]["money"] is None


def test_training_is_listed_by_stage_and_a_shared_one_once(tmp_path):
    run, condition = tmp_path / "run", tmp_path / "condition"
    stage(run / "iql", 20, 60.0, 0.0)
    stage(run / "sft", 5)
    (run / "evaluation").mkdir()
    (run / "evaluation" / "finished.json").write_text(json.dumps({"episodes": 3}))
    stage(condition / "jpo", 4, 30.0, 700.0)
    (condition / "iql").symlink_to(run / "iql")
    rows = trained_stages([run, condition])
    assert [row["stage"] for row in rows] == [str(run / "iql"), str(run / "sft"), str(condition / "jpo"), "together"]
    assert [row["seconds"] for row in rows] == [60.0, None, 30.0, 90.0]
    assert [row.get("tokens") for row in rows] == [0, None, 700, None]
