"""The folder of a stage: what running a command again means, and that nobody else is in it."""

import os

import pytest
import torch
import yaml

from emodistill.errors import UserError
from emodistill.language_models.client import Endpoint
from emodistill.runs import (
    ENDPOINT,
    MAY_CHANGE,
    StageFolder,
    check_earlier_stages,
    flat,
    is_first_process,
    read_checkpoint,
    weights_hash,
)

CONFIG = {"name": "sft", "seed": 0, "learner": {"rates": [1, 2], "lora": {"r": 4, "extra": {}}}, "resume": "auto"}


@pytest.fixture
def folder(tmp_path):
    return StageFolder(tmp_path / "run" / "sft")


@pytest.fixture
def begun(folder):
    folder.record(CONFIG)
    return folder


def changed(**values):
    return CONFIG | values


def test_a_stage_is_new_then_continued_then_finished(folder):
    assert folder.state(CONFIG, "auto") == "new"
    folder.record(CONFIG)
    assert folder.state(CONFIG, "auto") == "new"  # killed before its first checkpoint: nothing to continue from
    folder.last.write_bytes(b"weights")
    assert folder.state(CONFIG, "auto") == "continue"
    folder.finish({"steps": 3, "val/loss": 0.5})
    assert folder.state(CONFIG, "auto") == "finished"
    assert folder.summary() == {"steps": 3, "val/loss": 0.5}


def test_a_stage_that_kept_no_checkpoint_can_be_finished(begun):
    begun.finish({"steps": 0})
    assert begun.state(CONFIG, "auto") == "finished"


def test_what_a_stage_began_with_stays_on_record(begun):
    begun.record(changed(seed=5))
    assert yaml.safe_load(begun.config_file.read_text(encoding="utf-8")) == CONFIG


@pytest.mark.parametrize(
    ("now", "named"),
    [
        (changed(seed=1), ["seed was 0, is 1"]),
        (changed(learner={"rates": [1, 3], "lora": {"r": 4, "extra": {}}}), ["learner.rates was [1, 2], is [1, 3]"]),
        (changed(learner={"rates": [1, 2], "lora": {"r": 4}}), ["learner.lora.extra was {}, is None"]),
        (changed(new=7), ["new was None, is 7"]),
        ({"name": "sft"}, ["learner.lora.r was 4, is None", "seed was 0, is None"]),
    ],
)
def test_a_changed_configuration_is_refused_key_by_key(begun, now, named):
    with pytest.raises(UserError, match="begun with another configuration") as refusal:
        begun.state(now, "auto")
    for words in (*named, str(begun.path), "another run=..."):
        assert words in str(refusal.value)


def test_a_finished_stage_is_refused_to_another_configuration_too(begun):
    begun.finish({})
    with pytest.raises(UserError, match="seed was 0, is 1"):
        begun.state(changed(seed=1), "auto")


def test_some_keys_may_change(begun):
    trainer = {"max_time": "00:01:00:00", "accelerator": "gpu", "devices": 2, "num_nodes": 2, "strategy": "fsdp"}
    shown = {"callbacks.progress_bar", "monitor.refresh_every"}
    named = {f"trainer.{key}" for key in trainer} | {"resume", "threads"} | shown
    waiting = {f"learner.judging.{key}" for key in ("look_ahead", "timeout_s", "max_unscored_batches")}
    waiting |= {"judge_timeout_s", "callbacks.samples.judge_timeout_s"}
    waiting |= {f"learner.sampler.{key}" for key in ("folder", "seen_as", "max_difference", "patience_s")}
    places = {"device", "policy.device", "sampler.device"}
    assert named | waiting | places | {"shard", "data.corpus.shard", "arms"} == set(MAY_CHANGE)
    assert begun.state(changed(trainer=trainer, threads=4, callbacks={"progress_bar": None}), "auto") == "new"
    with pytest.raises(UserError, match=r"trainer\.max_steps was None, is 3"):
        begun.state(changed(trainer=trainer | {"max_steps": 3}), "auto")


def test_a_size_is_compared_where_its_values_are_taken(folder):
    folder.record({"size": {"sft_steps": 40, "expression_contexts": 24}, "trainer": {"max_steps": 2000}})
    same = {"size": {"sft_steps": 12, "expression_contexts": 24}, "trainer": {"max_steps": 2000}}
    assert folder.state(same, "auto") == "new"
    with pytest.raises(UserError, match=r"\(size\.expression_contexts was 24, is 8\)"):  # of an evaluation, read there
        folder.state({**same, "size": {"sft_steps": 12, "expression_contexts": 8}}, "auto")


def test_a_key_that_only_begins_like_one_that_may_change_may_not(begun):
    with pytest.raises(UserError, match=r"trainer\.devices_per_node was None, is 1"):
        begun.state(changed(trainer={"devices_per_node": 1}), "auto")


def test_the_budget_of_an_endpoint_may_be_raised_but_not_its_model_changed(folder):
    def config(**settings):
        endpoint = {"_target_": ENDPOINT, "model": "m", "spending": {"max_cost": 1.0}, "retries": {"max_retries": 5}}
        return {"judge": {"completer": endpoint | settings}}

    folder.record(config())
    changed = config(
        spending={"max_cost": 2.0}, traffic={"concurrency": 4}, retries={"max_retries": 9}, price={"input": 1}
    )
    assert folder.state(changed, "auto") == "new"
    with pytest.raises(UserError, match=r"judge\.completer\.model was 'm', is 'n'"):
        folder.state(config(model="n", spending={"max_cost": 2.0}), "auto")


def test_a_run_may_go_on_on_another_device(folder):
    folder.record({"learner": {"policy": {"device": "cpu", "devices": 1}}})
    assert folder.state({"learner": {"policy": {"device": "gpu", "devices": 1}}}, "auto") == "new"
    with pytest.raises(UserError, match=r"learner\.policy\.devices was 1, is 2"):
        folder.state({"learner": {"policy": {"device": "cpu", "devices": 2}}}, "auto")


@pytest.mark.parametrize("key", ["retries", "price", "traffic", "timeouts"])
def test_a_key_that_is_called_like_one_of_an_endpoint_may_not_change(folder, key):
    """`retries` of a speaker says how often a reply out of role is asked for again: that changes results."""
    folder.record({"speaker": {key: 2}, "endpoint": {"_target_": ENDPOINT, "model": "m"}})
    with pytest.raises(UserError, match=rf"speaker\.{key} was 2, is 3"):
        folder.state({"speaker": {key: 3}, "endpoint": {"_target_": ENDPOINT, "model": "m"}}, "auto")


def test_the_name_of_the_endpoint_is_that_of_the_class():
    assert f"{Endpoint.__module__}.{Endpoint.__qualname__}" == ENDPOINT


def test_a_missing_earlier_stage_is_named_with_its_command(tmp_path):
    iql, adapter = tmp_path / "run" / "iql" / "best.ckpt", tmp_path / "run" / "sft_joint" / "adapter"
    sft = {
        "data": {"dataset": {"selection": {"advantages": {"checkpoint": str(iql)}}}},
        "learner": {"policy": {"r": 1}},
    }
    with pytest.raises(UserError, match=r"iql.best\.ckpt is missing; train it with: python train\.py stage=iql \("):
        check_earlier_stages(sft)
    jpo = {"data": {"corpus": {"focal": {"trained": {"checkpoint": str(iql)}}}}}  # of self-play, which may not use it
    with pytest.raises(UserError, match=r"sft_joint.adapter is missing; .* stage=sft variant=joint "):
        check_earlier_stages(jpo | {"learner": {"policy": {"init_adapter": str(adapter)}}})
    iql.parent.mkdir(parents=True)
    for name in (iql.name, "last.ckpt"):  # the best checkpoint is written while the selector learns
        (iql.parent / name).touch()
    with pytest.raises(UserError, match="iql is not trained to its end; run its command again"):
        check_earlier_stages(sft)
    (iql.parent / "finished.json").touch()
    adapter.mkdir(parents=True)
    check_earlier_stages(jpo | {"learner": {"policy": {"init_adapter": str(adapter)}}})
    check_earlier_stages({"data": None, "learner": {}})


def test_a_folder_that_was_only_locked_is_removed_and_one_with_content_stays(folder):
    folder.discard_if_unused()
    folder.path.mkdir(parents=True)
    (folder.path / ".lock").touch()
    folder.discard_if_unused()
    assert not folder.path.parent.exists()
    folder.record(CONFIG)
    folder.discard_if_unused()
    assert folder.config_file.is_file()


def test_not_a_number_is_itself(folder):
    folder.record({"rate": float("nan")})
    assert folder.state({"rate": float("nan")}, "auto") == "new"


@pytest.mark.parametrize("text", ["a: [1, 2", "just words", "", "- 1\n- 2"])
def test_a_damaged_record_is_named(begun, text):
    begun.config_file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"config\.yaml is damaged; delete .*run.sft or choose another run"):
        begun.state(CONFIG, "auto")


def test_resume_never_refuses_a_used_folder_and_other_words_are_no_choice(folder):
    assert folder.state(CONFIG, "never") == "new"
    folder.record(CONFIG)
    with pytest.raises(UserError, match="used already and resume=never"):
        folder.state(CONFIG, "never")
    with pytest.raises(UserError, match="resume=perhaps: use auto"):
        folder.state(CONFIG, "perhaps")


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, "one", None])
def test_a_seed_that_is_none_is_refused_before_anything_is_made(folder, seed):
    with pytest.raises(UserError, match=rf"seed={seed}: .*from 0 to 4294967295"):
        folder.state(changed(seed=seed), "auto")
    assert not folder.path.exists()


def test_leaves_have_dotted_names():
    assert flat({"a": {"b": 1, "c": {"d": [1]}}, "e": {}, "f": None}) == {"a.b": 1, "a.c.d": [1], "e": {}, "f": None}


def test_a_checkpoint_is_read_back(tmp_path):
    path = tmp_path / "best.ckpt"
    torch.save({"stage": "iql", "state_dict": {"w": torch.ones(2)}}, path)
    assert read_checkpoint(path, "iql", "train it")["state_dict"]["w"].tolist() == [1.0, 1.0]
    with pytest.raises(UserError, match=r"best\.ckpt is a checkpoint of iql, not of stage sft; train it"):
        read_checkpoint(path, "sft", "train it")


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(UserError, match=r"best\.ckpt is missing; train it with stage=iql"):
        read_checkpoint(tmp_path / "best.ckpt", "iql", "train it with stage=iql")


def test_weights_have_one_hash_whatever_else_is_in_the_file(tmp_path):
    path = tmp_path / "best.ckpt"

    def saved(weights, **more):
        torch.save({"stage": "iql", "state_dict": weights, **more}, path)
        return weights_hash(path)

    weights = {"b": torch.zeros(2), "a": torch.ones(1, 2)}
    first = saved(weights)
    assert first == saved(dict(reversed(weights.items())), callbacks={"seconds": 3.0})
    others = [
        {**weights, "a": torch.ones(2, 1)},
        {**weights, "b": torch.zeros(2).double()},
        {**weights, "b": torch.ones(2)},
    ]
    assert len({first, *map(saved, others)}) == 4


def test_a_folder_is_held_to_what_it_was_begun_with(folder):
    folder.hold_to({"iql": "one"}, record=False)
    assert not folder.used_file.exists()
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.hold_to({"iql": "one"})
    folder.hold_to({"sft": "two"})
    folder.hold_to({"iql": "one", "sft": "two"})
    with pytest.raises(UserError, match="was begun with other iql, sft, made anew since; delete the folder"):
        folder.hold_to({"iql": "two", "sft": "one"})


class Harmful:
    """A pickle could run any code; only plain weights are read."""

    def __reduce__(self):
        return os.mkdir, ("harm",)


@pytest.mark.parametrize("damage", ["empty", "cut", "words", "pickle", "code", "list"])
def test_a_damaged_checkpoint_is_named(tmp_path, damage, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "last.ckpt"
    torch.save({"stage": "iql", "w": Harmful() if damage == "code" else torch.ones(2000)}, path)
    whole = path.read_bytes()
    if damage == "list":
        torch.save([1, 2], path)
    elif damage != "code":
        path.write_bytes({"empty": b"", "cut": whole[:2000], "words": b"no checkpoint", "pickle": b"."}[damage])
    with pytest.raises(UserError, match=r"last\.ckpt is (damaged or no|a) checkpoint.*; start over"):
        read_checkpoint(path, "iql", "start over")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("started_by", "first"),
    [
        ({}, True),
        ({"LOCAL_RANK": "1"}, False),  # Lightning, one machine
        ({"NODE_RANK": "1", "LOCAL_RANK": "0"}, False),  # by hand, on the second machine
        ({"RANK": "4", "LOCAL_RANK": "0"}, False),  # torchrun, on the second machine
        ({"SLURM_PROCID": "4", "SLURM_LOCALID": "0"}, False),
        ({"RANK": "0", "LOCAL_RANK": "0", "NODE_RANK": "0", "SLURM_PROCID": "0"}, True),
    ],
)
def test_one_of_several_processes_is_the_first(started_by, first):
    assert is_first_process(started_by) == first
