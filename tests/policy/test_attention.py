"""Attention over chats laid end to end: against float64, whatever is packed, and where the library's own stays."""

import pytest
import torch
from families.models import random_model
from tiny_model import random_ids, random_llama

from emodistill.policy.attention import NAME, ROUND, grouped_attention, lay_out, use_grouped_attention
from emodistill.policy.token_batches import collate_chats, pack_replies, packed_mask

HEADS, GROUPS, WIDTH, SCALING = 6, 2, 16, 0.25


def plain(lengths):
    return collate_chats([(random_ids(n, n), [-1] * (n - 3) + [0] * 3) for n in lengths], 0)


def packed():
    """A long context whose replies lie over two blocks of queries, and a short one."""
    contexts = [random_ids(150, 1), random_ids(7, 2)]
    return pack_replies(contexts, [[random_ids(n, n) for n in (40, 90, 33)], [random_ids(5, 3)]], 0)


def branching():
    """Contexts of one dialogue: a trunk of three blocks, a branch in each, one without tokens of its own."""
    trunk = random_ids(300, 1)
    contexts = [trunk[:100] + random_ids(40, 2), trunk, trunk[:250] + random_ids(20, 3), trunk[:200]]
    return pack_replies(contexts, [[random_ids(n, n + i) for n in (20, 30)] for i in range(4)], 0)


def reference(query, key, value, seen):
    """softmax(s q k') v of one chat with a mask (T, T), key-value heads repeated."""
    key, value = (tensor.repeat_interleave(HEADS // GROUPS, 0) for tensor in (key, value))
    scores = (query @ key.transpose(-1, -2) * SCALING).masked_fill(~seen, -torch.inf)
    return scores.softmax(-1) @ value


def results(batch, dtype, window=None):
    """Output and gradients of ours in `dtype` and of the reference in float64, tokens of chats only."""
    stream = lay_out(batch, dtype, window)
    tokens = stream.input_ids.shape[1]
    torch.manual_seed(0)
    given = [torch.randn(1, heads, tokens, WIDTH).to(dtype) for heads in (HEADS, GROUPS, GROUPS)]
    outer = torch.randn(1, tokens, HEADS, WIDTH).to(dtype)
    mask = packed_mask(batch)[:, 0] if batch.packing is not None else None
    rows = list(zip(stream.offsets.tolist(), batch.attention_mask.sum(1).tolist(), strict=True))
    kept = torch.cat([torch.arange(at, at + n) for at, n in rows])
    ours = [tensor.clone().requires_grad_() for tensor in given]
    blocks = {"blocks": stream.blocks, "near_blocks": stream.near_blocks, "sliding_window": window}
    attended, _ = grouped_attention(None, *ours, None, SCALING, **blocks)
    (attended * outer)[:, kept].sum().backward()
    exact, expected = [tensor.double().requires_grad_() for tensor in given], []
    for row, (at, length) in enumerate(rows):
        seen = torch.ones(length, length).tril().bool() if mask is None else mask[row, :length, :length]
        if window is not None:
            places = stream.position_ids[0, at : at + length]
            seen = seen & (places[:, None] - places < window)
        expected.append(reference(*(tensor[0, :, at : at + length] for tensor in exact), seen).transpose(0, 1))
    (torch.cat(expected) * outer[0, kept].double()).sum().backward()
    found = [attended[0, kept], *(one.grad[0, :, kept] for one in ours)]
    return zip(found, [torch.cat(expected), *(one.grad[0, :, kept] for one in exact)], strict=True)


@pytest.mark.parametrize("window", [None, 20, 150])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize(
    "batch", [plain([5, 130, 300, 32]), packed(), branching()], ids=["chats", "packed", "branching"]
)
def test_output_and_every_gradient_against_float64(batch, dtype, bound, window):
    """Relative to the size of the whole: rounding of bfloat16 is 0.4 %, and there are up to four in a row."""
    for found, wanted in results(batch, dtype, window):
        assert found.dtype == dtype
        assert (found.double() - wanted).norm() / wanted.norm() < bound


def test_no_gradient_is_the_same_forward():
    stream = lay_out(packed(), torch.bfloat16)
    tokens = stream.input_ids.shape[1]
    given = [torch.randn(1, heads, tokens, WIDTH).bfloat16() for heads in (HEADS, GROUPS, GROUPS)]
    free, _ = grouped_attention(None, *given, None, SCALING, blocks=stream.blocks)
    bound, _ = grouped_attention(None, *(one.requires_grad_() for one in given), None, SCALING, blocks=stream.blocks)
    assert torch.equal(free, bound)


def test_a_batch_is_laid_out_with_little_padding():
    batch = plain([5, 130, 300, 32])
    stream = lay_out(batch, torch.float32)
    assert stream.offsets.tolist() == [0, 32, 192, 512] and stream.input_ids.shape == (1, 544)
    assert all(int(at) % ROUND == 0 for at in stream.offsets)
    for row, at in enumerate(stream.offsets.tolist()):
        length = int(batch.attention_mask[row].sum())
        assert torch.equal(stream.input_ids[0, at : at + length], batch.input_ids[row, :length])
        assert stream.position_ids[0, at : at + length].tolist() == list(range(length))
    assert [block.last - block.first for block in stream.blocks] == [32, 128, 32, 128, 128, 64, 32]


def test_a_chat_sees_nothing_of_another():
    lengths = [40, 70]
    stream = lay_out(plain(lengths), torch.float32)
    given = [torch.randn(1, heads, stream.input_ids.shape[1], WIDTH) for heads in (HEADS, GROUPS, GROUPS)]
    before, _ = grouped_attention(None, *given, None, SCALING, blocks=stream.blocks)
    changed = [tensor.clone() for tensor in given]
    for tensor in changed[1:]:
        tensor[:, :, 64:] = 9.0
    after, _ = grouped_attention(None, *changed, None, SCALING, blocks=stream.blocks)
    assert torch.equal(before[:, :40], after[:, :40]) and not torch.equal(before[:, 64:], after[:, 64:])


def test_a_window_leaves_out_what_no_query_of_a_block_sees():
    stream = lay_out(plain([300, 32]), torch.float32, window=20)
    assert [block.start for block in stream.near_blocks] == [0, 128 - 19, 256 - 19, 320]
    assert [block.hidden.shape[1] for block in stream.near_blocks] == [128, 128 + 19, 64 + 19, 32]
    assert not lay_out(plain([300]), torch.float32).near_blocks


@pytest.mark.parametrize(
    ("family", "ours"), [("smollm2", True), ("phi3", True), ("gemma3", True), ("gemma2", False), ("lfm2", False)]
)
def test_capped_scores_and_layers_with_a_state_stay_with_the_library(family, ours):
    model = random_model(family)
    before = model.config._attn_implementation
    assert use_grouped_attention(model) == ours
    assert model.config._attn_implementation == (NAME if ours else before)


def test_called_without_a_stream_a_model_has_torchs_attention():
    model = random_llama(attention_dropout=0.0).eval()
    ids = torch.tensor([random_ids(20, 0), random_ids(20, 1)])
    with torch.no_grad():
        before = model(input_ids=ids).logits
        assert use_grouped_attention(model)
        assert torch.equal(model(input_ids=ids).logits, before)
