"""JPO with replies from a server that loads adapters: a real model with real adapters on loopback (`lora_server`)."""

import copy
import json
import logging
import math
import shutil
import threading

import pytest
import torch
from chat_training import (
    JPO,
    JUDGING,
    OPTIMIZER,
    VowelJudge,
    adapter,
    fit,
    policy_settings,
    same_weights,
    stop_and_resume,
)
from lora_server import LoraServer
from tiny_model import build_tiny_model

from emodistill.data.chat_datasets import ContextBatch, ContextBatches
from emodistill.errors import UserError
from emodistill.language_models.client import BreakerPolicy, Endpoint, RetryPolicy, Timeouts
from emodistill.learners.jpo import JPOLearner, reference
from emodistill.policy.endpoint_sampler import EndpointSampler, Share
from emodistill.policy.expression_policy import ExpressionPolicy
from emodistill.policy.token_batches import pack_replies

QUICK = RetryPolicy(max_retries=1, base_s=0.01, cap_s=0.02)
PATIENT = Timeouts(connect_s=60.0, first_byte_s=300.0, whole_s=300.0)


@pytest.fixture(scope="module")
def closed_server(tiny_model):
    return LoraServer(tiny_model)


@pytest.fixture
def server(closed_server):
    with copy.deepcopy(closed_server) as server:
        yield server


@pytest.fixture
def make_sampler(server, encoder, tmp_path):
    made = []

    def make(**changes):
        completer = changes.pop("completer", None) or Endpoint(
            server.base_url, "base", timeouts=PATIENT, retries=QUICK, breaker=BreakerPolicy(cooldown_s=0.05)
        )
        given = {"folder": str(tmp_path / "sampler"), "run": "test", "temperature": 1.0, "top_k": None}
        given |= {"max_new_tokens": 8, "patience_s": 60.0}
        made.append(EndpointSampler(completer, encoder.chat_format, **(given | changes)))
        return made[-1]

    yield make
    for sampler in made:
        sampler.completer.close()


@pytest.fixture
def plain_adapter(sft_adapter, tmp_path):
    """As if it had been trained on the base in float32."""
    folder = shutil.copytree(sft_adapter, tmp_path / "plain")
    note = folder / "emodistill.json"
    note.write_text(json.dumps(json.loads(note.read_text(encoding="utf-8")) | {"four_bit": False}), encoding="utf-8")
    return str(folder)


@pytest.fixture
def make_learner(tiny_model, sft_adapter, plain_adapter):
    """The base is float32 here as there."""

    def make(sampler, learning_rate=1e-2, four_bit=False, start="", **changes):
        start = (sft_adapter if four_bit else plain_adapter) if start == "" else start
        settings = policy_settings(tiny_model, init_adapter=start, four_bit=four_bit)
        optimizer = OPTIMIZER | {"learning_rate": learning_rate}
        given = JPO | {"judging": JUDGING | {"timeout_s": None}} | changes
        return JPOLearner(settings, optimizer, **given, judge=VowelJudge(), sampler=sampler)

    return make


@pytest.fixture
def batches(contexts):
    """Four batches of one context, which know what comes after them."""
    return list(ContextBatches([[context] for context in contexts], 1, seed=0))


def by_utterance(values, owner):
    return [values[owner == one].tolist() for one in range(int(owner.max()) + 1)]


def test_replies_and_their_log_probabilities_are_those_of_the_policy_here(server, make_sampler, make_learner, contexts):
    learner = make_learner(make_sampler(temperature=0.7, top_k=40))
    learner.configure_model()
    drawn = learner.queue.draw(learner.policy, ContextBatch(contexts), 4, 0, 0)
    logprobs, owner = learner.policy(drawn.chats)
    told = [one for reply in by_utterance(logprobs, owner) for one in reply]
    torch.testing.assert_close(drawn.behaviour, torch.tensor(told), atol=1e-4, rtol=0)
    assert {len(reply) for reply in by_utterance(logprobs, owner)} > {8} and drawn.weights == 0
    assert len({text for _, text in drawn.replies}) > len(contexts)
    rollout = learner.judged(drawn, reference(learner.policy, drawn.chats), 2)
    own = learner.objective(rollout._replace(behaviour=None))
    metrics = learner.objective(rollout)
    assert metrics["loss"].item() == pytest.approx(own["loss"].item(), abs=1e-4)
    assert metrics["sampler_mismatch"] < 1e-4 and metrics["sampler_ratio_max"].item() == pytest.approx(1.0, abs=1e-4)
    assert metrics["clip_fraction"] == 0 and "clip_fraction" not in own


def test_replies_are_a_function_of_weights_contexts_and_seed(make_sampler, make_learner, contexts):
    sampler, ids = make_sampler(), [context.input_ids for context in contexts]
    learner = make_learner(sampler)
    learner.configure_model()
    sampler.refresh(learner.policy, 0)
    one = sampler.sample(ids, 3, seed=7)
    assert sampler.sample(ids, 3, seed=7) == one != sampler.sample(ids, 3, seed=8)
    assert sampler.sample(ids[:2], 3, seed=7) == one[:2] and one[0][0] != one[0][1]


def test_every_step_pushes_its_adapter_under_a_new_name_and_forgets_the_one_before(
    server, make_sampler, make_learner, batches, tmp_path
):
    sampler = make_sampler()
    _, rows = fit(make_learner(sampler), batches, epochs=2, accumulate_grad_batches=2)
    loads = [body["lora_name"] for body in server.asked("load_lora_adapter")]
    unloads = [body["lora_name"] for body in server.asked("unload_lora_adapter")]
    assert len(set(loads)) == 4 and unloads == loads and not server.loaded
    assert [name.split("-")[2] for name in loads] == ["0", "1", "2", "3"]
    spoke = [body["model"] for body in server.asked("completions") if not body.get("echo") and body["seed"] != 1]
    assert spoke == [name for name in loads for _ in range(8)]
    assert not list((tmp_path / "sampler").iterdir())
    assert all(row["train/staleness"] == 0 and row["train/probe_difference"] < 1e-4 for row in rows)
    assert all(row["train/probe_share"] == pytest.approx(1.0, abs=1e-2) for row in rows[2:])
    assert sampler.completer.spending.of(sampler.completer.name).most_tokens == server.tokens


def test_a_server_that_speaks_as_its_base_model_is_refused(server, make_sampler, make_learner, batches):
    server.ignores_adapters = True
    with pytest.raises(UserError, match=r"answers as its base model and not as the adapter test-\w{4}-0-\w{8}: .* 0%"):
        fit(make_learner(make_sampler()), batches)


def test_a_server_that_begins_to_speak_as_its_base_model_is_refused(server, make_sampler, make_learner, batches):
    sampler = make_sampler()
    learner = make_learner(sampler)
    learner.configure_model()
    sampler.refresh(learner.policy, 0)
    server.ignores_adapters = True
    move(learner.policy)
    with pytest.raises(UserError, match="answers as its base model"):
        sampler.refresh(learner.policy, 1)


def move(policy, size=1e-3):
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter += size * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))


def test_an_adapter_that_is_one_step_old_is_refused(server, make_sampler, make_learner):
    """However small the step: the mean difference of a token is far below the bound."""
    sampler = make_sampler()
    learner = make_learner(sampler)
    learner.configure_model()
    sampler.refresh(learner.policy, 0)
    move(learner.policy)
    sampler.refresh(learner.policy, 1)
    assert sampler.observed["probe_share"] == pytest.approx(1.0, abs=1e-2)
    server.lags = True
    move(learner.policy)
    with pytest.raises(
        UserError, match=r"older adapter and not as test-\w{4}-2-\w{8}: .* 0% of what has changed since"
    ):
        sampler.refresh(learner.policy, 2)
    assert sampler._loaded[-1].there is not None
    difference = (sampler._loaded[-1].there - sampler._here(learner.policy)).abs().mean()
    assert 0 < difference < 0.05


def test_an_adapter_that_is_applied_in_part_is_refused(server, make_sampler, make_learner):
    sampler = make_sampler()
    learner = make_learner(sampler)
    learner.configure_model()
    sampler.refresh(learner.policy, 0)
    move(learner.policy, 1e-1)
    save = learner.policy.save_adapter

    def in_part(folder):
        """What a server holds that leaves out the adapters of a kind of layer."""
        down = [
            m.lora_B["policy"].weight for name, m in learner.policy.model.named_modules() if name.endswith("o_proj")
        ]
        kept = [weight.detach().clone() for weight in down]
        with torch.no_grad():
            for weight in down:
                weight.zero_()
            save(folder)
            for weight, own in zip(down, kept, strict=True):
                weight.copy_(own)

    learner.policy.save_adapter = in_part
    with pytest.raises(UserError, match=r"log-probabilities (show \d\d% of what has changed|that differ by 0\.\d+)"):
        sampler.refresh(learner.policy, 1)


def test_another_base_model_is_refused(server, make_sampler, make_learner, batches, tmp_path):
    with (
        LoraServer(build_tiny_model(tmp_path / "other", seed=1)) as other,
        pytest.raises(UserError, match="is another one than learns here"),
    ):
        fit(make_learner(make_sampler(completer=Endpoint(other.base_url, "base"))), batches)
    with pytest.raises(UserError, match=r"policy.four_bit=false here"):
        fit(make_learner(make_sampler(max_difference=0.001), four_bit=True), batches)


def test_a_base_of_another_precision_is_no_hindrance_within_the_bound(server, make_sampler, make_learner, batches):
    """The policy's base is in NF4, the server's in float32: the ratio holds the mismatch."""
    sampler = make_sampler(max_difference=1.0)
    _, rows = fit(make_learner(sampler, four_bit=True), batches[:3])
    assert all(0.001 < row["train/sampler_mismatch"] < 1.0 for row in rows)
    assert all(row["train/probe_share"] == pytest.approx(1.0, abs=0.2) for row in rows[1:])
    assert all(row["train/sampler_ratio_min"] < 1 < row["train/sampler_ratio_max"] for row in rows)


def test_an_adapter_that_changes_nothing_proves_nothing(make_sampler, make_learner, batches):
    with pytest.raises(UserError, match="no probe can tell the adapter .* from the base model"):
        fit(make_learner(make_sampler(), start=None), batches)


def test_a_folder_that_the_server_does_not_see_is_named(server, make_sampler, make_learner, batches, tmp_path):
    server.mount = ("/adapters", tmp_path / "sampler")
    with pytest.raises(
        UserError, match=r"does not load the adapter .*No adapter found.*seen_as=PATH if it sees .*/sampler"
    ):
        fit(make_learner(make_sampler()), batches)
    fit(make_learner(make_sampler(seen_as="/adapters/")), batches)
    assert server.asked("load_lora_adapter")[-1]["lora_path"].startswith("/adapters/test-")


def test_a_server_without_the_routes_of_adapters_is_named(server, make_sampler, make_learner, batches):
    server.adapters = False
    with pytest.raises(UserError, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"):
        fit(make_learner(make_sampler()), batches)


def test_a_server_that_tells_nothing_of_a_prompt_is_refused(server, make_sampler, make_learner, batches):
    server.echoes = False
    with pytest.raises(UserError, match="does not tell log-probabilities of a prompt"):
        fit(make_learner(make_sampler()), batches)


def revive(server, **changes):
    """Wait for the server's death, and start it again as another process would be: without adapters."""

    def work():
        server.died.wait()
        server.stop()
        for name, value in changes.items():
            setattr(server, name, value)
        server.start()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("answers", [5, 13])
def test_a_server_that_dies_and_returns_changes_nothing(server, make_sampler, make_learner, batches, answers, tmp_path):
    whole, resumed = make_learner(make_sampler()), make_learner(make_sampler())
    fit(whole, batches)
    server.dies_after = answers
    reviving = revive(server)
    fit(resumed, batches)
    reviving.join(10)
    assert not reviving.is_alive() and same_weights(adapter(whole), adapter(resumed))


def test_a_server_that_returns_as_its_base_model_is_refused(server, make_sampler, make_learner, batches):
    server.dies_after = 13
    revive(server, forgiving=True)
    with pytest.raises(UserError, match="answers as its base model"):
        fit(make_learner(make_sampler()), batches)


def test_a_server_that_stays_away_ends_the_run_with_a_sentence(server, make_sampler, make_learner, batches):
    server.dies_after = 13
    with pytest.raises(UserError, match=r"away for learner.sampler.patience_s=0.5 s .*run the same command again"):
        fit(make_learner(make_sampler(patience_s=0.5)), batches)


@pytest.mark.parametrize("ahead", [0, 1])
def test_a_resumed_run_ends_with_the_same_weights(server, make_sampler, make_learner, batches, tmp_path, ahead):
    """If the server repeats itself. With ahead=1 what was drawn before the stop is in the checkpoint."""
    batch = batches[0]
    batch.following = lambda: iter([batch] * 9)

    def make():
        return make_learner(make_sampler(ahead=ahead))

    whole = make()
    _, rows = fit(whole, [batch], epochs=4)
    assert [row["train/staleness"] for row in rows] == [0, ahead, ahead, ahead]
    resumed = stop_and_resume(make, batch, 2, tmp_path / "last.ckpt", epochs=4)
    assert same_weights(adapter(resumed), adapter(whole)) and not server.loaded


def test_a_server_that_does_not_repeat_itself_is_said_to(server, make_sampler, make_learner, batches, caplog):
    with caplog.at_level(logging.WARNING):
        fit(make_learner(make_sampler()), batches[:1])
        assert "other replies for the same seed" not in caplog.text
        server.seeded = False
        fit(make_learner(make_sampler()), batches[:1])
    assert "will not end in the same bytes" in caplog.text


def test_replies_drawn_ahead_are_weighed_by_the_weights_that_drew_them(server, make_sampler, make_learner, contexts):
    """The server's log-probabilities are those of the policy of the step before; the ratio is to them."""
    learner = make_learner(make_sampler(ahead=1), clip_range=0.02)
    learner.configure_model()
    first, second = (ContextBatch([context]) for context in contexts[:2])
    first.following = lambda: iter([second])
    learner.queue.next_batch(learner.policy, first, 4, 0, 0, 0)
    replies = learner.queue.state()["drawn"]["replies"]
    old = learner.policy(pack_replies([context.input_ids for context in second.contexts], replies, 0)).logprobs.detach()
    move(learner.policy, 5e-2)
    drawn = learner.queue.next_batch(learner.policy, second, 4, 0, 1, 0)
    assert drawn.weights == 0 and drawn.batch is second
    rollout = learner.judged(drawn, reference(learner.policy, drawn.chats), 2)
    logprobs, owner = learner.policy(drawn.chats)
    behaviour, mismatch = learner._behaviour(rollout, logprobs.detach(), owner)
    torch.testing.assert_close(behaviour, old, atol=1e-4, rtol=0)
    metrics = learner.objective(rollout)
    assert mismatch.abs().mean() > 0.01 and metrics["clip_fraction"] > 0
    ratio = torch.tensor([sum(own) / len(own) for own in by_utterance(logprobs - old, owner)]).exp()
    assert metrics["sampler_ratio_max"].item() == pytest.approx(float(ratio.max()), rel=1e-3)


def test_an_announcement_that_does_not_come_true_is_dropped(server, make_sampler, make_learner, contexts):
    learner = make_learner(make_sampler(ahead=1))
    learner.configure_model()
    first, second, third = (ContextBatch([context]) for context in contexts[:3])
    first.following = lambda: iter([second])
    learner.queue.next_batch(learner.policy, first, 4, 0, 0, 0)
    move(learner.policy)
    assert learner.queue.next_batch(learner.policy, third, 4, 0, 1, 0).weights == 1


@pytest.mark.parametrize("tells", ["words", "nothing"])
def test_words_are_cut_into_tokens_again_and_only_what_is_known_counts(
    server, make_sampler, make_learner, contexts, tells
):
    sampler = make_sampler(max_new_tokens=2)
    learner = make_learner(sampler)
    learner.configure_model()
    sampler.refresh(learner.policy, 0)
    server.tells = tells
    drawn = learner.queue.draw(learner.policy, ContextBatch(contexts), 4, 0, 0)
    rollout = learner.judged(drawn, reference(learner.policy, drawn.chats), 2)
    logprobs, owner = learner.policy(drawn.chats)
    behaviour, mismatch = learner._behaviour(rollout, logprobs.detach(), owner)
    known = len(mismatch)
    assert (known == 0) == (tells == "nothing") and known < len(logprobs)
    assert mismatch.abs().sum() <= 1e-4 * max(known, 1) and (behaviour - logprobs).abs().max() < 1e-3
    assert ("sampler_mismatch" in learner.objective(rollout)) == bool(known)
    for reply in (
        reply for own in learner.queue.speak(learner.policy, [drawn.batch], 4, 0, 0)[0].replies for reply in own
    ):
        assert reply and sampler.text(reply) == sampler.text(sampler.chat_format.reply(sampler.text(reply)))
    sampler.ahead = 1
    with pytest.raises(UserError, match=r"use learner.sampler.ahead=0"):
        sampler.sample([context.input_ids for context in contexts], 4, 0)


def test_adapters_that_a_killed_process_left_are_unloaded(server, make_sampler, make_learner, contexts, tmp_path):
    learner = make_learner(make_sampler())
    learner.configure_model()
    learner.queue.current_sampler(learner.policy, 3)  # and no word more
    (left,) = server.loaded
    again = make_learner(make_sampler())
    again.configure_model()
    again.queue.current_sampler(again.policy, 3)
    assert server.asked("unload_lora_adapter") == [{"lora_name": left}] and list(server.loaded) == [left]
    again.queue.end()
    assert not server.loaded and not list((tmp_path / "sampler").iterdir())


def test_a_share_says_how_much_of_a_change_is_shown():
    change = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    noise = torch.tensor([0.1, 0.1, -0.1, 0.1], dtype=torch.float64)
    assert Share.of(change, change) == pytest.approx((1.0, 0.0), abs=1e-6)
    assert Share.of(change + noise, change).value == pytest.approx(1.0, abs=0.05)
    nothing = Share.of(noise, change)
    assert nothing.refuted and nothing.value == pytest.approx(0.0, abs=0.05) and 0 < nothing.error < 0.05
    unknown = Share.of(noise, 0.01 * change)
    assert not unknown.told and not unknown.refuted
    unchanged = Share.of(noise, 0.0 * change)
    assert math.isnan(unchanged.value) and not unchanged.told and not unchanged.refuted


def test_settings_that_mean_nothing_are_refused(make_sampler):
    for setting, value in (("ahead", 2), ("max_difference", 0.0), ("patience_s", -1.0)):
        with pytest.raises(UserError, match=f"learner.sampler.{setting}="):
            make_sampler(**{setting: value})


def test_the_policy_that_is_pushed_is_the_one_that_is_saved(server, make_sampler, make_learner, tiny_model, tmp_path):
    sampler = make_sampler()
    learner = make_learner(sampler)
    learner.configure_model()
    move(learner.policy)
    sampler.refresh(learner.policy, 12)
    (folder,) = (tmp_path / "sampler").iterdir()
    loaded = ExpressionPolicy(**policy_settings(tiny_model, init_adapter=str(folder), four_bit=False))
    torch.testing.assert_close(sampler._here(loaded), sampler._loaded[-1].own)
