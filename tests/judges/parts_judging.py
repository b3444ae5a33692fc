"""Judges utterances in parts by two workers; as a script, a command that a test may kill.

    python parts_judging.py LEDGER DIARY

The diary says which process asked what, line by line, and outlives the processes as the ledger has to.
"""

import os
import signal
import sys
import time
from pathlib import Path

from emodistill.errors import UserError
from emodistill.execution.local import LocalExecutor
from emodistill.judges.ledger import Ledger, LedgerJudge
from emodistill.judges.request import Judgement, JudgeRequest
from emodistill.language_models.completion import Usage
from emodistill.negotiation.scenarios import Scenario

COUNT = 700  # of three parts, the last one short
SCENARIO = Scenario("debt-000", "debt", focal_target=30.0, counterparty_target=130.0)
REQUESTS = [JudgeRequest(SCENARIO, (), "joy", f"Utterance number {i}.") for i in range(COUNT)]
USAGE = Usage(prompt_tokens=100, completion_tokens=7, cost=0.25, latency_s=0.01, attempts=1)
OFFENDING = "the server refuses the key; set another"


class DiaryJudge:
    """One call at a time, each of a few milliseconds; one in nine brings no score.

    Args:
        dies_at: the utterance at which its process is killed, once, with the call under way.
    """

    name, version, by_itself = "diary", "1", "server"

    def __init__(self, diary, refused=False, dies_at=None):
        self.diary, self.refused, self.dies_at = Path(diary), refused, dies_at

    def judge(self, requests, on_judgement=None):
        found = []
        for place, request in enumerate(requests):
            if self.refused:
                raise UserError(OFFENDING)
            number = int(request.utterance.split()[-1].rstrip("."))
            self.note("asked", number)
            time.sleep(0.002)
            if number == self.dies_at and not (died := self.diary.with_name("died")).exists():
                died.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            score, reason = (None, f"no score for {number}") if number % 9 == 8 else (1.0 + number % 10, None)
            found.append(Judgement(score, reason, raw=str(score), usage=USAGE))
            on_judgement(place, found[-1])
            self.note("told", number)
        return found

    def note(self, what, number):
        with open(self.diary, "ab", buffering=0) as diary:
            diary.write(f"{what} {number} {os.getpid()}\n".encode())


if __name__ == "__main__":
    with Ledger(sys.argv[1]) as opened:
        LedgerJudge(DiaryJudge(sys.argv[2]), opened, executor=LocalExecutor(workers=2)).scores(REQUESTS)
