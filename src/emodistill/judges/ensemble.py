"""Several judges are asked the same, and their scores become one.

By default every member must give a score. With fewer than `needs` scores the judgement is missing, because a mean over
other members would be a score on another scale.

The members are asked in turn, a chunk of requests at a time, and a judgement is complete as soon as the last member's
arrives. So the member that costs money belongs at the end: what was paid for is handed on at once.
"""

import hashlib
import json
import statistics
from collections.abc import Callable, Mapping, Sequence

from emodistill.checks import is_whole
from emodistill.errors import UserError
from emodistill.judges.request import HIGHEST, LOWEST, Judge, Judgement, JudgeRequest, OnJudgement, add_usage
from emodistill.language_models.completion import Usage

HOW: dict[str, Callable[[list[float]], float]] = {"mean": statistics.fmean, "median": statistics.median, "min": min}


class EnsembleJudge:
    """Mean, median or lowest of several judges' scores.

    Args:
        judges: the members by name, in the order in which they are asked.
        how: mean, median or min. The lowest is the hardest to talk into a score.
        needs: how many members must give a score; None is all of them.
        chunk: requests that all members judge before the next are asked.

    Raises:
        UserError: if a setting has no meaning.
    """

    name = "ensemble"

    def __init__(
        self, judges: Mapping[str, Judge], how: str = "mean", needs: int | None = None, chunk: int = 256
    ) -> None:
        if how not in HOW:
            raise UserError(f"judge: how={how}: choose one of {', '.join(HOW)}")
        self.needs = len(judges) if needs is None else needs
        if not (is_whole(self.needs) and self.needs <= len(judges) and is_whole(chunk)):
            raise UserError(
                f"judge: an ensemble of {len(judges)} judges with needs={needs}, chunk={chunk} cannot score"
            )
        self.judges, self.how, self.chunk = dict(judges), how, chunk
        recipe = [how, self.needs, [(key, judge.name, judge.version) for key, judge in judges.items()]]
        digest = hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:12]
        self.version = f"{how} of {', '.join(judges)} {digest}"
        self.plays_on = any(getattr(judge, "plays_on", False) for judge in judges.values())

    def judge(self, requests: Sequence[JudgeRequest], on_judgement: OnJudgement | None = None) -> list[Judgement]:
        """One judgement per request, in order; its raw reply is what each member said, as JSON."""
        judgements: list[Judgement] = []
        for first in range(0, len(requests), self.chunk):
            judgements += self._judge_chunk(requests[first : first + self.chunk], first, on_judgement)
        return judgements

    def _judge_chunk(
        self, requests: Sequence[JudgeRequest], first: int, on_judgement: OnJudgement | None
    ) -> list[Judgement]:
        *others, last = self.judges.values()
        of_others = [judge.judge(requests) for judge in others]
        combined: dict[int, Judgement] = {}
        spent: dict[int, Usage] = {}  # on pending judgements of the last member

        def arrived(place: int, judgement: Judgement) -> None:
            if judgement.pending_score is not None:
                spent[place] = judgement.usage
                return
            of_all = [*(judgements[place] for judgements in of_others), judgement]
            combined[place] = self._combined(of_all, spent.get(place, Usage()))
            if on_judgement is not None:
                on_judgement(first + place, combined[place])

        for place, judgement in enumerate(last.judge(requests, arrived)):
            if place not in combined:  # of a judge that announces nothing
                arrived(place, judgement)
        return [combined[place] for place in range(len(requests))]

    def _combined(self, judgements: Sequence[Judgement], spent: Usage) -> Judgement:
        named = dict(zip(self.judges, judgements, strict=True))
        usage = add_usage(spent, *(judgement.usage for judgement in judgements))
        said = {
            name: {key: value for key in ("score", "reason", "raw") if (value := getattr(judgement, key)) is not None}
            for name, judgement in named.items()
        }
        raw = json.dumps(said)
        scores = [judgement.score for judgement in judgements if judgement.score is not None]
        if len(scores) < self.needs:
            missing = "; ".join(f"{name}: {one.reason}" for name, one in named.items() if one.score is None)
            return Judgement(None, f"{len(scores)} of the {self.needs} scores that are needed: {missing}", raw, usage)
        given = {name: one.score for name, one in named.items() if one.score is not None}
        shares = {name: (score - LOWEST) / (HIGHEST - LOWEST) for name, score in given.items()}
        return Judgement(round(HOW[self.how](scores), 2), None, raw, usage, parts=shares)
