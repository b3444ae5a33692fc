"""Every family through training and speaking, against plain transformers and PEFT on the same tokens."""

import copy

import pytest
import torch
from chat_training import (
    LORA,
    VowelJudge,
    adapter,
    batches,
    fit,
    make_encoder,
    make_episodes,
    make_jpo_learner,
    make_sft_learner,
    policy_settings,
    same_weights,
    stop_and_resume,
)
from families.models import FAMILIES, OTHERS, WINDOW, random_model, save_model
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file
from tiny_model import build_tokenizer, random_ids
from transformers import AutoModelForCausalLM

from emodistill.data.chat_datasets import ContextBatches
from emodistill.data.chats import encode_chats, encode_contexts
from emodistill.errors import UserError
from emodistill.language_models.likelihood import token_logprobs
from emodistill.language_models.local import load_model
from emodistill.language_models.packed_linear import pack_linears
from emodistill.language_models.prefix_scoring import next_logits, read_prefix
from emodistill.policy.expression_policy import ExpressionPolicy
from emodistill.policy.generation import ChatGenerator, RolloutSampler, Session
from emodistill.policy.token_batches import collate_chats, pack_replies

FILLED = LORA | {"init_lora_weights": False, "lora_dropout": 0.0}  # adapters that change something
MAMBA = ("falcon_h1",)
BOUND = 2e-5  # nats a token: rounding in float32


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def folder(family, tmp_path_factory):
    """The family's model with the family's tokenizer and template."""
    return save_model(family, tmp_path_factory.mktemp(family))


@pytest.fixture(scope="module")
def make_policy(folder):
    def make(**changes):
        torch.manual_seed(0)
        return ExpressionPolicy(**policy_settings(folder, lora=FILLED, **changes))

    return make


@pytest.fixture(scope="module")
def saved(make_policy, tmp_path_factory):
    place = tmp_path_factory.mktemp("adapter") / "adapter"
    make_policy(four_bit=False).save_adapter(place)
    return place


def chats():
    """Two chats of different length, longer than the windows, with two responses each."""
    owners = [[-1] * 19 + [0] * 9 + [-1] * 14 + [1] * 8, [-1] * 13 + [0] * 7 + [-1] * 8 + [1] * 3]
    assert min(map(len, owners)) > 2 * WINDOW
    return [(random_ids(len(owner), i), owner) for i, owner in enumerate(owners)]


def plain_logprobs(model, ids, owner):
    """Log-probabilities of the response tokens of one chat, by the library alone."""
    logits = model(input_ids=torch.tensor([ids])).logits[0].float().log_softmax(-1)
    return torch.stack([logits[i - 1, ids[i]] for i in range(len(ids)) if owner[i] >= 0])


def error(found, expected):
    """Of a gradient, relative to the size of the whole."""
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def test_an_sft_step_has_the_gradients_of_transformers_and_peft(folder, saved):
    torch.manual_seed(0)
    learner = make_sft_learner(folder, dropout=False)
    learner.hparams["policy"] |= {"four_bit": False, "init_adapter": str(saved)}
    learner.configure_model()
    loss, tokens = learner.loss(collate_chats(chats(), 0))
    loss.backward()
    theirs = get_peft_model(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), LoraConfig(**FILLED))
    set_peft_model_state_dict(theirs, load_file(saved / "adapter_model.safetensors"))
    expected = -torch.cat([plain_logprobs(theirs, ids, owner) for ids, owner in chats()])
    expected.mean().backward()
    assert tokens == len(expected) == 27
    assert float(loss.detach()) == pytest.approx(float(expected.detach().mean()), abs=BOUND)
    ours = dict(learner.policy.model.named_parameters())
    wanted = {name: p.grad for name, p in theirs.named_parameters() if p.requires_grad}
    assert len(wanted) >= 4 and all(gradient is not None for gradient in wanted.values())
    worst = max(error(ours[name.replace(".default.", ".policy.")].grad, one) for name, one in wanted.items())
    assert worst < 1e-4


def test_a_jpo_step_begins_at_its_reference(folder, saved, make_policy, tmp_path):
    """On replies of its own, packed where the family allows it: the ratio is 1 and the KL 0, to the bit; it learns."""
    make_policy().save_adapter(tmp_path / "adapter")
    encoder = make_encoder(folder)
    contexts = encode_contexts(make_episodes(1), [[True, True]], encoder, reserve=8)
    sampler = RolloutSampler(encoder.chat_format, "float32", 1.0, None, 8, 16)
    learner = make_jpo_learner(folder, str(tmp_path / "adapter"), VowelJudge(), sampler)
    _, rows = fit(learner, list(ContextBatches([contexts], 1, seed=0)))
    assert rows[0]["train/ratio_min"] == rows[0]["train/ratio_max"] == 1.0 and rows[0]["train/kl"] == 0.0
    assert rows[0]["train/advantage_std"] > 0.5
    before = load_file(tmp_path / "adapter" / "adapter_model.safetensors").values()
    assert not all(torch.equal(*pair) for pair in zip(before, adapter(learner).values(), strict=True))


def test_packed_replies_are_scored_as_if_each_stood_alone(make_policy):
    """With gradients: a row of a context and its branches, or, where states cannot be shared, one for each reply."""
    check_packed_ways(make_policy(four_bit=False))


@pytest.mark.filterwarnings("ignore:.*_pattern keys did not match")  # peft 0.21 on experts, which it leaves alone
@pytest.mark.parametrize("name", sorted(OTHERS.keys() - {*MAMBA}))
def test_packed_replies_of_other_families_too(name, tmp_path):
    torch.manual_seed(0)
    policy = ExpressionPolicy(**policy_settings(save_model(name, tmp_path), lora=FILLED, four_bit=False))
    check_packed_ways(policy)
    policy.eval()  # Gemma 3n clips some weights while it trains
    ids = torch.tensor([random_ids(12, 1)])
    with torch.no_grad():  # PEFT puts adapters on experts too
        merged, expected = policy.merged(torch.float32)(ids).logits, policy.model(ids).logits
    torch.testing.assert_close(merged, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", MAMBA)
def test_layers_that_cannot_have_adapters_are_named(name, tmp_path):
    """PEFT refuses the output projections of Mamba layers, which its `all-linear` takes."""
    folder = save_model(name, tmp_path)
    with pytest.raises(UserError, match=f"model={folder}: .*'out_proj'.*target_modules"):
        ExpressionPolicy(**policy_settings(folder))
    settings = policy_settings(folder, lora=FILLED | {"target_modules": ["q_proj", "v_proj"]}, four_bit=False)
    check_packed_ways(ExpressionPolicy(**settings))


def check_packed_ways(policy):
    ways = {policy.end_to_end, False}  # by our own attention where it serves, and by the library's, as on a GPU
    for policy.end_to_end in ways:
        check_packed(policy)


def check_packed(policy):
    trunk = random_ids(2 * WINDOW + 6, 1)
    contexts = [trunk[: WINDOW + 4] + random_ids(5, 2), random_ids(9, 3), trunk]
    replies = [[random_ids(n, 7 * n + i) for n in (4, WINDOW + 3, 1)] for i in range(3)]
    packed = policy(pack_replies(contexts, replies, pad_id=0))
    packed.logprobs.sum().backward()
    gradients = {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}
    policy.zero_grad()
    assert gradients
    flat = [(c + r, [-1] * len(c) + [0] * len(r)) for c, own in zip(contexts, replies, strict=True) for r in own]
    for number, chat in enumerate(flat):
        alone = policy(collate_chats([chat], 0)).logprobs
        alone.sum().backward()
        torch.testing.assert_close(packed.logprobs[packed.owner == number], alone, atol=BOUND, rtol=0)
    separate = {name: p for name, p in policy.named_parameters() if p.grad is not None}
    assert separate.keys() == gradients.keys()
    for name, p in separate.items():
        if p.grad.norm() > 0:
            assert error(gradients[name], p.grad) < 1e-4, name
    policy.zero_grad()


def test_the_merged_copy_speaks_as_the_adapter_scores(make_policy):
    """In NF4: the copy has the dequantised base with the adapter's products added, packed for speaking."""
    policy = make_policy(four_bit=True).eval()
    merged = policy.merged(torch.float32)
    pack_linears(merged)
    ours = policy(collate_chats(chats(), 0)).logprobs
    with torch.no_grad():
        theirs = torch.cat([plain_logprobs(merged, ids, owner) for ids, owner in chats()])
    torch.testing.assert_close(ours, theirs, atol=BOUND, rtol=0)
    assert (policy_without(policy) - ours).abs().max() > 1e-2


def policy_without(policy):
    with policy.model.disable_adapter(), torch.no_grad():
        return policy(collate_chats(chats(), 0)).logprobs


def test_the_adapter_loads_in_plain_peft_on_the_base_as_it_comes(folder, saved, make_policy):
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    theirs = PeftModel.from_pretrained(base, saved).eval()
    ours = make_policy(four_bit=False, init_adapter=str(saved)).eval()(collate_chats(chats(), 0)).logprobs
    with torch.no_grad():
        expected = torch.cat([plain_logprobs(theirs, ids, owner) for ids, owner in chats()])
    torch.testing.assert_close(ours, expected, atol=BOUND, rtol=0)


def test_a_resumed_run_is_the_unbroken_one_to_the_bit(folder, tmp_path):
    encoder = make_encoder(folder)
    (batch,) = batches(encode_chats(make_episodes(2), [[True, True]] * 2, encoder), 2)

    def make():
        return make_sft_learner(folder, dropout=False, warmup_steps=1, schedule="cosine")

    whole = make()
    fit(whole, [batch], epochs=3)
    resumed = stop_and_resume(make, batch, 2, tmp_path / "last.ckpt", epochs=3)
    assert same_weights(adapter(resumed), adapter(whole))


def said(model, chat, stops, length):
    """What the library's own `generate` says, greedily, after these tokens."""
    ids = torch.tensor([chat])
    settings = {"do_sample": False, "max_new_tokens": length, "eos_token_id": stops, "pad_token_id": 0}
    return model.generate(ids, attention_mask=torch.ones_like(ids), **settings)[0, len(chat) :].tolist()


@pytest.mark.parametrize("name", [*FAMILIES, *OTHERS])
def test_three_rounds_of_speaking_are_those_of_the_librarys_generate(name):
    """Two chats of different length with what was kept of earlier rounds; one loses the end of what it said."""
    model = random_model(name)
    generator = ChatGenerator(copy.deepcopy(model), build_tokenizer(), 0.0, None, 14, stop_ids=[77])
    sessions, history = [Session(), Session()], [[], []]
    tokens = set()
    for number in range(3):
        new = [random_ids(9 + number, number), random_ids(17, 10 + number)]
        replies = generator.extend_and_sample(sessions, new, [0, 0])
        for chat, message, reply in zip(history, new, replies, strict=True):
            chat += message
            assert reply == said(model, chat, sorted(generator.sampling.stop_ids), 14)
            chat += reply
            tokens |= set(reply)
        if number == 1:
            lost = len(replies[1]) // 2
            del sessions[1].tokens[-lost:], history[1][-lost:]
    assert len(history[0]) > 2 * WINDOW and len(tokens) > 4
    again = sum(map(len, history)) - 2 * 14  # all but the last replies, each token once
    assert generator.read <= again + 2  # the last token of a reply is read with the next message


@pytest.mark.parametrize("name", [*FAMILIES, *OTHERS])
def test_samples_of_contexts_are_those_drawn_one_by_one(name):
    """Whatever else is in the batch, and however the replies end."""
    generator = ChatGenerator(random_model(name), build_tokenizer(), 0.8, 20, 8, stop_ids=range(60, 120))
    trunk = random_ids(2 * WINDOW, 5)
    contexts = [trunk, trunk[:WINDOW] + random_ids(4, 6), random_ids(5, 7)]
    together = generator.sample(contexts, 3, seed=2)
    assert len({len(reply) for group in together for reply in group}) > 1
    for i, context in enumerate(contexts):
        for j, reply in enumerate(together[i]):
            (alone,) = generator.extend_and_sample([Session()], [context], [(2, i, j)])
            assert reply == alone


@pytest.mark.parametrize("name", [*FAMILIES, *OTHERS])
def test_frozen_judges_read_as_the_library_does(name):
    """Likelihoods of texts that share a context, and tokens after a prefix that is read once."""
    model, (context, *texts) = random_model(name).requires_grad_(False), [random_ids(n, n) for n in (20, 9, 15, 1)]
    for text, found in zip(texts, token_logprobs(model, [(context, text) for text in texts]), strict=True):
        expected = plain_logprobs(model, context + text, [-1] * len(context) + [0] * len(text))
        torch.testing.assert_close(torch.from_numpy(found).float(), expected, atol=BOUND, rtol=0)
    after = next_logits(model, read_prefix(model, context), texts, [5, 9, 300])
    for row, text in zip(after, texts, strict=True):
        expected = model(input_ids=torch.tensor([context + text])).logits[0, -1, [5, 9, 300]]
        torch.testing.assert_close(row, expected, atol=BOUND, rtol=1e-4)


def test_every_end_of_sequence_ends_a_reply():
    """Llama 3 names several in its configuration, of which its tokenizer knows one."""
    generator = ChatGenerator(random_model("llama3"), build_tokenizer(), 0.0, None, 4, stop_ids=[77])
    assert generator.sampling.stop_ids == {2, 5, 77}


@pytest.mark.parametrize(("name", "speaking", "training"), [("smollm2", 0, 0), ("gemma3", 1, 0), ("lfm2", 1, 1)])
def test_slower_ways_are_said_once(name, speaking, training, tmp_path, caplog):
    folder = save_model(name, tmp_path)
    for _ in range(2):
        ChatGenerator(load_model(folder, "float32"), build_tokenizer(), 0.0, None, 4)
        ExpressionPolicy(**policy_settings(folder))
    said = [record.getMessage() for record in caplog.records if record.name.startswith("emodistill.policy")]
    assert sum("forward pass" in line for line in said) == speaking
    assert sum("cannot share a row" in line for line in said) == training
    assert all(folder in line for line in said)
