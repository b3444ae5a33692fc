"""Judgements kept for good: a SQLite file with one row a judgement, keyed by its content.

Scores cost money or time, so none is asked for twice, and none is ever invented: a row has a score, or no score and the
reason why. The key is a hash of everything a judge may look at, so a changed rubric, judge or history is another row
and old rows stay right. A row with a score is final. A row without one is asked again the next time somebody needs it,
because the usual reason is an outage; the later answer replaces the reason.

Write-ahead logging and short transactions let several processes share a file. Where two of them ask the same thing at
the same time, the first score to arrive is kept, and both report that one.
"""

import hashlib
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from emodistill.judges.ledger_file import LedgerFile
from emodistill.judges.request import HIGHEST, LOWEST, Judge, Judgement, JudgeRequest, rubric_version

_STORE = """INSERT INTO judgements VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET score = excluded.score, reason = excluded.reason, latency_s = excluded.latency_s,
judged_at = excluded.judged_at WHERE judgements.score IS NULL"""


@dataclass(frozen=True)
class Row:
    """One judgement with what it is about; `latency_s` is the judge's time for it, shared evenly within a batch."""

    key: str
    judge: Judge
    request: JudgeRequest
    judgement: Judgement
    latency_s: float

    def values(self) -> tuple[str | float | None, ...]:
        request, verdict, scenario = self.request, self.judgement, self.request.scenario
        utterance = request.utterance.encode("utf-8", "replace").decode()  # half a surrogate pair is no SQLite text
        about = (rubric_version(scenario.rules), scenario.domain, scenario.id, request.emotion, utterance)
        given = (verdict.score, verdict.reason, self.latency_s, time.time())
        return (self.key, self.judge.name, self.judge.version, *about, *given)


class Ledger(LedgerFile):
    """The judgements in one file; see `LedgerFile` for how it opens and what it raises."""

    def count(self) -> int:
        """How many judgements are stored, missing ones included."""
        with self.explained():
            return int(self.connection.execute("SELECT count(*) FROM judgements").fetchone()[0])

    def get(self, keys: Iterable[str]) -> dict[str, Judgement]:
        """What is stored under these keys; keys without a row are absent."""
        query = "SELECT score, reason FROM judgements WHERE key = ?"
        with self.explained():
            found = {key: self.connection.execute(query, (key,)).fetchone() for key in keys}
        return {key: Judgement(*row) for key, row in found.items() if row is not None}

    def put(self, rows: Sequence[Row]) -> None:
        """Store judgements, all or none; a score that is there already stays."""
        with self.explained(), self.transaction():
            self.connection.executemany(_STORE, [row.values() for row in rows])


class LedgerJudge:
    """A judge that asks only for what its ledger does not have.

    Args:
        batch_size: how many judgements are asked for before they are stored; a kill loses at most these.
    """

    def __init__(self, judge: Judge, ledger: Ledger, batch_size: int = 256) -> None:
        self.judge, self.ledger, self.batch_size = judge, ledger, batch_size

    def scores(self, requests: Sequence[JudgeRequest]) -> list[float | None]:
        """One score a request, in order, None where the judge gave none; all are in the ledger before this returns."""
        keys = [judgement_key(self.judge, request) for request in requests]
        stored = self.ledger.get(keys)
        wanted = {key: request for key, request in zip(keys, requests, strict=True) if not _scored(stored.get(key))}
        unasked = list(wanted.items())
        for start in range(0, len(unasked), self.batch_size):
            self._ask(unasked[start : start + self.batch_size])
        stored |= self.ledger.get(wanted)  # read back: another process may have been first, and its score counts
        return [stored[key].score for key in keys]

    def _ask(self, wanted: Sequence[tuple[str, JudgeRequest]]) -> None:
        began = time.perf_counter()
        judgements = self.judge.judge([request for _, request in wanted])
        latency_s = (time.perf_counter() - began) / len(wanted)
        pairs = zip(wanted, judgements, strict=True)
        self.ledger.put([Row(key, self.judge, request, _valid(given), latency_s) for (key, request), given in pairs])


def judgement_key(judge: Judge, request: JudgeRequest) -> str:
    """sha256 of all that a judgement may depend on.

    Of a past turn that is what both sides saw: who spoke, the words, the act, the offer; not the emotion that was asked
    for, nor its probability. A judge must not look at more.
    """
    scenario = request.scenario
    history = [(turn.round, turn.speaker, turn.text, turn.act, turn.offer) for turn in request.history]
    setting = (scenario.domain, scenario.id, scenario.focal_target, scenario.counterparty_target, scenario.context)
    who = (judge.name, judge.version, rubric_version(scenario.rules))
    content = json.dumps([who, setting, history, request.emotion, request.utterance], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _scored(judgement: Judgement | None) -> bool:
    return judgement is not None and judgement.score is not None


def _valid(given: Judgement) -> Judgement:
    """The judgement as it may be stored: a score outside 1 to 10 is missing, and what is missing has a reason."""
    if given.score is None:
        return Judgement(None, given.reason or "the judge gave no score and no reason")
    if not LOWEST <= given.score <= HIGHEST:  # true of NaN too
        return Judgement(None, f"the judge gave {given.score}, which is not a score from 1 to 10")
    return Judgement(float(given.score))
