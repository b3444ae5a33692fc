"""Whole studies on a tiny model: what is trained, played, found and written, and that a killed one goes on."""

import json
import sqlite3

import pytest
import torch
import yaml
from omegaconf import OmegaConf
from tiny_runs import batches, begun, composed, files

from commands import building
from commands.building import build_study
from commands.words import for_hydra
from emodistill.data.schema import read_episodes
from emodistill.errors import UserError
from evaluate import evaluate
from train import train

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return begun(tmp_path_factory, "studies", "iql")


def study(place, *overrides):
    """What `python evaluate.py OVERRIDES` does."""
    given = [*place.overrides("run"), "scenarios_per_domain=2", "sampler.max_new_tokens=6", *overrides]
    if "train=missing" in given and not any(word.startswith("executor.workers=") for word in given):
        given.append("executor.workers=1")  # training that this file changes is not known in another process
    return evaluate(composed("evaluate", *given), given)


@pytest.fixture(autouse=True)
def like_the_run(monkeypatch):
    """Missing stages get the tiny settings of the run, for which `evaluate.py` has no keys."""
    run_training, training_config = building.run_training, building.training_config
    monkeypatch.setattr(building, "run_training", lambda overrides: run_training(tiny(overrides)))
    monkeypatch.setattr(building, "training_config", lambda overrides: training_config(tiny(overrides)))


def tiny(overrides):
    return [*overrides, *batches("iql" if "stage=iql" in overrides else "sft")]


@pytest.fixture
def trained_here(like_the_run, monkeypatch):
    """Missing stages are trained in this process and not by a `train.py` of their own, which spares its imports."""

    def trained(overrides):
        train(composed("train", *map(for_hydra, tiny(overrides))))
        return 0

    monkeypatch.setattr(building, "run_training", trained)


def report(place, name):
    return json.loads((place.folder / "run" / name / "report.json").read_text(encoding="utf-8"))


def test_another_training_seed_is_trained_and_its_spread_shown_apart(place):
    with pytest.raises(UserError, match=r"seeds/1/iql not trained yet; give train=missing.*seed=1"):
        study(place, "study=stability", "seeds=2", "episodes_per_scenario=1")
    study(place, "study=stability", "seeds=2", "episodes_per_scenario=1", "train=missing")
    found = report(place, "stability")["tables"]
    assert (place.folder / "run" / "seeds" / "1" / "iql" / "best.ckpt").is_file()
    assert {row["training_seed"] for row in found["seeds"]} == {0, 1}
    assert found["variance"] and found["training_ends"][0]["seeds"] == 2
    (apart,) = found["seed_differences"]
    assert (apart["arm"], apart["against"]) == ("phrasebook_iql", "phrasebook_random") and apart["seeds"] == 2


def test_training_seeds_are_those_of_their_stages_and_share_the_run_s_settings(place):
    words = ("study=stability", "name=seeds", "episodes_per_scenario=1", "train=missing")
    with pytest.raises(UserError, match=r"run/iql was trained with seed=0, and the study takes it for seed=1"):
        study(place, *words, "seed=1", "seeds=2")
    with pytest.raises(UserError, match=r"seeds/3/iql would be trained with trainer.max_steps 7 and not \d+; give the"):
        study(place, *words, "seeds=[0,3]", "size.iql_steps=7")
    assert (
        not (place.folder / "run" / "seeds" / "3").exists() and not (place.folder / "run" / "seeds" / "name").exists()
    )


def test_a_condition_that_trains_something_else_now_is_not_played_with_what_it_trained_before(place):
    words = ("study=stability", "name=discounts", "episodes_per_scenario=1", "arms=[phrasebook_iql]")

    def condition(discount):
        return f"+study.conditions={{low: {{train: {{iql: ['learner.discount={discount}']}}}}}}"

    study(place, *words, condition(0.0), "train=missing")
    with pytest.raises(
        UserError, match=r"low/iql was trained with learner.discount 0.0 and not 0.9; delete that folder"
    ):
        study(place, *words, condition(0.9), "train=missing")
    study(place, *words, condition(0.0), "counterparty=persuadable", "name=elsewhere")  # nothing is trained with it


def test_an_arm_in_which_nothing_is_trained_is_played_once_for_all_training_seeds(place):
    words = ("episodes_per_scenario=1", "train=missing", "arms=[phrasebook_random,phrasebook_iql]")
    study(place, "study=stability", "name=once", "seeds=[0,1]", *words)
    folder = place.folder / "run" / "once"
    first, other = (
        sorted(path.name for path in part.glob("*.parquet"))
        for part in (folder / "episodes", folder / "seed-1" / "episodes")
    )
    assert first == ["phrasebook_iql.parquet", "phrasebook_random.parquet"] and other == ["phrasebook_iql.parquet"]
    rows = {(row["arm"], row["training_seed"]): row for row in report(place, "once")["tables"]["seeds"]}
    assert rows.keys() == {("phrasebook_random", 0), ("phrasebook_iql", 0), ("phrasebook_iql", 1)}
    spread = {row["arm"]: row for row in report(place, "once")["tables"]["variance"]}
    assert spread["phrasebook_random"]["seeds"] == 1 and spread["phrasebook_random"]["between_seeds"] is None
    assert spread["phrasebook_iql"]["seeds"] == 2
    assert not any("phrasebook_random: mean utility" in line for line in report(place, "once")["verdicts"])
    costs = {(row["arm"], row["training_seed"]): row for row in report(place, "once")["tables"]["costs"][:-1]}
    assert costs["phrasebook_random", 0]["seconds"] > 0 == costs["phrasebook_random", 1]["seconds"]
    # what the other seed would have played by itself
    own = [f"run_dir={place.folder / 'run' / 'seeds' / '1'}", "seed=1", "seeds=1", "name=alone"]
    study(place, "study=stability", *words, *own)
    alone = place.folder / "run" / "seeds" / "1" / "alone" / "episodes" / "phrasebook_random.parquet"
    assert alone.read_bytes() == (folder / "episodes" / "phrasebook_random.parquet").read_bytes()


def test_a_condition_that_trains_a_late_stage_starts_from_the_run_s_earlier_ones(place, trained_here):
    words = ("study=sensitivity_language", 'conditions=["kappa_neg 0"]', "episodes_per_scenario=1")
    with pytest.raises(UserError, match=r"run/sft, .*kappa_neg-0/jpo not trained yet; .*learner.negative_weight=0.0"):
        study(place, *words)
    study(place, *words, "train=missing", "executor.workers=1")
    run = place.folder / "run"
    own = run / "studies" / "sensitivity_language" / "kappa_neg-0"
    assert (own / "sft").resolve() == (run / "sft").resolve() and (own / "jpo" / "adapter").is_dir()
    assert not (run / "jpo").exists()  # nobody asked for it
    begun = yaml.safe_load((own / "jpo" / "config.yaml").read_text(encoding="utf-8"))
    assert begun["learner"]["negative_weight"] == 0.0


def test_the_control_plays_the_persuadable_counterparty_with_adapters_of_one_start(place, trained_here):
    arms = "arms=[sft,emodistill,iql+jpo_shuffled]"
    ledger = place.folder / "control.sqlite"
    run = place.folder / "run"
    of_rubric = [word for word in place.overrides("run") if word.startswith("judge.judge.")]  # and of no other judge
    given = [word for word in place.overrides("run") if word not in of_rubric]
    given += ["study=control", arms, "scenarios_per_domain=1", "sampler.max_new_tokens=6", "train=missing"]
    given += [f"judge.ledger.path={ledger}", "executor.workers=1"]
    condition = "study.conditions.persuadable.train"
    given += [for_hydra(f"{condition}.sft=[size.sft_steps=2,size.sft_val_every=2,callbacks.samples=null]")]
    cfg = composed("evaluate", *given)
    jpo = OmegaConf.to_container(cfg.study.conditions, resolve=False)["persuadable"]["train"]["jpo"]
    jpo += ["size.jpo_steps=2", "data.corpus.episodes_per_scenario=1", "speaker.max_new_tokens=6"]
    cfg.study.conditions.persuadable.train.jpo = [*jpo, f"data.corpus.folder={place.folder / 'own'}"]
    evaluate(cfg, given)
    own = run / "studies" / "control" / "persuadable"
    assert (own / "iql").resolve() == (run / "iql").resolve() and not (own / "sft").is_symlink()
    begun = {
        name: yaml.safe_load((own / name / "config.yaml").read_text(encoding="utf-8"))
        for name in ("jpo", "jpo_shuffled")
    }
    assert {config["learner"]["policy"]["init_adapter"] for config in begun.values()} == {str(own / "sft" / "adapter")}
    with sqlite3.connect(ledger) as stored:
        judges = {name for (name,) in stored.execute("select distinct judge from judgements")}
    assert judges == {"arguments"}
    assert "ShuffledScores" in str(begun["jpo_shuffled"]["learner"]) and "Shuffled" not in str(begun["jpo"]["learner"])
    (contexts,) = (place.folder / "own").glob("selfplay-*")  # of both: spoken by the short SFT adapter
    recipe = json.loads((contexts / "recipe.json").read_text(encoding="utf-8"))
    assert recipe["focal"]["emotions"] == "selector" and "persuadable" in str(recipe["counterparty"])
    assert recipe["focal"]["voice"]["adapter"]
    found = report(place, "control")
    assert "plain numbers" in found["about"]["counterparty"]
    of_subject, of_shuffled = found["tables"]["comparisons"], found["tables"]["comparisons_2"]
    assert len({str(row) for row in of_subject}) > 1 and of_shuffled != of_subject
    assert "sft, persuadable" in str(of_subject) and "sft, persuadable" in str(of_shuffled)
    played = read_episodes(run / "control" / "persuadable" / "episodes" / "emodistill.parquet")
    assert all(episode.counterparty.startswith("persuadable:") for episode in played)


def test_every_arm_meets_every_arm_on_both_chairs(place):
    study(place, "study=tournament", "arms=[vanilla,random]", "scenarios_per_domain=1")
    found = report(place, "tournament")["tables"]
    assert {row["arm"] for row in found["ratings"]} == {"vanilla", "random"}
    folders = place.folder / "run" / "tournament"
    assert {path.parent.parent.name for path in folders.glob("*/episodes/*.parquet")} == {"vanilla", "random"}
    assert "python evaluate.py" in report(place, "tournament")["about"]["command"]
    assert (folders / "report.html").is_file() and (folders / "tables" / "payoffs.tex").is_file()


def test_predictions_of_the_selector_are_held_against_what_came(place):
    arms = "arms=[phrasebook_random,phrasebook_iql,iql,vanilla]"
    study(place, "study=separability", arms, "scenarios_per_domain=null")
    rows = report(place, "separability")["tables"]["separability"]
    assert [row["arm"] for row in rows] == ["phrasebook_random", "phrasebook_iql", "iql"]  # vanilla shows no emotion
    assert all(row["turns"] > 0 and -1 <= row["correlation"][0] <= 1 for row in rows)
    kept = {row["arm"]: row["kept"][0] for row in rows}
    assert kept["phrasebook_random"] is not None  # chance chose its emotions; the selector chose those of the others
    assert kept["phrasebook_iql"] is None and kept["iql"] is None


def test_a_killed_study_plays_only_what_is_not_there(place):
    words = ("study=guard", "arms=[phrasebook_random,phrasebook_iql]", "episodes_per_scenario=1")
    study(place, *words)
    folder = place.folder / "run" / "guard"
    before = {path: age for path, age in files(folder).items() if path.parent.name == "episodes"}
    lost = folder / "guard-mild" / "episodes" / "phrasebook_iql.parquet"
    kept, content = before.keys() - {lost, lost.with_suffix(".json")}, lost.read_bytes()
    lost.unlink()
    (folder / "guard-mild" / "finished.json").unlink()
    study(place, *words)
    after = files(folder)
    assert len(before) == 16 and all(after[path] == before[path] for path in kept)
    assert lost.read_bytes() == content  # the same episodes again


def episodes(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.glob("**/episodes/*.parquet")}


def test_workers_and_shares_play_what_one_process_plays(place):
    words = [*place.overrides("run"), "arms=[phrasebook_random,phrasebook_iql]", "scenarios_per_domain=2"]

    def play(name, *more, whole=True):
        given = [
            *words,
            "study=guard",
            'conditions=["guard strict"]',
            "episodes_per_scenario=20",
            f"name={name}",
            *more,
        ]
        made = build_study(composed("evaluate", *given), given)
        with made.opened("auto"):
            made.play() if whole else made.play_share()
        return episodes(place.folder / "run" / name)

    one, two = (play(f"by_{workers}", f"executor.workers={workers}") for workers in (1, 2))
    for share in ("2/2", "1/2"):
        assert not play("by_shares", f"shard={share}", whole=False)
    parts = [path for path in files(place.folder / "run" / "by_shares") if path.match("parts/*.parquet")]
    assert len(parts) == 2 * 2  # 40 episodes an arm, at most 32 in lockstep
    assert one == two == play("by_shares") and len(one) == 2
    assert not list((place.folder / "run").glob("by_*/**/parts"))


def test_a_share_does_not_play_before_others_have_trained(place):
    words = ("study=stability", "seeds=[0,7]", "name=waiting", "train=missing", "episodes_per_scenario=1")
    with pytest.raises(SystemExit) as end:
        study(place, *words, "shard=1/3")  # of the pieces, only the selector of seed 0 is its own, and that is there
    assert end.value.code == 75 and not (place.folder / "run" / "seeds" / "7").exists()


def test_an_emotion_that_the_guard_bars_is_refused_before_anything_is_played(place):
    with pytest.raises(UserError, match="guard=strict bars 'anger' in 'debt'"):
        study(place, "arms=[phrasebook_random,anger+phrasebook]", "guard=strict", "name=barred")
    assert not list((place.folder / "run" / "barred").glob("episodes/*"))


def test_a_command_that_was_refused_does_not_lock_its_folder(place):
    folder = place.folder / "run" / "amended"
    words = ("arms=[phrasebook_random,anger+phrasebook]", "name=amended", "study.expression=false")
    with pytest.raises(UserError, match="guard=strict bars 'anger'"):
        study(place, *words, "guard=strict")
    study(place, *words, "guard=off")
    kept = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    assert kept["guard"]["level"] == "off" and len(list(folder.glob("episodes/*.parquet"))) == 2


def test_a_condition_that_changed_is_refused_by_name(place):
    study(place, "study=counterparties", "arms=[phrasebook_random]", "~study.conditions.unseen_model", "name=changed")
    with pytest.raises(UserError, match="begun with another configuration .*episodes_per_scenario was 1, is 2"):
        study(
            place,
            *("study=counterparties", "arms=[phrasebook_random]", "~study.conditions.unseen_model", "name=changed"),
            "episodes_per_scenario=2",
        )


def test_an_arm_may_be_added_to_what_was_played(place, capsys):
    def played(*arms):
        study(place, "study=guard", 'conditions=["guard strict"]', "name=grown", f"arms=[{','.join(arms)}]")
        (folder,) = {path.parent.parent for path in (place.folder / "run" / "grown").glob("**/episodes/*.parquet")}
        kept = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))["arms"]
        rows = {row["arm"] for row in report(place, "grown")["tables"]["costs"][:-1]}
        return {path.name: path.stat().st_mtime_ns for path in folder.glob("episodes/*.parquet")}, kept, rows

    first, _, _ = played("phrasebook_random")
    both, kept, rows = played("phrasebook_random", "phrasebook_iql")
    assert both.keys() == {"phrasebook_random.parquet", "phrasebook_iql.parquet"} and both.items() >= first.items()
    assert kept == ["phrasebook_random", "phrasebook_iql"] and rows == set(kept)
    assert "nothing to play" not in capsys.readouterr().out
    again, _, rows = played("phrasebook_iql")
    assert again == both and rows == {"phrasebook_iql"}
    assert "is finished; nothing to play" in capsys.readouterr().out


def test_what_was_played_is_not_shown_under_weights_that_were_trained_anew(place):
    words = ("arms=[phrasebook_random,phrasebook_iql]", "name=held", "study.expression=false")
    study(place, *words)
    checkpoint = place.folder / "run" / "iql" / "best.ckpt"
    before, kept = checkpoint.read_bytes(), torch.load(checkpoint, weights_only=True)
    try:
        torch.save({**kept, "callbacks": {}}, checkpoint)  # the same weights in another file
        study(place, *words)
        kept["state_dict"] = {name: value + 1 for name, value in kept["state_dict"].items()}
        torch.save(kept, checkpoint)
        with pytest.raises(UserError, match="held was begun with other iql, made anew since; delete the folder"):
            study(place, *words)
        study(
            place, "arms=[phrasebook_random]", "name=held", "study.expression=false"
        )  # the selector has no part in it
    finally:
        checkpoint.write_bytes(before)
