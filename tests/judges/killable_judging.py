"""Judges a list of utterances through a ledger, four in flight; for a test that kills it at any moment.

    python killable_judging.py LEDGER DIARY [PROBES_SHARED_BY]

The diary says what was asked and what was told, line by line, and outlives the process like the ledger has to.
"""

import os
import sys
import time

from emodistill.judges.examples import probes
from emodistill.judges.ledger import Ledger, LedgerJudge
from emodistill.judges.request import Judgement, JudgeRequest
from emodistill.judges.sentinel import SentinelJudge
from emodistill.language_models.completion import Usage
from emodistill.negotiation.scenarios import Scenario

COUNT, IN_FLIGHT, LATENCY_S = 240, 4, 0.004
LATE = 28  # answers that a probe's is behind its turn: nearly all its batch of 32 is pending until then
SCENARIO = Scenario("debt-000", "debt", focal_target=30.0, counterparty_target=130.0)
REQUESTS = [JudgeRequest(SCENARIO, (), "joy", f"Utterance number {i}.") for i in range(COUNT)]
USAGE = Usage(prompt_tokens=100, completion_tokens=7, cost=0.25, latency_s=LATENCY_S, attempts=1)


def verdict(text):
    """A score by the number in the text; every ninth one is missing; probes get 2."""
    if text in probes():
        return Judgement(2.0, usage=USAGE)
    number = int(text.split()[-1].rstrip("."))
    if number % 9 == 8:
        return Judgement(None, f"no score for {number}", raw="?", usage=USAGE)
    return Judgement(1.0 + number % 10, raw=f"{1 + number % 10}", usage=USAGE)


class SlowJudge:
    name, version = "slow", "1"

    def __init__(self, diary):
        self.diary = os.open(diary, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def judge(self, requests, on_judgement=None):
        found = [verdict(request.utterance) for request in requests]
        late = [LATE if request.utterance in probes() else 0 for request in requests]
        turns = sorted(range(len(requests)), key=lambda place: place + late[place])
        for step in range(len(requests) + IN_FLIGHT):
            if step < len(requests):
                self.note("asked", requests[step])
            if step >= IN_FLIGHT:
                time.sleep(LATENCY_S)
                place = turns[step - IN_FLIGHT]
                on_judgement(place, found[place])
                self.note("told", requests[place])
        return found

    def note(self, what, request):
        kind = " probe" if request.utterance in probes() else ""
        os.write(self.diary, f"{what}{kind}\t{request.utterance}\n".encode())


def judge_with(diary, every=None):
    return SlowJudge(diary) if every is None else SentinelJudge(SlowJudge(diary), every)


if __name__ == "__main__":
    path, diary, *every = sys.argv[1:]
    with Ledger(path) as ledger:
        print("ready", flush=True)
        LedgerJudge(judge_with(diary, *map(int, every)), ledger).scores(REQUESTS)
