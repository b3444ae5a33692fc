"""Draws JPO's replies from a server that loads adapters, by vLLM's runtime LoRA protocol (docs/scaling.md).

Each optimizer step the adapter is written as a PEFT folder that the server can read, loaded there under a name of its
own, proven, and the one before is unloaded. A name is never used for other weights: a server may keep the attention
cache of a name's prefixes, and would answer with that of older weights.

**Proof.** The server reads a fixed probe of T tokens as the adapter and as its base model; so does the policy here. Two
engines never agree to the last digit, and a base in NF4 here may be one in bfloat16 there. Most of what such a
mismatch adds is the same for two adapters of one base. So *changes* of log-probabilities are compared: of what an
adapter changes here, the `share` that the server's log-probabilities show is 1 for the right adapter and 0 for a server
that speaks as the base model, or as the adapter before. The mean difference itself has a bound besides.

A reply is drawn by one request with a seed of its own, a function of (seed, context, number of the reply).

Shapes: T tokens of the probe that have a token before them.
"""

import hashlib
import logging
import math
import re
import shutil
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from emodistill.errors import UserError
from emodistill.language_models.client import Endpoint
from emodistill.language_models.completion import AdapterRequest, Failure, Reply, Request, TokenRequest
from emodistill.policy.chat_format import ChatFormat
from emodistill.policy.expression_policy import ExpressionPolicy
from emodistill.policy.generation import ends_of
from emodistill.policy.token_batches import Chats
from emodistill.runs import weights_hash

LOADS = 3  # of one adapter in a row
AWAY = ("connection", "timeout", "circuit")  # failures of a server that may come back
TOLD = 1 / 6  # a share with this standard error or a smaller one lies three of them from 1/2, on its side
REPEATED = 16  # tokens that are drawn twice to see whether the server repeats them
PROBE = (
    "You are the creditor and bargain with the debtor over the time to full payment. Answer in one or two sentences.",
    "I lost my job in spring and cannot pay before the end of the year. (Show anger. State your offer: 20 days.)",
    "I have waited for months and I am furious! You pay the whole amount within 20 days, or I hand this over.",
    "Be fair, I have two children. Ninety days is the best that I can do. (Show sadness. State your offer: 35 days.)",
    "It hurts me to hear that, it truly does. Still, I carry this loss alone, and 35 days is as far as I can go.",
    "I could sell the car, which takes time. Sixty days? (Show gratitude. State your offer: 45 days.)",
    "Thank you for looking for a way, I value that. Let us say 45 days, and you have my word that I will not add fees.",
)

logger = logging.getLogger(__name__)


class _UnknownModelError(UserError):
    """The server does not know the name that it was asked as."""


class Drawn(NamedTuple):
    """Replies by context, as token ids with their end, and how likely the sampler found each token.

    A log-probability is NaN where the server did not tell that of this token.
    """

    replies: list[list[list[int]]]
    logprobs: list[list[list[float]]]


class Share(NamedTuple):
    """How much of a change of log-probabilities a server shows: 1 all of it, 0 nothing; with its standard error."""

    value: float
    error: float

    @classmethod
    def of(cls, there: Tensor, here: Tensor) -> "Share":
        """Least squares without a constant of the server's change on that of the policy here, both (T,).

        Nothing is known (error infinite) where nothing changed here.
        """
        size = float(here @ here)
        if size == 0.0:
            return cls(math.nan, math.inf)
        value = float(there @ here) / size
        left = there - value * here
        return cls(value, math.sqrt(float(left @ left) / max(len(here) - 1, 1) / size))

    @property
    def told(self) -> bool:
        """Whether it is known well enough to tell all from nothing."""
        return self.error <= TOLD

    @property
    def refuted(self) -> bool:
        return self.told and self.value < 0.5


@dataclass(eq=False)
class Pushed:
    """An adapter at the server.

    Attributes:
        path: its folder as the server sees it.
        fingerprint: of its weights.
        own: log-probabilities of the probe by the policy here, (T,).
        there: the same by the server, once it was asked.
        users: draws under way.
    """

    name: str
    folder: Path
    path: str
    fingerprint: str
    own: Tensor
    there: Tensor | None = None
    users: int = 0


class EndpointSampler:
    """Implements `Sampler` of JPO, and `submit`, which draws in the background.

    Attributes:
        observed: of the last adapter that was pushed. `probe_difference`: mean absolute difference of log-probabilities
            a token between server and policy; `probe_share`, `probe_error`: see `Share`, against the last adapter that
            could be told apart.
    """

    def __init__(
        self,
        completer: Endpoint,
        chat_format: ChatFormat,
        folder: str,
        run: str,
        temperature: float,
        top_k: int | None,
        max_new_tokens: int,
        seen_as: str | None = None,
        max_difference: float = 0.1,
        patience_s: float = 600.0,
        ahead: int = 0,
    ) -> None:
        """
        Args:
            completer: the server; its `model` is the name of the base model there.
            folder: where adapters are written; it belongs to the sampler.
            run: how the names of adapters begin.
            temperature, top_k, max_new_tokens: see `Sampling`.
            seen_as: where the server sees that folder, if elsewhere.
            max_difference: most that the server's log-probabilities of the probe may differ from those here, in nats,
                as the mean of absolute differences of a token.
            patience_s: how long a server that is away is waited for.
            ahead: 1 draws the replies of an optimizer step while the one before learns, by its weights; 0 does not.

        Raises:
            UserError: if a setting has no meaning.
        """
        if ahead not in (0, 1):
            raise UserError(f"learner.sampler.ahead={ahead}: use 0 (by the weights that learn) or 1 (one step before)")
        for setting, value in (("max_difference", max_difference), ("patience_s", patience_s)):
            if not value > 0:
                raise UserError(f"learner.sampler.{setting}={value}: use a number above 0")
        self.completer, self.chat_format, self.ahead = completer, chat_format, ahead
        self.root, self.seen_as = Path(folder).absolute(), seen_as
        self.folder = self.root  # of this process
        where = hashlib.sha256(str(self.root).encode()).hexdigest()[:4]  # runs of a study bear one name
        self.run = f"{re.sub(r'[^A-Za-z0-9._-]+', '-', run)}-{where}"
        self.temperature, self.top_k, self.max_new_tokens = temperature, top_k, max_new_tokens
        self.max_difference, self.patience_s = max_difference, patience_s
        self.observed: dict[str, float] = {}
        self.probe = tuple(_probe(chat_format))
        self._loaded: list[Pushed] = []  # the last one is the current one
        self._lock, self._proving = threading.Lock(), threading.RLock()
        self._base_own: Tensor | None = None
        self._base_there: Tensor | None = None
        self._told: Pushed | None = None  # the last adapter that could be told from the one before
        self._stops: tuple[int, ...] = ()
        self._entries = 0  # of the policy's vocabulary

    def refresh(self, policy: ExpressionPolicy, step: int) -> None:
        """Push the policy's adapter, prove that the server answers with it, and unload what nobody uses any more.

        Raises:
            UserError: if the server cannot load it, or its answers do not come from it.
        """
        if self._base_own is None:
            self._begin(policy)
        pushed = self._write(policy, step)
        if pushed is None:
            return
        deadline = time.monotonic() + self.patience_s
        with self._proving:  # a draw in the background may find the server without its adapter
            self._load(pushed, deadline)
            self._prove(pushed, deadline)
            with self._lock:
                self._loaded.append(pushed)
        self._unload_unused()

    def sample(self, contexts: Sequence[Sequence[int]], count: int, seed: int) -> list[list[list[int]]]:
        """`count` replies to every context, by the adapter of the last `refresh`, as token ids with their end."""
        return self.submit(contexts, count, seed).result().replies

    def submit(self, contexts: Sequence[Sequence[int]], count: int, seed: int) -> "Future[Drawn]":
        """Draw in the background, by the adapter that is the current one now, whatever is pushed meanwhile."""
        with self._lock:
            if not self._loaded:
                raise ValueError("EndpointSampler: call refresh first")
            pushed = self._loaded[-1]
            pushed.users += 1
        drawn: Future[Drawn] = Future()

        def work() -> None:
            try:
                drawn.set_result(self._draw(pushed, contexts, count, seed))
            except BaseException as error:  # whatever it is: it is for the thread that waits
                drawn.set_exception(error)
            finally:
                with self._lock:
                    pushed.users -= 1

        threading.Thread(target=work, name="rollouts", daemon=True).start()  # no exit waits for a dead server
        return drawn

    def text(self, reply: list[int]) -> str:
        """The words of a reply."""
        return self.chat_format.text(reply)

    def release(self) -> None:
        """Unload all adapters and remove their folders; a server that is away is not waited for."""
        with self._lock:
            gone, self._loaded, self._told = self._loaded, [], None
        self._remove(gone)

    def _begin(self, policy: ExpressionPolicy) -> None:
        """What stays the same of a policy; adapters that a killed process left behind are unloaded."""
        parallel = torch.distributed.is_available() and torch.distributed.is_initialized()
        if parallel and torch.distributed.get_world_size() > 1:
            rank = torch.distributed.get_rank()
            self.folder, self.run = self.folder / f"rank-{rank}", f"{self.run}-rank-{rank}"
        base, tokenizer = policy.model.get_base_model(), self.chat_format.tokenizer
        stops = {*self.chat_format.end_of_turn[:1], tokenizer.eos_token_id, *ends_of(base)} - {None}
        self._stops, self._entries = tuple(sorted(stops)), base.get_input_embeddings().num_embeddings
        self.folder.mkdir(parents=True, exist_ok=True)
        left = [path for path in self.folder.iterdir() if path.is_dir() and path.name.startswith(f"{self.run}-")]
        self._remove([Pushed(path.name, path, "", "", torch.empty(0)) for path in left])
        with policy.model.disable_adapter():
            self._base_own = self._here(policy)

    @torch.no_grad()
    def _here(self, policy: ExpressionPolicy) -> Tensor:
        """Log-probabilities of the probe by the policy as it is now, (T,) float64."""
        ids = torch.tensor([self.probe])
        scored = torch.zeros_like(ids)
        scored[0, 0] = -1  # nothing is before it
        logprobs: Tensor = policy(Chats(ids, torch.ones_like(ids).bool(), scored).to(policy.device)).logprobs
        return logprobs.double().cpu()

    def _write(self, policy: ExpressionPolicy, step: int) -> Pushed | None:
        """The adapter in a folder of its own; None where it is the one that was pushed last."""
        partial = self.folder / ".new"
        policy.save_adapter(partial)
        fingerprint = weights_hash(partial)
        if self._loaded and fingerprint == self._loaded[-1].fingerprint:
            shutil.rmtree(partial)
            return None
        name = f"{self.run}-{step}-{fingerprint[:8]}"
        folder = self.folder / name
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)
        path = f"{self.seen_as.rstrip('/')}/{folder.relative_to(self.root)}" if self.seen_as else str(folder)
        return Pushed(name, folder, path, fingerprint, self._here(policy))

    def _load(self, pushed: Pushed, deadline: float) -> None:
        (answer,) = self._ask([AdapterRequest(pushed.name, pushed.path)], deadline)
        if isinstance(answer, Reply) or "already" in answer.reason:  # the name holds the fingerprint of the weights
            return
        raise UserError(
            f"the server at {self.completer.base_url} does not load the adapter {pushed.path} ({answer.reason}): start "
            "it with --enable-lora, --max-lora-rank and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, and give "
            f"learner.sampler.seen_as=PATH if it sees {self.root} elsewhere"
        )

    def _prove(self, pushed: Pushed, deadline: float) -> bool:
        """See whether the server answers as this adapter; whether it had lost it, and loaded it again.

        Raises:
            UserError: if it answers as another one.
        """
        there, lost = self._read_adapter(pushed, deadline)
        opening, own, base = self._base_there is None, self._base_own, self._base_there
        assert own is not None  # since the first refresh
        if base is None:
            base = self._base_there = self._read(None, deadline)
            self._check_base(own, base)
        who = f"the server at {self.completer.base_url}"
        of_base = Share.of(there - base, pushed.own - own)
        if of_base.refuted:
            raise UserError(
                f"{who} answers as its base model and not as the adapter {pushed.name}: its log-probabilities show "
                f"{of_base.value:.0%} of what the adapter changes; use a server that loads adapters by their names"
            )
        self._compare(pushed, there, who)
        if opening and not of_base.told:
            raise UserError(
                f"no probe can tell the adapter {pushed.name} from the base model, so {who} cannot be proven to answer "
                "with it; begin JPO with an adapter that SFT has trained"
            )
        pushed.there = there
        if opening:
            self._see_whether_it_repeats(pushed, deadline)
        return lost

    def _check_base(self, own: Tensor, there: Tensor) -> None:
        if (difference := _difference(own, there)) > self.max_difference:
            raise UserError(
                f"the model {self.completer.model} at {self.completer.base_url} is another one than learns here: "
                f"log-probabilities differ by {difference:.3f} a token, more than learner.sampler.max_difference="
                f"{self.max_difference:g}; serve the same base in the same precision (policy.four_bit=false here, or "
                "NF4 there), or raise that bound"
            )

    def _compare(self, pushed: Pushed, there: Tensor, who: str) -> None:
        """With the last adapter that could be told apart, and by the bound."""
        difference, before = _difference(pushed.own, there), self._told
        if before is not None and before is not pushed:
            assert before.there is not None
            share = Share.of(there - before.there, pushed.own - before.own)
            if share.refuted:
                raise UserError(
                    f"{who} answers as an older adapter and not as {pushed.name}: its log-probabilities show "
                    f"{share.value:.0%} of what has changed since {before.name}"
                )
            self.observed = {"probe_share": share.value, "probe_error": share.error}
            self._told = pushed if share.told else before
        else:
            self.observed, self._told = {}, pushed
        self.observed["probe_difference"] = difference
        if difference > self.max_difference:
            raise UserError(
                f"{who} answers as {pushed.name} with log-probabilities that differ by {difference:.3f} a token from "
                f"those here, more than learner.sampler.max_difference={self.max_difference:g}: it holds another "
                "adapter, applies it in part, or computes far less exactly; see to it, or raise that bound"
            )

    def _read_adapter(self, pushed: Pushed, deadline: float) -> tuple[Tensor, bool]:
        """As `_read`; an adapter that the server has lost is loaded again, and whether it was is told."""
        for loads in range(LOADS):
            try:
                return self._read(pushed.name, deadline), loads > 0
            except _UnknownModelError:
                logger.warning("%s came back without %s, which is loaded again", self.completer.name, pushed.name)
                self._base_there = None  # it may have come back with another model
                self._load(pushed, deadline)
        return self._read(pushed.name, deadline), True

    def _read(self, name: str | None, deadline: float) -> Tensor:
        """The server's log-probabilities of the probe, (T,) float64, as an adapter or as the base model.

        Raises:
            UserError: if it does not tell them, or reads other tokens.
        """
        request = TokenRequest(self.probe, max_tokens=1, seed=0, echo=True, model=name)
        (answer,) = self._ask([request], deadline)
        model = name or self.completer.model
        if isinstance(answer, Failure):
            said = f"the server at {self.completer.base_url} does not answer as {model}: {answer.reason}"
            raise _UnknownModelError(said) if answer.status == 404 else UserError(said)
        if name is not None:  # of a base model with several names, a server says the first
            self._check_name(answer, name)
        assert answer.tokens is not None  # of a `TokenRequest`
        count, told = len(self.probe), answer.tokens
        given = [one for one in told.logprobs[1:count] if one is not None]
        if len(given) != count - 1:
            raise UserError(
                f"the server at {self.completer.base_url} does not tell log-probabilities of a prompt (completions "
                "with echo and logprobs), so nothing proves which adapter answers; use one that does, such as vLLM"
            )
        if told.ids is not None and told.ids[:count] != self.probe:
            raise UserError(
                f"{model} at {self.completer.base_url} reads other tokens than it is sent: another tokenizer"
            )
        return torch.tensor(given, dtype=torch.float64)

    def _check_name(self, answer: Reply, model: str) -> None:
        said = answer.tokens.model if answer.tokens else ""
        if said and said != model:
            raise UserError(f"the server at {self.completer.base_url} was asked as {model} and answered as {said}")

    def _see_whether_it_repeats(self, pushed: Pushed, deadline: float) -> None:
        beginning = self.probe[: -len(self.chat_format.reply(PROBE[-1]))]
        request = TokenRequest(beginning, REPEATED, temperature=1.0, seed=1, stop_ids=self._stops, model=pushed.name)
        one, other = (
            answer.text if isinstance(answer, Reply) else answer.reason
            for request in (request, request)
            for answer in self._ask([request], deadline)
        )
        if one != other:
            logger.warning(
                "%s draws other replies for the same seed: a run that is stopped and continued will not end in the "
                "same bytes as an unbroken one",
                self.completer.name,
            )

    def _draw(self, pushed: Pushed, contexts: Sequence[Sequence[int]], count: int, seed: int) -> Drawn:
        requests = [
            TokenRequest(
                prompt=tuple(context),
                max_tokens=self.max_new_tokens,
                temperature=self.temperature,
                seed=reply_seed(seed, i, j),
                top_k=self.top_k,
                stop_ids=self._stops,
                model=pushed.name,
            )
            for i, context in enumerate(contexts)
            for j in range(count)
        ]
        read = [self._tokens(reply) for reply in self._replies(requests, pushed)]
        grouped = [read[i : i + count] for i in range(0, len(read), count)]
        return Drawn(
            [[ids for ids, _ in own] for own in grouped], [[logprobs for _, logprobs in own] for own in grouped]
        )

    def _replies(self, requests: Sequence[TokenRequest], pushed: Pushed) -> list[Reply]:
        """A reply to every request.

        A server that failed or broke off on the way may have come back without the adapter, and some speak as their
        base model then: it is asked for the probe again before anything of that round counts.
        """
        deadline = time.monotonic() + self.patience_s
        replies: dict[int, Reply] = {}
        while left := [place for place in range(len(requests)) if place not in replies]:
            answers = self.completer.complete([requests[place] for place in left])
            found = {place: one for place, one in zip(left, answers, strict=True) if isinstance(one, Reply)}
            failures = [one for one in answers if isinstance(one, Failure)]
            for failure in failures:
                if not (_away(failure) or failure.status == 404) or time.monotonic() >= deadline:
                    raise UserError(f"{self.completer.name} gives no reply as {pushed.name}: {failure.reason}")
            if failures or any(one.usage.attempts > 1 for one in answers):
                with self._proving:
                    found = {} if self._proven_again(pushed, deadline) else found
            replies |= found
        for reply in replies.values():
            self._check_name(reply, pushed.name)
        return [replies[place] for place in range(len(requests))]

    def _proven_again(self, pushed: Pushed, deadline: float) -> bool:
        """As `_prove`, of an adapter that was proven before and may not be the current one any more."""
        observed, told = self.observed, self._told
        try:
            return self._prove(pushed, deadline)
        finally:
            self.observed, self._told = observed, told

    def _ask(self, requests: Sequence[Request], deadline: float) -> list[Reply | Failure]:
        """Answers; while the server is away it is asked again.

        Raises:
            UserError: if it stays away beyond the deadline.
        """
        answers = self.completer.complete(requests)
        while away := [place for place, one in enumerate(answers) if isinstance(one, Failure) and _away(one)]:
            first = answers[away[0]]
            assert isinstance(first, Failure)
            if time.monotonic() >= deadline:
                raise UserError(
                    f"{self.completer.name} was away for learner.sampler.patience_s={self.patience_s:g} s "
                    f"({first.reason}); see to it and run the same command again"
                )
            time.sleep(min(5.0, self.patience_s / 50))
            for place, again in zip(away, self.completer.complete([requests[i] for i in away]), strict=True):
                answers[place] = again
        return answers

    def _tokens(self, reply: Reply) -> tuple[list[int], list[float]]:
        """Token ids with their end, and log-probabilities.

        Where the server tells words alone, they are cut into tokens again. These may be others than were drawn. Only
        where each is the word that the server tells do its log-probabilities count.
        """
        assert reply.tokens is not None  # of a `TokenRequest`
        told = reply.tokens
        given = [math.nan if one is None else one for one in told.logprobs]
        if told.ids is not None:
            ids = list(told.ids)
        else:
            ids = self.chat_format.reply(reply.text)[: -len(self.chat_format.end_of_turn)]
            words = [str(self.chat_format.tokenizer.decode([one])) for one in ids]
            if words != list(told.words[: len(ids)]) or len(told.words) - len(ids) > (not reply.cut):
                given = []
        logprobs = (given + [math.nan] * len(ids))[: len(ids)]
        if not ids or (not reply.cut and ids[-1] not in self._stops):
            ids.append(self.chat_format.end_of_turn[0])
            logprobs.append(given[len(logprobs)] if len(given) > len(logprobs) else math.nan)
        if max(ids) >= self._entries:
            raise UserError(f"{self.completer.name} draws token {max(ids)}, which the model that learns does not have")
        if self.ahead and math.isnan(sum(logprobs)):
            raise UserError(
                f"{self.completer.name} does not tell the log-probabilities of its tokens, without which replies of "
                "older weights cannot be weighed; use learner.sampler.ahead=0"
            )
        return ids, logprobs

    def _unload_unused(self) -> None:
        with self._lock:
            gone = [one for one in self._loaded[:-1] if not one.users]
            self._loaded = [one for one in self._loaded if one not in gone]
        self._remove(gone)

    def _remove(self, gone: Sequence[Pushed]) -> None:
        if gone:  # a server that does not know the name, or is away, holds nothing
            self.completer.complete([AdapterRequest(one.name) for one in gone])
        for one in gone:
            shutil.rmtree(one.folder, ignore_errors=True)


def reply_seed(seed: int, context: int, number: int) -> int:
    """The seed of one reply."""
    return int(np.random.SeedSequence((seed, context, number)).generate_state(1)[0])


def _probe(chat_format: ChatFormat) -> list[int]:
    """A chat of some rounds, in the form of those that JPO learns from."""
    ids = chat_format.system(PROBE[0])
    for place in range(1, len(PROBE), 2):
        ids += chat_format.user(PROBE[place], first=place == 1) + chat_format.reply(PROBE[place + 1])
    return ids


def _difference(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().mean())


def _away(failure: Failure) -> bool:
    """Whether the server may come back; the client has made its retries."""
    status = failure.status or 0
    return failure.kind in AWAY or status in (408, 429) or status >= 500
