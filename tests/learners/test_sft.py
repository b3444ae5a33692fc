"""Supervised fine-tuning on a tiny random Llama in real 4-bit: which tokens teach, what learns, and how fast."""

import math
from functools import partial

import pytest
import torch
from chat_training import Gradients, batches, fit, make_sft_learner, validation_batches
from episodes import make_episode

from emodistill.data.chat_datasets import SFTBatches
from emodistill.data.chats import collate_encoded, encode_chats
from emodistill.errors import UserError


@pytest.fixture
def make_learner(tiny_model):
    return partial(make_sft_learner, tiny_model)


def test_the_loss_is_the_mean_over_response_tokens_and_no_other_token_matters(make_learner, chats):
    learner = make_learner()
    learner.configure_model()
    learner.policy.eval()
    batch = collate_encoded(chats, 0)
    ids, mask = batch.input_ids, batch.attention_mask
    logits = learner.policy.model(input_ids=ids, attention_mask=mask).logits[:, :-1]
    targets = ids[:, 1:].masked_fill(batch.utterance[:, 1:] < 0, -100)
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    loss, tokens = learner.loss(batch)
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=0)
    assert tokens == (batch.utterance >= 0).sum()


def test_a_prompt_token_has_no_loss_of_its_own(make_learner, encoder):
    """Replacing the last word of the prompt changes what is predicted after it, but not which tokens are scored."""
    learner = make_learner()
    learner.configure_model()
    learner.policy.eval()
    [chat] = encode_chats([make_episode(1)], [[True]], encoder)
    first = chat.utterance.index(0)
    batch = collate_encoded([chat], 0)
    hidden_gradients = []
    embedding = learner.policy.model.get_input_embeddings()
    handle = embedding.register_forward_hook(
        lambda module, inputs, output: hidden_gradients.append(output.requires_grad_().register_hook(grads.append))
    )
    grads = []
    learner.loss(batch)[0].backward()
    handle.remove()
    influence = grads[0][0].norm(dim=-1)
    assert (influence[: len(chat.input_ids) - 1] > 0).all()  # all that comes before is read ...
    assert influence[-1] == 0  # ... and the last token predicts nothing
    owner = learner.policy(batch).owner
    assert len(owner) == len(chat.input_ids) - first


def test_training_moves_every_adapter_weight_and_nothing_else(make_learner, chats):
    learner = make_learner()
    learner.configure_model()
    before = {name: p.detach().clone() for name, p in learner.named_parameters()}
    fit(learner, batches(chats, 2), epochs=2)
    moved = {name for name, p in learner.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name, p in learner.named_parameters() if p.requires_grad}
    assert all(".lora_" in name for name in moved)


def test_it_learns_what_was_chosen_and_not_what_was_not(make_learner, encoder):
    episodes = [make_episode(2, seed=i) for i in range(4)]
    chosen = encode_chats(episodes, [[False, True]] * 4, encoder)
    left_out = encode_chats(episodes, [[True, False]] * 4, encoder)
    learner = make_learner(dropout=False)
    learner.configure_model()

    def loss(chats):
        with torch.no_grad():
            return learner.loss(collate_encoded(chats, 0))[0].item()

    before = loss(chosen), loss(left_out)
    fit(learner, batches(chosen, 4), epochs=30)
    assert before[0] - loss(chosen) > 0.8
    assert before[0] - loss(chosen) > before[1] - loss(left_out) + 0.05


def test_turns_count_by_their_weights_wherever_the_order_puts_them(make_learner, encoder):
    """Two episodes in both orders: the gradient is that of the weighted mean, written out turn by turn."""
    episodes, every = [make_episode(2, seed=i) for i in range(2)], [[True, True]] * 2
    weights = [[0.5, 2.0], [1.5, 0.0]]
    chats = encode_chats(episodes, every, encoder, weights)
    alone = [encode_chats([e], [[i == t for i in range(2)]], encoder) for e in episodes for t in range(2)]
    reference = make_learner(dropout=False)
    reference.configure_model()
    losses = [reference.loss(collate_encoded(chat, 0)) for chat in alone]
    total = sum(tokens for _, tokens in losses)
    flat = [weight for row in weights for weight in row]
    loss = sum(weight * mean * tokens for weight, (mean, tokens) in zip(flat, losses, strict=True)) / total
    loss.backward()
    for order in (chats, chats[::-1]):
        learner, gradient = make_learner(dropout=False), Gradients()
        fit(learner, batches(order, 2), callbacks=[gradient])
        for name, found in gradient.latest.items():
            torch.testing.assert_close(found, reference.get_parameter(name).grad, atol=1e-6, rtol=1e-4)


@pytest.fixture
def unequal(encoder):
    """Twelve chats of one to four replies: the means of two batches weigh very different numbers of tokens."""
    episodes = [make_episode(1 + i % 4, seed=i) for i in range(12)]
    return encode_chats(episodes, [[True] * (1 + i % 4) for i in range(12)], encoder)


CLASS = [(4, 1), (2, 2), (1, 4)]  # batch size and accumulated batches: four chats in an optimizer step


def test_one_step_is_the_mean_over_its_tokens_however_it_is_cut_into_batches(make_learner, unequal):
    [whole] = batches(unequal[:4], 4)
    reference = make_learner(dropout=False)
    reference.configure_model()
    loss, tokens = reference.loss(whole.chats)
    loss.backward()
    by_chat = [reference.loss(part.chats)[0].item() for part in batches(unequal[:4], 1)]
    assert abs(sum(by_chat) / 4 - loss.item()) > 1e-3  # a mean of means would be told apart
    for size, accumulate in CLASS:
        learner, gradient = make_learner(dropout=False), Gradients()
        fit(learner, batches(unequal[:4], size), accumulate_grad_batches=accumulate, callbacks=[gradient])
        assert learner.global_step == 1 and tokens == whole.tokens_of(0, 1)
        for name, found in gradient.latest.items():
            torch.testing.assert_close(found, reference.get_parameter(name).grad, atol=1e-6, rtol=1e-4)


def test_runs_that_cut_their_steps_differently_do_not_drift_apart(make_learner, unequal):
    """Nine steps in three epochs: the losses differ by rounding alone, and on average by even less."""
    ends = []
    for size, accumulate in CLASS:
        learner = make_learner(dropout=False, learning_rate=1e-3)
        fit(learner, batches(unequal, size), epochs=3, accumulate_grad_batches=accumulate)
        assert learner.global_step == 9
        with torch.no_grad():
            ends.append(torch.stack([learner.loss(part)[0] for part in validation_batches(unequal, 1)]))
    for losses in ends[1:]:
        assert (losses - ends[0]).abs().max() < 1e-4
        assert abs((losses - ends[0]).mean().item()) < 2e-5


def test_the_last_step_of_an_epoch_may_have_fewer_batches(make_learner, unequal):
    """Ten chats, four a step: the third step has two, and is the mean over their tokens."""
    gradients = []
    for size, accumulate in CLASS[::2]:
        learner, gradient = make_learner(dropout=False, learning_rate=0.0), Gradients()
        fit(learner, batches(unequal[:10], size), accumulate_grad_batches=accumulate, callbacks=[gradient])
        assert learner.global_step == 3
        gradients.append(gradient.latest)
    for name, found in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], found, atol=1e-6, rtol=1e-4)


def test_a_step_has_the_tokens_of_all_ranks(unequal):
    ranks = [SFTBatches(unequal, 1, seed=0, pad_id=0) for _ in range(2)]
    for number, loader in enumerate(ranks):
        loader.rank, loader.world_size = number, 2
    first, second = map(list, ranks)
    own = [[int((batch.chats.utterance >= 0).sum()) for batch in found] for found in (first, second)]
    for found in (first, second):
        assert [batch.tokens_of(2, 4) for batch in found] == [sum(own[0][2:4]) + sum(own[1][2:4])] * 6


def test_validation_loss_is_the_mean_over_all_tokens_and_perplexity_its_exponential(make_learner, chats):
    learner = make_learner(learning_rate=0.0)
    trainer, _ = fit(learner, batches(chats, 2), val=validation_batches(chats, 1))
    learner.policy.eval()
    expected = learner.loss(collate_encoded(chats, 0))[0].item()
    assert trainer.callback_metrics["val/loss"].item() == pytest.approx(expected, abs=1e-5)
    assert trainer.callback_metrics["val/perplexity"].item() == pytest.approx(math.exp(expected), rel=1e-5)


def test_the_logged_rate_follows_warmup_and_cosine(make_learner, chats):
    learner = make_learner(learning_rate=1.0, warmup_steps=2, schedule="cosine")
    _, rows = fit(learner, batches(chats, 1), epochs=2)
    rates = [row["train/learning_rate"] for row in rows]
    assert rates[:3] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert rates[2:] == sorted(rates[2:], reverse=True) and 0.1 <= rates[-1] < 0.2
    constant = make_learner(schedule="constant")
    _, rows = fit(constant, batches(chats, 1))
    assert [row["train/learning_rate"] for row in rows] == pytest.approx([1e-2] * len(rows))


@pytest.mark.parametrize(
    ("key", "value"),
    [("schedule", "linear"), ("learning_rate", -1.0), ("learning_rate", "1e-3"), ("weight_decay", -0.1)]
    + [("warmup_steps", 1.5), ("warmup_steps", -1)],
)
def test_settings_of_the_optimizer_that_mean_nothing_are_refused(make_learner, key, value):
    with pytest.raises(UserError, match=rf"learner\.optimizer\.{key}={value}: it must be "):
        make_learner(**{key: value})


def test_a_loss_that_is_no_number_ends_training(make_learner, chats):
    with pytest.raises(UserError, match=r"the loss is nan at step [12]; lower learner\.optimizer\.learning_rate"):
        fit(make_learner(learning_rate=1e30, schedule="constant"), batches(chats, 1))
