"""JPO with a judge that takes its time: judged while the next batch is drawn, against one batch after the other.

    python benchmarks/live_judging_throughput.py [--latency 0.5] [--accumulate 4] [--steps 3] [--repeats 3]

The judge answers any number of requests after a fixed time, as one behind an endpoint does. Both sides draw the same
replies and end with the same weights (checked); only the waiting differs. Without --model a random model of two layers
is made: what is compared is waiting, not arithmetic.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from chat_training import make_encoder, make_episodes, policy_settings  # the tests' tiny model
from tiny_model import build_tiny_model

from emodistill.data.chat_datasets import ContextBatch, ContextBatches
from emodistill.data.chats import encode_contexts
from emodistill.judges.request import JudgeRequest
from emodistill.learners.jpo import JPOLearner, reference
from emodistill.policy.expression_policy import ExpressionPolicy
from emodistill.policy.generation import RolloutSampler

TOKENS = 48


class Slow:
    """A judge with a fixed latency, whatever it is asked."""

    def __init__(self, latency_s: float) -> None:
        self.latency_s = latency_s

    def scores(
        self, requests: Sequence[JudgeRequest], on_score: Callable[[int, float | None], None] | None = None
    ) -> list[float | None]:
        time.sleep(self.latency_s)
        return [1.0 + sum(letter in "aeiou" for letter in request.utterance) % 9 for request in requests]


def seconds(learner: JPOLearner, batches: Sequence[ContextBatch], steps: int, accumulate: int) -> float:
    """Time of `steps` optimizer steps, as Lightning would take them."""
    optimizer = torch.optim.AdamW([p for p in learner.policy.parameters() if p.requires_grad], lr=1e-3)
    stream, started = cycle(batches), time.perf_counter()
    for step in range(steps):
        for place, batch in enumerate(islice(stream, accumulate)):
            left, samples = accumulate - 1 - place, learner.hparams["samples"]
            drawn = learner.queue.next_batch(learner.policy, batch, samples, 0, step, left)
            ref_logprobs = reference(learner.policy, drawn.chats)
            logprobs = learner.policy(drawn.chats)
            rollout = learner.judged(drawn, ref_logprobs, learner.judging.min_group)
            (learner.objective(rollout, logprobs)["loss"] / accumulate).backward()
        optimizer.step()
        optimizer.zero_grad()
    return time.perf_counter() - started


def learner_of(model: str, adapter: str, latency_s: float, look_ahead: int) -> JPOLearner:
    torch.manual_seed(0)
    judging = {"look_ahead": look_ahead, "timeout_s": None, "min_group": 2, "max_unscored_batches": None}
    sampler = RolloutSampler(make_encoder(model).chat_format, "float32", 1.0, 40, TOKENS, 16)
    settings: dict[str, Any] = policy_settings(model, init_adapter=adapter)
    learner = JPOLearner(settings, {}, 0.2, 0.04, 1.0, 4, judging, 0, Slow(latency_s), sampler)
    learner.configure_model()
    return learner


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency", type=float, default=0.5)
    parser.add_argument("--accumulate", type=int, default=4)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--model")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model, adapter = given.model or build_tiny_model(Path(folder) / "model"), str(Path(folder) / "adapter")
        ExpressionPolicy(**policy_settings(model)).save_adapter(adapter)
        contexts = encode_contexts(
            make_episodes(given.accumulate), [[True, True]] * given.accumulate, make_encoder(model), TOKENS
        )
        batches = list(ContextBatches([[context] for context in contexts], 1, seed=0))[: given.accumulate]
        ratios = []
        for _ in range(given.repeats):
            found, weights = [], []
            for look_ahead in (0, given.accumulate - 1):
                learner = learner_of(model, adapter, given.latency, look_ahead)
                seconds(learner, batches, 1, given.accumulate)  # warm-up
                learner.queue.clear()
                found.append(seconds(learner, batches, given.steps, given.accumulate) / given.steps)
                weights.append([p.detach().clone() for p in learner.policy.parameters() if p.requires_grad])
            assert all(map(torch.equal, *weights)), "looking ahead changed what was learnt"
            ratios.append(found[0] / found[1])
            print(f"seconds a step: {found[0]:.2f} in turn, {found[1]:.2f} live, ratio {ratios[-1]:.2f}", flush=True)
    print(f"median ratio {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
