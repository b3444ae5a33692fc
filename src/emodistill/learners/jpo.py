"""Judge Policy Optimization: the expression policy moves towards utterances that a judge prefers (docs/method.md).

One step, `JPOLearner.training_step`, reads from top to bottom:

1. *Utterances.* Replies that the policy gives to a context now, or the corpus's own turns.
   All batches of an optimizer step are sampled in one call: the weights do not move within it.
2. *Scores.* The judge works in the background, while the reference and the policy score the replies.
3. *Advantages.* An utterance is compared with its group: the other replies to its context, or all chosen turns of its
   scenario. Parts of a score are normalised apart, so that one that is easily won does not drown the others.
4. *Loss.* A surrogate on the ratio of policy to behaviour, and a KL penalty that holds the policy near the reference.

Sampled replies serve one update by the weights that drew them. Their ratio is to the sampler, exactly 1, and no clip
can bind: a ratio to the reference would leave good replies without a gradient as soon as the policy has moved away.
A server that draws (`EndpointSampler`) is another engine, and may be one step behind: there the ratio is to the
server's own log-probabilities, which hold both differences, and it is clipped.
On corpus turns the ratio is to the reference and clipped: a trust region and no importance weight, for they were
written by the behaviour policy. It keeps one update from running far on one judgement, nothing more.

The loss of an optimizer step is the mean over its batches, each of which counts alike, on whichever device it is.

LoRA dropout is off in this stage. The first ratio is then exactly 1 and the first KL exactly 0, and a ratio measures
what training did, not which mask was drawn.

Shapes: U utterances of a batch, K response tokens of all of them.
"""

import math
import statistics
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, islice
from typing import Any, Literal, NamedTuple, Protocol

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torchmetrics import MeanMetric

from emodistill.checks import ABOVE_0, FROM_0, Allowed, check_settings, is_number, is_whole
from emodistill.data.batches import ResumableBatches
from emodistill.data.chat_datasets import ContextBatch, Group, JPODataset, JudgedBatch
from emodistill.data.chats import ChatContext
from emodistill.data.preference_pairs import PairBatch
from emodistill.errors import UserError
from emodistill.judges.request import Scorer
from emodistill.learners.async_judge import AsyncJudge, Judging, ScoreFuture
from emodistill.learners.devices import build_policy, gather
from emodistill.learners.optimizer import adamw, check_optimizer, finite
from emodistill.losses import clipped_surrogate, kl_k3, preference_loss
from emodistill.policy.adapter_files import refuse_foreign
from emodistill.policy.endpoint_sampler import Drawn, EndpointSampler
from emodistill.policy.expression_policy import ExpressionPolicy
from emodistill.policy.token_batches import Chats, TokenLogprobs, mean_by_utterance, pack_replies, sum_by_utterance

Scores = Sequence[float | None]  # None where the judge gave none

LIMIT = 10.0  # of an advantage, in standard deviations
SAME = 1e-6  # scores closer than this are the same score; they are on a scale from 1 to 10
_ALLOWED: Allowed = {
    "clip_range": ABOVE_0,
    "kl_coef": FROM_0,
    "negative_weight": FROM_0,
    "samples": (partial(is_whole, least=2), "a whole number of at least 2, for an utterance is compared with others"),
}
VALIDATED = ("surrogate", "kl", "reward", "reward_missing", "response_length", "unnamed")
Reply = tuple[ChatContext, str, float | None]  # context, words, score


@dataclass(frozen=True)
class Part:
    """Something else than the judge's score that makes a reply good, compared within the same groups.

    Args:
        weight: beside the judge's own weight of 1.
        scorer: its score of each request; None where it has nothing to say, which counts as the group's mean.
    """

    weight: float
    scorer: Scorer

    def __post_init__(self) -> None:
        if not (is_number(self.weight) and self.weight > 0):
            raise UserError(f"a part of the reward has weight {self.weight}: use a number above 0, or leave it out")


def standardised(scores: Scores) -> list[float | None]:
    """(score - mean) / std over the scores that are there; a missing score stays missing.

    Where fewer than two scores are left, or all are the same, nothing can be said and every value is 0. The standard
    deviation is that of the group itself (divided by n).
    """
    given = _given(scores)
    if is_degenerate(scores):
        return [None if score is None else 0.0 for score in scores]
    mean, std = statistics.fmean(given), statistics.pstdev(given)
    return [None if score is None else (score - mean) / std for score in scores]


def group_advantages(
    scores: Scores, negative_weight: float, parts: Sequence[tuple[float, Scores]] = ()
) -> list[float | None]:
    """Standardised scores of a group, clipped to ±10, negative ones times `negative_weight`.

    Args:
        parts: weights, and scores of the same utterances. Each part is standardised apart, and the advantage is the
            weighted mean with the judge's weight 1. An utterance that the judge did not score has none, and its parts
            do not count either: it moves none of its neighbours.
    """
    total = [standardised(scores), *map(standardised, _judged(scores, parts))]
    weights = [1.0, *(weight for weight, _ in parts)]

    def advantage(values: Scores) -> float:
        mean = sum(w * (value or 0.0) for w, value in zip(weights, values, strict=True)) / sum(weights)
        clipped = min(max(mean, -LIMIT), LIMIT)
        return clipped * negative_weight if clipped < 0 else clipped

    return [None if values[0] is None else advantage(values) for values in zip(*total, strict=True)]


def best_only(advantages: Scores) -> list[float | None]:
    """1 for the first of the highest advantages of a group, missing for the others, and for all where none is above 0.

    The surrogate's gradient is then that of the best reply's mean log-likelihood: distillation of the best of n.

    Source:
        Dong et al. 2023, RAFT, https://arxiv.org/abs/2304.06767
    """
    best = max((value for value in advantages if value is not None), default=0.0)
    place = list(advantages).index(best) if best > 0 else -1
    return [1.0 if i == place else None for i in range(len(advantages))]


def is_degenerate(scores: Scores) -> bool:
    """Whether a group says nothing about which of its utterances is better."""
    given = _given(scores)
    return len(given) < 2 or max(given) - min(given) < SAME


def count_scores(scores: Scores) -> int:
    """How many of the scores are there."""
    return len(_given(scores))


def _judged(scores: Scores, parts: Sequence[tuple[float, Scores]]) -> list[Scores]:
    """The scores of each part, of the utterances that the judge scored."""
    return [[None if score is None else one for score, one in zip(scores, own, strict=True)] for _, own in parts]


def _given(scores: Scores) -> list[float]:
    return [score for score in scores if score is not None]


def _grouped(scores: Sequence[float | None], count: int) -> list[Scores]:
    return [scores[i : i + count] for i in range(0, len(scores), count)]


class Comparison(NamedTuple):
    """Groups of utterances, compared within each group."""

    advantages: list[list[float | None]]  # by group
    degenerate: int  # groups that say nothing about which of their utterances is better, nor does any part of theirs
    skipped: int  # groups with too few scores

    @classmethod
    def of(
        cls,
        groups: Sequence[Scores],
        min_group: int,
        negative_weight: float,
        parts: Sequence[tuple[float, Sequence[Scores]]] = (),
    ) -> "Comparison":
        """A group with fewer than `min_group` scores has no advantages, as if nobody had been asked.

        Args:
            parts: weights, and scores by group; see `group_advantages`.
        """
        enough = [count_scores(group) >= min_group for group in groups]
        by_group = [[(weight, scores[i]) for weight, scores in parts] for i in range(len(groups))]
        advantages: list[list[float | None]] = [
            group_advantages(group, negative_weight, own) if large else [None] * len(group)
            for group, own, large in zip(groups, by_group, enough, strict=True)
        ]
        degenerate = sum(
            all(map(is_degenerate, [group, *_judged(group, own)]))
            for group, own, large in zip(groups, by_group, enough, strict=True)
            if large
        )
        return cls(advantages, degenerate, len(groups) - sum(enough))


class Rollout(NamedTuple):
    """Utterances with all that the objective needs of them; the lists are in utterance order, U long."""

    chats: Chats
    ref_logprobs: Tensor  # (K,) float32
    scores: list[float | None]
    advantages: list[float | None]
    degenerate: int  # see `Comparison`
    skipped: int
    sampled: bool = False  # by the weights that learn from them, or by a server
    behaviour: Tensor | None = None  # (K,) the server's log-probabilities, utterance by utterance; NaN where unknown
    parts: tuple[tuple[str, float], ...] = ()  # mean of each part of the reward, for display
    unnamed: float | None = None  # share of replies that name no emotion; None where none has to


class Sampler(Protocol):
    """Draws replies from the policy as it is now."""

    def refresh(self, policy: ExpressionPolicy) -> None:
        """Take over the policy's weights."""

    def sample(
        self, contexts: Sequence[Sequence[int]], count: int, seed: int, numbers: Sequence[int] | None = None
    ) -> list[list[list[int]]]:
        """`count` replies to every context, as token ids with their end; fixed by weights, contexts, seed and numbers.

        Args:
            numbers: of the contexts among all of the step; None counts from 0. However a step is shared out among
                devices, a context has the same number and so the same replies.
        """

    def text(self, reply: list[int]) -> str:
        """The words of a reply."""


class Spoken(NamedTuple):
    """Replies to the contexts of a batch, as token ids with their end."""

    batch: ContextBatch
    replies: list[list[list[int]]]  # by context
    logprobs: list[list[list[float]]] | None  # of a server, token by token
    weights: int  # the optimizer step whose weights spoke


class Ahead(NamedTuple):
    """What a server draws for a later optimizer step."""

    step: int
    contexts: list[list[int]]
    weights: int
    drawn: "Future[Drawn]"


@dataclass(frozen=True)
class RolloutBatch:
    """Replies to the contexts of a batch, whose scores are on their way.

    Attributes:
        replies: context and words, `count` replies a context.
        weights: the optimizer step whose weights spoke.
        behaviour: see `Rollout`.
        unasked: places of replies that the judge was not asked about, for they name no emotion and had to.
    """

    batch: ContextBatch
    replies: list[tuple[ChatContext, str]]
    count: int
    chats: Chats
    future: ScoreFuture
    weights: int
    behaviour: Tensor | None = None
    unasked: frozenset[int] = frozenset()

    @property
    def unnamed(self) -> float | None:
        """Share of replies that name no emotion; None where none has to."""
        naming = any(context.names is not None for context, _ in self.replies)
        return len(self.unasked) / len(self.replies) if naming else None

    def placed(self, scores: Scores) -> list[float | None]:
        """The judge's scores in the order of `replies`; missing where it was not asked."""
        given = iter(scores)
        return [None if place in self.unasked else next(given) for place in range(len(self.replies))]


class RolloutQueue:
    """Samples replies to all contexts of an optimizer step in one call, and puts them to the judge batch by batch.

    All batches of a step are answered by the same weights, and a model reads many rows as quickly as few. The judge is
    asked about at most `look_ahead` batches before they are needed.

    Replies are a function of the weights, the contexts of the step in order, the seed and the step. So a resumed run
    samples what the unbroken one would have sampled, and however a step is cut into batches, it has the same replies.

    A server with `ahead=1` draws the replies of a step while the one before it learns. What it has drawn is part of a
    checkpoint, for the weights that drew it are gone when a run is continued.
    """

    def __init__(self, judge: AsyncJudge | None, sampler: Sampler | EndpointSampler | None, look_ahead: int) -> None:
        self.judge, self.sampler, self.look_ahead = judge, sampler, look_ahead
        self._refreshed_at: int | None = None
        self._spoken: deque[Spoken] = deque()  # of this step, not yet put to the judge
        self._asked: deque[RolloutBatch] = deque()
        self._sampled_at: int | None = None
        self._ahead: Ahead | None = None

    def clear(self) -> None:
        """Drop what was sampled and never used: training begins, or goes on elsewhere."""
        self._spoken.clear()
        self._asked.clear()
        self._sampled_at = None

    def end(self) -> None:
        """Training is over: nothing is drawn any more, and what is under way is waited for."""
        if self._ahead is not None:
            wait([self._ahead.drawn])
            self._ahead = None
        if isinstance(self.sampler, EndpointSampler):
            self.sampler.release()

    def state(self) -> dict[str, Any] | None:
        """What was drawn for the step to come, which is waited for; None where there is nothing, or it failed."""
        if self._ahead is None or self._ahead.drawn.exception() is not None:  # the step to come will raise it
            return None
        return self._ahead._asdict() | {"drawn": self._ahead.drawn.result()._asdict()}

    def restore(self, state: dict[str, Any] | None) -> None:
        self._ahead = None
        if state is not None:
            drawn: Future[Drawn] = Future()
            drawn.set_result(Drawn(**state["drawn"]))
            self._ahead = Ahead(**(state | {"drawn": drawn}))

    @staticmethod
    def training_seed(seed: int, step: int) -> int:
        """A new seed for every optimizer step."""
        return _seed(seed, 0, step)

    @staticmethod
    def validation_seed(seed: int, batch: int) -> int:
        """The same at every validation, so that two of them differ by the weights alone."""
        return _seed(seed, 1, batch)

    def next_batch(
        self,
        policy: ExpressionPolicy,
        batch: ContextBatch,
        count: int,
        seed: int,
        step: int,
        left: int,
        last: bool = False,
    ) -> RolloutBatch:
        """Replies to the next batch of training.

        Args:
            left: batches that come after this one in the same optimizer step.
            last: whether no step follows this one.
        """
        if self._sampled_at != step:
            self.clear()  # of an epoch that was cut short there may be some left
            step_batches = [each for each in (batch, *islice(batch.following(), left)) if each.counts]
            spoken = self._drawn_before(step_batches, step)
            spoken = spoken or self.speak(policy, step_batches, count, self.training_seed(seed, step), step)
            self._spoken.extend(spoken)
            self._sampled_at = step
            coming = () if last else islice(batch.following(), left, 2 * left + 1)
            self._draw_ahead(policy, coming, count, self.training_seed(seed, step + 1), step)
        while self._spoken and len(self._asked) <= self.look_ahead:
            self._asked.append(self.ask(policy, self._spoken.popleft()))
        drawn = self._asked.popleft()
        if drawn.batch.contexts != batch.contexts:  # by value: what is encoded again is another object
            raise ValueError("the batch is not the one that the loader announced")
        return drawn

    def draw(self, policy: ExpressionPolicy, batch: ContextBatch, count: int, seed: int, step: int) -> RolloutBatch:
        """Sample `count` replies to each context of a batch and ask the judge; does not wait for it."""
        (spoken,) = self.speak(policy, [batch], count, seed, step)
        return self.ask(policy, spoken)

    def speak(
        self, policy: ExpressionPolicy, batches: Sequence[ContextBatch], count: int, seed: int, step: int
    ) -> list[Spoken]:
        """Sample `count` replies to each context of several batches, in one call."""
        if self.sampler is None or self.judge is None:
            raise UserError("JPO on sampled utterances needs a judge and a sampler; train on the corpus's own without")
        sampler = self.current_sampler(policy, step)
        if isinstance(sampler, EndpointSampler):
            return _by_batch(batches, *sampler.submit(_contexts(batches), count, seed).result(), step)
        before = [batch.before(batches[0].number) for batch in batches]
        numbers = [first + i for first, batch in zip(before, batches, strict=True) for i in range(len(batch))]
        return _by_batch(batches, sampler.sample(_contexts(batches), count, seed, numbers), None, step)

    def _drawn_before(self, batches: Sequence[ContextBatch], step: int) -> list[Spoken]:
        """What was drawn ahead for just these batches; nothing where others were announced, or none."""
        ahead, self._ahead = self._ahead, None
        if ahead is None or (ahead.step, ahead.contexts) != (step, _contexts(batches)):
            return []
        return _by_batch(batches, *ahead.drawn.result(), ahead.weights)

    def _draw_ahead(
        self, policy: ExpressionPolicy, batches: Iterable[ContextBatch], count: int, seed: int, step: int
    ) -> None:
        """Begin to draw for the step after this one, by the weights of this one; its contexts are encoded only then."""
        if not isinstance(self.sampler, EndpointSampler) or not self.sampler.ahead:
            return
        if contexts := _contexts(batches):
            self.current_sampler(policy, step)
            self._ahead = Ahead(step + 1, contexts, step, self.sampler.submit(contexts, count, seed))

    def ask(self, policy: ExpressionPolicy, spoken: Spoken) -> RolloutBatch:
        """Put the replies of one batch to the judge."""
        assert self.judge is not None and self.sampler is not None  # or else nothing could have been sampled
        batch, sampled, known, weights = spoken
        texts = [[self.sampler.text(reply) for reply in own] for own in sampled]
        replies = [(context, text) for context, own in zip(batch.contexts, texts, strict=True) for text in own]
        requests = [context.request(text) for context, text in replies]
        future = self.judge.ask([request for request in requests if request is not None])
        unasked = frozenset(place for place, request in enumerate(requests) if request is None)
        if not self.look_ahead:
            self.judge.collect(future)
        contexts = [context.input_ids for context in batch.contexts]
        chats = pack_replies(contexts, sampled, pad_id=0).to(policy.device)
        behaviour = None
        if known is not None:
            behaviour = torch.tensor([one for own in known for reply in own for one in reply]).to(policy.device)
        return RolloutBatch(batch, replies, len(sampled[0]), chats, future, weights, behaviour, unasked)

    def current_sampler(self, policy: ExpressionPolicy, step: int) -> "Sampler | EndpointSampler":
        """The sampler with the weights of this step, which are taken over once a step."""
        assert self.sampler is not None  # whoever asks has looked
        if self._refreshed_at != step:
            if isinstance(self.sampler, EndpointSampler):
                self.sampler.refresh(policy, step)
            else:
                self.sampler.refresh(policy)
            self._refreshed_at = step
        return self.sampler


def _contexts(batches: Iterable[ContextBatch]) -> list[list[int]]:
    return [context.input_ids for batch in batches for context in batch.contexts]


def _by_batch(
    batches: Sequence[ContextBatch],
    replies: list[list[list[int]]],
    logprobs: list[list[list[float]]] | None,
    weights: int,
) -> list[Spoken]:
    ends = list(accumulate(map(len, batches)))
    places = [slice(end - len(batch), end) for batch, end in zip(batches, ends, strict=True)]
    return [
        Spoken(batch, replies[place], logprobs and logprobs[place], weights)
        for batch, place in zip(batches, places, strict=True)
    ]


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


class ReferenceCache:
    """For corpus turns: log-probabilities of the frozen reference by chat, judge scores by group.

    Both are computed at first use and go into the checkpoint. A log-probability computed in another batch differs in
    its last bits, so a resumed run that computed them anew would not be the run it continues.
    """

    def __init__(self) -> None:
        self.ref_logprobs: dict[str, Tensor] = {}
        self.group_scores: dict[str, list[float | None]] = {}

    def lacks(self, batch: JudgedBatch) -> bool:
        """Whether any chat of the batch is new."""
        return any(item.key not in self.ref_logprobs for item in batch.items)

    def reference(self, policy: ExpressionPolicy, batch: JudgedBatch, compute: bool | None = None) -> Tensor:
        """Log-probabilities of the batch's response tokens under the reference, (K,) float32.

        If any chat is new, the reference runs on the whole batch: the first step then compares the same arithmetic on
        the same tensors, and its ratio is exactly 1.

        Args:
            compute: whether it runs; None decides by this batch alone.
        """
        keys = [item.key for item in batch.items]
        if self.lacks(batch) if compute is None else compute:
            sizes = [sum(owner >= 0 for owner in item.chat.utterance) for item in batch.items]
            parts = torch.split(reference(policy, batch.chats).cpu(), sizes)
            for key, logprobs in zip(keys, parts, strict=True):
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

    def pool(self) -> None:
        """Take over what other processes computed; of a chat that several have computed, all keep the same numbers."""
        logprobs: dict[str, Tensor] = {}
        scores: dict[str, list[float | None]] = {}
        for theirs in gather(self.state()):
            logprobs = theirs["ref_logprobs"] | logprobs
            scores |= {name: own for name, own in theirs["group_scores"].items() if None in scores.get(name, [None])}
        self.ref_logprobs, self.group_scores = logprobs, scores

    def state(self) -> dict[str, Any]:
        return {"ref_logprobs": dict(self.ref_logprobs), "group_scores": dict(self.group_scores)}

    def restore(self, state: dict[str, Any]) -> None:
        self.ref_logprobs, self.group_scores = dict(state["ref_logprobs"]), dict(state["group_scores"])


def reference(policy: ExpressionPolicy, chats: Chats) -> Tensor:
    """Log-probabilities of all response tokens under the frozen reference, (K,) float32."""
    with policy.reference():
        logprobs: Tensor = policy(chats).logprobs
    return logprobs


class JPOLearner(L.LightningModule):
    """A clipped surrogate on judged utterances, held near the frozen SFT policy by a KL penalty.

    A `JudgedBatch` trains on the corpus's own turns, a `ContextBatch` on `samples` replies to each context. A missing
    score takes its utterance out of group and loss: it never becomes a middling score. A `PairBatch`, for comparison,
    trains on preferences (DPO); validation is the same.

    Attributes:
        replies: what the policy said at the latest validation, for people to read.
        amounts: utterances and response tokens of the latest step.
        judge: asks the judge in the background; None where the values of corpus turns stand in for scores.
    """

    policy: ExpressionPolicy  # built by `configure_model`

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
        sampler: Sampler | EndpointSampler | None = None,
        parts: Mapping[str, Part | None] | None = None,
        learn_from: Literal["all", "best"] = "all",
        preference: dict[str, float] | None = None,
    ) -> None:
        """
        Args:
            policy: arguments of `ExpressionPolicy`; its `init_adapter` is where training starts, and the reference.
            optimizer: see `learners.optimizer.adamw`.
            clip_range: a ratio gains nothing beyond 1 ± this.
            kl_coef: weight of the KL penalty.
            negative_weight: factor of negative advantages (1: as they are; 0: only good utterances teach).
            samples: replies to each context of a `ContextBatch`.
            judging: arguments of `Judging`.
            seed: fixes all sampling, together with the step.
            judge: scores utterances; None takes the values that corpus turns came with.
            sampler: draws replies; only a `ContextBatch` needs one.
            parts: of the reward of sampled replies, beside the judge's score, by name; None leaves one out.
            learn_from: `all` replies by their advantages, or the `best` of each group alone (see `best_only`).
            preference: `scale` and `nll_weight` of `losses.preference_loss`; only a `PairBatch` needs them.

        Raises:
            UserError: if `samples` is below 2, which makes no group; if another setting has no meaning.
        """
        super().__init__()
        check_settings(locals(), _ALLOWED)
        check_optimizer(optimizer)
        self.judging = Judging(**judging)
        if learn_from not in ("all", "best"):
            raise UserError(f"learn_from={learn_from}: use all (by advantages) or best (the best of each group)")
        self.save_hyperparameters(ignore=["judge", "sampler", "parts"])  # objects would not load with weights_only=True
        self.judge = None if judge is None else AsyncJudge(judge, self.judging.timeout_s)
        self.queue = RolloutQueue(self.judge, sampler, self.judging.look_ahead)
        self.cache = ReferenceCache()
        self.parts = {name: part for name, part in (parts or {}).items() if part is not None}
        self.replies: list[Reply] = []
        self.amounts = (0, 0)
        self.val_means = torch.nn.ModuleDict({name: MeanMetric(nan_strategy="ignore") for name in VALIDATED})
        self._unscored = 0  # batches in a row without any score

    def setup(self, stage: str) -> None:
        dataset = getattr(getattr(self.trainer, "datamodule", None), "dataset", None)
        if isinstance(dataset, JPODataset):
            self._check_taught_by(dataset)

    def _check_taught_by(self, dataset: JPODataset) -> None:
        """Refuse what would learn nothing of this dataset, or could not be validated, before the model is read."""
        samples, least = self.hparams["samples"], self.judging.min_group
        if dataset.utterances == "sampled" and least > samples:
            raise UserError(f"samples={samples}: judging.min_group={least} would skip every group")
        if self.judge is not None or dataset.utterances == "sampled":  # there a judge is missed at the first reply
            return
        on_corpus = dataset.utterances == "corpus" or dataset.validation_chats is not None
        if on_corpus and dataset.advantages is None:
            raise UserError(
                "learner.judge=null: the corpus's own words need something that scores them; give "
                "data.dataset.advantages (as variant=positive_advantage does), or a judge"
            )
        if dataset.validation_chats is None and dataset.contexts:
            raise UserError(
                "learner.judge=null: nobody can score what the policy says at a validation; give "
                "data.dataset.validation_chats, which validates on the corpus's own words"
            )

    def configure_model(self) -> None:
        if not hasattr(self, "policy"):  # Lightning calls this hook once a stage
            self.policy = build_policy(self, **self.hparams["policy"], reference=True)

    def on_train_start(self) -> None:
        if self.trainer.world_size > 1 and isinstance(self.queue.sampler, EndpointSampler):
            raise UserError(
                "sampler=endpoint draws for one device: each of several would push and prove adapters of its own, and "
                "number its contexts anew; use trainer.devices=1 and trainer.num_nodes=1, or sampler=local"
            )
        self.queue.clear()

    def on_train_end(self) -> None:
        self.queue.end()

    def training_step(self, batch: JudgedBatch | ContextBatch | PairBatch, batch_idx: int) -> Tensor:
        if not batch.counts:
            return self._keep_step(batch)
        if isinstance(batch, PairBatch):
            metrics = self.preferred(batch)
            self.amounts = (2 * len(batch), int((batch.chats.utterance >= 0).sum()))
        elif isinstance(batch, JudgedBatch):
            rollout = self.from_corpus(batch)
            metrics = self.objective(rollout, self.policy(rollout.chats))
            self.amounts = (len(rollout.scores), len(rollout.ref_logprobs))
        else:
            per_step = self.trainer.accumulate_grad_batches
            left = per_step - 1 - batch_idx % per_step  # batches still to come before the weights move
            count, seed = self.hparams["samples"], self.hparams["seed"]
            last = self.global_step + 1 == self.trainer.max_steps
            drawn = self.queue.next_batch(self.policy, batch, count, seed, self.global_step, left, last)
            ref_logprobs = reference(self.policy, drawn.chats)
            logprobs = self.policy(drawn.chats)  # before the scores are waited for
            rollout = self.judged(drawn, ref_logprobs, self.judging.min_group)
            metrics = self.objective(rollout, logprobs) | {"judge_wait_s": torch.tensor(drawn.future.waited_s)}
            if isinstance(self.queue.sampler, EndpointSampler):
                seen = self.queue.sampler.observed | {"staleness": float(self.global_step - drawn.weights)}
                metrics |= {name: torch.tensor(value) for name, value in seen.items()}
            self.amounts = (len(rollout.scores), len(rollout.ref_logprobs))
        logged = {f"train/{name}": value.detach() for name, value in metrics.items()}
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        self.log_dict(logged | {"train/learning_rate": rate}, batch_size=len(batch))
        return finite(self, metrics["loss"]) * self._step_factor(batch_idx)

    def _step_factor(self, batch_idx: int) -> float:
        """What makes the gradient of a step the mean over its batches, where an epoch's last step has fewer.

        Lightning divides by the batches of a whole step, and averages over devices, some of which may only keep step.
        """
        loader, whole = self.trainer.train_dataloader, self.trainer.accumulate_grad_batches
        first = batch_idx - batch_idx % whole
        last = min(first + whole, int(self.trainer.num_training_batches))
        devices, batches = (loader.at_once, loader.batches) if isinstance(loader, ResumableBatches) else (1, last)
        return whole * devices / (min(last * devices, batches) - first * devices)

    def _keep_step(self, batch: JudgedBatch | ContextBatch | PairBatch) -> Tensor:
        """A loss of 0 for a batch that only keeps step: the process computes as often as others, and asks nobody."""
        self.amounts = (0, 0)
        if isinstance(batch, ContextBatch):
            self.queue.current_sampler(self.policy, self.global_step)
            context = batch.contexts[0].input_ids
            chats = pack_replies([context], [[context[-1:]]], pad_id=0).to(self.policy.device)
        else:
            chats = batch.chats
        if isinstance(batch, JudgedBatch):
            self._corpus_reference(batch)
        else:
            reference(self.policy, chats)
        nothing: Tensor = 0.0 * self.policy(chats).logprobs.sum()
        return nothing

    def _corpus_reference(self, batch: JudgedBatch) -> Tensor:
        """As the cache gives it; with sharded weights the reference runs on all devices or on none."""
        if not self.policy.sharded:
            return self.cache.reference(self.policy, batch)
        lacks = self.trainer.strategy.reduce_boolean_decision(self.cache.lacks(batch), all=False)
        return self.cache.reference(self.policy, batch, lacks)

    def preferred(self, batch: PairBatch) -> dict[str, Tensor]:
        """Loss and figures of a batch of preferences; all scalars."""
        if self.hparams["preference"] is None:
            raise UserError("utterances=pairs needs learner.preference: {scale: ..., nll_weight: ...}")
        ref_logprobs = reference(self.policy, batch.chats)
        logprobs, owner = self.policy(batch.chats)
        gains = sum_by_utterance(logprobs - ref_logprobs, owner, 2 * len(batch)).view(-1, 2)
        likelihood = mean_by_utterance(logprobs, owner, 2 * len(batch)).view(-1, 2)[:, 0]
        margin = gains[:, 0] - gains[:, 1]
        kl = kl_k3(logprobs.detach(), ref_logprobs).mean()
        loss = preference_loss(margin, likelihood, **self.hparams["preference"])
        return {"loss": loss, "margin": margin.mean(), "preferred": (margin > 0).float().mean(), "kl": kl}

    def from_corpus(self, batch: JudgedBatch) -> Rollout:
        """The corpus's own utterances, each compared with all chosen turns of its scenario."""
        if self.hparams["learn_from"] != "all":
            raise UserError("learn_from=best needs sampled replies; with utterances=corpus use learn_from=all")
        scores = self.cache.scores(self.judge, [item.group for item in batch.items])
        compared = Comparison.of(list(scores.values()), self.judging.min_group, self.hparams["negative_weight"])
        advantages = dict(zip(scores, compared.advantages, strict=True))
        turns = [(item.group, place) for item in batch.items for place in item.places]
        own = [scores[group.name][place] for group, place in turns]
        self._end_if_silent(own)
        return Rollout(
            batch.chats,
            self._corpus_reference(batch),
            own,
            [advantages[group.name][place] for group, place in turns],
            compared.degenerate,
            compared.skipped,
        )

    def judged(self, drawn: RolloutBatch, ref_logprobs: Tensor, min_group: int) -> Rollout:
        """Sampled replies with their scores, which are waited for here; compared context by context."""
        scores, by_part = self._scores(drawn), self._part_scores(drawn)
        parts = [(self.parts[name].weight, _grouped(own, drawn.count)) for name, own in by_part.items()]
        compared = Comparison.of(_grouped(scores, drawn.count), min_group, self.hparams["negative_weight"], parts)
        advantages = compared.advantages
        if self.hparams["learn_from"] == "best":
            advantages = [best_only(group) for group in advantages]
        return Rollout(
            drawn.chats,
            ref_logprobs,
            scores,
            [advantage for group in advantages for advantage in group],
            compared.degenerate,
            compared.skipped,
            sampled=True,
            behaviour=drawn.behaviour,
            parts=tuple((name, statistics.fmean(given)) for name, own in by_part.items() if (given := _given(own))),
            unnamed=drawn.unnamed,
        )

    def _scores(self, drawn: RolloutBatch) -> list[float | None]:
        """The judge's scores of sampled replies, which are waited for."""
        assert self.judge is not None  # or else nothing could have been sampled
        answers = self.judge.collect(drawn.future)
        if answers:  # a judge that nobody asked is not silent
            self._end_if_silent(answers)
        return drawn.placed(answers)

    def _part_scores(self, drawn: RolloutBatch) -> dict[str, list[float | None]]:
        """Scores of sampled replies by each part of the reward besides the judge."""
        return {name: drawn.placed(part.scorer.scores(drawn.future.requests)) for name, part in self.parts.items()}

    def _end_if_silent(self, scores: Scores) -> None:
        """A judge that says nothing for long is gone: going on would end in an adapter that learnt nothing."""
        self._unscored = 0 if count_scores(scores) else self._unscored + 1
        most = self.judging.max_unscored_batches
        if most is not None and self._unscored >= most:
            raise UserError(
                f"the judge gave no score to {self._unscored} batches in a row, and the log says why; see to it and "
                "run the same command again, or set learner.judging.max_unscored_batches"
            )

    def objective(self, rollout: Rollout, forward: TokenLogprobs | None = None) -> dict[str, Tensor]:
        """`loss` = `surrogate` + kl_coef x `kl`, and what one looks at beside them; all scalars.

        The KL is a mean over tokens, the surrogate a mean over utterances with the ratio's logarithm a mean over the
        utterance's tokens: long replies weigh as much as short ones.

        Args:
            forward: the policy's log-probabilities of the rollout's chats, where they are known already.
        """
        logprobs, owner = forward or self.policy(rollout.chats)
        completeness = self._completeness(rollout)
        behaviour, mismatch = self._behaviour(rollout, logprobs.detach(), owner)
        log_ratio = mean_by_utterance(logprobs - behaviour, owner, len(rollout.scores))
        judged = torch.tensor([one is not None for one in rollout.advantages], device=owner.device)
        if not judged.any():
            return {"loss": 0.0 * logprobs.sum()} | completeness  # a step that changes nothing
        advantage = torch.tensor([one for one in rollout.advantages if one is not None], device=owner.device)
        surrogate = clipped_surrogate(log_ratio[judged], advantage, self.hparams["clip_range"])
        kl = kl_k3(logprobs, rollout.ref_logprobs)[judged[owner]].mean()
        loss = surrogate + self.hparams["kl_coef"] * kl
        moved = mean_by_utterance(logprobs.detach() - rollout.ref_logprobs, owner, len(rollout.scores))[judged].exp()
        observed = self._observed(rollout, moved, advantage, len(logprobs))
        if mismatch is not None:
            observed |= self._of_sampler(mismatch, log_ratio.detach().exp())
        return {"loss": loss, "surrogate": surrogate, "kl": kl} | completeness | observed

    @staticmethod
    def _behaviour(rollout: Rollout, logprobs: Tensor, owner: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the ratio is to, (K,) in the order of the policy's own `logprobs`; and of a server the differences.

        A token of which the server says nothing counts as drawn by the policy itself.
        """
        if not rollout.sampled:
            return rollout.ref_logprobs, None
        if rollout.behaviour is None:
            return logprobs, None
        told = torch.empty_like(logprobs)
        told[owner.argsort(stable=True)] = rollout.behaviour.to(logprobs.dtype)
        return torch.where(told.isnan(), logprobs, told), (logprobs - told)[~told.isnan()]

    def _of_sampler(self, mismatch: Tensor, ratio: Tensor) -> dict[str, Tensor]:
        """What is logged of replies that a server drew.

        Args:
            mismatch: log-probabilities of the policy minus the server's, of the tokens of which it told some.
            ratio: of policy to server, by utterance.
        """
        found = {"sampler_ratio_min": ratio.min(), "sampler_ratio_max": ratio.max()}
        found["clip_fraction"] = ((ratio - 1.0).abs() > self.hparams["clip_range"]).float().mean()
        return found | ({"sampler_mismatch": mismatch.abs().mean()} if len(mismatch) else {})

    @staticmethod
    def _completeness(rollout: Rollout) -> dict[str, Tensor]:
        missing = 1.0 - count_scores(rollout.scores) / len(rollout.scores)
        counted = {"reward_missing": missing, "skipped_groups": float(rollout.skipped), "unnamed": rollout.unnamed}
        return {name: torch.tensor(value) for name, value in counted.items() if value is not None}

    def _observed(self, rollout: Rollout, ratio: Tensor, advantage: Tensor, tokens: int) -> dict[str, Tensor]:
        """What is logged and has no gradient, of judged utterances; `ratio` is that of policy to reference."""
        scores = torch.tensor([score for score in rollout.scores if score is not None])
        metrics = {
            "reward": scores.mean(),
            "degenerate_groups": torch.tensor(float(rollout.degenerate)),
            "response_length": torch.tensor(tokens / len(rollout.scores)),
        } | {f"reward_{name}": torch.tensor(value) for name, value in rollout.parts}
        if not rollout.sampled:
            metrics["clip_fraction"] = ((ratio - 1.0).abs() > self.hparams["clip_range"]).float().mean()
        for name, values in (("ratio", ratio), ("advantage", advantage)):
            metrics |= {f"{name}_mean": values.mean(), f"{name}_min": values.min(), f"{name}_max": values.max()}
        return metrics | {"advantage_std": advantage.std(correction=0)}

    def validation_step(self, batch: JudgedBatch | ContextBatch, batch_idx: int) -> None:
        """Corpus turns show `kl` and `surrogate`; contexts get one reply each, whose `reward` is worth watching.

        How far sampled replies lie from the reference is a curve of training, and is not computed again here.
        """
        weights: dict[str, int] = {}
        if isinstance(batch, JudgedBatch):
            rollout = self.from_corpus(batch)
            forward = self.policy(rollout.chats)
            metrics = self.objective(rollout, forward)
            metrics.pop("reward", None)  # of the corpus's own words: it cannot change
            judged = torch.tensor([one is not None for one in rollout.advantages], device=self.device)
            # what each is a mean over: utterances, and their tokens
            weights = {"surrogate": int(judged.sum()), "kl": int(judged[forward.owner].sum())}
        else:
            if self.queue.sampler is not None:  # sharded weights are gathered by all processes
                self.queue.current_sampler(self.policy, self.global_step)
            spoken = self._speak(batch, batch_idx) if self.trainer.is_global_zero else {}
            metrics = self.trainer.strategy.broadcast(spoken)  # no judge is asked, or paid, twice for the same
        for name, mean in self._val_means():
            if name in metrics:
                mean.update(metrics[name], weights.get(name, len(batch)))

    def _speak(self, batch: ContextBatch, batch_idx: int) -> dict[str, Tensor]:
        """One reply to each context, scored."""
        seed = self.queue.validation_seed(self.hparams["seed"], batch_idx)
        drawn = self.queue.draw(self.policy, batch, 1, seed, self.global_step)
        scores = self._scores(drawn)
        self.replies = [(*said, score) for said, score in zip(drawn.replies, scores, strict=True)]
        return self._validated(drawn, scores)

    def _validated(self, drawn: RolloutBatch, scores: Scores) -> dict[str, Tensor]:
        given = _given(scores)
        found = {
            # a silent judge: not a number, and never the best
            "reward": statistics.fmean(given) if given else math.nan,
            "reward_missing": 1.0 - len(given) / len(scores),
            "response_length": int((drawn.chats.utterance >= 0).sum()) / len(scores),
            "unnamed": drawn.unnamed,
        }
        return {name: torch.tensor(value) for name, value in found.items() if value is not None}

    def on_validation_epoch_end(self) -> None:
        for name, mean in self._val_means():
            if mean.update_called:
                self.log(f"val/{name}", mean.compute())
            mean.reset()

    def _val_means(self) -> list[tuple[str, MeanMetric]]:
        return [(name, mean) for name, mean in self.val_means.items() if isinstance(mean, MeanMetric)]

    def configure_optimizers(self) -> Any:
        return adamw(self, self.hparams["optimizer"])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["stage"] = "jpo"  # a checkpoint of another stage is refused by name
        checkpoint["expression_policy"] = self.policy.identity
        self.cache.pool()
        checkpoint["jpo"] = {"start": self.policy.start, "cache": self.cache.state(), "ahead": self.queue.state()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        refuse_foreign(checkpoint.get("expression_policy", {}), self.policy.identity, "the checkpoint")
        if checkpoint["jpo"]["start"] != self.policy.start:
            raise UserError(
                f"the checkpoint was trained from another adapter than {self.hparams['policy'].get('init_adapter')}; "
                "put that adapter back, or start this stage over"
            )
        self.cache.restore(checkpoint["jpo"]["cache"])
        self.queue.restore(checkpoint["jpo"].get("ahead"))
