"""Log-probabilities of texts behind shared contexts are those of the model run on each pair alone."""

import numpy as np
import pytest
import torch
from tiny_model import build_tiny_model

from emodistill.language_models import likelihood
from emodistill.language_models.likelihood import token_logprobs
from emodistill.language_models.local import load_model, shared_model

PAIRS = [([5, 6, 7], [8, 9]), ([5, 6, 7], [10, 11, 12, 13]), ([14], [8, 9]), ([5, 6, 7], [8, 9]), ([14], [])]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(str(build_tiny_model(tmp_path_factory.mktemp("tiny_model"))), "float32")


def alone(model, context, text):
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([[*context, *text]])).logits[0].log_softmax(-1)
    return [float(logits[len(context) + i - 1, token]) for i, token in enumerate(text)]


@pytest.mark.parametrize("pass_tokens", [1024, 12, 1])
def test_packed_texts_score_as_each_by_itself(model, monkeypatch, pass_tokens):
    monkeypatch.setattr(likelihood, "PASS_TOKENS", pass_tokens)
    for (context, text), found in zip(PAIRS, token_logprobs(model, PAIRS), strict=True):
        assert found == pytest.approx(alone(model, context, text), abs=1e-5)


def test_neighbours_and_their_order_move_nothing_that_is_kept(model):
    forward, backward = token_logprobs(model, PAIRS), token_logprobs(model, PAIRS[::-1])[::-1]
    assert all(np.allclose(one, other, atol=1e-5) for one, other in zip(forward, backward, strict=True))
    assert token_logprobs(model, []) == []


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16, torch.float32])
def test_a_compact_model_gives_what_one_in_float32_gives_and_keeps_the_dtype_of_its_files(tmp_path, stored):
    folder = build_tiny_model(tmp_path)
    load_model(str(folder), "float32").to(stored).save_pretrained(folder)
    compact, plain = (shared_model(str(folder), "float32", "cpu", compact=small) for small in (True, False))
    for one, other in zip(token_logprobs(compact, PAIRS), token_logprobs(plain, PAIRS), strict=True):
        assert np.allclose(one, other, rtol=0, atol=1e-5)
    kept = {module.kept.dtype for module in compact.modules() if hasattr(module, "kept")}
    assert kept == (set() if stored == torch.float32 else {stored})
    assert {parameter.dtype for parameter in compact.parameters()} == {torch.float32}
