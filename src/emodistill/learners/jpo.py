"""Judge Policy Optimization: the expression policy moves towards utterances that a judge prefers (METHOD 6).

The judge is asked here, in the training step, about the corpus's own utterances or about utterances sampled a moment
ago. An utterance is compared with its group: all chosen turns of its scenario, or the other samples of its context.

On corpus turns the ratio of policy to reference is a trust region and no importance weight: they were written by the
behaviour policy, not drawn from the reference. It keeps one update from running far on one judgement, nothing more.

LoRA dropout is off in this stage. The first ratio is then exactly 1 and the first KL exactly 0, and a ratio measures
what training did, not which mask was drawn.
"""

import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple, Protocol

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torchmetrics import MeanMetric

from emodistill.data.chat_datasets import ContextBatch, Group, JudgedBatch, JudgedChat
from emodistill.data.chats import ChatContext
from emodistill.errors import UserError
from emodistill.learners.async_judge import AsyncJudge, Judging, ScoreFuture, Scorer
from emodistill.learners.optimizer import adamw
from emodistill.losses import clipped_surrogate, kl_k3
from emodistill.policy.expression_policy import ExpressionPolicy, refuse_foreign
from emodistill.policy.token_batches import Chats, TokenLogprobs, mean_by_utterance, pack_replies

# ---- advantages ----
# From judge scores to advantages: how much better an utterance is than the others of its group.

LIMIT = 10.0
SAME = 1e-6  # scores closer than this are the same score; they are on a scale from 1 to 10


def group_advantages(scores: Sequence[float | None], negative_weight: float) -> list[float | None]:
    """(score - mean) / std over the scores that are there, clipped to ±10, negative ones times `negative_weight`.

    A missing score stays missing: it takes no part in mean and std and has no advantage. Where fewer than two scores
    are left, or all are the same, nothing can be said and every advantage is 0. The standard deviation is that of the
    group itself (divided by n).
    """
    known = [score for score in scores if score is not None]
    if is_degenerate(scores):
        return [None if score is None else 0.0 for score in scores]
    mean, std = statistics.fmean(known), statistics.pstdev(known)

    def advantage(score: float) -> float:
        clipped = min(max((score - mean) / std, -LIMIT), LIMIT)
        return clipped * negative_weight if clipped < 0 else clipped

    return [None if score is None else advantage(score) for score in scores]


def is_degenerate(scores: Sequence[float | None]) -> bool:
    """Whether a group says nothing about which of its utterances is better."""
    known = [score for score in scores if score is not None]
    return len(known) < 2 or max(known) - min(known) < SAME


# ---- replies ----
# Replies that the policy gives now: sampled, put to the judge, and drawn ahead where that changes nothing.
#
# They are judged in the background while the next ones are drawn. All batches of one optimizer step are spoken by the
# same weights, so those that are still to come in the step may be drawn ahead; those of the next step may not, for they
# have to come from the policy as it will be then. Drawn ahead or not, the replies are the same.


class Sampler(Protocol):
    """Draws replies from the policy as it is now."""

    def refresh(self, policy: ExpressionPolicy) -> None:
        """Take over the policy's weights."""

    def sample(self, contexts: Sequence[Sequence[int]], count: int, seed: int) -> list[list[list[int]]]:
        """`count` replies to every context, as token ids with their end; fixed by weights, contexts and seed."""

    def text(self, reply: list[int]) -> str:
        """The words of a reply."""


@dataclass(frozen=True)
class RolloutBatch:
    """Replies to the contexts of a batch, whose scores are on their way.

    Attributes:
        unasked: places of replies that the judge was not asked about, for they name no emotion and had to.
    """

    batch: ContextBatch
    step: int
    told: list[tuple[ChatContext, str]]  # context and reply, `count` replies a context
    count: int
    chats: Chats
    asked: ScoreFuture
    unasked: frozenset[int] = frozenset()

    def placed(self, scores: Sequence[float | None]) -> list[float | None]:
        """The judge's scores in the order of `told`; missing where it was not asked."""
        given = iter(scores)
        return [None if place in self.unasked else next(given) for place in range(len(self.told))]


class RolloutQueue:
    """Draws replies, at most `look_ahead` batches ahead.

    The replies of a step are a function of the weights, the contexts and (seed, step, draw within the step), so a
    resumed run draws what the unbroken one would have drawn.
    """

    def __init__(self, judge: AsyncJudge | None, sampler: Sampler | None, look_ahead: int) -> None:
        self.judge, self.sampler, self.look_ahead = judge, sampler, look_ahead
        self._refreshed_at: int | None = None
        self._draws = (-1, 0)  # step, draws made in it
        self._ahead: deque[RolloutBatch] = deque()

    def forget(self) -> None:
        """Drop what was drawn ahead and never used: training begins, or goes on elsewhere."""
        self._ahead.clear()
        self._draws = (-1, 0)

    def training_seed(self, seed: int, step: int) -> int:
        """A new seed for every draw; several are made in a step where gradients are accumulated."""
        self._draws = (step, self._draws[1] + 1 if self._draws[0] == step else 0)
        return _seed(seed, 0, *self._draws)

    @staticmethod
    def validation_seed(seed: int, batch: int) -> int:
        """The same at every validation, so that two of them differ by the weights alone."""
        return _seed(seed, 1, batch)

    def upcoming(
        self, policy: ExpressionPolicy, batch: ContextBatch, count: int, seed: int, step: int, left: int
    ) -> RolloutBatch:
        """Replies to the next batch of training, which may have been drawn ahead; and draws others ahead.

        Args:
            left: batches that come after this one in the same optimizer step.
        """
        if self._ahead and self._ahead[0].step != step:
            self._ahead.clear()  # foreseen, but the epoch was cut short; and the weights have moved
        wanted = [batch, *islice(batch.following(), min(left, self.look_ahead))]
        for coming in wanted[len(self._ahead) :]:
            self._ahead.append(self.draw(policy, coming, count, self.training_seed(seed, step), step))
        drawn = self._ahead.popleft()
        if [id(context) for context in drawn.batch.contexts] != [id(context) for context in batch.contexts]:
            raise ValueError("the batch is not the one that the loader announced")
        return drawn

    def draw(self, policy: ExpressionPolicy, batch: ContextBatch, count: int, seed: int, step: int) -> RolloutBatch:
        """Speak, and ask the judge; does not wait for it."""
        if self.sampler is None or self.judge is None:
            raise UserError("JPO on sampled utterances needs a judge and a sampler; train on the corpus's own without")
        if self._refreshed_at != step:
            self.sampler.refresh(policy)
            self._refreshed_at = step
        contexts = [context.input_ids for context in batch.contexts]
        replies = self.sampler.sample(contexts, count, seed)
        texts = [[self.sampler.text(reply) for reply in own] for own in replies]
        told = [(context, text) for context, own in zip(batch.contexts, texts, strict=True) for text in own]
        requests = [context.request(text) for context, text in told]
        asked = self.judge.ask([request for request in requests if request is not None])
        unasked = frozenset(place for place, request in enumerate(requests) if request is None)
        if not self.look_ahead:
            self.judge.collect(asked)
        chats = pack_replies(contexts, replies, pad_id=0).to(policy.device)
        return RolloutBatch(batch, step, told, count, chats, asked, unasked)


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


# ---- jpo_memory ----
# What a JPO run remembers between steps: log-probabilities of the frozen reference, and judge scores by scenario.
#
# Both go into the checkpoint. A log-probability computed in another batch differs in its last bits, so a resumed run that
# computed them anew would not be the run it continues.


class ReferenceCache:
    """Reference log-probabilities by chat, judge scores by group; computed at first use."""

    def __init__(self) -> None:
        self.ref_logprobs: dict[str, Tensor] = {}
        self.group_scores: dict[str, list[float | None]] = {}

    def reference(self, policy: ExpressionPolicy, batch: JudgedBatch) -> Tensor:
        """Log-probabilities of the batch's response tokens under the reference, (K,) float32.

        If any chat is new, the reference runs on the whole batch: the first step then compares the same arithmetic on
        the same tensors, and its ratio is exactly 1.
        """
        keys = [item.key for item in batch.items]
        if any(key not in self.ref_logprobs for key in keys):
            with policy.reference():
                found = policy(batch.chats).logprobs.cpu().split([_tokens(item) for item in batch.items])
            for key, logprobs in zip(keys, found, strict=True):
                self.ref_logprobs.setdefault(key, logprobs.clone())  # a slice would keep the whole batch alive
        return torch.cat([self.ref_logprobs[key] for key in keys]).to(batch.chats.input_ids.device)

    def scores(self, judge: Scorer | None, groups: Sequence[Group]) -> dict[str, list[float | None]]:
        """Scores of all turns of these groups, asked in one call; without a judge, the values that came with them.

        A group with a missing score is asked again: the usual reason is an outage, and the ledger answers the rest.
        """
        wanted = {group.name: group for group in groups if None in self.group_scores.get(group.name, [None])}
        if judge is None:
            self.group_scores.update({name: list(group.values) for name, group in wanted.items()})
        elif wanted:
            answers = iter(judge.scores([request for group in wanted.values() for request in group.requests]))
            self.group_scores.update({name: [next(answers) for _ in g.requests] for name, g in wanted.items()})
        return {group.name: self.group_scores[group.name] for group in groups}

    def state(self) -> dict[str, Any]:
        return {"ref_logprobs": dict(self.ref_logprobs), "group_scores": dict(self.group_scores)}

    def restore(self, state: dict[str, Any]) -> None:
        self.ref_logprobs, self.group_scores = dict(state["ref_logprobs"]), dict(state["group_scores"])


def _tokens(item: JudgedChat) -> int:
    return sum(owner >= 0 for owner in item.chat.utterance)


# ---- rollouts ----
# Utterances for JPO with their scores: those of the corpus, or replies sampled from the policy a moment ago.

Sample = tuple[str, str | None, str, float | None]  # the counterparty's words, emotion, utterance, score


class Rollout(NamedTuple):
    """Utterances with all that the objective needs of them; the lists are in utterance order."""

    chats: Chats
    ref_logprobs: Tensor  # (K,) float32
    scores: list[float | None]
    advantages: list[float | None]
    degenerate: int  # groups that say nothing about which of their utterances is better
    skipped: int  # groups with too few scores
    samples: list[Sample]
    unnamed: float | None = None  # share of replies that name no emotion; None where none has to


class Rollouts:
    """Makes rollouts; keeps what a run has to remember of them."""

    def __init__(self, judge: Scorer | None, sampler: Sampler | None, negative_weight: float, judging: Judging) -> None:
        self.judge = None if judge is None else AsyncJudge(judge, judging.timeout_s)
        self.replies = RolloutQueue(self.judge, sampler, judging.look_ahead)
        self.negative_weight, self.min_group, self.max_unscored_batches = (
            negative_weight,
            judging.min_group,
            judging.max_unscored_batches,
        )
        self.memory = ReferenceCache()
        self._silent = 0  # batches in a row without any score

    def logged(self, policy: ExpressionPolicy, batch: JudgedBatch) -> Rollout:
        """The corpus's own utterances, each compared with all chosen turns of its scenario."""
        scores = self.memory.scores(self.judge, [item.group for item in batch.items])
        advantages = {name: self._advantages(group, self.min_group) for name, group in scores.items()}
        places = [(item.group, place) for item in batch.items for place in item.places]
        requests = [group.requests[place] for group, place in places]
        own = [scores[group.name][place] for group, place in places]
        samples = [
            (request.history[-1].text if request.history else "", request.emotion, request.utterance, score)
            for request, score in zip(requests, own, strict=True)
        ]
        ours = [advantages[group.name][place] for group, place in places]
        counts = self._counts(list(scores.values()), self.min_group)
        self._listen(own)
        return Rollout(batch.chats, self.memory.reference(policy, batch), own, ours, *counts, samples)

    def sampled(self, policy: ExpressionPolicy, batch: ContextBatch, count: int, seed: int, step: int) -> Rollout:
        """`count` replies to each context, compared with one another."""
        drawn = self.replies.draw(policy, batch, count, seed, step)
        return self.judged(drawn, self.reference(policy, drawn), min(self.min_group, count))

    @staticmethod
    def reference(policy: ExpressionPolicy, drawn: RolloutBatch) -> Tensor:
        """Log-probabilities of the replies' tokens under the reference, (K,) float32."""
        with policy.reference():
            logprobs: Tensor = policy(drawn.chats).logprobs
        return logprobs

    def judged(self, drawn: RolloutBatch, ref_logprobs: Tensor, min_group: int) -> Rollout:
        """The replies with their scores, which are waited for here."""
        assert self.judge is not None  # or else nothing could have been drawn
        found = self.judge.collect(drawn.asked)
        if found:  # a judge that nobody asked is not silent
            self._listen(found)
        scores = drawn.placed(found)
        groups = [scores[i : i + drawn.count] for i in range(0, len(scores), drawn.count)]
        advantages = [one for group in groups for one in self._advantages(group, min_group)]
        samples = [(c.words, c.emotion, text, score) for (c, text), score in zip(drawn.told, scores, strict=True)]
        counts = self._counts(groups, min_group)
        naming = any(context.names is not None for context, _ in drawn.told)
        unnamed = len(drawn.unasked) / len(drawn.told) if naming else None
        return Rollout(drawn.chats, ref_logprobs, scores, advantages, *counts, samples, unnamed)

    def _listen(self, scores: Sequence[float | None]) -> None:
        """A judge that says nothing for long is gone: going on would end in an adapter that learnt nothing."""
        self._silent = 0 if known(scores) else self._silent + 1
        if self.max_unscored_batches is not None and self._silent >= self.max_unscored_batches:
            raise UserError(
                f"the judge gave no score to {self._silent} batches in a row, and the log says why; see to it and run "
                "the same command again, or set learner.judging.max_unscored_batches"
            )

    def _advantages(self, scores: Sequence[float | None], min_group: int) -> list[float | None]:
        if known(scores) < min_group:
            return [None] * len(scores)  # as if nobody had been asked
        return group_advantages(scores, self.negative_weight)

    @staticmethod
    def _counts(groups: Sequence[Sequence[float | None]], min_group: int) -> tuple[int, int]:
        """Degenerate groups among those that are large enough, and the others."""
        enough = [group for group in groups if known(group) >= min_group]
        return sum(map(is_degenerate, enough)), len(groups) - len(enough)

    def state(self) -> dict[str, Any]:
        return self.memory.state()

    def restore(self, state: dict[str, Any]) -> None:
        self.memory.restore(state)


def known(scores: Sequence[float | None]) -> int:
    """How many of the scores are there."""
    return sum(score is not None for score in scores)


VALIDATED = ("surrogate", "kl", "reward", "reward_missing", "response_length", "unnamed")


class JPOLearner(L.LightningModule):
    """A clipped surrogate on judged utterances, held near the frozen SFT policy by a KL penalty.

    A `JudgedBatch` trains on what the corpus says, a `ContextBatch` on `samples` replies to each context. A missing
    score takes its utterance out of group and loss: it never becomes a middling score.

    Attributes:
        last_samples: the utterances of the latest step with their scores, for people to read.
        amounts: utterances and response tokens of the latest step.
    """

    def __init__(
        self,
        policy: dict[str, Any],
        optimizer: dict[str, Any],
        clip_range: float,
        kl_coef: float,
        negative_weight: float,
        samples: int,
        judging: dict[str, Any],
        seed: int,
        judge: Scorer | None = None,
        sampler: Sampler | None = None,
    ) -> None:
        """
        Args:
            policy: arguments of `ExpressionPolicy`; its `init_adapter` is where training starts, and the reference.
            optimizer: see `learners.adamw`.
            clip_range: a ratio gains nothing beyond 1 ± this.
            kl_coef: weight of the KL penalty.
            negative_weight: factor of negative advantages (1: as they are; 0: only good utterances teach).
            samples: replies to each context of a `ContextBatch`.
            judging: arguments of `Judging`.
            seed: fixes all sampling, together with the step.
            judge: scores utterances; None takes the values that corpus turns came with.
            sampler: draws replies; only a `ContextBatch` needs one.

        Raises:
            UserError: if `samples` is below 2, which makes no group, or below the smallest group of `judging`.
        """
        super().__init__()
        if samples < 2:
            raise UserError(f"samples={samples}: an utterance is compared with others, so at least 2 are needed")
        if judging["min_group"] > samples:
            raise UserError(f"samples={samples}: judging.min_group={judging['min_group']} would skip every group")
        self.save_hyperparameters(ignore=["judge", "sampler"])  # objects would not load with weights_only=True
        self.policy: ExpressionPolicy | None = None
        self.rollouts = Rollouts(judge, sampler, negative_weight, Judging(**judging))
        self.last_samples: list[Sample] = []
        self.amounts = (0, 0)
        self.val_means = torch.nn.ModuleDict({name: MeanMetric(nan_strategy="ignore") for name in VALIDATED})

    def configure_model(self) -> None:
        if self.policy is None:  # Lightning calls this hook once a stage
            self.policy = ExpressionPolicy(**self.hparams["policy"], reference=True)

    def on_train_start(self) -> None:
        self.rollouts.replies.forget()

    def training_step(self, batch: JudgedBatch | ContextBatch, batch_idx: int) -> Tensor:
        assert self.policy is not None
        if isinstance(batch, JudgedBatch):
            rollout = self.rollouts.logged(self.policy, batch)
            figures = self.objective(rollout, self.policy(rollout.chats))
        else:
            drawn = self._drawn(batch, batch_idx)
            ref_logprobs = self.rollouts.reference(self.policy, drawn)
            forward = self.policy(drawn.chats)  # before the scores are waited for
            rollout = self.rollouts.judged(drawn, ref_logprobs, self.rollouts.min_group)
            figures = self.objective(rollout, forward) | {"judge_wait_s": torch.tensor(drawn.asked.waited_s)}
        self.last_samples = rollout.samples
        self.amounts = (len(rollout.scores), len(rollout.ref_logprobs))
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        shown = {f"train/{name}": value.detach() for name, value in figures.items()}
        self.log_dict(shown | {"train/learning_rate": rate}, batch_size=len(batch))
        return figures["loss"]

    def _drawn(self, batch: ContextBatch, batch_idx: int) -> RolloutBatch:
        assert self.policy is not None
        of_step = self.trainer.accumulate_grad_batches
        left = of_step - 1 - batch_idx % of_step  # batches still to come before the weights move
        count, seed = self.hparams["samples"], self.hparams["seed"]
        return self.rollouts.replies.upcoming(self.policy, batch, count, seed, self.global_step, left)

    def objective(self, rollout: Rollout, forward: TokenLogprobs | None = None) -> dict[str, Tensor]:
        """`loss` = `surrogate` + kl_coef x `kl`, and what one looks at beside them; all scalars.

        The KL is a mean over tokens, the surrogate a mean over utterances with the ratio's logarithm a mean over the
        utterance's tokens: long replies weigh as much as short ones.

        Args:
            forward: what the policy makes of the rollout's chats, where that is known already.
        """
        assert self.policy is not None
        logprobs, owner = forward or self.policy(rollout.chats)
        log_ratio = mean_by_utterance(logprobs - rollout.ref_logprobs, owner, len(rollout.scores))
        judged = torch.tensor([one is not None for one in rollout.advantages], device=owner.device)
        if not judged.any():
            return {"loss": 0.0 * logprobs.sum()} | self._completeness(rollout)  # a step that changes nothing
        advantage = torch.tensor([one for one in rollout.advantages if one is not None], device=owner.device)
        surrogate = clipped_surrogate(log_ratio[judged], advantage, self.hparams["clip_range"])
        kl = kl_k3(logprobs, rollout.ref_logprobs)[judged[owner]].mean()
        loss = surrogate + self.hparams["kl_coef"] * kl
        figures = {"loss": loss, "surrogate": surrogate, "kl": kl} | self._completeness(rollout)
        return figures | self._watched(rollout, log_ratio.detach()[judged].exp(), advantage, len(logprobs))

    @staticmethod
    def _completeness(rollout: Rollout) -> dict[str, Tensor]:
        missing = 1.0 - known(rollout.scores) / len(rollout.scores)
        counted = {"reward_missing": missing, "skipped_groups": float(rollout.skipped), "unnamed": rollout.unnamed}
        return {name: torch.tensor(value) for name, value in counted.items() if value is not None}

    def _watched(self, rollout: Rollout, ratio: Tensor, advantage: Tensor, tokens: int) -> dict[str, Tensor]:
        """The state of things: nothing here is learnt from. `ratio` and `advantage` are those of judged utterances."""
        scores = torch.tensor([score for score in rollout.scores if score is not None])
        figures = {
            "reward": scores.mean(),
            "degenerate_groups": torch.tensor(float(rollout.degenerate)),
            "clip_fraction": ((ratio - 1.0).abs() > self.hparams["clip_range"]).float().mean(),
            "response_length": torch.tensor(tokens / len(rollout.scores)),
        }
        for name, values in (("ratio", ratio), ("advantage", advantage)):
            figures |= {f"{name}_mean": values.mean(), f"{name}_min": values.min(), f"{name}_max": values.max()}
        return figures | {"advantage_std": advantage.std(correction=0)}

    def validation_step(self, batch: JudgedBatch | ContextBatch, batch_idx: int) -> None:
        """Corpus turns show `kl` and `surrogate`; contexts get one reply each, whose `reward` is worth watching."""
        assert self.policy is not None
        if isinstance(batch, JudgedBatch):
            figures = self.objective(self.rollouts.logged(self.policy, batch))
            figures.pop("reward", None)  # of the corpus's own words: it cannot change
        else:
            seed = self.rollouts.replies.validation_seed(self.hparams["seed"], batch_idx)
            figures = self.objective(self.rollouts.sampled(self.policy, batch, 1, seed, self.global_step))
            figures.pop("surrogate", None)  # one reply is no group
            figures.setdefault("reward", torch.tensor(torch.nan))  # a silent judge: not a number, and never the best
        for name, metric in self._val_means():
            if name in figures:
                metric.update(figures[name], len(batch))

    def on_validation_epoch_end(self) -> None:
        for name, metric in self._val_means():
            if metric.update_called:
                self.log(f"val/{name}", metric.compute())
            metric.reset()

    def _val_means(self) -> list[tuple[str, MeanMetric]]:
        return [(name, metric) for name, metric in self.val_means.items() if isinstance(metric, MeanMetric)]

    def configure_optimizers(self) -> Any:
        return adamw(self, self.hparams["optimizer"])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        assert self.policy is not None
        checkpoint["stage"] = "jpo"  # a checkpoint of another stage is refused by name
        checkpoint["expression_policy"] = self.policy.identity
        checkpoint["jpo"] = {"start": self.policy.start, "memory": self.rollouts.state()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        assert self.policy is not None
        refuse_foreign(checkpoint.get("expression_policy", {}), self.policy.identity, "the checkpoint")
        if checkpoint["jpo"]["start"] != self.policy.start:
            raise UserError(
                f"the checkpoint was trained from another adapter than {self.hparams['policy'].get('init_adapter')}; "
                "put that adapter back, or start this stage over"
            )
        self.rollouts.restore(checkpoint["jpo"]["memory"])
