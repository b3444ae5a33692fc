"""After a shared prefix a model says what it would say after the whole text, whatever else is in the batch."""

import pytest
import torch
from tiny_model import random_ids, random_llama

from emodistill.language_models.prefix_scoring import next_logits, read_prefix

CHOICES = [5, 9, 300]


@pytest.fixture(scope="module")
def model():
    return random_llama(3).eval()


def plainly(model, ids):
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0, -1, CHOICES]


def test_logits_are_those_of_the_whole_text(model):
    before = random_ids(40, 0)
    texts = [random_ids(length, length) for length in (1, 7, 3, 20)]
    logits = next_logits(model, read_prefix(model, before), texts, CHOICES)
    assert logits.shape == (4, 3) and logits.dtype == torch.float32
    for row, text in zip(logits, texts, strict=True):
        torch.testing.assert_close(row, plainly(model, before + text), rtol=1e-4, atol=1e-5)


def test_a_prefix_serves_again_and_rows_do_not_see_each_other(model):
    prefix = read_prefix(model, random_ids(40, 0))
    texts = [random_ids(6, 1), random_ids(12, 2), random_ids(2, 3)]
    together = next_logits(model, prefix, texts, CHOICES)
    apart = torch.cat([next_logits(model, prefix, [text], CHOICES) for text in texts])
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)
    assert prefix.length == 40 and all(keys.shape[2] == 40 for keys, _ in prefix.layers)


def test_another_prefix_gives_other_logits(model):
    text = [random_ids(6, 1)]
    one, other = (next_logits(model, read_prefix(model, random_ids(40, seed)), text, CHOICES) for seed in (0, 4))
    assert not torch.allclose(one, other, atol=1e-4)
