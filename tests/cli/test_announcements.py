"""What a command says before it works: what it does, and about how long that takes here."""

import pytest
from tiny_runs import Workplace, composed

import evaluate as evaluating
import train as training
from commands import entry
from commands.building import build_study


@pytest.mark.parametrize(
    ("seconds", "said"), [(None, "work\n"), (30.0, "work; under a minute\n"), (600.0, "work; about 10 min on this ")]
)
def test_the_time_follows_the_speed_of_the_machine(capsys, monkeypatch, seconds, said):
    monkeypatch.setattr(entry, "matrix_speed", lambda: entry.REFERENCE_SPEED)
    entry.announce("work", seconds)
    assert capsys.readouterr().out.startswith(said)
    monkeypatch.setattr(entry, "matrix_speed", lambda: entry.REFERENCE_SPEED / 6)
    entry.announce("work", seconds)
    slower = {None: "work\n", 30.0: "work; about 3 min", 600.0: "work; about 60 min"}[seconds]
    assert capsys.readouterr().out.startswith(slower)


def human_study(place):
    given = [*place.overrides("run"), "study=human"]
    cfg = composed("evaluate", *given)
    return cfg, build_study(cfg, given)


def test_a_stage_and_an_evaluation_say_what_they_do(tmp_path, capsys):
    place = Workplace(tmp_path)
    place.train("iql")
    said = capsys.readouterr().out
    assert f"iql ({tmp_path / 'run' / 'iql'}, 8 steps) {training.WORK['iql']}; under a minute" in said
    evaluating.announce(*human_study(place))
    assert capsys.readouterr().out == f"study human ({tmp_path / 'run' / 'human'}) plays nothing\n"
    place.evaluate("run", "arms=[phrasebook_random,phrasebook_iql]")
    assert "plays phrasebook_random, phrasebook_iql on 1 scenario a domain; under a minute" in capsys.readouterr().out


def test_an_evaluation_says_the_time_of_what_is_missing(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(entry, "matrix_speed", lambda: entry.REFERENCE_SPEED)
    run = tmp_path / "run"
    given = [f"run_dir={run}", "seeds=2", "arms=[phrasebook_random,vanilla,fixed:joy,emodistill]", "domains=[debt]"]
    given += ["scenarios_per_domain=1", "episodes_per_scenario=1", "size.seconds.episode=60"]
    cfg = composed("evaluate", *given)
    study = build_study(cfg, given)

    def said():
        evaluating.announce(cfg, study)
        return capsys.readouterr().out.partition("a domain")[2].strip()

    assert said() == "; about 4 min on this machine"  # emodistill is another one with each training seed
    for place in ("fixed-joy", "vanilla", "emodistill", "phrasebook_random"):
        file = run / "evaluation" / "episodes" / f"{place}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    assert said() == "; about 1 min on this machine"
    part = run / "evaluation" / "seed-1" / "parts" / "a.parquet"
    part.parent.mkdir(parents=True)
    part.touch()
    assert said() == ""
    part.unlink()
    other = run / "evaluation" / "seed-1" / "episodes"
    other.mkdir()
    (other / "emodistill.parquet").touch()
    assert said() == ""  # nothing is missing


def test_no_time_is_said_of_an_agent_that_nobody_has_timed(tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "untimed_agent.py").write_text(
        "class Own:\n    name = 'own'\n    def begin(self, _): ...\n    act = begin\n"
    )
    given = [f"run_dir={tmp_path}", "arms=[vanilla,untimed_agent.Own]", "size.seconds.episode=60"]
    cfg = composed("evaluate", *given)
    evaluating.announce(cfg, build_study(cfg, given))
    assert capsys.readouterr().out.endswith("plays vanilla, untimed_agent.Own on 12 scenarios a domain\n")
