"""The simulated cluster: nothing is lost, nothing is done twice, time adds up, and simple cases are arithmetic."""

import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import cluster_simulation as simulated
from cluster_simulation import FAIR, Cluster, Judge, Numbers, Simulation, Weather, many

FREE = Numbers(start_s=0, open_s=0, driver_s=0, file_s=0, noticed_s=5, repair_s=20, again_s=50, per_node=4)
STORM = Weather("storm", 0.2, 3.0, 2.0, worker_hours=0.05, node_hours=0.1)


def run(cluster, pieces, seconds=10.0, calls=0, seed=0):
    return Simulation(cluster, lambda piece: (seconds, calls), seed).run(pieces)


def accounted(found):
    """Seconds of workers that went to something, over all that there were."""
    return sum(found.spent.values()) / (found.workers * found.seconds)


@pytest.mark.parametrize(("pieces", "workers"), [(1, 1), (7, 7), (8, 7), (100, 9), (3, 8), (1000, 64)])
@pytest.mark.parametrize("shares", [False, True])
def test_without_faults_and_waiting_it_is_rounds_of_equal_pieces(pieces, workers, shares):
    found = run(Cluster(workers, FREE, shares=shares), many(pieces))
    assert found.seconds == pytest.approx(math.ceil(pieces / workers) * 10.0, rel=1e-12)
    assert found.utilisation == pytest.approx(pieces * 10.0 / (workers * found.seconds))
    assert found.lost == found.reruns == 0 and found.loads == min(pieces, workers)


@pytest.mark.parametrize("shares", [False, True])
@pytest.mark.parametrize("judge", [Judge(), Judge(per_minute=400.0), Judge(at_once=10.0, rows=6.0)])
def test_in_a_storm_every_piece_is_done_once_and_time_adds_up(shares, judge):
    numbers = replace(FREE, start_s=2, driver_s=0.01, file_s=0.05, open_s=1, model_gb=0.5, link_gb_s=0.1)
    cluster = Cluster(20, numbers, STORM, judge, loads_model=True, retries=1, shares=shares)
    found = run(cluster, many(300, "abcdefg"), calls=8)
    assert set(found.done.values()) == {1} and len(found.done) == 300
    assert found.lost > 20 and found.reruns > 0
    assert accounted(found) == pytest.approx(1.0)
    stretched = found.spent["work"]
    assert 0.8 * 3000 < stretched < 1.2 * 3000 and found.spent["slow"] > 0 and found.spent["lost"] > 0
    assert found.spent["judge"] + found.spent["limits"] > 0


def test_the_same_seed_is_the_same_run_and_another_one_is_not():
    def once(seed):
        return run(Cluster(16, FREE, STORM), many(200), seed=seed)

    assert once(3) == once(3) != once(4)


def test_stages_come_after_those_that_they_learn_from_and_go_on_from_their_checkpoints():
    pieces = simulated.seeds_of_training(6)
    numbers = replace(FREE, checkpoint_s=10.0)
    chain = sum(simulated.training_cost(piece)[0] for piece in pieces[:3])
    calm = Simulation(Cluster(50, numbers), simulated.training_cost, 0).run(pieces)
    assert calm.seconds == pytest.approx(chain)
    storm = Weather("storm", worker_hours=0.1)
    found = Simulation(Cluster(50, numbers, storm, retries=99), simulated.training_cost, 0).run(pieces)
    assert found.lost > 10 and set(found.done.values()) == {1}
    assert found.spent["lost"] < found.lost * numbers.checkpoint_s  # never more than since the last checkpoint
    assert found.spent["work"] == pytest.approx(6 * chain) and accounted(found) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("judge", "most", "bound"),
    [
        (Judge(per_minute=600.0), 10.0, "rate"),
        (Judge(latency_s=2.0, at_once=30.0), 15.0, "server"),
        (Judge(rows=25.0), 25.0, "ledger"),
        (Judge(latency_s=0.5, concurrency=2), 40 * 4.0, "latency"),
    ],
)
def test_no_judge_is_asked_faster_than_its_limit(judge, most, bound):
    found = run(Cluster(40, FREE, judge=judge), many(400), seconds=0.0, calls=50)
    assert 400 * 50 / found.seconds == pytest.approx(most, rel=1e-6)
    assert max(found.bound, key=found.bound.get) == bound and (found.spent["limits"] == 0) == (bound == "latency")
    fewer = run(Cluster(20, FREE, judge=judge), many(400), seconds=0.0, calls=50)
    assert fewer.seconds == pytest.approx(found.seconds * (2 if bound == "latency" else 1), rel=1e-6)


def test_a_model_is_read_from_the_shared_disk_once_a_node_and_slower_the_more_nodes_read():
    numbers = replace(FREE, model_gb=8.0, link_gb_s=2.0, disk_gb_s=4.0, open_s=3.0)

    def seconds(workers):
        return run(Cluster(workers, numbers, loads_model=True), many(2 * workers)).seconds - 20.0

    assert seconds(4) == seconds(8) == pytest.approx(8 / 2 + 3)  # one node, then two: the link is the limit
    assert seconds(32) == pytest.approx(8 * 8 / 4 + 3)  # eight nodes wait for the disk


def test_the_driver_and_the_shared_disk_do_one_thing_after_the_other():
    assert run(Cluster(50, replace(FREE, driver_s=1.0)), many(50)).seconds == pytest.approx(50 + 10)
    assert run(Cluster(50, replace(FREE, file_s=1.0)), many(50)).seconds == pytest.approx(50 + 10)
    assert run(Cluster(50, replace(FREE, driver_s=1.0), shares=True), many(50)).seconds == pytest.approx(10)


def test_slow_workers_hold_up_fixed_shares_and_are_given_less_by_a_driver():
    weather = Weather("slow", slow_share=0.1, slow_factor=5.0)
    shares, driver = (run(Cluster(20, FREE, weather, shares=own), many(400)) for own in (True, False))
    assert shares.seconds == pytest.approx(20 * 10 * 5)
    assert driver.seconds < 1.3 * 400 * 10 / (18 + 2 / 5)


def test_giving_pieces_by_model_opens_fewer_than_giving_them_in_order():
    by_model, in_order = (
        run(Cluster(30, FREE, loads_model=True, keeps_kits=keeps), many(600, [f"{kit}" for kit in range(20)]))
        for keeps in (True, False)
    )
    assert by_model.loads <= 30 + 20 and in_order.loads == 600


def test_the_command_prints_every_table(capsys, tmp_path):
    small = ["--episodes", "6400", "--workers", "8", "16", "--judging-workers", "4"]
    simulated.main([*small, "--set", "gpu_price=10"])
    out = capsys.readouterr().out
    assert out.count("\n\n|") == 6 and "| 16 | usual | driver |" in out
    with pytest.raises(SystemExit, match="--set gpu=1: give KEY=VALUE with one of batch, "):
        simulated.main(["--set", "gpu=1"])


def test_what_a_million_utterances_cost_follows_from_the_price_list(capsys):
    simulated.main(["--what", "costs", "--episodes", "3200", "--workers", "4", "--set", "judge_model=gpt-4o"])
    calls = 3200 * 8 * 33 / 32
    judge = calls * (905 * 2.5 + 10 * 10.0) / 1e6
    row = capsys.readouterr().out.splitlines()[-3].split(" | ")
    assert row[3] == f"{judge:,.0f}" and int(row[4].strip(" |").replace(",", "")) >= int(row[3])
    assert FAIR.worker_hours == math.inf
