"""What a study took: playing, and the stages that it plays."""

import json

from episodes import make_episode

from emodistill.evaluation.results import ArmResult, Cost
from emodistill.studies.costs import Costs


def stage(folder, steps=10, seconds=None, tokens=None):
    folder.mkdir(parents=True)
    took = {} if seconds is None else {"throughput/training_seconds": seconds, "throughput/training_tokens": tokens}
    (folder / "finished.json").write_text(json.dumps({"steps": steps, **took}))


def costs(parts):
    return [table.rows for table in Costs()(parts).tables]


def test_playing_is_added_up_and_an_unknown_price_stays_unknown():
    parts = [ArmResult("iql", [], cost=Cost(1.0, 10, 2, 0.5)), ArmResult("vanilla", [], cost=Cost(2.0, 5, 1, 0.25))]
    together = costs(parts)[0][-1]
    assert together["seconds"] == 3.0 and together["prompt_tokens"] == 15 and together["money"] == 0.75
    assert costs([*parts, ArmResult("random", [], cost=Cost(1.0, money=None))])[0][-1]["money"] is None


def test_episodes_that_all_training_seeds_share_are_counted_once():
    shared, own = [make_episode(number=i) for i in range(3)], [make_episode()]
    parts = [ArmResult("vanilla", shared, training_seed=seed) for seed in range(4)] + [ArmResult("iql", own)]
    assert costs(parts)[0][-1]["episodes"] == 4


def test_training_is_that_of_the_arms_and_a_shared_stage_comes_once(tmp_path):
    run, condition = tmp_path / "run", tmp_path / "condition"
    stage(run / "iql", 20, 60.0, 0.0)
    stage(run / "sft", 5)
    stage(run / "jpo_joint", 9, 1000.0, 9.0)  # no arm plays with it
    stage(condition / "jpo", 4, 30.0, 700.0)
    (condition / "iql").symlink_to(run / "iql")
    (condition / "sft").symlink_to(run / "sft")
    parts = [
        ArmResult("sft", [], run_dir=str(run), stages=("iql", "sft")),
        ArmResult("emodistill", [], "c", run_dir=str(condition), stages=("iql", "sft", "jpo")),
    ]
    rows = costs(parts)[1]
    assert [row["stage"] for row in rows] == [str(run / "iql"), str(run / "sft"), str(condition / "jpo"), "together"]
    assert [row["seconds"] for row in rows] == [60.0, None, 30.0, 90.0]
    assert [row.get("tokens") for row in rows] == [0, None, 700, None]
    assert costs([ArmResult("random+base", [], run_dir=str(run))])[1] == []
