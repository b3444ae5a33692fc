"""What workers are worth: a study and a judging run by one process and by several, an empty piece, a worker's memory.

    python benchmarks/executor_scaling.py [--workers 2] [--episodes 8000] [--judgements 4096] [--latency-ms 200]

The study is `study=prompting` of the phrasebook against the simulation, its play alone (no report). The judging run
asks a server on loopback, in a process of its own, that takes a fixed time for every reply, 16 calls at a time of each
worker. Both start from nothing each time, with the start of the workers in the time, and end in the same result
(checked). One thread a process. Nothing else should run meanwhile; it takes about four minutes on two cores.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before anything numerical is imported
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hydra import compose, initialize_config_dir

from commands.building import build_study
from emodistill.execution import machine
from emodistill.execution.local import LocalExecutor
from emodistill.execution.pieces import Advance, Needs, Piece
from emodistill.files import atomic_write
from emodistill.judges.ledger import Ledger, LedgerJudge
from emodistill.judges.llm import LanguageModelJudge
from emodistill.judges.request import JudgeRequest
from emodistill.language_models.budget import Spending
from emodistill.language_models.client import Endpoint, Traffic
from emodistill.negotiation.generator import generate_scenarios

ROOT = Path(__file__).resolve().parents[1]
EMPTY = 2000  # pieces
CONCURRENCY = 16
ARMS = ("none", "uniform", "gratitude", "anger", "joy", "fear", "sadness", "optimism")


class Nothing:
    """Does nothing, and writes how much memory its process takes where it is given a file."""

    def __call__(self, file: Path | None, advance: Advance) -> None:
        if file:
            atomic_write(file, f"{machine.memory_of_gb(os.getpid())[1]}")


def never() -> bool:
    return False


def empty(number: int, file: Path | None = None) -> Piece:
    return Piece(f"{number}", f"piece {number}", Nothing, "nothing", (file,), never, needs=Needs(seconds=1.0))


def seconds_of_empty(workers: int, count: int) -> float:
    began = time.perf_counter()
    LocalExecutor(workers).run("empty pieces", [empty(number) for number in range(count)])
    return time.perf_counter() - began


def play(folder: Path, workers: int, episodes: int) -> tuple[float, dict[str, bytes]]:
    """Seconds of the play of a study, and its files."""
    each = max(1, episodes // (len(ARMS) * 4 * 10))
    arms = ",".join(f"{emotion}+phrasebook" for emotion in ARMS)
    overrides = [f"run_dir={folder}", "run=scaling", "study=prompting", f"arms=[{arms}]", f"executor.workers={workers}"]
    overrides += ["scenarios_per_domain=10", f"episodes_per_scenario={each}", f"data.corpus.folder={folder}"]
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        study = build_study(compose("evaluate", overrides=overrides), overrides)
        with study.opened("auto"):
            began = time.perf_counter()
            study.play()
            took = time.perf_counter() - began
    return took, {path.name: path.read_bytes() for path in folder.glob("prompting/**/episodes/*.parquet")}


def judge(folder: Path, workers: int, base_url: str, count: int) -> tuple[float, list[float | None]]:
    """Seconds of a judging run, and its scores."""
    scenarios = generate_scenarios("debt", 50)
    words = "I am glad to offer {} days, because we have worked well together so far."
    requests = [JudgeRequest(scenarios[i % 50], (), "joy", words.format(30 + i / 8)) for i in range(count)]
    endpoint = Endpoint(
        base_url, "m", traffic=Traffic(concurrency=CONCURRENCY), spending=Spending(str(folder / "spent.json"))
    )
    with Ledger(folder / "ledger.sqlite") as ledger, endpoint:
        judged = LedgerJudge(LanguageModelJudge(endpoint), ledger, executor=LocalExecutor(workers))
        began = time.perf_counter()
        scores = judged.scores(requests)
    return time.perf_counter() - began, scores


@contextmanager
def server(latency_ms: float) -> Iterator[str]:
    """The address of a server that takes so long for every verdict."""
    command = [sys.executable, __file__, "--serve", f"{latency_ms}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def serve(latency_ms: float) -> None:
    """Be that server until stopped."""
    from faulty_server import FaultyServer  # the tests' server

    with FaultyServer(lambda body: '{"score": 7}', latency_s=latency_ms / 1000) as running:
        print(running.base_url, flush=True)
        time.sleep(3600)


def compare(what: str, unit: str, count: int, took: Sequence[float], workers: int) -> None:
    one, several = took
    print(
        f"{what}: {one:.1f} s by one process ({count / one:.0f} {unit} a second), {several:.1f} s by {workers} workers "
        f"({count / several:.0f}); {one / several:.2f} times as fast",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--episodes", type=int, default=8000, help="of the study, all arms together")
    parser.add_argument("--judgements", type=int, default=4096)
    parser.add_argument("--latency-ms", type=float, default=200.0)
    parser.add_argument("--parts", nargs="+", default=["pieces", "study", "judging"], help="which of these")
    parser.add_argument("--serve", type=float, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve is not None:
        serve(given.serve)
        return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if "pieces" in given.parts:
            here, start, there = (seconds_of_empty(*one) for one in ((1, EMPTY), (2, 2), (2, EMPTY)))
            print(
                f"an empty piece: {1e3 * here / EMPTY:.3f} ms here, {1e3 * (there - start) / EMPTY:.3f} ms in a worker"
            )
            print(f"start and end of two workers: {start:.1f} s")
            LocalExecutor(2).run("memory", [empty(number, folder / f"memory-{number}") for number in range(2)])
            print(f"memory of a worker that has done nothing: {(folder / 'memory-0').read_text()[:5]} GiB")
        counts = (1, given.workers)
        for part, work, amount in (
            ("study", partial(play, episodes=given.episodes), given.episodes),
            ("judging", None, given.judgements),
        ):
            if part not in given.parts:
                continue
            found = []
            for count in counts:
                own = folder / f"{part}-{count}"
                own.mkdir()
                if work:
                    found.append(work(own, count))
                else:
                    with server(given.latency_ms) as base_url:
                        found.append(judge(own, count, base_url, amount))
            assert found[0][1] == found[1][1], "workers gave another result"
            compare(part, "episodes" if work else "judgements", amount, [took for took, _ in found], given.workers)


if __name__ == "__main__":
    main()
