"""Requests a second through the endpoint client, against what concurrency and latency allow.

    python benchmarks/endpoint_throughput.py [--concurrency 32] [--latency-ms 200] [--rounds 30] [--repeats 3]

A server on loopback, in a process of its own, answers every call after a fixed time. With so many calls at a time the
client can reach concurrency / latency at most; what it loses is its own work and that of loopback. Spending is recorded
in a file, as in a run. Nothing else should run meanwhile.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from emodistill.language_models.budget import Spending
from emodistill.language_models.client import Endpoint, Traffic
from emodistill.language_models.completion import CompletionRequest, Message, Reply

SERVER = Path(__file__).parent.parent / "tests" / "faulty_server.py"
PROMPT = "Judge from 1 to 10 how well this line shows gratitude and moves the talk on. " * 20


@contextmanager
def server(latency_s: float) -> Iterator[str]:
    """The address of a server that takes so long for every reply."""
    command = [sys.executable, str(SERVER), "--latency-s", str(latency_s)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def requests_a_second(endpoint: Endpoint, count: int) -> float:
    """The rate at which so many requests are answered; a single failure spoils the measurement."""
    requests = [CompletionRequest((Message("user", f"{PROMPT}{number}"),), 64) for number in range(count)]
    began = time.perf_counter()
    answers = endpoint.complete(requests)
    took_s = time.perf_counter() - began
    assert all(isinstance(answer, Reply) for answer in answers)
    return count / took_s


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--latency-ms", type=float, default=200.0)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    most = given.concurrency / (given.latency_ms / 1000)
    print(f"{given.concurrency} at a time, {given.latency_ms:g} ms a reply: at most {most:.0f} requests a second")
    with server(given.latency_ms / 1000) as base_url, tempfile.TemporaryDirectory() as folder:
        spending = Spending(str(Path(folder) / "spending.json"))
        with Endpoint(base_url, "m", traffic=Traffic(concurrency=given.concurrency), spending=spending) as endpoint:
            requests_a_second(endpoint, given.concurrency)  # opens the connections
            for repeat in range(given.repeats):
                reached = requests_a_second(endpoint, given.concurrency * given.rounds)
                print(f"repeat {repeat + 1}: {reached:.1f} requests a second, {reached / most:.1%} of that")


if __name__ == "__main__":
    main()
