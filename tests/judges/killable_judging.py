"""Judges a list of utterances through a ledger, four in flight; for a test that kills it at any moment.

    python killable_judging.py LEDGER DIARY

The diary says what was asked and what was told, line by line, and outlives the process like the ledger has to.
"""

import os
import sys
import time

from emodistill.judges.ledger import Ledger, LedgerJudge
from emodistill.judges.request import Judgement, JudgeRequest
from emodistill.language_models.completion import Usage
from emodistill.negotiation.scenarios import Scenario

COUNT, IN_FLIGHT, LATENCY_S = 240, 4, 0.004
SCENARIO = Scenario("debt-000", "debt", focal_target=30.0, counterparty_target=130.0)
REQUESTS = [JudgeRequest(SCENARIO, (), "joy", f"Utterance number {i}.") for i in range(COUNT)]
USAGE = Usage(prompt_tokens=100, completion_tokens=7, cost=0.25, latency_s=LATENCY_S, attempts=1)


def verdict(text):
    """A score by the number in the text; every ninth one is missing."""
    number = int(text.split()[-1].rstrip("."))
    if number % 9 == 8:
        return Judgement(None, f"no score for {number}", raw="?", usage=USAGE)
    return Judgement(1.0 + number % 10, raw=f"{1 + number % 10}", usage=USAGE)


class SlowJudge:
    name, version = "slow", "1"

    def __init__(self, diary):
        self.diary = os.open(diary, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def judge(self, requests, on_judgement=None):
        found = []
        for place in range(len(requests) + IN_FLIGHT):
            if place < len(requests):
                self.note("asked", requests[place])
            if place >= IN_FLIGHT:
                time.sleep(LATENCY_S)
                found.append(verdict(requests[place - IN_FLIGHT].utterance))
                on_judgement(place - IN_FLIGHT, found[-1])
                self.note("told", requests[place - IN_FLIGHT])
        return found

    def note(self, what, request):
        os.write(self.diary, f"{what}\t{request.utterance}\n".encode())


if __name__ == "__main__":
    path, diary = sys.argv[1:]
    with Ledger(path) as ledger:
        print("ready", flush=True)
        LedgerJudge(SlowJudge(diary), ledger).scores(REQUESTS)
