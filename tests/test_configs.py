"""Every configuration composes, says only what its constructors accept, and nothing that nobody reads."""

import importlib
import inspect
import re
import subprocess
import sys

import pytest
import yaml
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from tiny_runs import CONFIGS, by_hydra, composed
from torch.utils.tensorboard import SummaryWriter

from commands.building import read_variants

STAGES = ("iql", "sft", "jpo")
OF_SOME = ("stage", "selection", "weights", "sampler", "averaging")  # of some stages alone
GROUPS = {
    group.name: sorted(path.stem for path in group.glob("[!_]*.yaml"))
    for group in sorted(CONFIGS.iterdir())
    if group.is_dir() and group.name not in ("stage", "expression", "guard", "study", "variants", *OF_SOME)
}
GROUPS["variant"] = ["none", *read_variants()]
NEEDED = {"data=file": "data.corpus.path=episodes.parquet", "data=casino": "data.corpus.path=casino_train.json"}
EXPERIMENTS = GROUPS.pop("experiment")  # sets options of other groups itself
OF_TRAINING = max(len(options) for group, options in GROUPS.items() if group != "model")
OF_EVALUATION = {group: sorted(path.stem for path in (CONFIGS / group).glob("*.yaml")) for group in ("guard", "study")}
OF_EVALUATION |= {
    group: GROUPS[group] for group in ("size", "model", "counterparty", "scenarios", "data", "offers", "speaker")
}


def combined(groups, count, first=0):
    """So many lists of words, each with one option of every group; from one to the next every group goes on by one."""
    for row in range(first, first + count):
        words = [f"{group}={options[(row + k) % len(options)]}" for k, (group, options) in enumerate(groups.items())]
        yield words + [NEEDED[word] for word in words if word in NEEDED]


def plain(cfg):
    """The configuration with every reference resolved."""
    return OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)


def targets(node):
    """Every mapping with a `_target_`, the innermost last."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield node
        for value in node.values():
            yield from targets(value)
    elif isinstance(node, list):
        for value in node:
            yield from targets(value)


def located(path):
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def assert_accepted(node):
    """The target exists, takes the keys that are given, and is given the ones it needs."""
    target = located(node["_target_"])
    given = {key: None for key in node if not key.startswith("_")}
    if node["_target_"] == "lightning.Trainer":
        assert given.keys() <= inspect.signature(target).parameters.keys()
        return
    inspect.signature(target).bind(**given)


@pytest.mark.parametrize(
    "overrides",
    [
        ["run_dir=somewhere", "size.sft_steps=3", "domains=[debt]", "data.corpus.batch=null"],
        ["judge=lm", "judge_timeout_s=${size.jpo_steps}", "model.base_model='a b'", "run=x", "+model@spare=qwen3-0.6b"],
        ["+callbacks.cut._target_=tiny_runs.PowerCut", "+callbacks.cut.step=3", "++seed=1", "~callbacks.samples"],
        ["callbacks.throughput=null", "learner.parts={}", "++learner.parts.emotion.weight=2.0", "size=small"],
    ],
)
def test_tests_compose_as_hydra_does(overrides):
    overrides = ["stage=jpo", *overrides]
    assert OmegaConf.to_container(composed("train", *overrides)) == OmegaConf.to_container(by_hydra("train", overrides))


def test_what_hydra_refuses_is_refused_in_tests_with_its_words():
    for wrong in ("sizes.sft_steps=1", "+seed=1", "judge=nobody"):
        with pytest.raises(HydraException) as theirs:
            by_hydra("train", ["stage=jpo", wrong])
        with pytest.raises(HydraException) as ours:
            composed("train", "stage=jpo", wrong)
        assert str(ours.value) == str(theirs.value)


@pytest.mark.parametrize("data", ["bundled", "selfplay"])
def test_a_corpus_is_the_same_wherever_it_is_built(data):
    """Whatever the stage or the evaluation: the recipe of the corpus must not change with them."""
    roots = [("train", f"stage={stage}") for stage in STAGES] + [("evaluate",), ("play",)]
    corpora = [plain(composed(root, *more, f"data={data}"))["data"]["corpus"] for root, *more in roots]
    for corpus in corpora:
        assert corpus == corpora[0]
    for node in targets(corpora[0]):
        assert_accepted(node)


def configurations():
    yield from (composed("train", f"stage={stage}") for stage in STAGES)
    yield composed("evaluate")


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        pytest.param(stage, words, id=f"{stage} {' '.join(words)}")
        for k, stage in enumerate(STAGES)
        for words in [
            *combined(GROUPS, OF_TRAINING, k * OF_TRAINING),
            *([f"experiment={experiment}"] for experiment in EXPERIMENTS),
        ]
    ],
)
def test_every_option_goes_with_every_stage(stage, words):
    """A model is tried with one stage; JPO with each of them is in test_model_configs."""
    cfg = plain(composed("train", f"stage={stage}", *words))
    for node in targets(cfg):
        assert_accepted(node)


def test_every_option_is_among_them():
    of_stages = [[*combined(GROUPS, OF_TRAINING, k * OF_TRAINING)] for k in range(len(STAGES))]
    for group, options in GROUPS.items():
        wanted = {f"{group}={option}" for option in options}
        for lists in [sum(of_stages, [])] if group == "model" else of_stages:
            assert wanted <= {word for words in lists for word in words}


@pytest.mark.parametrize("stage", ["sft", "jpo"])
@pytest.mark.parametrize("option", sorted(path.stem for path in (CONFIGS / "selection").glob("*.yaml")))
def test_every_selection_goes_with_the_stages_of_the_language_model(stage, option):
    cfg = plain(composed("train", f"stage={stage}", f"selection={option}"))
    assert set(cfg["data"]["dataset"]["selection"]) == set(
        yaml.safe_load((CONFIGS / "selection" / f"{option}.yaml").read_text())
    )
    for node in targets(cfg):
        assert_accepted(node)


@pytest.mark.parametrize("option", sorted(path.stem for path in (CONFIGS / "sampler").glob("*.yaml")))
def test_replies_of_jpo_come_from_here_or_from_a_server(option):
    cfg = plain(composed("train", "stage=jpo", f"sampler={option}"))
    assert (cfg["learner"]["sampler"] == cfg["sampler"]) == (option == "local")
    assert cfg["learner"]["sampler"]["temperature"] == cfg["sampler"]["temperature"]
    for node in targets(cfg):
        assert_accepted(node)


@pytest.mark.parametrize("option", ["none", "advantage"])
def test_turns_can_have_weights_in_sft(option):
    cfg = plain(composed("train", "stage=sft", f"weights={option}"))
    assert (cfg["data"]["dataset"]["weights"] is None) == (option == "none")
    for node in targets(cfg):
        assert_accepted(node)


@pytest.mark.parametrize("stage", ["sft", "jpo"])
def test_the_last_weights_are_averaged_where_it_is_asked_for_and_nothing_is_set_otherwise(stage):
    cfg = plain(composed("train", f"stage={stage}", "averaging=last"))
    export = cfg["callbacks"]["adapter_export"]
    assert (export.pop("average_last"), export.pop("every_n_steps")) == (4, cfg["monitor"]["save_every"])
    assert cfg == plain(composed("train", f"stage={stage}"))


@pytest.mark.parametrize("words", combined(OF_EVALUATION, max(map(len, OF_EVALUATION.values()))), ids=" ".join)
def test_every_option_goes_with_the_evaluation(words):
    cfg = plain(composed("evaluate", *words))
    for node in targets(cfg):
        assert_accepted(node)


def test_there_are_the_documented_choices():
    assert {path.stem for path in (CONFIGS / "stage").glob("*.yaml")} == set(STAGES)
    assert set(GROUPS["size"]) >= {"demo", "small", "full"}
    assert set(GROUPS["model"]) >= {"embedded", "qwen2.5-7b-instruct", "qwen2.5-0.5b-instruct"}
    assert set(GROUPS["model"]) >= {"smollm2-135m-instruct", "smollm2-360m-instruct"}
    assert set(GROUPS["data"]) >= {"bundled", "selfplay", "file", "casino"}
    assert set(GROUPS["counterparty"]) == {"behavioural", "persuadable", "lm", "endpoint"}
    assert set(GROUPS["offers"]) == {"schedule", "model"} and set(GROUPS["speaker"]) == {"local", "endpoint"}


def test_sizes_have_the_same_keys_and_each_of_them_is_read():
    sizes = {path.stem: yaml.safe_load(path.read_text()) for path in (CONFIGS / "size").glob("*.yaml")}
    assert len({frozenset(size) for size in sizes.values()}) == 1
    text = "\n".join(path.read_text(encoding="utf-8") for path in CONFIGS.rglob("*.yaml"))
    scripts = ("train.py", "commands/building.py", "commands/entry.py")
    script = "\n".join((CONFIGS.parent / name).read_text(encoding="utf-8") for name in scripts)
    used = set(re.findall(r"\$\{size\.(\w+)\}", text)) | set(re.findall(r"cfg\.size\.(\w+)", script))
    assert used == set(sizes["demo"])


def test_no_validation_comes_between_two_batches_of_one_step():
    """The checkpoint written after it would lose the gradients that are waiting."""
    for path in (CONFIGS / "size").glob("*.yaml"):
        size = yaml.safe_load(path.read_text(encoding="utf-8"))
        whole = size["sft_val_every"] % size["accumulate"] == size["jpo_val_every"] % size["jpo_accumulate"] == 0
        assert whole, path.name


def test_every_leaf_of_a_root_is_read():
    """A key that nothing refers to, and the two scripts do not read, is a trap: setting it does nothing."""
    sources = [CONFIGS.parent / name for name in ("train.py", "evaluate.py", "commands/building.py")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in [*CONFIGS.rglob("*.yaml"), *sources])
    for root in ("train", "evaluate"):
        top = yaml.safe_load((CONFIGS / f"{root}.yaml").read_text(encoding="utf-8"))
        for key in top.keys() - {"defaults", "hydra"}:
            assert re.search(rf"\$\{{{key}[.}}]|cfg\.{key}\b", text), f"{root}.{key}"


def test_configurations_depend_on_nothing_outside_of_themselves():
    """Neither on the environment nor, outside of its own section, on Hydra's runtime."""
    for path in CONFIGS.rglob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        assert "${oc.env" not in text, path
        assert "${hydra:" not in text.split("\nhydra:")[0] if path.parent == CONFIGS else "${hydra" not in text, path


CHANGED = {"emotion_free": ("sft", "jpo"), "joint": ("sft", "jpo"), "positive_advantage": ("jpo",)}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("variant", ["none", *CHANGED])
def test_a_variant_changes_its_own_stages_and_shares_the_others(stage, variant):
    cfg = composed("train", f"stage={stage}", f"variant={variant}", "run=here")
    if stage in CHANGED.get(variant, ()):
        assert cfg.stage_dir == f"checkpoints/here/{stage}_{variant}" and cfg.name == stage
    else:
        assert plain(cfg) == plain(composed("train", f"stage={stage}", "run=here"))


@pytest.mark.parametrize(("variant", "way"), [("emotion_free", "none"), ("joint", "self_selected")])
@pytest.mark.parametrize("stage", ["sft", "jpo"])
def test_a_variant_differs_in_how_emotions_enter_and_in_nothing_else(stage, variant, way):
    cfg = plain(composed("train", f"stage={stage}", f"variant={variant}"))
    assert cfg["data"]["dataset"]["source"].pop("emotions") == cfg["learner"]["policy"].pop("emotions") == way
    same = str(cfg).replace(f"{stage}_{variant}", stage).replace(f"sft_{variant}", "sft")
    assert same == str(plain(composed("train", f"stage={stage}")))


@pytest.mark.parametrize(("stage", "variant"), [(s, v) for s in STAGES for v in ("none", *CHANGED)])
def test_a_stage_keeps_to_its_folder(stage, variant):
    cfg = composed("train", f"stage={stage}", f"variant={variant}", "run=here")
    flat = OmegaConf.to_yaml(cfg, resolve=True)
    written = [cfg.logger.save_dir, cfg.callbacks.last.path, cfg.callbacks.checkpoint.dirpath]
    assert all(path.startswith(cfg.stage_dir) for path in written)
    assert "default/" not in flat


def test_lists_are_not_left_as_hydra_objects_in_plain_values():
    for cfg in configurations():
        assert not any(isinstance(value, DictConfig | ListConfig) for value in plain(cfg).values())


def test_what_a_stage_changes_reaches_the_others_through_one_key():
    """The vocabulary, the base model and the seed are set once, and wherever they are needed they are the same."""
    for cfg in (composed("train", f"stage={s}", "vocabulary=ekman7", "model.base_model=m", "seed=7") for s in STAGES):
        found = {"vocabulary": set(), "base_model": set(), "seed": set()}
        collect(plain(cfg), found)
        assert found["seed"] - {0} == {7}  # 0 is the split's and the generator's own
        assert found["vocabulary"] == {"ekman7"}
        assert found["base_model"] == {"m"}


def collect(node, found):
    for key, value in node.items():
        if isinstance(value, dict):
            collect(value, found)
        elif key in found:
            found[key].add(value)


def test_tables_of_a_dialect_can_be_given_on_the_command_line():
    given = [
        "endpoint.dialect.extra={reasoning_effort: low}",
        "endpoint.dialect.query={api-version: 2024-10-21}",
        "endpoint.dialect.headers={api-key: AZURE_KEY}",
    ]
    dialect = plain(composed("evaluate", "run=x", *given))["endpoint"]["dialect"]
    assert dialect["extra"] == {"reasoning_effort": "low"} and dialect["headers"] == {"api-key": "AZURE_KEY"}
    assert dialect["query"] == {"api-version": "2024-10-21"}


READS_CURVES = """
import logging.config, sys
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from emodistill.studies.training_seeds import curves_of

with initialize_config_dir(sys.argv[1], version_base="1.3"):
    given = compose("evaluate", return_hydra_config=True).hydra.job_logging
given = OmegaConf.to_container(given)
given["handlers"] = {"console": {"class": "logging.StreamHandler", "stream": "ext://sys.stdout"}}
logging.config.dictConfig(given)
logging.getLogger("emodistill").info("is heard")
(curve,) = curves_of(sys.argv[2], "sft", "seed 0", ["val/loss"])
assert curve.values == [1.5]
"""


def test_a_study_that_reads_curves_prints_no_line_for_each_of_their_files(tmp_path):
    with SummaryWriter(str(tmp_path)) as writer:
        writer.add_scalar("val/loss", 1.5, 1)
    command = [sys.executable, "-c", READS_CURVES, str(CONFIGS), str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ended.stdout == "is heard\n"
