import copy

import numpy as np
import pytest
from schedules import concession_schedule

from emodistill.counterparties import calibration
from emodistill.counterparties.calibration import CANDIDATES, SCHEDULE, Calibration, interval, new_negotiations
from emodistill.negotiation.agents import FixedEmotion, UniformEmotion
from emodistill.negotiation.protocol import Negotiation
from emodistill.negotiation.scenarios import Scenario


def ended(scenario_id: str, value: float | None) -> Negotiation:
    negotiation = Negotiation(Scenario(scenario_id, "debt", 20.0, 120.0), 0)
    negotiation.end, negotiation.deal_value = ("walk_away", None) if value is None else ("deal", value)
    return negotiation


def test_look_ahead_beats_random_and_a_constant_on_the_same_negotiations() -> None:
    table = Calibration(("victim", "threat"), scenarios=6, repeats=2, seed=3)
    ahead, random, constant = (
        np.mean([n.utility for n in table.play(selector, "hospital")])
        for selector in (table.look_ahead(2), UniformEmotion(table.vocabulary), FixedEmotion(table.vocabulary, "love"))
    )
    assert ahead > max(random, constant) + 0.05


def test_look_ahead_leaves_the_negotiation_as_it_was() -> None:
    table = Calibration(("vanilla",), scenarios=2, repeats=1, seed=0)
    negotiations = new_negotiations("student", 2, 1, 0)
    before = copy.deepcopy(negotiations)
    choices = table.look_ahead(1).select(negotiations)
    assert all(choice.emotion in CANDIDATES for choice in choices)
    for now, then in zip(negotiations, before, strict=True):
        assert (now.turns, now.end, now.standing) == (then.turns, then.end, then.standing)
        assert [rng.random() for rng in now.rng.values()] == [rng.random() for rng in then.rng.values()]


def test_look_ahead_does_not_know_the_draws_to_come() -> None:
    table = Calibration(("vanilla",), scenarios=1, repeats=1, seed=0)
    first, second = (new_negotiations("debt", 1, 1, 0)[0] for _ in range(2))
    second.rng = {side: np.random.default_rng(99) for side in second.rng}
    ahead = table.look_ahead(2)
    assert ahead.select([first]) == ahead.select([second])


def test_rollouts_differ_and_serve_every_candidate_alike() -> None:
    ahead = Calibration(("vanilla",), scenarios=1, repeats=1, seed=0).look_ahead(2)
    negotiation = new_negotiations("debt", 1, 1, 0)[0]
    draws = [ahead._copy(negotiation, rollout).rng["counterparty"].random() for rollout in (0, 1, 0)]
    assert draws[0] == draws[2] != draws[1]


def test_the_focal_side_concedes_as_in_the_runs() -> None:
    assert vars(SCHEDULE) == vars(concession_schedule())


def test_personas_take_turns() -> None:
    seeds = [n.seed for n in new_negotiations("debt", 5, 3, seed=1)]
    assert seeds == list(range(seeds[0], seeds[0] + 15))


def test_the_interval_resamples_scenarios_not_episodes() -> None:
    few = [ended(f"s{i % 4}", 20.0 if i % 4 < 2 else None) for i in range(400)]
    many = [ended(f"s{i}", 20.0 if i % 4 < 2 else None) for i in range(400)]
    (low, high), (low_many, high_many) = interval(few), interval(many)
    assert low <= 0.5 <= high and low_many <= 0.5 <= high_many
    assert high - low > 5 * (high_many - low_many) > 0


def test_the_command_prints_both_tables(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    command = "calibration --scenarios 2 --arm-scenarios 2 --repeats 1 --rollouts 1 --domains debt --personas stoic"
    monkeypatch.setattr("sys.argv", command.split())
    calibration.main()
    printed = capsys.readouterr().out
    assert (
        "| curiosity |" in printed and "| debt | look-ahead |" in printed and "nan" not in printed.split("| domain")[0]
    )
