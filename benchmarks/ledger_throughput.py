"""Scores a second from a ledger that has them all, and judgements a second into an empty one.

    python benchmarks/ledger_throughput.py [--count 20000] [--rounds 6] [--repeats 3]

The requests are those of training: every one has the turns before it, so its key is a hash of a whole dialogue. The
judge behind the warm ledger counts its calls; there must be none.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from emodistill.judges.ledger import Ledger, LedgerJudge
from emodistill.judges.request import Judgement, JudgeRequest, OnJudgement, announced
from emodistill.negotiation.generator import generate_scenarios
from emodistill.negotiation.protocol import COUNTERPARTY, FOCAL, Turn


class Counting:
    """A free judge that counts what it is asked."""

    name, version = "counting", "1"

    def __init__(self) -> None:
        self.asked = 0

    def judge(self, requests: Sequence[JudgeRequest], on_judgement: OnJudgement | None = None) -> list[Judgement]:
        self.asked += len(requests)
        return announced([Judgement(5.0, raw='{"score": 5}')] * len(requests), on_judgement)


def questions(count: int, rounds: int) -> list[JudgeRequest]:
    """Requests of all domains, each after `rounds` rounds of two turns."""
    scenarios = [one for domain in ("debt", "disaster", "hospital", "student") for one in generate_scenarios(domain)]
    mine = "I hear you, but our own suppliers are waiting for their money, so I have to ask for 45 days at most."
    theirs = "Business has been slow since spring, and I do not have the cash to pay any sooner than in 90 days."
    history = tuple(
        Turn(number, side, text, "propose", 45.0)
        for number in range(1, rounds + 1)
        for side, text in ((FOCAL, mine), (COUNTERPARTY, theirs))
    )
    return [JudgeRequest(scenarios[i % len(scenarios)], history, "anger", f"{mine} {i}") for i in range(count)]


def rate(count: int, work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return count / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    requests, count = questions(arguments.count, arguments.rounds), arguments.count
    warm = []
    with tempfile.TemporaryDirectory() as folder, Ledger(Path(folder) / "ledger.sqlite") as ledger:
        cold = rate(count, lambda: LedgerJudge(Counting(), ledger).scores(requests))
        for _ in range(arguments.repeats):
            judge = Counting()
            warm.append(rate(count, lambda asking=judge: LedgerJudge(asking, ledger).scores(requests)))  # type: ignore[misc]  # bound at once
            print(f"warm ledger: {warm[-1]:,.0f} scores a second, {judge.asked} calls", flush=True)
            assert judge.asked == 0
    print(f"empty ledger and a free judge: {cold:,.0f} judgements a second")
    print(f"median of warm: {statistics.median(warm):,.0f} scores a second")


if __name__ == "__main__":
    main()
