"""The stages of the language model and the evaluation on a CUDA device; nothing here runs without one."""

import math

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_runs import Workplace, cut_and_resume

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and there is none"),
]
ON_GPU = ("trainer.accelerator=gpu", "+trainer.precision=bf16-mixed")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = Workplace(tmp_path_factory.mktemp("gpu"))
    place.train("iql")
    for stage in ("sft", "jpo"):
        trainer = place.train(stage, "run", *ON_GPU)
        assert trainer.strategy.root_device.type == "cuda" and trainer.precision == "bf16-mixed"
    return place


@pytest.mark.parametrize("stage", ["sft", "jpo"])
def test_a_stage_on_the_gpu_learns_in_float32_and_shows_its_memory(place, stage):
    weights = place.weights("run", stage)
    assert weights and all(tensor.dtype == torch.float32 and tensor.isfinite().all() for tensor in weights.values())
    curves = EventAccumulator(str(place.folder / "run" / stage / "tensorboard")).Reload()
    assert all(math.isfinite(one.value) for one in curves.Scalars("train/loss"))
    assert 0.0 < curves.Scalars("throughput/peak_memory_gib")[-1].value < torch.cuda.mem_get_info()[1] / 2**30


def test_jpo_starts_at_its_reference_on_the_gpu_too(place):
    first = EventAccumulator(str(place.folder / "run" / "jpo" / "tensorboard")).Reload()
    assert first.Scalars("train/ratio_mean")[0].value == 1.0 and first.Scalars("train/kl")[0].value == 0.0


@pytest.mark.parametrize("stage", ["sft", "jpo"])
def test_a_stage_that_was_cut_ends_where_the_unbroken_one_does(place, stage):
    run = f"cut-{stage}"
    place.copy("run", run, ["iql", "sft"][: 1 + (stage == "jpo")])
    cut_and_resume(place, stage, run, step=3, overrides=ON_GPU)
    for name, tensor in place.weights("run", stage).items():
        torch.testing.assert_close(place.weights(run, stage)[name], tensor, atol=1e-3, rtol=1e-2)  # kernels may vary


def test_all_arms_play_on_the_gpu(place):
    report = place.evaluate()
    assert len(report["cells"]) == 6 and all(cell["episodes"] > cell["invalid"] == 0 for cell in report["cells"])
