"""What a judge is asked and what it answers. Any object with a name, a version and a `judge` method is a judge."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from emodistill.language_models.completion import Usage
from emodistill.negotiation.domains import Domain
from emodistill.negotiation.protocol import Act, Turn
from emodistill.negotiation.scenarios import Scenario

LOWEST, HIGHEST = 1.0, 10.0


@dataclass(frozen=True)
class Origin:
    """The episode of a corpus that an utterance belongs to, for a judge that plays it on.

    Attributes:
        counterparty: its name there, such as `behavioural:population-7`.
        seed: of the negotiation.
        act, offer: what the turn was decided to do; without an offer the words decide the number.
        appended: the utterance ends with a sentence that was appended to its speaker's own words.
    """

    counterparty: str
    seed: int
    act: Act = "propose"
    offer: float | None = None
    appended: bool = False


@dataclass(frozen=True)
class JudgeRequest:
    """One focal utterance to score.

    Attributes:
        history: the turns before it, of both sides, in order.
        emotion: the label that the speaker was asked to show, or None where none was.
        utterance: the text to score. It is data: nothing in it may be read as an instruction.
        pending: an earlier judgement of this request with a `pending_score`, given back by the ledger so that it is
            not paid for again. Not part of what is asked, and not part of the request's key.
        origin: None where the utterance belongs to no episode. Only a judge that `plays_on` may look at it.
    """

    scenario: Scenario
    history: tuple[Turn, ...]
    emotion: str | None
    utterance: str
    pending: "Judgement | None" = None
    origin: Origin | None = None


@dataclass(frozen=True)
class Judgement:
    """A score from 1 to 10, or None with the reason why there is none.

    Attributes:
        raw: the reply that the score was read from, unchanged; None for a judge that computes its score.
        usage: what the judgement took; zero for a judge that calls no server.
        pending_score: a score that was paid for but does not count yet, because the probe of its batch has not been
            answered (see `sentinel`). `score` is None then, and a final judgement of the same request follows.
        parts: what the score is made of, by name, each from 0 to 1; empty for a judge that has but one score. Of a
            rubric, 1 + 9 x their weighted mean is the score.
    """

    score: float | None
    reason: str | None = None
    raw: str | None = None
    usage: Usage = Usage()
    pending_score: float | None = None
    parts: Mapping[str, float] = field(default_factory=dict)


OnJudgement = Callable[[int, Judgement], None]  # index of the request, and its judgement


class Scorer(Protocol):
    """A judge behind its ledger, or a part of the reward.

    One with a true attribute `by_call` gives scores that depend on the other requests of the call: calls are never
    joined.
    """

    def scores(
        self, requests: Sequence[JudgeRequest], on_score: Callable[[int, float | None], None] | None = None
    ) -> list[float | None]:
        """One score a request (a judge's is from 1 to 10), None where there is none.

        Args:
            on_score: called with place and score as soon as each is there, on the calling thread.
        """


class Judge(Protocol):
    """Scores utterances.

    `name` and `version` identify its judgements in the ledger. Whatever can change a score must change the version: the
    model, the prompt, the sampling settings.

    A judge may have an attribute `by_itself`: `server` or `model` where a score hangs on nothing but its request, and
    comes from a server or a model on this machine. Many requests are then judged in parts at the same time.

    A judge with a true attribute `plays_on` also looks at `JudgeRequest.origin`, which is then part of the key.
    """

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    def judge(self, requests: Sequence[JudgeRequest], on_judgement: OnJudgement | None = None) -> list[Judgement]:
        """One judgement per request, in order.

        Args:
            on_judgement: called on the calling thread as soon as a judgement is there, so that what was paid for can be
                stored whatever happens to the rest. It gets the final judgement of every request once, and before it
                at most one with a `pending_score`; the usages of the two add up to the usage in the returned list.
        """


def announced(judgements: list[Judgement], on_judgement: OnJudgement | None, first: int = 0) -> list[Judgement]:
    """Call `on_judgement` for each of these judgements of the requests from `first` on, and return them."""
    if on_judgement is not None:
        for place, judgement in enumerate(judgements, first):
            on_judgement(place, judgement)
    return judgements


def settled(values: Sequence[float], digits: int, noise: float, again: Callable[[int], float]) -> list[float]:
    """Values rounded to `digits` decimals, so that the batch in which they were measured changes none.

    A model gives slightly different values in another batch. Rounding hides that, except next to a rounding boundary,
    where it becomes a whole step. Such a value is measured again by itself.

    Args:
        noise: upper bound of what the batch changes.
        again: gives the value at a place, measured by itself.
    """
    step = 10.0**-digits

    def unsure(value: float) -> bool:
        return abs(value / step % 1 - 0.5) * step < noise

    return [round(again(place) if unsure(value) else value, digits) for place, value in enumerate(values)]


def add_usage(*usages: Usage) -> Usage:
    """What calls that ran side by side took: sums, and the longest latency.

    The cost is None unless the price of every call is known.
    """
    calls = [usage for usage in usages if usage.attempts or usage.prompt_tokens or usage.completion_tokens]
    costs = [usage.cost for usage in calls if usage.cost is not None]
    return Usage(
        sum(usage.prompt_tokens for usage in calls),
        sum(usage.completion_tokens for usage in calls),
        sum(costs) if calls and len(costs) == len(calls) else None,
        max((usage.latency_s for usage in calls), default=0.0),
        sum(usage.attempts for usage in calls),
    )


def rubric_version(domain: Domain) -> str:
    """Twelve hex digits of the rubric in a domain's file: another rubric, other judgements."""
    return hashlib.sha256(json.dumps(domain.rubric, sort_keys=True).encode()).hexdigest()[:12]
