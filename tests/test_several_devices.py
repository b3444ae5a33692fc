"""Training on two devices against one, on the CPU here: the same rows in every step, and the same losses.

Bounds: losses to 1e-5, and what an adapter learned (lora_B begins at zero) to 1 % of its size. The differences are
those of rounding: sums in another order.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder with all runs, see several_devices.py."""
    folder = tmp_path_factory.mktemp("devices")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "LOCAL_RANK", "NODE_RANK")}
    paths = os.pathsep.join(str(ROOT / part) for part in ("", "src", "tests"))
    settings = {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, str(ROOT / "tests" / "several_devices.py"), str(folder), port]
    done = subprocess.run(command, env=environment | settings, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr
    return folder


def steps(runs, run, stage):
    return [json.loads(line) for line in (runs / run / f"{stage}.jsonl").read_text().splitlines()]


def checkpoint(runs, run, stage):
    return torch.load(runs / run / stage / "last.ckpt", weights_only=True)


def assert_learned_alike(one, other):
    """Adapters, by what was added to them."""
    assert one.keys() == other.keys()
    grown = [name for name in one if "lora_B" in name]
    first, second = (torch.cat([state[name].flatten() for name in grown]) for state in (one, other))
    assert (first - second).norm() < 0.01 * first.norm()


SAME = [
    ("one", "ddp_iql", "iql"),
    ("one", "ddp", "sft"),
    ("one", "ddp_jpo", "jpo"),
    ("whole", "fsdp", "sft"),  # the base in float32
    ("one", "fsdp_jpo", "jpo"),  # in NF4
    ("one", "grown", "sft"),  # begun on one device, ended on two
    ("whole", "shrunk", "sft"),  # begun on two by FSDP2, ended on one
]


@pytest.mark.parametrize(("alone", "together", "stage"), SAME)
def test_every_step_has_the_same_rows_and_the_same_loss(runs, alone, together, stage):
    expected, found = steps(runs, alone, stage), steps(runs, together, stage)
    assert [step["rows"] for step in found] == [step["rows"] for step in expected]
    assert len({len(step["rows"]) for step in expected}) == (1 if stage == "iql" else 2)  # a short one ends an epoch
    losses = [torch.tensor([step["loss"] for step in own]) for own in (expected, found)]
    torch.testing.assert_close(*losses, atol=1e-5, rtol=1e-5)
    assert losses[0].std() > 1e-3


@pytest.mark.parametrize(("alone", "together", "stage"), SAME[1:])
def test_what_is_learned_and_exported_is_the_same(runs, alone, together, stage):
    one, other = (checkpoint(runs, run, stage) for run in (alone, together))
    assert_learned_alike(one["state_dict"], other["state_dict"])
    kept = [saved["optimizer_states"][0]["state"] for saved in (one, other)]
    assert kept[0].keys() == kept[1].keys()
    for number, state in kept[0].items():
        assert {name: value.shape for name, value in state.items()} == {
            name: value.shape for name, value in kept[1][number].items()
        }
    folders = [runs / run / stage / "adapter" for run in (alone, together)]
    assert [{path.name for path in folder.iterdir()} for folder in folders][0] == {
        path.name for path in folders[1].iterdir()
    }
    assert_learned_alike(*(load_file(folder / "adapter_model.safetensors") for folder in folders))


@pytest.mark.parametrize("run", ["fsdp", "fsdp_jpo"])
def test_with_fsdp_each_device_holds_half_of_all_weights(runs, run):
    stage = "jpo" if run.endswith("jpo") else "sft"
    alone = steps(runs, "whole" if run == "fsdp" else "one", stage)[0]["held"]
    held = steps(runs, run, stage)[0]["held"]
    assert held < 0.6 * alone


def test_validation_gives_one_number_on_any_number_of_devices(runs):
    for alone, together, stage in SAME[1:5]:
        one, other = (json.loads((runs / run / stage / "finished.json").read_text()) for run in (alone, together))
        assert one["steps"] == other["steps"] and one["best"] == pytest.approx(other["best"], abs=1e-3)


def test_a_run_that_was_cut_ends_where_the_unbroken_one_does(runs):
    """On the same number of devices, to the last bit; the generators of both are saved."""
    ends = [checkpoint(runs, run, "sft") for run in ("ddp", "cut")]
    for name, tensor in ends[0]["state_dict"].items():
        assert torch.equal(tensor, ends[1]["state_dict"][name])
    assert [len(end["callbacks"]["RngState"]["ranks"]) for end in ends] == [2, 2]


def test_a_command_starts_its_second_process_itself(runs):
    assert "MEMBER: 2/2" in (runs / "one_command-0.log").read_text()
    ends = [checkpoint(runs, run, "sft")["state_dict"] for run in ("ddp", "command")]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
