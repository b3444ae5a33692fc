"""The same model from files of every form: in shards, in 16 bits, with tied weights stored once or twice."""

import json
from pathlib import Path

import pytest
import torch
from chat_training import policy_settings
from families.models import random_model
from safetensors.torch import load_file, save_file
from tiny_model import build_tokenizer, random_ids

from emodistill.language_models.local import load_model
from emodistill.policy.expression_policy import ExpressionPolicy
from emodistill.policy.token_batches import collate_chats


def saved(folder: Path, family: str = "smollm2", **settings):
    """A model whose weights are numbers of 8 bits, which every dtype holds exactly."""
    model = random_model(family)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_((weight * 16).round().clamp(-127, 127) / 16)
    model.to(settings.pop("dtype", torch.float32)).save_pretrained(folder, **settings)
    build_tokenizer().save_pretrained(folder)
    return folder


def stored_twice(folder: Path):
    saved(folder)
    tensors = load_file(folder / "model.safetensors")
    assert "lm_head.weight" not in tensors
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def without_padding_token(folder: Path):
    saved(folder)
    for name in ("config.json", "tokenizer_config.json"):
        settings = json.loads((folder / name).read_text())
        settings.pop("pad_token", None)
        settings["pad_token_id"] = None
        (folder / name).write_text(json.dumps(settings))
    return folder


FORMS = {
    "shards": lambda folder: saved(folder, max_shard_size="40KB"),
    "float16": lambda folder: saved(folder, dtype=torch.float16),
    "bfloat16": lambda folder: saved(folder, dtype=torch.bfloat16),
    "tied weights stored twice": stored_twice,
    "no padding token": without_padding_token,
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("plain"))


def scores(folder, **changes):
    """Log-probabilities under a policy, and what it and its merged copy hold of the weights."""
    torch.manual_seed(0)
    lora = {"r": 4, "target_modules": "all-linear", "init_lora_weights": False}
    policy = ExpressionPolicy(**policy_settings(str(folder), lora=lora, **changes))
    batch = collate_chats([(random_ids(30, 0), [-1] * 20 + [0] * 10)], 0)
    merged = policy.merged(torch.float32)
    return policy(batch).logprobs, [weight.clone() for weight in merged.parameters()]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("four_bit", [True, False])
def test_files_of_any_form_give_the_same_policy(plain, tmp_path, form, four_bit):
    folder = FORMS[form](tmp_path)
    expected, found = (scores(where, four_bit=four_bit) for where in (plain, folder))
    assert torch.equal(found[0], expected[0])
    for weight, wanted in zip(found[1], expected[1], strict=True):
        assert torch.equal(weight, wanted)


def test_tied_and_untied_output_layers_are_kept_apart(tmp_path):
    for family, tied in (("smollm2", True), ("mistral", False)):
        model = load_model(str(saved(tmp_path / family, family)), "float32")
        head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
        assert (head is embedding) == tied and torch.equal(head, embedding) == tied
