"""Cached, batched generation gives what one chat alone, without any cache, would give."""

import copy
from itertools import count as counting

import numpy as np
import pytest
import torch
from transformers import DynamicCache, PreTrainedModel

from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.errors import UserError
from emodistill.language_models.local import load_model, load_tokenizer
from emodistill.policy import generation as decoding
from emodistill.policy.chat_format import ChatFormat
from emodistill.policy.generation import ChatGenerator, RolloutSampler, Session, pick, uniform_noise


@pytest.fixture(scope="module")
def parts(tiny_model):
    model = load_model(tiny_model, "float32")
    with torch.no_grad():  # untrained, it is nearly flat and sees little but the last token: make it look around
        for name, weight in model.named_parameters():
            weight.mul_(10 if "_proj" in name else 12 if name == "model.norm.weight" else 1)
    return model, load_tokenizer(tiny_model)


@pytest.fixture
def make(parts):
    def build(**changes):
        return ChatGenerator(*parts, **({"temperature": 0.8, "top_k": 20, "max_new_tokens": 12} | changes))

    return build


def prompts(rows, low=3, high=40, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(3, 440, rng.integers(low, high)).tolist() for _ in range(rows)]


@torch.no_grad()
def reference(generator, history, seed):
    """One reply token by token, each from a whole uncached forward pass."""
    model, settings = generator._decoder.model, generator.sampling
    noise, reply = uniform_noise([seed], settings.max_new_tokens), []
    for step in counting():
        logits = model(torch.tensor([history + reply]), use_cache=False).logits[:, -1].float()
        reply.append(int(pick(logits, noise[:, step], settings.temperature, settings.top_k)))
        if reply[-1] in settings.stop_ids or len(reply) == settings.max_new_tokens:
            return reply


def some_stop_ids(generator, rows=6):
    """Tokens that these replies do contain, so that rows end at different steps."""
    replies = generator.extend_and_sample([Session() for _ in range(rows)], prompts(rows), range(rows))
    return sorted({reply[3 + i] for i, reply in enumerate(replies)})


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("prefill_tokens", [8192, 24])
def test_rounds_with_a_cache_equal_feeding_everything_again(make, monkeypatch, temperature, prefill_tokens):
    monkeypatch.setattr(decoding, "PREFILL_TOKENS", prefill_tokens)
    generator = make(temperature=temperature, stop_ids=some_stop_ids(make(temperature=temperature)))
    sessions, histories, lengths = [Session() for _ in range(6)], [[] for _ in range(6)], set()
    alive = list(range(6))
    for turn in range(4):
        new = prompts(len(alive), seed=turn)
        seeds = [100 * turn + i for i in alive]
        replies = generator.extend_and_sample([sessions[i] for i in alive], new, seeds)
        for i, tokens, seed, reply in zip(alive, new, seeds, replies, strict=True):
            histories[i] += tokens
            assert reply == reference(generator, histories[i], seed)
            histories[i] += reply
            assert sessions[i].tokens == histories[i]
            lengths.add(len(reply))
        alive = alive[1:] if turn else [5, 2, 3, 0]  # chats end, and come in another order
    assert len(lengths) > 2  # rows did end at different steps


def test_a_round_feeds_only_what_is_new(make, parts, monkeypatch):
    generator, fed = make(temperature=0.0), []
    sessions = [Session() for _ in range(3)]
    generator.extend_and_sample(sessions, prompts(3, 30, 40), [0] * 3)
    feed = generator._decoder.feed

    def record(cache, pending):
        fed.extend(map(len, pending))
        return feed(cache, pending)

    monkeypatch.setattr(generator._decoder, "feed", record)
    generator.extend_and_sample(sessions, prompts(3, 5, 6, seed=1), [0] * 3)
    assert fed == [6, 6, 6]  # five new tokens, and the last token of the reply, which was never fed


def test_edited_history_decides_over_the_cache(make):
    generator = make()
    session = Session()
    generator.extend_and_sample([session], prompts(1), [0])
    for edit in (slice(-4, None), slice(2, 9)):  # the end of the reply was not said; early rounds were dropped
        del session.tokens[edit]
        history, new = list(session.tokens), prompts(1, seed=5)
        reply = generator.extend_and_sample([session], new, [7])[0]
        assert reply == reference(generator, history + new[0], 7)
    del session.tokens[-len(reply) :]  # said again, with nothing new: all that is needed is in the cache already
    history = list(session.tokens)
    assert generator.extend_and_sample([session], [[]], [8])[0] == reference(generator, history, 8)


def test_the_same_seed_says_the_same_whatever_the_batch(make):
    chats, seeds = prompts(9), list(range(9))
    together = make().extend_and_sample([Session() for _ in chats], chats, seeds)
    split = make(max_batch=4).extend_and_sample([Session() for _ in chats], chats, seeds)
    alone = [make().extend_and_sample([Session()], [chat], [seed])[0] for chat, seed in zip(chats, seeds, strict=True)]
    assert together == split == alone
    assert make().extend_and_sample([Session() for _ in chats], chats, [s + 50 for s in seeds]) != together


def test_greedy_is_the_greedy_decoding_of_transformers(make, parts):
    model, tokenizer = parts
    ours = make(temperature=0.0, max_new_tokens=20).extend_and_sample(
        [Session() for _ in range(4)], prompts(4), [0] * 4
    )
    for prompt, reply in zip(prompts(4), ours, strict=True):
        ids = torch.tensor([prompt])
        theirs = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=20,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        assert reply == theirs[0, len(prompt) :].tolist()


def test_replies_stop_at_a_stop_token_and_at_the_limit(make):
    stops = some_stop_ids(make())
    replies = make(stop_ids=stops).extend_and_sample([Session() for _ in range(6)], prompts(6), range(6))
    assert any(reply[-1] in stops and len(reply) < 12 for reply in replies)
    for reply in replies:
        assert not set(reply[:-1]) & set(stops)
        assert len(reply) == 12 or reply[-1] in stops


def test_samples_of_one_context_equal_those_drawn_one_by_one(make):
    contexts = prompts(3, seed=3)
    generator = make(stop_ids=some_stop_ids(make()))
    groups = generator.sample(contexts, count=5, seed=11)
    assert [len(group) for group in groups] == [5, 5, 5]
    for i, context in enumerate(contexts):
        assert len({tuple(reply) for reply in groups[i]}) > 1
        assert groups[i] == [reference(generator, context, (11, i, j)) for j in range(5)]
    assert make(stop_ids=sorted(generator.sampling.stop_ids), max_batch=4).sample(contexts, 5, 11) == groups
    assert generator.sample(contexts, 5, 12) != groups


@pytest.mark.parametrize("own_forward", [True, False])
@pytest.mark.parametrize("max_batch", [32, 5])
def test_contexts_that_begin_alike_are_answered_as_if_each_stood_alone(make, own_forward, max_batch):
    """What they share is read once: the rest of each follows in its own row, wherever the batch is cut."""
    trunk, other = prompts(2, 40, 60, seed=3)
    contexts = [trunk[:15] + prompts(1, seed=5)[0][:4], other, trunk, trunk[:30], other]
    generator = make(stop_ids=some_stop_ids(make()), max_batch=max_batch)
    if not own_forward:
        generator._decoder._own_forward = None
    groups = generator.sample(contexts, count=3, seed=11)
    for i, context in enumerate(contexts):
        assert groups[i] == [reference(generator, context, (11, i, j)) for j in range(3)]


def test_sampling_leaves_the_chats_alone(make):
    generator = make()
    session, new = Session(), prompts(2)
    generator.extend_and_sample([session], new[:1], [0])
    generator.sample(prompts(4, 100, 200, seed=9), 2, 0)
    history = [*session.tokens, *new[1]]
    assert generator.extend_and_sample([session], new[1:], [1])[0] == reference(generator, history, 1)


def test_draws_follow_the_distribution_of_the_likeliest_k():
    logits = torch.tensor([[0.0, 3.0, 1.0, 2.0, -1.0]]).expand(4000, 5)
    drawn = pick(logits, torch.rand(4000, generator=torch.Generator().manual_seed(0)), 0.5, 3)
    share = torch.bincount(drawn, minlength=5) / 4000
    expected = torch.tensor([0.0, *(torch.tensor([3.0, 1.0, 2.0]) / 0.5).softmax(-1), 0.0])
    assert share[[0, 4]].tolist() == [0, 0]
    torch.testing.assert_close(share, expected, atol=0.02, rtol=0)
    impossible = torch.tensor([[-torch.inf, 0.0, 0.0]])
    assert pick(impossible, torch.zeros(1), 1.0, None).tolist() == [1]
    everything = pick(logits, torch.linspace(0, 0.9999, 4000), 5.0, None)
    assert set(everything.tolist()) == {0, 1, 2, 3, 4}


def test_global_random_state_is_not_touched(make):
    torch.manual_seed(3)
    state, numpy_state = torch.get_rng_state(), copy.deepcopy(np.random.get_state())
    make().sample(prompts(1), 2, 0)
    assert torch.equal(state, torch.get_rng_state())
    assert np.array_equal(np.random.get_state()[1], numpy_state[1])


@pytest.mark.parametrize(
    ("key", "value"),
    [("temperature", -1.0), ("temperature", float("nan")), ("top_k", 0), ("max_batch", 0), ("max_new_tokens", 0)],
)
def test_settings_without_meaning_are_refused_by_name(make, key, value):
    with pytest.raises(UserError, match=f"{key}="):
        make(**{key: value})


def test_a_chat_that_leaves_no_room_is_refused_and_left_as_it_was(make):
    generator, session = make(), Session([5, 6])
    with pytest.raises(ValueError, match="do not fit"):
        generator.extend_and_sample([session], [[7] * generator.context], [0])
    assert session.tokens == [5, 6]
    assert generator.extend_and_sample([], [], []) == []


def test_a_sampler_speaks_on_the_gpu_where_there_is_one(make_policy, parts, monkeypatch):
    """Without a GPU at hand: what PyTorch is asked for. The policy itself stays where it is."""
    places, policy = [], make_policy()
    monkeypatch.setattr(PreTrainedModel, "to", lambda model, place: places.append(place) or model)
    chat_format = ChatFormat(parts[1], load_vocabulary())
    for there_is_one, device, expected in ((False, "auto", "cpu"), (True, "auto", "cuda"), (True, "cpu", "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda found=there_is_one: found)
        sampler = RolloutSampler(chat_format, "float32", 1.0, None, 8, 16, device)
        for each in (sampler, sampler.another()):
            each.refresh(policy)
            assert places.pop() == each.device == torch.device(expected)
    assert not places


def test_a_rounding_error_that_swaps_two_likely_tokens_changes_hardly_any_draw():
    """Batches of other sizes round differently; drawn in the order of likelihood, half of these would change."""
    logits = torch.zeros(1, 50)
    logits[0, 3], logits[0, 7] = 4.0, 4.0 + 1e-6
    swapped = logits.clone()
    swapped[0, 3], swapped[0, 7] = logits[0, 7], logits[0, 3]
    uniforms = torch.linspace(0, 1, 1001, dtype=torch.float64)[:-1]
    draws = [pick(each.expand(1000, -1), uniforms, temperature=1.0, top_k=10) for each in (logits, swapped)]
    assert (draws[0] != draws[1]).sum() <= 2
    assert {3, 7} <= set(draws[0].tolist())


@pytest.mark.parametrize("library", [False, True])
def test_a_session_counts_the_memory_of_its_cache_and_can_give_it_back(library):
    session, keys = Session([1, 2, 3]), torch.zeros(1, 2, 5, 4)
    assert session.held_bytes == 0
    session.cached = [1, 2]
    if library:
        session.keys_values = DynamicCache()
        session.keys_values.update(keys, keys, 0)
    else:
        session.keys_values = torch.stack((keys, keys))
    assert session.held_bytes == 2 * keys.nbytes
    session.forget()
    assert session.held_bytes == session.reusable() == 0
