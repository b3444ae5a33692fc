"""Plans for more: a million episodes on 10^2 to 10^4 workers, simulated; nothing is played and nobody is asked.

    python benchmarks/cluster_simulation.py [--what playing models judging training limits costs] [--workers 100 1000]
                                            [--episodes 1000000] [--seed 0] [--set gpu_price=3] [--picture FILE.svg]
    python benchmarks/cluster_simulation.py --what driver   what planning and dispatch take here, in processor time

Real are the plan (`execution.pieces.plan`, its shares too) and the choice of the piece that a worker gets, its retries
and what waits for it (`execution.dispatch`, as `executor=local` has it). Simulated are processes, the judge's server,
disks and time. The same seed gives the same figures. Where each number comes from stands in `Numbers`; see also
docs/scaling.md. It takes about a minute of one core.
"""

import argparse
import math
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from heapq import heappop, heappush
from pathlib import Path
from typing import Any

import yaml

from emodistill.execution.dispatch import Dispatch
from emodistill.execution.pieces import Piece, Share, plan

ROOT = Path(__file__).resolve().parents[1]
HOUR = 3600.0
TRAINING = "training"  # the kit of stages, which go on from their last checkpoint
INF = math.inf


def _configured(path: str, section: str) -> Any:
    return yaml.safe_load((ROOT / "configs" / path).read_text(encoding="utf-8"))[section]


ASSUMED = _configured("reproduce.yaml", "estimate")  # of the published experiment
SECONDS = _configured("size/demo.yaml", "seconds")  # measured
STEPS = {stage: _configured("size/demo.yaml", f"{stage}_steps") for stage in ("iql", "sft", "jpo")}


@dataclass(frozen=True)
class Numbers:
    """What the tables are made with: measured here, configured by default, or assumed; change it with --set."""

    batch: int = 32  # configured: episodes of a part, configs/experiment/paper.yaml
    judgements: int = 256  # configured: utterances of a part of judging, judges/ledger.py
    probe_every: int = 32  # configured: utterances that share a probe, configs/judge/lm.yaml
    concurrency: int = 8  # configured: calls at a time of a worker, configs/endpoint/default.yaml
    episode_s: float = ASSUMED["rounds"] * ASSUMED["reply_tokens"] / ASSUMED["tokens_per_second"]  # assumed there
    model_gb: float = 2e-9 * ASSUMED["parameters"]  # of weights in 16 bits, configs/reproduce.yaml
    spread: float = 0.095  # measured: standard deviation over mean of the turns of 32 episodes of the bundled corpus
    start_s: float = 8.0  # measured: imports of a worker with a language model, docs/performance.md
    open_s: float = 20.0  # assumed: from a node's memory to a GPU, for each model that a worker opens
    driver_s: float = 0.00035  # measured: of the driver, a piece, docs/scaling.md; Ray's own share is not in it
    file_s: float = 0.002  # assumed: of the shared disk, a piece; two files at a thousand a second
    disk_gb_s: float = 10.0  # assumed: what the shared disk gives all nodes together
    link_gb_s: float = 1.25  # assumed: and one node, by 10 Gbit/s
    per_node: int = 8  # assumed: workers of a node, one a GPU
    latency_s: float = 1.0  # assumed: of a judge's reply
    per_minute: float = 10_000.0  # assumed: what an account may ask
    at_once: float = 256.0  # assumed: what a server of one's own answers at a time
    ledger_s: float = 15_000.0  # measured: rows a second, docs/performance.md
    checkpoint_s: float = 60.0  # assumed: between checkpoints of training
    again_s: float = 600.0  # assumed: until a command that gave up is typed again
    noticed_s: float = 30.0  # assumed: until the loss of a worker is noticed
    repair_s: float = 600.0  # assumed: until another node is there
    gpu_price: float = 2.5  # assumed: USD an hour
    judge_model: str = "gpt-4o-mini"  # of the price list, assets/prices.yaml

    @property
    def judge_tokens(self) -> float:
        """Tokens that a judge reads of one utterance: rubric, facts and the turns before, as a dry run counts them."""
        rounds, history = ASSUMED["rounds"], ASSUMED["judge_history"]
        seen = sum(min(2 * round_, history) for round_ in range(rounds)) / rounds
        return float(ASSUMED["judge_tokens"] + ASSUMED["turn_tokens"] * seen)

    @property
    def calls(self) -> int:
        """Calls of a part of judging, probes among them."""
        return self.judgements + math.ceil(self.judgements / self.probe_every)


@dataclass(frozen=True)
class Weather:
    """How well workers and nodes do. Published: 419 losses in 54 days of 16,384 GPUs, one in 50,000 hours of a GPU
    (arXiv 2407.21783); ours are assumed, and worse, as of machines that are rented by the hour."""

    name: str
    slow_share: float = 0.0
    slow_factor: float = 1.0
    spread: float = 0.0  # times that of the numbers
    worker_hours: float = INF  # between two losses of a worker
    node_hours: float = INF


FAIR = Weather("fair")
USUAL = Weather("usual", 0.02, 3.0, 1.0, 1000.0, 500.0)
ROUGH = Weather("rough", 0.10, 3.0, 2.0, 50.0, 12.0)


@dataclass(frozen=True)
class Judge:
    """A server that is asked, and where its answers go; per second."""

    latency_s: float = 1.0
    concurrency: int = 8
    per_minute: float = INF  # of the account; each worker is given an equal part of it, as `Traffic.of_each` does
    at_once: float = INF
    rows: float = INF  # that the ledger stores

    def pace(self, askers: int, workers: int) -> tuple[float, str]:
        """Calls a second of each of those that ask now, and what bounds them."""
        bounds = {
            "latency": self.concurrency / self.latency_s,
            "rate": self.per_minute / 60 / workers,
            "server": self.at_once / self.latency_s / askers,
            "ledger": self.rows / askers,
        }
        bound = min(bounds, key=bounds.__getitem__)
        return bounds[bound], bound


@dataclass(frozen=True)
class Cluster:
    """Workers and what they share."""

    workers: int
    numbers: Numbers = Numbers()
    weather: Weather = FAIR
    judge: Judge = Judge()
    loads_model: bool = False
    retries: int = 2  # executor.retries
    shares: bool = False  # `shard=i/n`: no engine, every worker is a command with its share
    keeps_kits: bool = True  # False: the engine gives pieces in order to whoever is free, as Ray does


@dataclass(eq=False)
class Slot:
    """A place for a worker. `life` rises with each loss: what was meant for an earlier worker is dropped."""

    number: int
    slow: float
    lane: "Lane"
    life: int = 0
    is_up: bool = False
    kit: str | None = None
    opens: bool = False
    piece: Piece | None = None
    phase: str = "idle"
    since: float = 0.0
    spent: Counter[str] = field(default_factory=Counter)  # seconds on the piece under way, by phase

    @property
    def is_idle(self) -> bool:
        return self.piece is None and self.phase == "idle"


@dataclass(eq=False)
class Lane:
    """One command: a driver with its workers; with shares, one worker each."""

    share: Share | None
    dispatch: Dispatch
    slots: list[Slot] = field(default_factory=list)
    idle: list[tuple[int, int]] = field(default_factory=list)  # heap of (number, life) of those that may be idle
    free_at: float = 0.0  # when the driver has time
    stopped: bool = False


class EqualShare:
    """Something that serves everybody who asks at the same pace.

    Its own clock counts what each has been served since it began, so that nobody is looked at while others come and go.

    Args:
        pace: amount a second for each of so many, and what bounds it.
    """

    def __init__(self, simulation: "Simulation", pace: Callable[[int], tuple[float, str]]) -> None:
        self.simulation, self.pace = simulation, pace
        self.served, self.since, self.version = 0.0, 0.0, 0
        self.ends: list[tuple[float, int, Slot, Callable[[Slot], None]]] = []
        self.present: dict[Slot, int] = {}  # and the life in which they came
        self.bound: Counter[str] = Counter()  # seconds of those that were served, by what bound them

    def join(self, slot: Slot, amount: float, then: Callable[[Slot], None]) -> None:
        self._advance()
        self.present[slot] = slot.life
        heappush(self.ends, (self.served + amount, self.simulation.tick(), slot, then))
        self._expect()

    def leave(self, slot: Slot) -> None:
        if slot in self.present:
            self._advance()
            del self.present[slot]
            self._expect()

    def _advance(self) -> None:
        now = self.simulation.now
        if self.present:
            pace, bound = self.pace(len(self.present))
            self.served += (now - self.since) * pace
            self.bound[bound] += (now - self.since) * len(self.present)
        self.since = now

    def _expect(self) -> None:
        self.version += 1
        while self.ends and self.present.get(self.ends[0][2]) != self.ends[0][2].life:
            heappop(self.ends)  # lost meanwhile
        if self.ends:
            wait = max(0.0, self.ends[0][0] - self.served) / self.pace(len(self.present))[0]
            self.simulation.at(self.simulation.now + wait, self._end, self.version)

    def _end(self, version: int) -> None:
        if version != self.version:
            return
        self._advance()
        reached = self.served = max(self.served, self.ends[0][0])
        while self.ends and self.ends[0][0] <= reached:
            _, _, slot, then = heappop(self.ends)
            if self.present.get(slot) == slot.life:
                del self.present[slot]
                then(slot)
        self._expect()


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes:
        spent: seconds of workers, by what they went to; all together are workers times `seconds`.
        lost: pieces that lost their worker.
        reruns: how often a command gave up and was typed again.
        loads: how often a kit was opened.
        bound: seconds of workers at the judge, by what bound them.
    """

    workers: int
    seconds: float
    spent: Counter[str]
    lost: int
    reruns: int
    loads: int
    bound: Counter[str]
    driver_s: float
    files_s: float
    done: Counter[str]

    def share(self, *phases: str) -> float:
        """Of the time of all workers."""
        return sum(self.spent[phase] for phase in phases) / (self.workers * self.seconds)

    @property
    def utilisation(self) -> float:
        """Of the time of all workers, what finished pieces take on a worker that is not slow and waits for nobody."""
        return self.share("work", "judge")

    @property
    def worst(self) -> str:
        """What most of the rest goes to."""
        lost = {phase: seconds for phase, seconds in self.spent.items() if phase not in ("work", "judge")}
        return max(lost, key=lost.__getitem__, default="")


class Simulation:
    """Carries out pieces in simulated time.

    Args:
        cost: of a piece: seconds of work on a worker that is not slow, and calls to the judge.
    """

    def __init__(self, cluster: Cluster, cost: Callable[[Piece], tuple[float, int]], seed: int) -> None:
        self.cluster, self.cost, numbers = cluster, cost, cluster.numbers
        self.now, self._ticks = 0.0, 0
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self.disk: Counter[str] = Counter()  # results, by name, and how often each was written
        self.kept: dict[str, float] = defaultdict(float)  # seconds of training that a checkpoint has, by name
        self.spent: Counter[str] = Counter()
        self.lost = self.reruns = self.loads = 0
        self.driver_s = self.files_s = self._file_free_at = 0.0
        self._noise, self._fate = random.Random(f"{seed} noise"), random.Random(f"{seed} fate")
        nodes = math.ceil(cluster.workers / numbers.per_node)
        link, disk = numbers.link_gb_s, numbers.disk_gb_s
        each = min(numbers.per_node, cluster.workers)  # what a node reads once, its workers wait for together
        self._store = EqualShare(self, lambda readers: (min(link, disk * each / readers), "disk"))
        self._judge = EqualShare(self, lambda askers: cluster.judge.pace(askers, cluster.workers))
        self._nodes, self._have_base = nodes, set[int]()

    def tick(self) -> int:
        self._ticks += 1
        return self._ticks

    def at(self, when: float, what: Callable[..., None], *given: Any) -> None:
        heappush(self._events, (when, self.tick(), what, given))

    def run(self, pieces: Sequence[Piece]) -> Outcome:
        """Do all pieces, with as many reruns of the command as that takes."""
        weather, numbers = self.cluster.weather, self.cluster.numbers
        self.pieces = [replace(piece, done=partial(self.disk.__contains__, piece.name)) for piece in pieces]
        sigma = weather.spread * numbers.spread
        self._stretch = {piece.name: self._noise.lognormvariate(-(sigma**2) / 2, sigma) for piece in self.pieces}
        workers = self.cluster.workers
        count = workers if self.cluster.shares else 1
        shares = [Share(number + 1, count) if self.cluster.shares else None for number in range(count)]
        self.lanes = [Lane(share, Dispatch(plan(self.pieces, share).now, self.cluster.retries)) for share in shares]
        slow = set(self._fate.sample(range(workers), round(weather.slow_share * workers)))
        self.slots = []
        for number in range(workers):
            lane = self.lanes[number % count]
            slot = Slot(number, weather.slow_factor if number in slow else 1.0, lane)
            lane.slots.append(slot)
            lane.idle.append((number, 0))
            self.slots.append(slot)
        for one, hours in ((False, weather.worker_hours / workers), (True, weather.node_hours / self._nodes)):
            if hours < INF:
                self._expect_loss(one, hours)
        for lane in self.lanes:
            self._hand_out(lane)
        while len(self.disk) < len(self.pieces):
            self.now, _, what, given = heappop(self._events)
            what(*given)
        for slot in self.slots:
            self._enter(slot, "over")
        return Outcome(
            workers,
            self.now,
            self.spent,
            self.lost,
            self.reruns,
            self.loads,
            self._judge.bound,
            self.driver_s,
            self.files_s,
            self.disk,
        )

    # The way of a piece: handed out, then each method is the end of one phase and the beginning of the next.

    def _hand_out(self, lane: Lane) -> None:
        dispatch = lane.dispatch
        while dispatch.ready and lane.idle and not lane.stopped:
            number, life = heappop(lane.idle)
            slot = self.slots[number]
            if slot.life != life or not slot.is_idle:
                continue
            piece = dispatch.take(slot.kit) if self.cluster.keeps_kits else dispatch.take_first()
            assert piece is not None
            slot.piece, slot.opens, slot.kit = piece, piece.kit != slot.kit, piece.kit
            self._after(slot, "driver", self._of_driver(lane) - self.now, self._start)

    def _start(self, slot: Slot) -> None:
        if slot.is_up:
            self._load(slot)
        else:
            self._after(slot, "start", self.cluster.numbers.start_s, self._load)

    def _load(self, slot: Slot) -> None:
        slot.is_up = True
        self.loads += slot.opens
        if not slot.opens or not self.cluster.loads_model:
            self._work(slot)
        elif self._node(slot) in self._have_base:
            self._open(slot)
        else:
            self._enter(slot, "load")
            self._store.join(slot, self.cluster.numbers.model_gb, self._open)

    def _open(self, slot: Slot) -> None:
        self._have_base.add(self._node(slot))  # its files are in the memory of the node now
        self._after(slot, "load", self.cluster.numbers.open_s, self._work)

    def _work(self, slot: Slot) -> None:
        self._after(slot, "work", slot.slow * self._work_left(slot), self._ask)

    def _ask(self, slot: Slot) -> None:
        assert slot.piece is not None
        self._enter(slot, "judge")
        if calls := self.cost(slot.piece)[1]:
            self._judge.join(slot, calls, self._write)
        else:
            self._write(slot)

    def _write(self, slot: Slot) -> None:
        """The shared disk creates one result after the other."""
        self._enter(slot, "file")
        took = self.cluster.numbers.file_s
        self._file_free_at = max(self.now, self._file_free_at) + took
        self.files_s += took
        self._after(slot, "file", self._file_free_at - self.now, self._finish)

    def _finish(self, slot: Slot) -> None:
        piece = slot.piece
        assert piece is not None
        self._enter(slot, "idle")
        self.disk[piece.name] += 1
        work, calls = self.cost(piece)
        stretched = slot.spent.pop("work", 0.0)
        self.spent["work"] += stretched / slot.slow
        self.spent["slow"] += stretched - stretched / slot.slow
        waited = slot.spent.pop("judge", 0.0)
        least = min(waited, calls * self.cluster.judge.latency_s / self.cluster.judge.concurrency)
        self.spent["judge"] += least
        self.spent["limits"] += waited - least
        self._settle(slot)
        slot.piece = None
        heappush(slot.lane.idle, (slot.number, slot.life))
        self.at(max(self.now, slot.lane.free_at), self._hear, slot.lane, slot.lane.dispatch, piece)

    def _hear(self, lane: Lane, dispatch: Dispatch, piece: Piece) -> None:
        if lane.dispatch is dispatch:
            dispatch.done(piece)
            self._hand_out(lane)

    # Losses

    def _expect_loss(self, of_node: bool, hours: float) -> None:
        wait = self._fate.expovariate(1 / (hours * HOUR))
        self.at(self.now + wait, self._strike, of_node, hours)

    def _strike(self, of_node: bool, hours: float) -> None:
        """A worker or a node is gone, whatever it is doing."""
        numbers = self.cluster.numbers
        if of_node:
            node = self._fate.randrange(self._nodes)
            self._have_base.discard(node)
            first = node * numbers.per_node
            for slot in self.slots[first : first + numbers.per_node]:
                self._lose(slot, numbers.repair_s)
        else:
            self._lose(self._fate.choice(self.slots), 0.0)
        self._expect_loss(of_node, hours)

    def _lose(self, slot: Slot, seconds: float) -> None:
        if slot.phase == "down":
            return
        self.lost += slot.piece is not None
        piece, kit = self._drop(slot)
        lane = slot.lane
        self.at(self.now + self.cluster.numbers.noticed_s, self._notice, lane, lane.dispatch, kit, piece)
        self.at(self.now + max(seconds, self.cluster.numbers.noticed_s), self._back, slot, slot.life)

    def _drop(self, slot: Slot) -> tuple[Piece | None, str | None]:
        """End a worker; what it has done of its piece is lost but for the last checkpoint."""
        self._enter(slot, "down")
        for resource in (self._store, self._judge):
            resource.leave(slot)
        piece, kit = slot.piece, slot.kit
        if piece is not None and piece.kit == TRAINING:
            every, done = self.cluster.numbers.checkpoint_s, slot.spent["work"] / slot.slow
            kept = math.floor(done / every) * every
            self.kept[piece.name] += kept
            self.spent["work"] += kept
            self.spent["slow"] += kept * (slot.slow - 1)
            slot.spent["work"] -= kept * slot.slow
        self.spent["lost"] += sum(slot.spent.values())
        slot.spent.clear()
        slot.piece, slot.kit, slot.is_up = None, None, False
        slot.life += 1
        return piece, kit

    def _notice(self, lane: Lane, dispatch: Dispatch, kit: str | None, piece: Piece | None) -> None:
        if lane.stopped or lane.dispatch is not dispatch:  # the command that had it is over
            return
        if self.cluster.keeps_kits:
            dispatch.let_go(kit)
        if piece is None or dispatch.lost(piece):
            self._hand_out(lane)
            return
        self.reruns += 1  # the command ends with its sentence, and its workers with it
        lane.stopped = True
        for slot in lane.slots:
            if slot.phase != "down":
                self._drop(slot)
                self.at(self.now + self.cluster.numbers.again_s, self._back, slot, slot.life)
        self.at(self.now + self.cluster.numbers.again_s, self._again, lane)

    def _again(self, lane: Lane) -> None:
        lane.stopped = False
        lane.dispatch = Dispatch(plan(self.pieces, lane.share).now, self.cluster.retries)
        self._hand_out(lane)

    def _back(self, slot: Slot, life: int) -> None:
        if slot.life == life:
            self._enter(slot, "idle")
            heappush(slot.lane.idle, (slot.number, slot.life))
            self._hand_out(slot.lane)

    def _node(self, slot: Slot) -> int:
        return slot.number // self.cluster.numbers.per_node

    # The clock

    def _work_left(self, slot: Slot) -> float:
        assert slot.piece is not None
        name = slot.piece.name
        return max(0.0, self.cost(slot.piece)[0] * self._stretch[name] - self.kept[name])

    def _of_driver(self, lane: Lane) -> float:
        """When the driver, who does one thing after the other, has handed out a piece."""
        if self.cluster.shares:
            return self.now
        took = self.cluster.numbers.driver_s
        lane.free_at = max(self.now, lane.free_at) + took
        self.driver_s += took
        return lane.free_at

    def _after(self, slot: Slot, phase: str, seconds: float, then: Callable[[Slot], None]) -> None:
        self._enter(slot, phase)
        self.at(self.now + seconds, self._still, slot, slot.life, then)

    def _still(self, slot: Slot, life: int, then: Callable[[Slot], None]) -> None:
        if slot.life == life:
            then(slot)

    def _enter(self, slot: Slot, phase: str) -> None:
        account = self.spent if slot.phase in ("idle", "down") else slot.spent
        account[slot.phase] += self.now - slot.since
        slot.phase, slot.since = phase, self.now

    def _settle(self, slot: Slot) -> None:
        self.spent.update(slot.spent)
        slot.spent.clear()


def no_work() -> Callable[..., None]:
    """What a piece would open."""
    raise AssertionError("nothing is done here but in thought")


def never() -> bool:
    return False


def many(count: int, kits: Sequence[str] = ("model",), size: float = 1.0) -> list[Piece]:
    """Pieces that need nothing of each other, those of a kit one after the other, as a plan has them."""
    return [
        Piece(f"{number}", f"piece {number}", no_work, kits[number * len(kits) // count], (), never, size)
        for number in range(count)
    ]


def seeds_of_training(count: int) -> list[Piece]:
    """Stages of so many training seeds, each after those that it learns from, as a study plans them."""
    before = {"iql": (), "sft": ("iql",), "jpo": ("iql", "sft")}
    return [
        Piece(
            f"{seed}/{stage}",
            f"training of {seed}/{stage}",
            no_work,
            TRAINING,
            (stage,),
            never,
            after=tuple(f"{seed}/{name}" for name in after),
        )
        for seed in range(count)
        for stage, after in before.items()
    ]


def training_cost(piece: Piece) -> tuple[float, int]:
    """As the demo's stages take on two cores."""
    stage = piece.task[0]
    return STEPS[stage] * SECONDS[stage], 0


def playing(cluster: Cluster, episodes: int, seed: int, kits: int = 1) -> Outcome:
    """Episodes whose words a language model of the worker writes."""
    numbers = cluster.numbers
    pieces = many(math.ceil(episodes / numbers.batch), [f"model {kit}" for kit in range(kits)], numbers.batch)
    return Simulation(cluster, lambda piece: (numbers.batch * numbers.episode_s, 0), seed).run(pieces)


def judging(cluster: Cluster, episodes: int, seed: int) -> Outcome:
    """Every utterance of the focal side judged behind an endpoint."""
    numbers = cluster.numbers
    count = math.ceil(episodes * ASSUMED["rounds"] / numbers.judgements)
    return Simulation(cluster, lambda piece: (0.0, numbers.calls), seed).run(many(count, ("judge",)))


def row(*cells: Any) -> None:
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def head(title: str, *names: str) -> None:
    print(f"\n{title}\n")
    row(*names)
    print("|" + "---:|" * len(names))


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def hours(seconds: float) -> str:
    return f"{seconds / HOUR:.2f} h" if seconds >= HOUR else f"{seconds / 60:.1f} min"


def show_playing(given: argparse.Namespace, numbers: Numbers) -> None:
    head(
        f"{given.episodes:,} episodes by a language model on each worker, parts of {numbers.batch}, seed {given.seed}",
        *("workers", "weather", "engine", "time", "utilisation", "pieces lost", "most of the rest", "driver", "USD"),
    )
    for workers in given.workers:
        cases = [(weather, False) for weather in (FAIR, USUAL, ROUGH)]
        for weather, shares in [*cases, *([(USUAL, True)] if workers <= 1000 else [])]:
            found = playing(
                Cluster(workers, numbers, weather, loads_model=True, shares=shares), given.episodes, given.seed
            )
            price = found.seconds * workers / HOUR * numbers.gpu_price
            row(
                f"{workers:,}",
                weather.name,
                "shares" if shares else "driver",
                hours(found.seconds),
                percent(found.utilisation),
                found.lost,
                f"{found.worst} {percent(found.share(found.worst))}",
                percent(found.driver_s / found.seconds),
                f"{price:,.0f}",
            )


def show_models(given: argparse.Namespace, numbers: Numbers) -> None:
    kits = 40
    head(
        f"{given.episodes:,} episodes of {kits} models (four conditions, ten seeds), usual weather, seed {given.seed}",
        *("workers", "engine", "time", "utilisation", "models loaded", "loading"),
    )
    for workers in given.workers:
        for keeps in (True, False):
            cluster = Cluster(workers, numbers, USUAL, loads_model=True, keeps_kits=keeps)
            found = playing(cluster, given.episodes, given.seed, kits)
            row(
                f"{workers:,}",
                "by model" if keeps else "in order",
                hours(found.seconds),
                percent(found.utilisation),
                f"{found.loads:,}",
                percent(found.share("load")),
            )


def show_judging(given: argparse.Namespace, numbers: Numbers) -> None:
    judge = Judge(numbers.latency_s, numbers.concurrency, rows=numbers.ledger_s)
    limited = replace(judge, per_minute=numbers.per_minute)
    served = replace(judge, at_once=numbers.at_once)
    head(
        f"{given.episodes * ASSUMED['rounds']:,} utterances judged, {numbers.concurrency} calls at a time of each "
        f"worker, {numbers.latency_s:g} s a call, seed {given.seed}",
        *("workers", "limit", "time", "judgements a second", "held back by the limit", "bound by"),
    )
    cases = {f"{numbers.per_minute:,.0f} a minute": limited, f"{numbers.at_once:g} at a time": served, "none": judge}
    for workers in given.judging_workers:
        for name, one in cases.items():
            found = judging(Cluster(workers, numbers, judge=one), given.episodes, given.seed)
            bound = max(found.bound, key=found.bound.__getitem__)
            rate = given.episodes * ASSUMED["rounds"] / found.seconds
            row(f"{workers:,}", name, hours(found.seconds), f"{rate:,.0f}", percent(found.share("limits")), bound)


def show_training(given: argparse.Namespace, numbers: Numbers) -> None:
    seeds = 1000
    chain = sum(STEPS[stage] * SECONDS[stage] for stage in STEPS)
    head(
        f"{seeds:,} training seeds of three stages, {chain:.0f} s one after the other, seed {given.seed}",
        *("workers", "weather", "time", "utilisation", "pieces lost", "given up", "most of the rest"),
    )
    for workers in given.workers:
        for weather in (FAIR, USUAL, ROUGH):
            found = Simulation(Cluster(workers, numbers, weather), training_cost, given.seed).run(
                seeds_of_training(seeds)
            )
            row(
                f"{workers:,}",
                weather.name,
                hours(found.seconds),
                percent(found.utilisation),
                found.lost,
                found.reruns,
                f"{found.worst} {percent(found.share(found.worst))}",
            )


def show_limits(given: argparse.Namespace, numbers: Numbers) -> None:
    """Arithmetic: from how many workers on a thing that all share holds them up."""
    part = numbers.batch * numbers.episode_s
    asks = numbers.concurrency / numbers.latency_s
    loading = given.episodes * numbers.episode_s * numbers.disk_gb_s * numbers.per_node / numbers.model_gb
    head("What is full when", "what", "it does", "from so many workers on")
    row("driver", f"{1 / numbers.driver_s:,.0f} pieces a second", f"{part / numbers.driver_s:,.0f}")
    row("shared disk, results", f"{1 / numbers.file_s:,.0f} parts a second", f"{part / numbers.file_s:,.0f}")
    row(
        "shared disk, models",
        f"{numbers.disk_gb_s:g} GB/s; loading takes as long as playing",
        f"{math.sqrt(loading):,.0f}",
    )
    row("pieces", f"{given.episodes / numbers.batch:,.0f}", f"{given.episodes / numbers.batch:,.0f}")
    row("judge, account", f"{numbers.per_minute / 60:,.0f} a second", f"{numbers.per_minute / 60 / asks:,.0f}")
    row(
        "judge, own server",
        f"{numbers.at_once / numbers.latency_s:,.0f} a second",
        f"{numbers.at_once / numbers.concurrency:,.0f}",
    )
    row("ledger", f"{numbers.ledger_s:,.0f} rows a second", f"{numbers.ledger_s / asks:,.0f}")


def show_costs(given: argparse.Namespace, numbers: Numbers) -> None:
    from emodistill.language_models.budget import price_of

    price = price_of(numbers.judge_model)
    assert price is not None
    calls = given.episodes * ASSUMED["rounds"] * (1 + 1 / numbers.probe_every)
    judge = price.of(calls * numbers.judge_tokens, calls * ASSUMED["verdict_tokens"])
    head(
        f"What {given.episodes:,} episodes cost, USD",
        "workers",
        "GPU hours",
        "GPUs",
        f"judge, {numbers.judge_model}",
        "all",
    )
    for workers in given.workers:
        found = playing(Cluster(workers, numbers, USUAL, loads_model=True), given.episodes, given.seed)
        gpu = found.seconds * workers / HOUR
        money = gpu * numbers.gpu_price
        row(f"{workers:,}", f"{gpu:,.0f}", f"{money:,.0f}", f"{judge:,.0f}", f"{money + judge:,.0f}")
    stored = given.episodes * 2 * ASSUMED["rounds"] * ASSUMED["turn_bytes"] / 1e9
    print(f"\n{calls:,.0f} calls; {stored:.1f} GB of episodes in {given.episodes / numbers.batch:,.0f} parts")


def show_driver(given: argparse.Namespace, numbers: Numbers) -> None:
    """What planning and dispatch take in this process, of its processor time; nothing of it is simulated."""
    from emodistill.execution.worker import Packer

    pieces = _timed("plan of the corpus", lambda: corpus_pieces(given.episodes, numbers.batch))
    now = _timed("what is missing of it", lambda: plan(pieces).now)
    packer = Packer()
    sent = min(2000, len(now))
    _timed(f"{sent:,} pieces packed", lambda: [packer.pack(piece) for piece in now[:sent]], sent)
    for count, kits in ((len(now), 1), (100_000, 40), (given.episodes, 40)):
        some = now if kits == 1 else many(count, [f"model {kit}" for kit in range(kits)])
        workers = max(given.workers)
        dispatch = _timed(f"dispatch of {count:,} pieces made", partial(Dispatch, some, 2))
        _timed(f"{count:,} pieces handed to {workers:,} workers", partial(hand_all_out, dispatch, workers), count)


def hand_all_out(dispatch: Dispatch, workers: int) -> None:
    """What the driver does for each piece, with workers who finish in turn."""
    kits: list[str | None] = [None] * workers
    doing: list[Piece | None] = [None] * workers
    while dispatch.unfinished:
        for worker in range(workers):
            piece = doing[worker]
            if piece is not None:
                dispatch.done(piece)
            piece = doing[worker] = dispatch.take(kits[worker])
            if piece is not None:
                kits[worker] = piece.kit


def _timed(what: str, work: Callable[[], Any], count: int = 0) -> Any:
    began = time.process_time()
    found = work()
    took = time.process_time() - began
    each = f", {1e6 * took / count:.1f} microseconds each" if count else ""
    print(f"{what}: {took:.2f} s{each}", flush=True)
    return found


class Kept:
    """An executor that keeps what it is given, and does nothing."""

    pieces: Sequence[Piece] = ()

    def run(self, title: str, pieces: Sequence[Piece]) -> None:
        self.pieces = pieces


def corpus_pieces(episodes: int, batch: int) -> list[Piece]:
    """The pieces of a corpus of self-play, as `play.py` plans them."""
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate

    per_domain, seen = 100, 80  # scenarios, and those of them that are no test scenarios
    each = math.ceil(episodes / (4 * seen))
    overrides = ["data=selfplay", "speaker=endpoint", "endpoint.base_url=http://127.0.0.1:9/v1", "endpoint.model=m"]
    overrides += [f"scenarios.per_domain={per_domain}", f"data.corpus.episodes_per_scenario={each}"]
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        cfg = compose("play", overrides=[*overrides, f"data.corpus.batch={batch}"])
        corpus = instantiate(cfg.data.corpus, _convert_="all")
    corpus.executor = kept = Kept()
    corpus._play_parts()
    return list(kept.pieces)


def draw(given: argparse.Namespace, numbers: Numbers) -> bytes:
    """Time and utilisation against workers, as SVG."""
    from emodistill.reporting import formats
    from emodistill.reporting.figures.style import FAINT, look
    from emodistill.reporting.tables import Figure

    counts = [round(10 ** (exponent / 4)) for exponent in range(8, 17)]
    found = {
        weather.name: [
            playing(Cluster(workers, numbers, weather, loads_model=True), given.episodes, given.seed)
            for workers in counts
        ]
        for weather in (FAIR, USUAL, ROUGH)
    }

    def paint(canvas: Any) -> None:
        canvas.set_layout_engine("constrained")
        canvas.set_size_inches(7.6, 3.4)
        time_, used = canvas.subplots(1, 2)
        for place, (name, outcomes) in enumerate(found.items()):
            time_.plot(counts, [one.seconds / HOUR for one in outcomes], label=name, markersize=5, **look(place))
            used.plot(counts, [100 * one.utilisation for one in outcomes], markersize=5, **look(place))
        for axes, title in ((time_, "hours"), (used, "utilisation, %")):
            axes.set_xscale("log")
            axes.set_title(title)
            axes.set_xlabel("workers")
            axes.grid(color=FAINT, linewidth=0.5)
        time_.set_yscale("log")
        used.set_ylim(0, 100)
        canvas.legend(*time_.get_legend_handles_labels(), loc="outside lower center", ncols=3)

    title = f"{given.episodes:,} episodes on so many workers, simulated"
    return formats.svg(Figure("cluster", title, title, paint))


SHOWS = {
    "playing": show_playing,
    "models": show_models,
    "judging": show_judging,
    "training": show_training,
    "limits": show_limits,
    "costs": show_costs,
    "driver": show_driver,
}


def numbers_with(given: Sequence[str]) -> Numbers:
    """The numbers, with `key=value` in place of some."""
    kinds = {one.name: type(one.default) for one in fields(Numbers)}
    changed = {}
    for word in given:
        name, _, value = word.partition("=")
        if name not in kinds or not value:
            raise SystemExit(f"--set {word}: give KEY=VALUE with one of {', '.join(kinds)}")
        changed[name] = kinds[name](value)
    return replace(Numbers(), **changed)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    usual = [name for name in SHOWS if name != "driver"]
    parser.add_argument("--what", nargs="+", choices=SHOWS, default=usual)
    parser.add_argument("--workers", nargs="+", type=int, default=[100, 1000, 10_000])
    parser.add_argument("--judging-workers", nargs="+", type=int, default=[10, 100, 1000, 10_000])
    parser.add_argument("--episodes", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="other numbers than those assumed")
    parser.add_argument("--picture", type=Path, help="write time and utilisation against workers as SVG")
    given = parser.parse_args(arguments)
    numbers = numbers_with(given.set)
    for what in given.what:
        SHOWS[what](given, numbers)
    if given.picture:
        given.picture.write_bytes(draw(given, numbers))


if __name__ == "__main__":
    main()
