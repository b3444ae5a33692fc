"""What each study trains and plays, and in which folders."""

from pathlib import Path

import pytest
from tiny_runs import CONFIGS, composed

from commands.studying import configured, lacking, plan, refusal
from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.errors import UserError
from emodistill.evaluation.arms import parse_arms
from emodistill.studies.study import Condition, conditions_of, parts_of, training_seeds

STUDIES = sorted(path.stem for path in (CONFIGS / "study").glob("*.yaml"))


@pytest.mark.parametrize("study", STUDIES)
def test_every_study_composes_with_all_of_its_conditions(study, tmp_path):
    overrides = [f"study={study}", f"run_dir={tmp_path / 'run'}", "run=here"]
    cfg = composed("evaluate", *overrides)
    assert cfg.study.name == study and cfg.study.analyses.costs if cfg.study.plays else cfg.study.analyses
    parts = plan(cfg)
    assert bool(parts) == cfg.study.plays
    assert len({part.stage_dir for part in parts}) == len(parts)
    for part in parts:
        config = configured(cfg, part, overrides)
        parse_arms(config.arms, load_vocabulary(config.vocabulary))
        assert (config.run_dir, config.stage_dir, config.seed) == (
            str(part.run_dir),
            str(part.stage_dir),
            part.training_seed,
        )


def test_the_users_overrides_reach_every_condition_and_the_condition_wins(tmp_path):
    overrides = ["study=counterparties", f"run_dir={tmp_path}", "episodes_per_scenario=7", "counterparty=behavioural"]
    cfg = composed("evaluate", *overrides)
    configs = {part.condition.label: configured(cfg, part, overrides) for part in plan(cfg)}
    assert {config.episodes_per_scenario for config in configs.values()} == {7}
    assert list(configs["unseen_personas"].personas) == ["charmer", "stoic", "panicked"]
    assert "LanguageModelCounterpartySpec" in configs["unseen_model"].counterparty.seat._target_


def test_the_opponents_of_a_tournament_are_its_arms(tmp_path):
    overrides = ["study=tournament", f"run_dir={tmp_path}", "arms=[vanilla,fixed:joy]"]
    cfg = composed("evaluate", *overrides)
    assert [configured(cfg, part, overrides).opponent for part in plan(cfg)] == ["vanilla", "fixed:joy"]


@pytest.mark.parametrize("study", ["transfer", "sensitivity", "tournament"])
def test_some_conditions_only(study, tmp_path):
    chosen = {"transfer": "[student,debt]", "sensitivity": '["beta 10","expectile 0.5"]', "tournament": "[iql]"}[study]
    overrides = [f"study={study}", f"run_dir={tmp_path}"]
    everything = plan(composed("evaluate", *overrides))
    some = plan(composed("evaluate", *overrides, f"conditions={chosen}"))
    assert 0 < len(some) < len(everything) and all(part in everything for part in some)
    with pytest.raises(UserError, match="this study has no 'moon'; it has "):
        plan(composed("evaluate", *overrides, "conditions=[moon]"))


def test_folders():
    trained = Condition("debt", {"all": ["domains=[debt]"]})
    run, played = Path("run"), Path("run/transfer")
    found = parts_of("transfer", [Condition("home"), trained], [4, 5], run, played)
    assert [str(part.run_dir) for part in found] == [
        "run",
        "run/studies/transfer/debt",
        "run/seeds/5",
        "run/studies/transfer/debt/seeds/5",
    ]
    assert str(found[3].stage_dir) == "run/transfer/debt/seed-5" and found[3].shared_from == Path("run/seeds/5")


def test_what_a_condition_shares_with_its_run():
    assert Condition("a").shared == ("iql", "sft", "jpo")
    assert Condition("a", {"jpo": []}).shared == ("iql", "sft") and Condition("a", {"all": []}).shared == ()
    with pytest.raises(UserError, match="train.ipl"):
        Condition("a", {"ipl": []})


def test_training_seeds():
    assert training_seeds(3, 4) == [4, 5, 6] and training_seeds([4, 9], 4) == [4, 9]
    for wrong in (0, [], [4, 4], [5]):
        with pytest.raises(UserError, match="seeds="):
            training_seeds(wrong, 4)


def test_two_labels_for_one_folder_are_refused():
    with pytest.raises(UserError, match="a-b"):
        conditions_of({"conditions": {"a b": {}, "a:b": {}}}, [])


def test_what_is_missing_is_named_with_its_commands(tmp_path):
    overrides = ["study=transfer", f"run_dir={tmp_path}", "run=here", "size=small"]
    cfg = composed("evaluate", *overrides)
    part = plan(cfg)[0]
    needed = lacking(part, configured(cfg, part, overrides), overrides)
    (line,) = [refusal(needed)]
    assert "train=missing" in line and "stage=iql" in line and "size=small" in line and "'domains=[debt]'" in line
    assert f"run_dir={tmp_path}/studies/transfer/debt" in line
