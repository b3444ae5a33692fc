"""Several judges asked the same, and one score made of theirs.

A score needs a number of members that gave one; with fewer it is missing, never the score of those that happened to
answer: by default all are needed, as a mean over other members is a score on another scale.

Members are asked in turn, a chunk of requests at a time, and the last one's verdicts complete a judgement as they
arrive. So the member that costs money belongs at the end: what it was paid for is handed on at once.
"""

import hashlib
import json
import statistics
from collections.abc import Callable, Mapping, Sequence

from emodistill.errors import UserError
from emodistill.judges.request import Judge, Judgement, JudgeRequest, OnJudgement
from emodistill.judges.sentinel import together

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
        if not judges or not 1 <= (len(judges) if needs is None else needs) <= len(judges) or chunk < 1:
            raise UserError(
                f"judge: an ensemble of {len(judges)} judges with needs={needs}, chunk={chunk} cannot score"
            )
        self.judges, self.how, self.chunk = dict(judges), how, chunk
        self.needs = len(judges) if needs is None else needs
        recipe = [how, self.needs, [(key, judge.name, judge.version) for key, judge in judges.items()]]
        digest = hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:12]
        self.version = f"{how} of {', '.join(judges)} {digest}"

    def judge(self, requests: Sequence[JudgeRequest], on_judgement: OnJudgement | None = None) -> list[Judgement]:
        """One judgement a request, in order; its raw reply is what each member said, as JSON."""
        judgements: list[Judgement] = []
        for first in range(0, len(requests), self.chunk):
            judgements += self._chunk(requests[first : first + self.chunk], first, on_judgement)
        return judgements

    def _chunk(self, requests: Sequence[JudgeRequest], first: int, on_judgement: OnJudgement | None) -> list[Judgement]:
        *others, last = self.judges.values()
        given = [judge.judge(requests) for judge in others]
        combined: dict[int, Judgement] = {}

        def arrived(place: int, judgement: Judgement) -> None:
            if judgement.held is not None:
                return  # its last word is still to come
            combined[place] = self._combined([*(verdicts[place] for verdicts in given), judgement])
            if on_judgement is not None:
                on_judgement(first + place, combined[place])

        for place, judgement in enumerate(last.judge(requests, arrived)):
            if place not in combined:  # of a judge that announces nothing
                arrived(place, judgement)
        return [combined[place] for place in range(len(requests))]

    def _combined(self, verdicts: Sequence[Judgement]) -> Judgement:
        named = dict(zip(self.judges, verdicts, strict=True))
        usage = together(*(verdict.usage for verdict in verdicts))
        parts = {
            name: {key: value for key in ("score", "reason", "raw") if (value := getattr(verdict, key)) is not None}
            for name, verdict in named.items()
        }
        raw = json.dumps(parts)
        scores = [verdict.score for verdict in verdicts if verdict.score is not None]
        if len(scores) < self.needs:
            missing = "; ".join(f"{name}: {verdict.reason}" for name, verdict in named.items() if verdict.score is None)
            return Judgement(None, f"{len(scores)} of the {self.needs} scores that are needed: {missing}", raw, usage)
        return Judgement(round(HOW[self.how](scores), 2), None, raw, usage)
