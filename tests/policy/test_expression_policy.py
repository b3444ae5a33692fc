"""The expression policy on a tiny random Llama, in real NF4 on the CPU: log-probabilities and their gradients."""

import pytest
import torch
import torch.nn.functional as F
from tiny_model import random_ids
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import GPT2Config, GPT2LMHeadModel

from emodistill.errors import UserError
from emodistill.policy.token_batches import (
    CHUNK,
    HEAD_ROWS,
    Chats,
    collate_chats,
    frozen_head_logprobs,
    mean_by_utterance,
    pack_replies,
    shared_beginnings,
    sum_by_utterance,
)


def lora_gradients(policy, batch):
    policy.zero_grad()
    policy(batch).logprobs.sum().backward()
    return {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("four_bit", [True, False])
def test_response_only_logprobs_are_those_of_full_logits(make_policy, batch, four_bit):
    policy = make_policy(four_bit=four_bit).eval()
    logits = policy.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits[:, :-1]
    full = -F.cross_entropy(logits.flatten(0, 1), batch.input_ids[:, 1:].flatten(), reduction="none")
    expected = full.view(len(logits), -1)[batch.utterance[:, 1:] >= 0]
    logprobs, owner = policy(batch)
    torch.testing.assert_close(logprobs, expected, atol=1e-5, rtol=0)
    assert owner.tolist() == [0] * 3 + [1] * 2 + [2] * 4 + [3]
    assert logprobs.dtype == torch.float32


def test_gradients_without_kept_logits_are_those_of_full_logits(make_policy, batch):
    policy = make_policy().eval()
    ours = lora_gradients(policy, batch)
    policy.zero_grad()
    logits = policy.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits[:, :-1]
    targets = batch.input_ids[:, 1:].masked_fill(batch.utterance[:, 1:] < 0, -100)
    (-F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")).backward()
    assert ours
    for name, parameter in policy.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(ours[name], parameter.grad, atol=1e-4, rtol=1e-4)


class Float32Sizes(TorchDispatchMode):
    """The numbers in every float32 tensor that is made."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and made.dtype == torch.float32:
            self.sizes.append(made.numel())
        return made


@pytest.mark.parametrize("with_bias", [False, True])
def test_an_output_layer_in_bfloat16_is_never_copied_whole(with_bias):
    torch.manual_seed(0)
    head = torch.nn.Linear(48, 2 * HEAD_ROWS + 100, bias=with_bias, dtype=torch.bfloat16).requires_grad_(False)
    hidden, targets = torch.randn(6, 48, requires_grad=True), torch.tensor([0, 1, 8191, 8192, 16384, 16483])
    with Float32Sizes() as made:
        logprobs = frozen_head_logprobs(hidden, head, targets)
        (gradient,) = torch.autograd.grad(logprobs.sum(), hidden)
    assert 0 < max(made.sizes) <= HEAD_ROWS * 64
    expected = F.linear(hidden, head.weight.float(), head.bias.float() if with_bias else None).log_softmax(-1)
    expected = expected[torch.arange(6), targets]
    torch.testing.assert_close(logprobs, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), hidden)[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 2e-6), (torch.bfloat16, 8e-3)])
def test_the_output_layer_against_float64(dtype, bound):
    """Log-probabilities are float32 whatever the model computes in; the gradient is rounded to its dtype."""
    torch.manual_seed(0)
    head = torch.nn.Linear(48, 2 * HEAD_ROWS + 100, dtype=dtype).requires_grad_(False)
    hidden, targets = (8 * torch.randn(40, 48)).to(dtype).requires_grad_(), torch.arange(0, 40 * 400, 400)
    logprobs = frozen_head_logprobs(hidden, head, targets)
    (gradient,) = torch.autograd.grad(logprobs.sum(), hidden)
    exact = hidden.detach().double().requires_grad_()
    expected = F.linear(exact, head.weight.double(), head.bias.double()).log_softmax(-1)[torch.arange(40), targets]
    assert (logprobs.double() - expected).abs().max() < 5e-6
    (wanted,) = torch.autograd.grad(expected.sum(), exact)
    assert (gradient.double() - wanted).norm() / wanted.norm() < bound and gradient.dtype == dtype


def test_more_tokens_than_one_chunk(make_policy):
    policy = make_policy().eval()
    ids = random_ids(CHUNK + 100, 0)
    whole = policy(collate_chats([(ids, [-1, *[0] * (len(ids) - 1)])], 0)).logprobs
    assert len(whole) == len(ids) - 1
    late = policy(collate_chats([(ids, [-1] * (len(ids) - 20) + [0] * 20)], 0)).logprobs
    torch.testing.assert_close(whole[-20:], late, atol=1e-5, rtol=0)


def test_an_evaluation_pass_leaves_the_gradients_as_they_were(make_policy, batch):
    """bitsandbytes repacks 4-bit weights in an eval-mode forward on some CPUs, and loses the gradient."""
    policy = make_policy(lora={"r": 4, "target_modules": "all-linear", "init_lora_weights": False})  # no dropout
    before = lora_gradients(policy, batch)
    with policy.reference():
        policy(batch)
    with torch.no_grad():
        policy.eval()(batch)
    policy.train()
    after = lora_gradients(policy, batch)
    assert before.keys() == after.keys() and len(before) == 28
    for name, gradient in before.items():
        assert torch.equal(gradient, after[name]), name


def test_only_the_policy_adapter_learns_and_it_is_in_training_mode(make_policy, saved_adapter, batch):
    policy = make_policy(init_adapter=str(saved_adapter), reference=True)
    assert all(module.training for module in policy.modules())
    with policy.reference():
        policy(batch)
    assert policy.training
    gradients = lora_gradients(policy, batch)
    assert gradients and all(".policy." in name for name in gradients)
    assert {name for name, p in policy.named_parameters() if p.requires_grad} == set(gradients)


def test_padding_changes_nothing(make_policy, batch):
    policy = make_policy().eval()
    rows = [row[mask] for row, mask in zip(batch.input_ids, batch.attention_mask, strict=True)]
    owners = [row[mask] for row, mask in zip(batch.utterance, batch.attention_mask, strict=True)]
    alone = [
        policy(Chats(r[None], torch.ones_like(r[None]).bool(), o[None])) for r, o in zip(rows, owners, strict=True)
    ]
    torch.testing.assert_close(policy(batch).logprobs, torch.cat([a.logprobs for a in alone]), atol=1e-5, rtol=0)


def test_shapes_repeat_though_lengths_differ():
    """Every new shape costs memory for good: CPU libraries keep a compiled kernel for each."""
    chats = [collate_chats([(random_ids(n, n), [-1] * (n - 1) + [0])], 0) for n in (65, 90, 128)]
    assert {chat.input_ids.shape for chat in chats} == {(1, 128)}
    assert [int(chat.attention_mask.sum()) for chat in chats] == [65, 90, 128]


def test_packed_replies_are_scored_as_if_each_stood_alone(make_policy):
    policy = make_policy().eval()
    contexts = [random_ids(9, 1), random_ids(5, 2)]
    replies = [[random_ids(n, 10 * n) for n in (4, 1, 6)], [random_ids(n, 20 * n) for n in (2, 3)]]
    packed = policy(pack_replies(contexts, replies, pad_id=0))
    flat = [(c, reply) for c, own in zip(contexts, replies, strict=True) for reply in own]
    alone = [policy(collate_chats([(c + r, [-1] * len(c) + [0] * len(r))], 0)).logprobs for c, r in flat]
    torch.testing.assert_close(packed.logprobs, torch.cat(alone), atol=1e-5, rtol=0)
    assert packed.owner.tolist() == [i for i, (_, r) in enumerate(flat) for _ in r]


def branching():
    """Contexts of one dialogue and another; of one the whole is the beginning of another, and one comes twice."""
    trunk = random_ids(40, 1)
    contexts = [trunk[:12] + random_ids(5, 2), random_ids(8, 3), trunk, trunk[:30], trunk[:12] + random_ids(5, 2)]
    return contexts, [[random_ids(n, 7 * n + i) for n in (4, 1, 6)[: 1 + i % 3]] for i in range(5)]


def test_contexts_that_begin_alike_share_a_row():
    contexts, replies = branching()
    groups = shared_beginnings(contexts)
    assert [[place for place, _ in group] for group in groups] == [[2, 3, 0, 4], [1]]
    assert [shared for _, shared in groups[0]] == [40, 30, 12, 12]
    chats = pack_replies(contexts, replies, pad_id=0)
    assert chats.attention_mask.sum(1).tolist() == [
        40 + 2 * 5 + sum(map(len, sum((replies[i] for i in (0, 2, 3, 4)), []))),
        13,
    ]
    assert chats.utterances == sum(map(len, replies))


def test_replies_to_contexts_that_share_a_row_are_scored_as_if_each_stood_alone(make_policy):
    policy = make_policy().eval()
    contexts, replies = branching()
    packed = policy(pack_replies(contexts, replies, pad_id=0))
    flat = [(context, reply) for context, own in zip(contexts, replies, strict=True) for reply in own]
    for number, (context, reply) in enumerate(flat):
        alone = policy(collate_chats([(context + reply, [-1] * len(context) + [0] * len(reply))], 0)).logprobs
        torch.testing.assert_close(packed.logprobs[packed.owner == number], alone, atol=1e-5, rtol=0)


def test_gradients_of_contexts_that_share_a_row_are_those_of_separate_rows(make_policy):
    policy = make_policy().eval()
    contexts, replies = branching()
    packed = lora_gradients(policy, pack_replies(contexts, replies, pad_id=0))
    flat = [(context, reply) for context, own in zip(contexts, replies, strict=True) for reply in own]
    separate = lora_gradients(policy, collate_chats([(c + r, [-1] * len(c) + [0] * len(r)) for c, r in flat], 0))
    for name, gradient in packed.items():
        torch.testing.assert_close(gradient, separate[name], atol=1e-4, rtol=1e-4)


def test_packed_gradients_are_those_of_separate_rows(make_policy):
    policy = make_policy().eval()
    context, replies = random_ids(9, 1), [random_ids(4, 3), random_ids(6, 4)]
    packed = lora_gradients(policy, pack_replies([context], [replies], pad_id=0))
    rows = [(context + r, [-1] * len(context) + [0] * len(r)) for r in replies]
    separate = lora_gradients(policy, collate_chats(rows, 0))
    for name, gradient in packed.items():
        torch.testing.assert_close(gradient, separate[name], atol=1e-4, rtol=1e-4)


def test_gradient_checkpointing_changes_no_gradient(make_policy, saved_adapter, batch):
    plain, frugal = (
        make_policy(init_adapter=str(saved_adapter), reference=True, gradient_checkpointing=value)
        for value in (False, True)
    )
    expected = lora_gradients(plain, batch)
    assert frugal.model.get_base_model().is_activation_checkpointing
    for name, gradient in lora_gradients(frugal, batch).items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-6, rtol=1e-5)


def test_sums_and_means_by_utterance():
    values, owner = torch.tensor([1.0, 2.0, 4.0, 8.0]), torch.tensor([0, 2, 0, 2])
    assert sum_by_utterance(values, owner, 3).tolist() == [5.0, 0.0, 10.0]
    assert mean_by_utterance(values, owner, 3).tolist() == [2.5, 0.0, 5.0]
    assert sum_by_utterance(values.bfloat16(), owner, 3).dtype == torch.float32


@pytest.mark.parametrize("four_bit", [True, False])
def test_a_model_with_conv1d_layers_is_refused_by_name(make_policy, tmp_path, four_bit):
    config = GPT2Config(vocab_size=448, n_embd=64, n_layer=1, n_head=4, bos_token_id=0, eos_token_id=2)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=f"{tmp_path}: has Conv1D layers"):
        make_policy(base_model=str(tmp_path), four_bit=four_bit)
