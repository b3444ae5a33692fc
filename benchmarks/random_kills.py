"""Kills processes at random moments and runs the same command again: the end is that of one undisturbed process.

    python benchmarks/random_kills.py [--kills 20] [--works corpus study judging together] [--victims worker driver]
                                      [--executor ray]

A *corpus* and a *study* of the phrasebook, a *judging* run in parts by two workers, and two commands that judge
*together*, each in its own process, utterances most of which both want. What is killed is a worker, the command itself
(the driver), or, of two commands together, one of them; whoever asks owns the claims of what it asks for. Kills go on
over as many runs as it takes, and every run is finished and checked:

- its files (or the rows of its ledger) are those of one process that nobody disturbed;
- the server was asked for an utterance twice at most as often as killed processes had calls under way;
- every call that reached the server is in the file of the spending, with its bill or, where its process died before
  that came, as a call without one.

It asks a server on loopback, in this process, and takes about half an hour of one core with twenty kills of each.
"""

import argparse
import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT), str(ROOT / "tests")]

CONCURRENCY = 8  # calls at a time of each process
STARTING_S = 3.0  # some kills come so early
ENGINES = {
    "none": ["executor.workers=1"],
    "local": ["executor.workers=2", "executor.memory_gb=0.5"],
    "ray": ["executor=ray", "executor.workers=2"],
}
CONTENT = "SELECT utterance, score, reason, raw FROM judgements ORDER BY utterance"


@dataclass(frozen=True)
class Size:
    """How much there is to do.

    Attributes:
        episodes: of the study, each of its two arms; of the corpus, half as many.
        judgements: of the judging run; parts of 256 of them are pieces.
    """

    episodes: int = 1280
    judgements: int = 2048
    latency_s: float = 0.05


# What the processes do: `python random_kills.py --drive WORK PLACE SIZE EXECUTOR URL`


def drive(work: str, place: Path, size: Size, executor: str, base_url: str) -> None:
    if work in ("corpus", "study"):
        play(work, place, size, executor)
    else:
        judge(work, place, size, executor, base_url)


def play(work: str, place: Path, size: Size, executor: str) -> None:
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate

    from commands.building import build_study

    words = ["domains=[debt]", f"run_dir={place}", f"data.corpus.folder={place}", *ENGINES[executor]]
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        if work == "corpus":
            words += ["scenarios.per_domain=20", f"data.corpus.episodes_per_scenario={size.episodes // 32}"]
            words.append("data.corpus.batch=16")
            instantiate(compose("play", overrides=words).data.corpus, _convert_="all").build()
            return
        words += ["study=prompting", "arms=[none+phrasebook,joy+phrasebook]", "scenarios_per_domain=4"]
        words += [f"episodes_per_scenario={size.episodes // 4}"]
        study = build_study(compose("evaluate", overrides=words), words)
    with study.opened("auto"):
        study.play()


def judge(work: str, place: Path, size: Size, executor: str, base_url: str) -> None:
    from emodistill.execution.local import LocalExecutor
    from emodistill.execution.ray_engine import RayExecutor
    from emodistill.judges.ledger import Ledger, LedgerJudge
    from emodistill.judges.llm import LanguageModelJudge
    from emodistill.judges.request import JudgeRequest
    from emodistill.language_models.budget import Spending
    from emodistill.language_models.client import Endpoint, Traffic
    from emodistill.negotiation.generator import generate_scenarios

    (scenario,) = generate_scenarios("debt", 1)
    words = "I am glad to offer 45 days for file {}, because we have worked well together so far."
    requests = [JudgeRequest(scenario, (), "joy", words.format(number)) for number in range(size.judgements)]
    if work == "together-1":
        requests = requests[: 3 * size.judgements // 4]
    if work == "together-2":
        requests = requests[size.judgements // 4 :]
    engine = {"local": LocalExecutor(2, memory_gb=0.5), "ray": RayExecutor(workers=2)}.get(executor)
    spending = Spending(str(place / "spending.json"))
    endpoint = Endpoint(base_url, "m", traffic=Traffic(concurrency=CONCURRENCY), spending=spending)
    with Ledger(place / "ledger.sqlite") as ledger, endpoint:
        judged = LedgerJudge(LanguageModelJudge(endpoint, num_examples=0), ledger, executor=engine)
        judged.scores(requests)


def reply(body: dict[str, Any]) -> str:
    """What the server says of a file: its number makes the score."""
    return json.dumps({"score": 1 + number_of(body) % 10})


def number_of(body: dict[str, Any]) -> int:
    return int(re.findall(r"for file (\d+)", body["messages"][-1]["content"])[-1])


# Who kills them


@dataclass
class Found:
    """What came of one work and one victim."""

    kills: int = 0
    runs: int = 0
    starts: int = 0
    asked: int = 0
    twice: int = 0
    metered: int = 0
    unmetered: int = 0
    most_twice: int = 0

    def line(self) -> str:
        words = f"{self.kills} kills over {self.runs} runs of {self.starts} starts: the same in the end"
        if self.asked:
            words += (
                f"; {self.asked} calls reached the server, {self.twice} of them a second time (at most "
                f"{self.most_twice} were under way at kills); spending: {self.metered} calls with a bill, "
                f"{self.unmetered} without"
            )
        return words


@dataclass
class Killer:
    """Runs works and kills them."""

    size: Size
    executor: str
    server: Any
    moments: random.Random
    folder: Path
    references: dict[str, Any] = field(default_factory=dict)
    before: int = 0  # calls to the server before the present run

    def endure(self, work: str, victim: str, kills: int) -> Found:
        """Kill so many times; every run is finished in the end, and checked.

        Raises:
            AssertionError: if it ends otherwise than one process that nobody disturbed.
        """
        found, kind = Found(), "judging" if work == "together" else work
        if kind not in self.references:
            self.references[kind] = self.undisturbed(kind)
        while found.kills < kills:
            place = self.folder / f"{work}-{victim}-{found.runs}"
            place.mkdir()
            self.before, already = len(self.server.log), found.kills
            names = ["together-1", "together-2"] if work == "together" else [work]
            self.finish(names, victim, place, kills, found)
            found.runs += 1
            result = self.result(kind, place)
            assert result == self.references[kind], f"{work}, {victim} killed: another result in {place}"
            if kind == "judging":
                self.count(found, place, found.kills - already, 2 if victim == "driver" else 1)
        return found

    def undisturbed(self, kind: str) -> Any:
        place = self.folder / f"{kind}-undisturbed"
        place.mkdir()
        assert self.start(kind, place, "none").wait() == 0
        return self.result(kind, place)

    def start(self, work: str, place: Path, executor: str | None = None) -> subprocess.Popen[bytes]:
        size = json.dumps(vars(self.size))
        command = [sys.executable, __file__, "--drive", work, str(place), size, executor or self.executor]
        with (place / "output.txt").open("ab") as output:
            return subprocess.Popen([*command, self.server.base_url], stdout=output, stderr=output)

    def finish(self, names: Sequence[str], victim: str, place: Path, kills: int, found: Found) -> None:
        """Run these commands at the same time, again where they were killed, until all have ended well."""
        running = {name: self.start(name, place) for name in names}
        found.starts += len(names)
        while running:
            if found.kills < kills and self.moment(place, list(running.values())):
                name = self.moments.choice(sorted(running))
                driver = running[name]
                target = self.moments.choice(workers_of(driver.pid) or [0]) if victim == "worker" else driver.pid
                if target and driver.poll() is None and killed(target):
                    found.kills += 1
            for name, driver in list(running.items()):
                over = found.kills >= kills or victim == "driver"  # nobody else is to be killed meanwhile
                status = driver.wait() if over else driver.poll()
                if status == 0:
                    del running[name]
                elif status is not None:
                    given_up = b"lost its worker" in (place / "output.txt").read_bytes()
                    assert status == -signal.SIGKILL or given_up, (place / "output.txt").read_text()
                    running[name] = self.start(name, place)
                    found.starts += 1

    def moment(self, place: Path, drivers: Sequence[subprocess.Popen[bytes]]) -> bool:
        """Wait for a moment by chance: early, or after some more results; False where somebody has ended before."""
        end = time.monotonic() + self.moments.uniform(0.0, STARTING_S)
        until = self.progress(place) + self.moments.uniform(0.0, 0.2)
        early = self.moments.random() < 0.2
        while all(driver.poll() is None for driver in drivers):
            if time.monotonic() >= end if early else self.progress(place) >= until:
                time.sleep(self.moments.uniform(0.0, 0.05))
                return True
            time.sleep(0.01)
        return False

    def progress(self, place: Path) -> float:
        """The share of the work that is done, about."""
        if (place / "ledger.sqlite").exists():
            return (len(self.server.log) - self.before) / self.size.judgements
        return 32 * sum(1 for _ in place.glob("**/parts/*.parquet")) / self.size.episodes / 2

    def result(self, kind: str, place: Path) -> Any:
        if kind == "judging":
            with closing(sqlite3.connect(place / "ledger.sqlite")) as file:
                return file.execute(CONTENT).fetchall()
        assert not list(place.glob("**/parts")), "parts are left"
        played = {path.name: path.read_bytes() for path in place.glob("**/*.parquet")}
        assert len(played) == (1 if kind == "corpus" else 2)
        return played

    def count(self, found: Found, place: Path, kills: int, processes: int) -> None:
        """Hold what the server saw of this run against ledger and spending.

        Args:
            processes: that a kill takes along, each with its calls under way.
        """
        from emodistill.language_models.budget import UsageTotals, read_usage

        asked = Counter(number_of(call.body) for call in self.server.log[self.before :])
        twice, most = asked.total() - len(asked), kills * processes * 2 * CONCURRENCY
        spent = sum(read_usage(place / "spending.json").values(), UsageTotals())
        with closing(sqlite3.connect(place / "ledger.sqlite")) as file:
            (stored,) = file.execute("SELECT sum(attempts) FROM judgements").fetchone()
        metered = spent.calls - spent.unmetered_calls
        assert len(asked) == self.size.judgements and twice <= most, (twice, most)
        assert stored <= metered <= asked.total() <= spent.calls, (stored, spent, asked.total())
        assert spent.unmetered_calls <= most, (spent, most)
        found.asked += asked.total()
        found.twice += twice
        found.most_twice += most
        found.metered += metered
        found.unmetered += spent.unmetered_calls


def workers_of(driver: int) -> list[int]:
    """Processes of this driver that do pieces: those of the local executor, or of Ray with a task."""
    parents: dict[int, int] = {}
    names: dict[int, bytes] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                names[int(entry.name)] = (entry / "cmdline").read_bytes()
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, ValueError):  # it has ended meanwhile
                continue
    return [one for one, name in names.items() if driver in ancestors(one, parents) and is_worker(name)]


def ancestors(process: int, parents: dict[int, int]) -> Iterator[int]:
    while process in parents:
        process = parents[process]
        yield process


def is_worker(name: bytes) -> bool:
    return b"spawn_main" in name or name.startswith(b"ray::_do")


def killed(process: int) -> bool:
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="of each victim in each work")
    parser.add_argument("--works", nargs="+", default=["corpus", "study", "judging", "together"])
    parser.add_argument("--victims", nargs="+", default=["worker", "driver"])
    parser.add_argument("--executor", default="local", choices=["local", "ray"])
    parser.add_argument("--episodes", type=int, default=Size.episodes)
    parser.add_argument("--judgements", type=int, default=Size.judgements)
    parser.add_argument("--latency-s", type=float, default=Size.latency_s)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--drive", nargs=5, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.drive:
        work, place, size, executor, base_url = given.drive
        drive(work, Path(place), Size(**json.loads(size)), executor, base_url)
        return
    from faulty_server import FaultyServer  # the tests' server

    os.environ["OMP_NUM_THREADS"] = "1"
    size = Size(given.episodes, given.judgements, given.latency_s)
    with tempfile.TemporaryDirectory() as folder, FaultyServer(reply, latency_s=size.latency_s) as server:
        killer = Killer(size, given.executor, server, random.Random(given.seed), Path(folder))
        for work in given.works:
            for victim in ["command"] if work == "together" else given.victims:
                found = killer.endure(work, victim, given.kills)
                print(f"{work}, {victim} killed: {found.line()}", flush=True)


if __name__ == "__main__":
    main()
