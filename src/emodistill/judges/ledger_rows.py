"""The rows of the ledger: what identifies a judgement, what is stored of it, reading and writing many at once."""

import hashlib
import json
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from emodistill.judges.ledger_file import LedgerFile
from emodistill.judges.ledger_format import STORE
from emodistill.judges.request import Judge, Judgement, JudgeRequest, rubric_version
from emodistill.language_models.completion import Usage

_GET = """SELECT score, reason, raw, held, prompt_tokens, completion_tokens, cost, latency_s, attempts
FROM judgements WHERE key = ?"""


@dataclass(frozen=True)
class Row:
    """One judgement with what it is about."""

    key: str
    request: JudgeRequest
    judge: Judge
    judgement: Judgement

    def values(self) -> tuple[str | float | None, ...]:
        """In the order of `ledger_format.COLUMNS`."""
        request, verdict, scenario, usage = self.request, self.judgement, self.request.scenario, self.judgement.usage
        about = (rubric_version(scenario.rules), scenario.domain, scenario.id, request.emotion)
        given = (_text(request.utterance), verdict.score, _text(verdict.reason), _text(verdict.raw), verdict.held)
        took = (usage.prompt_tokens, usage.completion_tokens, usage.cost, usage.latency_s, usage.attempts)
        return (self.key, self.judge.name, self.judge.version, *about, *given, *took, time.time())


class Ledger(LedgerFile):
    """The judgements in one file; see `LedgerFile` for how it opens and what it raises."""

    def count(self) -> int:
        """How many judgements are stored, missing ones included."""
        with self.explained():
            return int(self.connection.execute("SELECT count(*) FROM judgements").fetchone()[0])

    def get(self, keys: Collection[str]) -> dict[str, Judgement]:
        """What is stored under these keys; keys without a row are absent. Usage is that of all tries together."""
        with self.explained():
            ask = self.connection.execute
            found = {key: row for key in keys if (row := ask(_GET, (key,)).fetchone()) is not None}
        return {key: Judgement(row[0], row[1], row[2], Usage(*row[4:]), row[3]) for key, row in found.items()}

    def put(self, rows: Sequence[Row]) -> None:
        """Store judgements, all or none; a score that is there already stays.

        They outlive this process at once, and a power cut from the next `sync` on.
        """
        if rows:
            with self.explained(), self.transaction():
                self.connection.executemany(STORE, [row.values() for row in rows])

    def sync(self) -> None:
        """Wait until the disk has all that is stored."""
        with self.explained():
            self.connection.execute("PRAGMA wal_checkpoint(PASSIVE)")


def judgement_key(judge: Judge, request: JudgeRequest) -> str:
    """sha256 of all that a judgement may depend on.

    Of a past turn that is what both sides saw: who spoke, the words, the act, the offer; not the emotion that was asked
    for, nor its probability. A judge must not look at more. Model and sampling settings are in the judge's version.
    """
    scenario = request.scenario
    history = [(turn.round, turn.speaker, turn.text, turn.act, turn.offer) for turn in request.history]
    setting = (scenario.domain, scenario.id, scenario.focal_target, scenario.counterparty_target, scenario.context)
    who = (judge.name, judge.version, rubric_version(scenario.rules))
    content = json.dumps([who, setting, history, request.emotion, request.utterance], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _text(text: str | None) -> str | None:
    """Text that SQLite takes: half a surrogate pair is none."""
    return None if text is None else text.encode("utf-8", "replace").decode()
