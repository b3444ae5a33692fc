"""What each study trains and plays, and in which folders."""

import json
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from episodes import make_episode
from tiny_runs import CONFIGS, composed

from commands.building import build_study, condition_config
from emodistill.data.schema import read_episodes
from emodistill.errors import UserError
from emodistill.evaluation.own_classes import resolve
from emodistill.evaluation.results import ArmResult
from emodistill.files import exclusive
from emodistill.runs import StageFolder
from emodistill.studies.study import GROUPS, Condition, conditions_of, plan_runs, refusal, training_seeds

STUDIES = sorted(path.stem for path in (CONFIGS / "study").glob("*.yaml"))


@pytest.mark.parametrize("study", STUDIES)
def test_every_study_composes_with_all_of_its_conditions(study, tmp_path):
    overrides = [f"study={study}", f"run_dir={tmp_path / 'run'}", "run=here"]
    cfg = composed("evaluate", *overrides)
    assert cfg.study.name == study and cfg.study.analyses.costs if cfg.study.plays else cfg.study.analyses
    study = build_study(cfg, overrides)
    assert bool(study.runs) == cfg.study.plays
    assert len({run.stage_dir for run in study.runs}) == len(study.runs)
    for run, setup in zip(study.runs, study.setups, strict=True):
        recorded = {key: setup.config[key] for key in ("run_dir", "stage_dir", "seed")}
        assert recorded == {"run_dir": str(run.run_dir), "stage_dir": str(run.stage_dir), "seed": run.training_seed}
        assert not setup.config.keys() & {"train", "training_keys", "seeds"}  # they change no episode


def built(*overrides):
    return build_study(composed("evaluate", *overrides), overrides)


def test_the_users_overrides_reach_every_condition_and_the_condition_wins(tmp_path):
    overrides = ["study=counterparties", f"run_dir={tmp_path}", "episodes_per_scenario=7", "counterparty=behavioural"]
    cfg = composed("evaluate", *overrides)
    configs = {run.condition.label: condition_config(cfg, run, overrides) for run in built(*overrides).runs}
    assert {config.episodes_per_scenario for config in configs.values()} == {7}
    assert configs["fresh_draws"].personas == "test:16" and configs["population"].personas == "population:48"
    assert list(configs["named_personas"].personas)[-1] == "panicked"
    assert "LanguageModelCounterpartySpec" in configs["unseen_model"].counterparty.agent._target_


def test_the_opponents_of_a_tournament_are_its_arms(tmp_path):
    study = built("study=tournament", f"run_dir={tmp_path}", "arms=[vanilla,fixed:joy]")
    assert [setup.opponent.name for setup in study.setups] == ["vanilla", "fixed:joy"]


@pytest.mark.parametrize("unread", ["counterparty=persuadable", "counterparty=endpoint", "offers=model"])
def test_what_an_opponent_does_not_read_is_refused(tmp_path, unread):
    with pytest.raises(UserError, match="the documented simulation decides the numbers of both sides"):
        built("study=tournament", f"run_dir={tmp_path}", unread)


def test_a_guard_is_refused_where_an_arm_would_play_without_it(tmp_path):
    with pytest.raises(UserError, match="guard=strict: the guard is over the focal side alone, and with opponent="):
        built("study=tournament", f"run_dir={tmp_path}", "guard=strict")


@pytest.mark.parametrize(
    ("overrides", "opposite"),
    [
        (
            ["study=tournament", "arms=[vanilla,fixed:joy]"],
            "the arm vanilla, its numbers those of a documented behavioural simulation (personas test:16); "
            "the arm fixed:joy, its numbers those of a documented behavioural simulation (personas test:16)",
        ),
        (
            ["study=counterparties", "conditions=[population,outside_prior,unseen_model]"],
            "a documented behavioural simulation (personas population:48); "
            "a documented behavioural simulation (personas outside:16); "
            "the language model embedded with numbers from a schedule",
        ),
        (["study=guard"], "a documented behavioural simulation (personas test:16)"),
        (["study=human", "study.files=[a.json]"], "people, in dialogues of a corpus"),
    ],
)
def test_the_report_says_who_sat_opposite_in_every_condition(overrides, opposite, tmp_path):
    study = built(*overrides, f"run_dir={tmp_path}")
    study.prepare()
    assert study.about["counterparty"] == opposite


VOCABULARY = "name: own\nlabels:\n  calm: {directive: Be calm., perceived_as: [neutral]}\n"


def played(tmp_path, *overrides):
    """A study of phrasebook arms that is opened and played; the folder of its episodes."""
    words = ("scenarios_per_domain=1", "domains=[debt]", "executor.workers=1", f"run_dir={tmp_path}", *overrides)
    study = built("study.expression=false", "run=here", *words)
    with study.opened("auto"):
        study.play()
    return StageFolder(study.runs[0].stage_dir)


def test_episodes_are_held_to_the_files_that_they_were_made_of(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text(VOCABULARY)
    arms = [f"vocabulary={file}", "arms=[phrasebook_random]", "guard=strict"]
    folder = played(tmp_path, *arms)
    used = json.loads(folder.used_file.read_text())
    assert used.keys() == {"scenarios", "rules", "vocabulary", "counterparty", "phrasebook", "guard"}
    file.write_text(VOCABULARY.replace("neutral", "joy"))
    with pytest.raises(UserError, match="was begun with other vocabulary, made anew since; delete the folder"):
        played(tmp_path, *arms)
    file.write_text(VOCABULARY)
    folder.used_file.write_text(json.dumps(used | {"counterparty": "others", "phrasebook": "other lines"}))
    with pytest.raises(UserError, match="was begun with other counterparty, phrasebook, made anew since"):
        played(tmp_path, *arms)
    folder.used_file.write_text(json.dumps({"scenarios": used["scenarios"]}))  # as folders had it before
    played(tmp_path, *arms)
    assert json.loads(folder.used_file.read_text()) == used


OWN = """
from emodistill.negotiation.agents import Choice


class Always:
    name = "always"

    def select(self, negotiations):
        return [Choice("LABEL", 1.0) for _ in negotiations]
"""


def test_a_selector_of_ones_own_is_an_arm_and_episodes_are_held_to_its_file(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "held_selector.py"
    file.write_text(OWN.replace("LABEL", "anger"))
    arms = ["arms=[held_selector.Always+phrasebook,anger+phrasebook]"]
    folder = played(tmp_path, *arms)
    mine, constant = (
        read_episodes(folder.path / "episodes" / f"{name}+phrasebook.parquet")
        for name in ("held_selector.Always", "anger")
    )
    assert [episode.turns for episode in mine] == [episode.turns for episode in constant]
    assert {episode.behaviour for episode in mine} == {"always"}
    file.write_text(OWN.replace("LABEL", "joy"))
    with pytest.raises(UserError, match=r"was begun with other held_selector\.Always, made anew since"):
        played(tmp_path, *arms)


def test_an_agent_of_ones_own_has_no_guard_and_sits_on_the_focal_side(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "seated_agent.py").write_text(OWN.replace("select", "begin") + "\n    act = begin\n")
    with pytest.raises(
        UserError, match="does not cover 'seated_agent.Always', an agent of yours; leave out this arm, or guard=words"
    ):
        built("run=here", f"run_dir={tmp_path}", "arms=[seated_agent.Always]", "guard=words")
    with pytest.raises(UserError, match="'seated_agent.Always' is an agent of yours, which plays the focal side"):
        built("run=here", f"run_dir={tmp_path}", "arms=[phrasebook_random]", "opponent=seated_agent.Always")
    (setup,) = built("run=here", f"run_dir={tmp_path}", "arms=[seated_agent.Always]").setups
    assert "seated_agent.Always" in setup.own


MOVES = """
from emodistill.negotiation.agents import Move


class Mended:
    name = "mended"

    begun = 0

    def begin(self, negotiations):
        self.begun += 1

    def act(self, negotiations):
        return [MOVE for negotiation in negotiations]
"""


def test_a_class_that_failed_is_mended_and_the_same_command_goes_on(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "mended_agent.py"
    arms = ["arms=[phrasebook_random,mended_agent.Mended]", "episodes_per_scenario=40"]  # in two lots

    def saved(move):
        file.write_text(MOVES.replace("MOVE", move))
        sys.modules.pop("mended_agent", None)  # as in another process
        resolve.cache_clear()

    saved("'no move' if self.begun > 1 else Move('I needed it.', 'walk_away')")
    with pytest.raises(UserError, match=r"mended_agent\.Mended moved by 'no move'"):
        played(tmp_path, *arms)
    saved("Move('I need it.', 'propose', negotiation.scenario.focal_target)")
    folder = played(tmp_path, *arms)
    file_played = folder.path / "episodes" / "mended_agent.Mended.parquet"
    first = file_played.read_bytes()
    assert {turn.text for episode in read_episodes(file_played) for turn in episode.focal_turns} == {"I need it."}
    saved("Move('I want it.', 'propose', negotiation.scenario.focal_target)")
    with pytest.raises(UserError, match=r"was begun with other mended_agent\.Mended"):
        played(tmp_path, *arms)
    assert file_played.read_bytes() == first


def test_what_cannot_be_imported_claims_no_folder(tmp_path):
    with pytest.raises(UserError, match=r"cannot import nowhere\.Always .*put nowhere\.py beside train\.py"):
        played(tmp_path, "arms=[nowhere.Always+phrasebook]")
    assert not (tmp_path / "evaluation").exists()


def test_a_counterparty_is_known_by_its_personas_and_by_its_adapter(tmp_path):
    def made_of(*overrides):
        (setup,) = built("run=here", *overrides).setups
        return setup.made_of()

    first = made_of("personas=[vanilla]")
    assert first == made_of("personas=[vanilla]") and first.keys() == {"rules", "vocabulary", "counterparty"}
    assert first["counterparty"] != made_of("personas=[victim]")["counterparty"]
    language_model = ("counterparty=lm", f"counterparty.agent.backend.adapter={tmp_path}")
    assert "counterparty" not in made_of(*language_model)  # nothing to hash
    found = []
    for weights in ("one", "two", "one"):
        (tmp_path / "adapter_model.safetensors").write_text(weights)
        found.append(made_of(*language_model)["counterparty"])
    assert found[0] == found[2] != found[1]


@pytest.mark.parametrize("study", ["transfer", "sensitivity", "tournament"])
def test_some_conditions_only(study, tmp_path):
    chosen = {"transfer": "[student,debt]", "sensitivity": '["beta 10","expectile 0.5"]', "tournament": "[iql]"}[study]
    overrides = [f"study={study}", f"run_dir={tmp_path}"]
    everything, some = built(*overrides).runs, built(*overrides, f"conditions={chosen}").runs
    assert 0 < len(some) < len(everything) and all(run in everything for run in some)
    with pytest.raises(UserError, match="this study has no 'moon'; it has "):
        built(*overrides, "conditions=[moon]")


def test_folders():
    trained = Condition("debt", {"all": ["domains=[debt]"]})
    run, played = Path("run"), Path("run/transfer")
    found = plan_runs("transfer", [Condition("home"), trained], [4, 5], run, played)
    assert [str(run.run_dir) for run in found] == [
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
    with pytest.raises(UserError, match="'a': arms=.iql. would change what all conditions share"):
        Condition("a", play=["arms=[iql]"])


def test_each_arm_of_a_tournament_has_one_name(tmp_path):
    study = built("study=tournament", "arms=[vanilla,fixed]", f"run_dir={tmp_path}", "run=here")
    assert [run.condition.label for run in study.runs] == [arm.name for arm in study.arms]


def test_training_seeds():
    assert training_seeds(3, 4) == [4, 5, 6] and training_seeds([4, 9], 4) == [4, 9]
    for wrong in (0, [], [4, 4], [5]):
        with pytest.raises(UserError, match="seeds="):
            training_seeds(wrong, 4)
    for wrong in (None, 2.5, ["4", 5], "4"):
        with pytest.raises(UserError, match="seeds=.*: give a whole number of training seeds, or a list of them"):
            training_seeds(wrong, 4)


def test_two_labels_for_one_folder_are_refused():
    with pytest.raises(UserError, match="a-b"):
        conditions_of({"conditions": {"a b": {}, "a:b": {}}}, [])


def test_a_key_that_no_condition_has_is_named():
    with pytest.raises(UserError, match="study condition 'a': 'trian' is no key of one; use train and play"):
        conditions_of({"conditions": {"a": {"trian": {}}}}, [])


def test_what_is_missing_is_named_with_its_commands(tmp_path):
    study = built("study=transfer", f"run_dir={tmp_path}", "run=here", "size=small", "episodes_per_scenario=3")
    first = study.missing()[0]
    assert first.command == (
        f"python train.py stage=iql run=here size=small run_dir={tmp_path}/studies/transfer/debt seed=0 "
        "'domains=[debt]'"
    )  # how many episodes are played is nothing to training
    assert first.command in refusal(study.missing()) and "give train=missing" in refusal(study.missing())
    assert len(study.missing()) == 8 and "(0 more)" not in refusal(study.missing())


def test_a_stage_that_several_conditions_share_is_missing_once(tmp_path):
    study = built("study=sensitivity_language", f"run_dir={tmp_path}", "run=here")
    names = [str((one.run_dir / one.stage.name).relative_to(tmp_path)) for one in study.missing()]
    assert names[:3] == ["iql", "sft", "jpo"] and len(names) == len(set(names))
    home = "studies/sensitivity_language"
    assert names[3:] == [
        *(f"{home}/{condition}/jpo" for condition in ("kappa_neg-0", "kappa_neg-0.5")),
        *(f"{home}/{condition}/{stage}" for condition in ("fraction-0.05", "fraction-0.3") for stage in ("sft", "jpo")),
    ]


def test_a_variant_shares_the_stages_before_those_that_a_condition_trains(tmp_path):
    words = ("study=sensitivity_language", "arms=[joint]", 'conditions=["kappa_neg 0"]')
    study = built(*words, f"run_dir={tmp_path}", "run=here")
    with study.opened("auto"):
        found = [(one.stage.name, one.run_dir.name) for one in study.missing()]
    assert found == [("iql", tmp_path.name), ("sft_joint", tmp_path.name), ("jpo_joint", "kappa_neg-0")]
    link = tmp_path / "studies" / "sensitivity_language" / "kappa_neg-0" / "sft_joint"
    assert link.is_symlink() and link.readlink() == tmp_path / "sft_joint"


def begun_with(tmp_path, *overrides):
    """A study whose folder was begun, as the command did that was refused before it played anything."""
    words = ("arms=[phrasebook_random,phrasebook_vanilla]", f"run_dir={tmp_path / 'run'}", "run=here", *overrides)
    study = built(*words)
    folder = StageFolder(study.folder)
    folder.record(study.setups[0].config)
    (folder.path / "parts").mkdir()
    (folder.path / GROUPS).write_text('[["phrasebook_random", "phrasebook_vanilla"]]')
    return folder, built(*words, "guard=words")


def test_a_folder_in_which_nothing_was_kept_begins_anew_with_another_configuration(tmp_path):
    folder, corrected = begun_with(tmp_path)
    with corrected.opened("never"):
        assert not folder.config_file.exists() and not (folder.path / GROUPS).exists()


@pytest.mark.parametrize(
    "kept",
    ["parts/a.parquet", "episodes/phrasebook_random.parquet", "expression/base.json", "finished.json", "last.ckpt"],
)
def test_a_folder_in_which_something_was_kept_is_still_refused(tmp_path, kept):
    folder, corrected = begun_with(tmp_path)
    (folder.path / kept).parent.mkdir(exist_ok=True)
    (folder.path / kept).touch()
    with pytest.raises(UserError, match="guard.level was 'off', is 'words'"), corrected.opened("auto"):
        pass
    assert folder.config_file.is_file() and (folder.path / GROUPS).is_file()


def test_what_another_share_plays_just_now_counts_as_kept(tmp_path):
    folder, corrected = begun_with(tmp_path, "shard=1/2")
    refused = pytest.raises(UserError, match="was begun with another configuration")
    with exclusive(folder.path / "shares" / "2-of-2"), refused, corrected.opened("auto"):
        pass
    with corrected.opened("auto"):
        assert not folder.config_file.exists()


def test_what_shares_still_play_is_not_played_by_the_whole_command(tmp_path):
    study = built("arms=[phrasebook_random]", f"run_dir={tmp_path / 'run'}", "run=here")
    refused = pytest.raises(UserError, match="share 3/8 still plays in .*; wait for it")
    with exclusive(study.folder / "shares" / "3-of-8"), refused, study.opened("auto"):
        pass
    with study.opened("auto"):  # once it has ended
        pass


def expression_of(*runs):
    """The columns and rows of the table, of runs given as (condition, training seed, faithfulness)."""
    study = built("study=main", "run=here")
    study.analyses, study.about = {}, {}
    rows = [
        replace(
            study.runs[0],
            condition=Condition(label),
            training_seed=seed,
            expression=[{"source": "jpo", "faithfulness": faithful}],
        )
        for label, seed, faithful in runs
    ]
    (table,) = study.analyse(rows).analyses["expression"].tables
    return [column.key for column in table.columns], table.rows


def test_expression_has_a_row_for_each_condition_and_training_seed():
    columns, rows = expression_of(("", 0, 0.9), ("", 1, 0.1))
    assert [(row["source"], row["training_seed"], row["faithfulness"]) for row in rows] == [
        ("jpo", 0, 0.9),
        ("jpo", 1, 0.1),
    ]
    assert "training_seed" in columns and "condition" not in columns
    columns, rows = expression_of(("mild", 0, 0.9), ("strict", 0, 0.1))
    assert [row["condition"] for row in rows] == ["mild", "strict"]
    assert "condition" in columns and "training_seed" not in columns
    columns, rows = expression_of(("", 0, 0.9))
    assert columns[:2] == ["source", "contexts"] and len(rows) == 1


@pytest.mark.parametrize("study", ["guard", "control", "human"])
def test_every_report_lists_what_was_left_out_once(study):
    made = built(f"study={study}", "run=here", "study.files=[]" if study == "human" else "arms=[vanilla]")
    made.analyses = {}
    lost = [replace(make_episode(), end="invalid", fault="no reply")]
    runs = [replace(run, results=[ArmResult("vanilla", lost, run.condition.label)]) for run in made.runs]
    found = made.analyse(runs)
    assert [table.name for table in found.tables] == ["exclusions"] * bool(runs)
    assert not runs or {row["why"] for row in found.tables[0].rows} == {"invalid: no reply"}
    assert found.about.keys() >= {"report_written", "report_written_on"} and "interval" not in found.about


TRAINER = """
import pathlib, sys
given = dict(word.split("=") for word in sys.argv[1:] if not word.startswith("domains"))
name = given["stage"] + ("_" + given["variant"] if "variant" in given else "")
if given["run"] == "fails" and name == "sft":
    sys.exit(2)
folder = pathlib.Path(given["run_dir"]) / name
folder.mkdir(parents=True)
(folder / "finished.json").write_text("{}")
(folder / "best.ckpt").write_text("")
if given["stage"] != "iql" and given["run"] != "loses":
    (folder / "adapter").mkdir()
    for part in ("adapter_model.safetensors", "adapter_config.json", "emodistill.json"):
        (folder / "adapter" / part).write_text("")
"""


def run_script(script, overrides):
    """Runs a program in place of train.py."""
    return subprocess.run([sys.executable, str(script), *overrides]).returncode


def trained_by(tmp_path, run):
    """The study of one arm, with a program in place of train.py that leaves what a stage leaves, or does not."""
    script = tmp_path / "train.py"
    script.write_text(TRAINER)
    study = built("arms=[positive_advantage]", f"run_dir={tmp_path / 'run'}", f"run={run}", "size=small")
    study.run_training = partial(run_script, script)
    return study


def test_every_missing_stage_is_trained_once_and_then_nothing_is_missing(tmp_path, capsys):
    study = trained_by(tmp_path, "works")
    missing = study.missing()
    assert [one.stage.name for one in missing] == ["iql", "sft", "jpo_positive_advantage"]
    study.train(missing)
    assert study.missing() == []
    assert "jpo_positive_advantage is missing: python train.py stage=jpo" in capsys.readouterr().out


def test_workers_train_stages_of_several_seeds_each_after_those_that_it_learns_from(tmp_path):
    script = tmp_path / "train.py"
    marks = f"pathlib.Path({str(tmp_path / 'order')!r}).open('a').write(' '.join(sys.argv[1:]) + chr(10))"
    script.write_text(f"{TRAINER}\n{marks}\n")
    words = (f"run_dir={tmp_path / 'run'}", "run=works", "size=small", "seeds=2")
    study = built("study=stability", "arms=[emodistill]", *words, "executor.workers=2")
    study.run_training = partial(run_script, script)
    missing = study.missing()
    study.train(missing)
    order = (tmp_path / "order").read_text().splitlines()
    assert study.missing() == [] and len(order) == len(missing) == 6
    for seed in (0, 1):
        stages = [line.split()[0] for line in order if f"seed={seed}" in line.split()]
        assert stages == ["stage=iql", "stage=sft", "stage=jpo"]


@pytest.mark.parametrize(("run", "why"), [("fails", "ended with exit status 2"), ("loses", "left nothing in")])
def test_a_failure_of_training_stops_with_its_command_and_keeps_what_was_trained(tmp_path, run, why):
    study = trained_by(tmp_path, run)
    with pytest.raises(UserError, match=f"training sft {why}.*python train.py stage=sft run={run}"):
        study.train(study.missing())
    assert [one.stage.name for one in study.missing()] == ["sft", "jpo_positive_advantage"]


def test_what_is_left_to_win_is_asked_of_one_start_with_equal_steps(tmp_path):
    study = built("study=headroom", f"run_dir={tmp_path}", "run=here", "seeds=2")
    found = [one for one in study.missing() if one.stage.kind == "jpo"]
    names = ["jpo", "jpo_online_simulation", "jpo_best_of_n", "jpo_preference_pairs"]
    assert [one.stage.name for one in found] == names * 2
    configs = [
        composed("train", *(word for word in one.overrides if not word.startswith("run_dir="))) for one in found[:4]
    ]
    assert len({(c.trainer.max_steps, c.data.dataset.batch_size, c.learner.policy.init_adapter) for c in configs}) == 1
    assert configs[1].learner.judge.judge._target_.endswith("SimulationJudge")
    assert configs[0].learner.judge.judge._target_.endswith("RubricJudge")
    assert {arm.drafts for arm in study.arms if arm.generator == "sft"} == {1, 4}


def test_the_conditions_of_sft_train_it_alone_and_differ_in_what_they_say(tmp_path):
    study = built("study=selection", f"run_dir={tmp_path}", "run=here")
    found = {one.run_dir.name: one for one in study.missing() if one.stage.name == "sft"}
    ends = {name: one.overrides[-1] for name, one in found.items() if name != tmp_path.name}
    assert ends == {
        "expressed": "selection=expressed",
        "published": "selection=published",
        "weighted-by-advantage": "weights=advantage",
        "last-weights-averaged": "averaging=last",
    }
    assert {one.stage.name for one in study.missing()} == {"iql", "sft"} and len(found) == 5


def test_the_control_trains_from_one_short_start_and_its_arms_differ_by_their_objective(tmp_path):
    study = built("study=control", f"run_dir={tmp_path}", "run=here")
    found = {one.stage.name: one for one in study.missing()}
    arms = ["jpo", "jpo_shuffled", "jpo_shuffled_judge", "jpo_best_of_n", "jpo_preference_pairs"]
    assert list(found) == ["iql", "sft", *arms]
    same = {"data=selfplay", "counterparty=persuadable", "judge=arguments", "size.jpo_steps=12"}
    for name, one in found.items():
        assert (same <= set(one.overrides)) == name.startswith("jpo")
        assert (one.run_dir == tmp_path) == (name == "iql")  # the selector is the run's own
    assert found["sft"].overrides[-2:] == ["size.sft_steps=12", "size.sft_val_every=24"]
    configs = {
        name: composed("train", *(word for word in one.overrides if not word.startswith("run_dir=")))
        for name, one in found.items()
        if name.startswith("jpo")
    }
    for config in configs.values():  # it learns in contexts that its own start has spoken
        assert config.data.corpus.focal.backend.adapter == config.learner.policy.init_adapter
    shuffled = configs.pop("jpo_shuffled").learner
    assert shuffled.parts.emotion is None
    for scorer in (shuffled.judge, shuffled.parts.shuffled_emotion.scorer):
        assert scorer._target_ == "emodistill.judges.shuffled.ShuffledScores"
    assert shuffled.judge.scorer.judge._target_ == "emodistill.judges.arguments.ArgumentsJudge"
    noise, true = configs.pop("jpo_shuffled_judge").learner, configs["jpo"].learner
    assert noise.judge == shuffled.judge and noise.parts == true.parts  # the emotion is rewarded as in JPO itself
    for config in configs.values():
        assert config.learner.judge.judge._target_ == "emodistill.judges.arguments.ArgumentsJudge"
    (setup,) = study.setups
    assert setup.config["counterparty"]["agent"]["_target_"].endswith("PersuadableCounterpartySpec")
