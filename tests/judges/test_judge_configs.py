"""The files under configs/judge: nothing stands twice, and they say what the constructors say."""

import importlib
import inspect
from pathlib import Path

import pytest
import yaml
from hydra.utils import instantiate
from tiny_runs import composed

from emodistill.judges.ledger import LedgerJudge

CONFIGS = Path(__file__).parents[2] / "configs" / "judge"


def targets(node):
    """Every mapping with a `_target_` in a YAML file."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield node
        for value in node.values():
            yield from targets(value)


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: path.stem)
def test_a_number_in_a_file_is_the_default_of_its_constructor(path):
    for node in targets(yaml.safe_load(path.read_text())):
        module, _, name = node["_target_"].rpartition(".")
        parameters = inspect.signature(getattr(importlib.import_module(module), name)).parameters
        for key, value in node.items():
            if isinstance(value, int | float) and parameters[key].default is not inspect.Parameter.empty:
                assert value == parameters[key].default, key


def test_the_members_of_the_ensemble_are_the_judges_that_stand_alone():
    rubric, local, ensemble = (
        composed("train", "stage=iql", f"judge={name}").judge for name in ("rubric", "local", "ensemble")
    )
    assert dict(ensemble.judge.judges) == {"rubric": rubric.judge, "local": local.judge}
    assert rubric.ledger == local.ledger == ensemble.ledger


def test_the_rubric_judge_of_the_files_is_the_one_of_the_code(judge, tmp_path):
    alone = ("judge.judge.sense=null", f"judge.ledger.path={tmp_path / 'ledger.sqlite'}")
    config = composed("train", "stage=iql", *alone).judge
    made = instantiate(config, _convert_="all")
    assert isinstance(made, LedgerJudge) and made.judge.version == judge.version
    config.judge.weights.emotion = 0.5
    assert instantiate(config, _convert_="all").judge.version != judge.version
