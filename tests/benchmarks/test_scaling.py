"""What `make scaling` computes from shapes is what models, adapters and 4-bit weights really take."""

import sys
from pathlib import Path

import bitsandbytes as bnb
import pytest
import torch
from episodes import make_episode
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
from transformers import LlamaConfig as Config

from emodistill.data.corpus import CorpusFile
from emodistill.data.schema import write_episodes

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import scaling

TINY = scaling.Shape(64, 128, 2, 4, 2, 448, 16)


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    monkeypatch.setitem(scaling.SHAPES, "tiny", TINY)
    scaling.write_model("tiny", str(tmp_path))
    return tmp_path


def test_weights_are_counted_as_in_the_model_that_is_written(tiny):
    model = AutoModelForCausalLM.from_pretrained(tiny)
    assert isinstance(model.config, Config) and model.dtype == torch.bfloat16
    linears = [m for m in model.model.modules() if isinstance(m, torch.nn.Linear)]
    assert sum(linear.weight.numel() for linear in linears) == TINY.weights
    assert model.lm_head.weight.numel() == TINY.head
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert float(model.model.layers[1].mlp.up_proj.weight.detach().float().std()) == pytest.approx(0.02, rel=0.1)


def test_adapters_are_counted_as_peft_makes_them(tiny):
    model = AutoModelForCausalLM.from_pretrained(tiny)
    adapted = get_peft_model(model, LoraConfig(r=scaling.RANK, target_modules="all-linear", task_type="CAUSAL_LM"))
    assert sum(p.numel() for p in adapted.parameters() if p.requires_grad) == TINY.adapter


def test_four_bit_weights_take_what_is_computed():
    weight = torch.randn(1024, 2048)
    packed, state = bnb.functional.quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
    parts = (packed, state.absmax, state.state2.absmax)
    taken = sum(part.numel() * part.element_size() for part in parts)
    shape = scaling.Shape(1024, 1, 1, 1, 1, 0, 1)
    computed = scaling.gpu_needs(shape, 0)["weights"] / shape.weights
    assert taken / weight.numel() == pytest.approx(computed, rel=0.001)


def test_a_step_on_the_tiny_model_tells_speed_and_memory(tiny):
    found = scaling.train_step(str(tiny), tokens=48, batch=2, steps=1)
    assert found["tokens_s"] > 0 and 0 < found["gib"] < 8


@pytest.mark.parametrize("turns", [5, 40, 700])
def test_a_corpus_is_repeated_with_fresh_ids_until_it_has_so_many_turns(tmp_path, turns):
    episodes = [make_episode(rounds=2 + number % 3, number=number) for number in range(10)]
    write_episodes(episodes, tmp_path / "one.parquet")
    written = scaling.write_corpus(str(tmp_path / "one.parquet"), str(tmp_path / "many.parquet"), turns)
    found = CorpusFile(str(tmp_path / "many.parquet")).episodes()
    counted = sum(len(episode.turns) for episode in found)
    assert turns <= counted == written["turns"] < turns + 8
    assert len({episode.episode_id for episode in found}) == len(found)
    assert {episode.turns for episode in found} <= {episode.turns for episode in episodes}


def test_what_a_gpu_needs_grows_with_tokens_in_the_activations_alone():
    few, many = (scaling.gpu_needs(scaling.SHAPES["3B"], tokens) for tokens in (1000, 3000))
    assert many["activations"] == pytest.approx(3 * few["activations"]) and few["activations"] > 0
    assert all(few[part] == many[part] for part in ("weights", "unpacked", "adapter"))
