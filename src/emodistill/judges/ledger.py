"""Judgements kept for good: a SQLite file with one row a judgement, keyed by its content.

Scores cost money or time, so none is asked for twice, and none is ever invented: a row has a score, or no score and the
reason why. The key is a hash of everything a judge may look at, so a changed rubric, judge or history is another row
and old rows stay right. A row with a score is final. A row without one is asked again the next time somebody needs it,
because the usual reason is an outage; the later answer replaces the reason, and the bills of all tries add up. A score
that is held (`probed`) is stored as it arrives and counts as missing; asked again, the judge gets it back.

Several threads and processes can share a file. Within a process a judgement that one thread asks for is waited for by
the others. Where two processes ask the same thing at the same time both pay, the first score to arrive is kept, and
both report that one.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace

from emodistill.judges.claims import claims_on
from emodistill.judges.intake import Intake
from emodistill.judges.ledger_rows import Ledger, judgement_key
from emodistill.judges.request import Judge, Judgement, JudgeRequest, OnJudgement

__all__ = ["Ledger", "LedgerJudge", "judgement_key"]

logger = logging.getLogger(__name__)
OnScore = Callable[[int, float | None], None]


class LedgerJudge:
    """A judge that asks only for what its ledger does not have.

    Args:
        batch_size: most free judgements that wait to be stored together; what was paid for is stored as it arrives.
        offline: ask nobody. What the ledger does not have is missing, and nothing is written.
    """

    def __init__(self, judge: Judge, ledger: Ledger, batch_size: int = 256, offline: bool = False) -> None:
        self.judge, self.ledger, self.batch_size, self.offline = judge, ledger, batch_size, offline
        self._claims = claims_on(ledger.path)

    def scores(self, requests: Sequence[JudgeRequest], on_score: OnScore | None = None) -> list[float | None]:
        """One score a request, in order, None where the judge gave none; all are in the ledger before this returns.

        Args:
            on_score: called once for every request, on the calling thread, as soon as its score is known.
        """
        tell = None if on_score is None else lambda place, judgement: on_score(place, judgement.score)
        return [judgement.score for judgement in self.judgements(requests, tell)]

    def judgements(self, requests: Sequence[JudgeRequest], on_judgement: OnJudgement | None = None) -> list[Judgement]:
        """The same with reason, raw reply and usage (that of all tries so far)."""
        call = _Call([judgement_key(self.judge, request) for request in requests], on_judgement)
        call.learn(self.ledger.get(set(call.keys)))
        call.tell(key for key in call.known if call.scored(key))
        wanted = {key: request for key, request in zip(call.keys, requests, strict=True) if not call.scored(key)}
        if self.offline:
            call.give_up(wanted, f"{self.ledger.path} has no judgement of it, and offline=true asks nobody")
        else:
            self._fill(call, wanted)
        found = [call.known[key] for key in call.keys]
        missing = [judgement.reason for judgement in found if judgement.score is None]
        if missing:
            logger.warning("%d of %d judgements are missing; the first: %s", len(missing), len(found), missing[0])
        return found

    def _fill(self, call: "_Call", wanted: dict[str, JudgeRequest]) -> None:
        """Ask for what no other thread is asking for, then wait for what others ask; again, where they failed."""
        while wanted:
            mine = self._claims.take(wanted)
            try:
                news = call.learn(self.ledger.get(mine))  # what came in between our look and our claim
                self._ask(call, [(key, wanted[key]) for key in mine if key not in news])
            finally:
                self._claims.release(mine)
            others = wanted.keys() - set(mine)
            self._claims.wait(others)
            news |= call.learn(self.ledger.get(others))
            call.tell(news)
            wanted = {key: wanted[key] for key in others - news}

    def _ask(self, call: "_Call", wanted: Sequence[tuple[str, JudgeRequest]]) -> None:
        if not wanted:
            return
        keys = [key for key, _ in wanted]
        wanted = [(key, replace(request, held=call.held(key))) for key, request in wanted]

        def arrived(place: int, judgement: Judgement) -> None:
            call.known[keys[place]] = judgement
            call.tell([keys[place]])

        with Intake(self.ledger, self.judge, wanted, self.batch_size, arrived) as intake:
            answers = self.judge.judge([request for _, request in wanted], intake.take)
            for (place, _), answer in zip(enumerate(wanted), answers, strict=True):
                intake.take(place, answer)  # of a judge that announces nothing
        call.known |= self.ledger.get(keys)  # read back: another process may have been first, and its score counts


class _Call:
    """What one call knows so far, by key; whoever asked is told of every request once."""

    def __init__(self, keys: Sequence[str], on_judgement: OnJudgement | None) -> None:
        self.keys, self.on_judgement = keys, on_judgement
        self.known: dict[str, Judgement] = {}
        self._untold: dict[str, list[int]] = {}
        for place, key in enumerate(keys):
            self._untold.setdefault(key, []).append(place)

    def scored(self, key: str) -> bool:
        return key in self.known and self.known[key].score is not None

    def held(self, key: str) -> Judgement | None:
        found = self.known.get(key)
        return found if found is not None and found.held is not None else None

    def learn(self, stored: dict[str, Judgement]) -> set[str]:
        """Take over what the ledger has; returns the keys of which it has news."""
        news = {key for key, found in stored.items() if found.held is None and found != self.known.get(key)}
        self.known |= stored
        return news

    def tell(self, keys: Iterable[str]) -> None:
        if self.on_judgement is not None:
            for key in keys:
                for place in self._untold.pop(key, ()):
                    self.on_judgement(place, self.known[key])

    def give_up(self, keys: Collection[str], reason: str) -> None:
        """Nobody is asked: what is not stored is missing, with the stored reason where there is one."""
        for key in keys:
            self.known.setdefault(key, Judgement(None, reason))
        self.tell(keys)
