"""Judgements through an endpoint whose right scores are known; as a script, a process that a test may kill."""

import json
import re
import sys

from emodistill.judges.ledger import Ledger, LedgerJudge
from emodistill.judges.llm import LanguageModelJudge
from emodistill.judges.request import JudgeRequest
from emodistill.judges.sentinel import SentinelJudge
from emodistill.language_models.client import Endpoint, RetryPolicy, Timeouts, Traffic
from emodistill.negotiation.generator import generate_scenarios


def cases(count):
    (scenario,) = generate_scenarios("debt", 1)
    return [JudgeRequest(scenario, (), "joy", f"I am glad to offer 45 days for file {i}.") for i in range(count)]


def truth(number):
    return 1.0 + number % 10


def reply(body):
    """What the server says of the case that is put before it last; a probe, which has no number, gets 1."""
    numbers = re.findall(r"for file (\d+)", body["messages"][-1]["content"])
    return json.dumps({"score": truth(int(numbers[-1])) if numbers else 1.0})


def judge_at(base_url, concurrency=32):
    patient = Timeouts(connect_s=20.0, first_byte_s=4.0, whole_s=60.0)  # or a busy machine adds faults of its own
    retries, traffic = RetryPolicy(base_s=0.01, cap_s=0.05), Traffic(concurrency=concurrency)
    return LanguageModelJudge(
        Endpoint(base_url, "m", retries=retries, timeouts=patient, traffic=traffic), num_examples=0
    )


if __name__ == "__main__":
    with Ledger(sys.argv[2]) as opened:
        judging = LedgerJudge(SentinelJudge(judge_at(sys.argv[1], concurrency=4)), opened)
        print("ready", flush=True)
        judging.scores(cases(int(sys.argv[3])))
