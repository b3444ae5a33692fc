"""Replies a second, latency and memory of `serve.py`, and of the same model under `transformers serve`.

    python benchmarks/serving_load.py --run checkpoints/demo [--conversations 1 8 32 128] [--seconds 30]

So many clients at once hold whole conversations of up to `--rounds` rounds. The other side's words are scripted,
and every reply is asked for as soon as the one before it is there. A level is measured for so many seconds after as
many replies as there are clients.

The other server has the base model, in the dtype that this one takes. It is asked what the arm `vanilla` asks its model
(system message, words, task), with the same temperature and most tokens, by as many clients: one reply at a time, which
is its default, and with its continuous batching. Before that, the memory of `serve.py` is read along `--replies` of
`--memory-arm`. All servers are processes of their own and use all cores, one after the other. Nothing else should
run meanwhile.
"""

import argparse
import asyncio
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp

from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.language_models.embedded import embedded_model
from emodistill.language_models.local import device_of, dtype_of
from emodistill.negotiation.prompts import directive_words, round_words, system_words
from emodistill.negotiation.scenarios import Scenario
from emodistill.negotiator import RunSettings

ROOT = Path(__file__).parent.parent
STARTUP_S = 180
BATCH_S = 0.5  # in which all replies of a batch have arrived
GENERATION = {"do_sample": True, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
Body = dict[str, Any]
Ask = Callable[[Body], Awaitable[Body]]


@dataclass
class Load:
    """What a level of load came to; latencies in seconds."""

    latencies: list[float] = field(default_factory=list)
    took_s: float = 0.0

    def __str__(self) -> str:
        ordered = sorted(self.latencies)
        slow = ordered[min(int(0.99 * len(ordered)), len(ordered) - 1)]
        return (
            f"{len(ordered) / self.took_s:6.2f} replies a second, median {statistics.median(ordered):6.2f} s, "
            f"99th percentile {slow:6.2f} s ({len(ordered)} replies)"
        )

    @property
    def rate(self) -> float:
        return len(self.latencies) / self.took_s


def counter_offer(scenario: Scenario, place: int, rounds: int) -> str:
    """What the other side says in a round: a little nearer each time, and never an acceptance."""
    value = scenario.value_at(0.3 * place / rounds)
    return f"That is hard for me. I could do {scenario.rules.say(scenario.rules.snap(value))}."


def arm_requests(arm: str, scenario: Scenario, seed: int, rounds: int) -> Iterator[tuple[Body, Callable[[Body], bool]]]:
    """The requests of one conversation with an arm; each comes with what takes in its reply, and says if it goes on."""
    messages: list[Body] = []

    def take(answer: Body) -> bool:
        messages.append(answer["choices"][0]["message"] | {"emotion": answer["emodistill"]["emotion"]})
        return answer["emodistill"]["end"] is None

    for place in range(rounds):
        messages += [{"role": "user", "content": counter_offer(scenario, place, rounds)}] if place else []
        yield {"model": arm, "messages": messages, "metadata": {"scenario": scenario.id, "seed": str(seed)}}, take


def model_requests(
    model: str, sampler: Body, scenario: Scenario, seed: int, rounds: int
) -> Iterator[tuple[Body, Callable[[Body], bool]]]:
    """The same conversation as a bare model sees it: what the arm `vanilla` asks its own."""
    messages: list[Body] = [{"role": "system", "content": system_words(scenario)}]
    settings = {"max_tokens": sampler["max_new_tokens"], "temperature": sampler["temperature"], "seed": seed}
    vocabulary = load_vocabulary("goemotions28")

    def take(answer: Body) -> bool:
        messages.append({"role": "assistant", "content": answer["choices"][0]["message"]["content"]})
        return True

    for place in range(rounds):
        heard = counter_offer(scenario, place, rounds) if place else None
        offer = scenario.rules.say(scenario.rules.snap(scenario.value_at(1 - 0.5 * place / rounds)))
        task = directive_words(vocabulary, None, "propose", offer)
        messages.append({"role": "user", "content": round_words(heard, task)})
        yield {"model": model, "messages": messages, **settings}, take


Requests = Callable[[Scenario, int], Iterator[tuple[Body, Callable[[Body], bool]]]]


async def hold(ask: Ask, requests: Requests, scenarios: Sequence[Scenario], clients: int, enough: "Enough") -> None:
    """So many clients, each of which holds one conversation after the other until there is enough."""
    seeds = count()

    async def client() -> None:
        while not enough.reached:
            seed = next(seeds)
            for body, take in requests(scenarios[seed % len(scenarios)], seed):
                began = time.perf_counter()
                answer = await ask(body)
                enough.add(began)
                if enough.reached or not take(answer):
                    break

    running = [asyncio.create_task(client()) for _ in range(clients)]
    await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.sleep(BATCH_S)
    done, rest = {one for one in running if one.done()}, [one for one in running if not one.done()]
    for one in rest:  # there is enough: nobody waits for the replies that are still being written
        one.cancel()
    await asyncio.gather(*rest, return_exceptions=True)
    for one in done:
        one.result()


class Enough:
    """Measures replies for so many seconds, after as many as there are clients; or until so many are there."""

    def __init__(self, clients: int, seconds: float = 0.0, replies: int | None = None) -> None:
        self.clients, self.seconds, self.replies = clients, seconds, replies
        self.seen, self.since = 0, 0.0
        self.load = Load()
        self.on_reply: Callable[[int], None] = lambda _: None

    def add(self, began: float) -> None:
        now = time.perf_counter()
        self.seen += 1
        self.on_reply(self.seen)
        if self.seen == self.clients:
            self.since = now
        elif self.seen > self.clients:
            self.load.latencies.append(now - began)
            self.load.took_s = now - self.since

    @property
    def reached(self) -> bool:
        if self.replies is not None:
            return self.seen >= self.replies
        return bool(self.load.latencies) and time.perf_counter() - self.since >= self.seconds


@asynccontextmanager
async def asking(address: str) -> AsyncIterator[Ask]:
    """Asks a server for a completion; anything but a reply spoils the measurement."""
    connector, patience = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=1800)
    async with aiohttp.ClientSession(connector=connector, timeout=patience) as session:

        async def ask(body: Body) -> Body:
            async with session.post(f"{address}/v1/chat/completions", json=body) as answer:
                content = await answer.text()
                if answer.status != 200:
                    raise SystemExit(f"status {answer.status}: {content[:500]}")
                return dict(json.loads(content))

        yield ask


@contextmanager
def process(command: Sequence[str], log: Path, address: str) -> Iterator[subprocess.Popen[bytes]]:
    """A server, from when it is healthy to its end."""
    with log.open("wb") as file:
        running = subprocess.Popen(command, stdout=file, stderr=file, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    try:
        asyncio.run(until_healthy(address, running, log))
        yield running
    finally:
        running.terminate()
        try:
            running.wait(10)
        except subprocess.TimeoutExpired:  # it still writes replies that nobody waits for
            running.kill()
            running.wait()


async def until_healthy(address: str, running: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + STARTUP_S
    async with aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(f"{address}/health") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientConnectionError:
                pass
            if running.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{running.args!r} did not start:\n{log.read_text(errors='replace')[-2000:]}")
            await asyncio.sleep(0.2)


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def memory_mib(running: subprocess.Popen[bytes]) -> float:
    """Resident memory, as Linux counts it."""
    status = Path(f"/proc/{running.pid}/status").read_text(encoding="ascii")
    found = re.search(r"VmRSS:\s*(\d+) kB", status)
    assert found is not None
    return int(found[1]) / 1024


async def level(address: str, requests: Requests, scenarios: Sequence[Scenario], clients: int, enough: Enough) -> Load:
    async with asking(address) as ask:
        await hold(ask, requests, scenarios, clients, enough)
    return enough.load


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("checkpoints/demo"))
    parser.add_argument("--arm", default="emodistill")
    parser.add_argument("--conversations", type=int, nargs="*", default=[1, 8, 32, 128])
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--side-by-side", type=int, default=32, help="clients of both servers; 0 leaves it out")
    parser.add_argument("--their-seconds", type=float, default=45.0)
    parser.add_argument("--their-modes", nargs="*", default=["", "continuous-batching"], help="of transformers serve")
    parser.add_argument("--replies", type=int, default=5000, help="along which memory is read; 0 leaves it out")
    parser.add_argument("--memory-arm", default="phrasebook_iql")
    parser.add_argument("--scenarios", type=int, default=None, help="most different ones")
    given = parser.parse_args()
    settings = RunSettings(given.run)
    scenarios = settings.scenarios()[: given.scenarios]
    with tempfile.TemporaryDirectory() as folder:
        ours = our_load(given, scenarios, Path(folder))
        for mode in given.their_modes if given.side_by_side else []:
            theirs = their_load(given, mode, scenarios, settings, Path(folder))
            print(f"ratio of replies a second: {ours.rate / theirs.rate:.1f}", flush=True)


def our_load(given: argparse.Namespace, scenarios: Sequence[Scenario], folder: Path) -> Load:
    """All levels of our own server, and its memory; returns the load of `vanilla` beside the other server."""
    address, aside = free_address(), Load()
    arms = dict.fromkeys([given.arm, given.memory_arm, "vanilla"])
    keys = [f"arms=[{','.join(arms)}]", f"port={address.rpartition(':')[2]}", "per_minute=null"]
    command = [sys.executable, str(ROOT / "serve.py"), f"run_dir={given.run}", *keys, "limits.timeout_s=1800"]

    def measured(arm: str, clients: int, enough: Enough) -> Load:
        requests: Requests = lambda scenario, seed: arm_requests(arm, scenario, seed, given.rounds)  # noqa: E731
        return asyncio.run(level(address, requests, scenarios, clients, enough))

    with process(command, folder / "ours.log", address) as running:
        print(f"{given.arm}: {memory_mib(running):,.0f} MiB before the first request", flush=True)
        for clients in given.conversations:
            load = measured(given.arm, clients, Enough(clients, given.seconds))
            print(f"{given.arm}, {clients:3} conversations: {load}; {memory_mib(running):,.0f} MiB", flush=True)
        if given.side_by_side:
            measured("vanilla", 1, Enough(1, replies=2))  # loads the arm
            aside = measured("vanilla", given.side_by_side, Enough(given.side_by_side, given.seconds))
            print(f"vanilla, {given.side_by_side} conversations: {aside}", flush=True)
        if given.replies:
            watch_memory(given, running, measured)
    return aside


def watch_memory(
    given: argparse.Namespace, running: subprocess.Popen[bytes], measured: Callable[[str, int, Enough], Load]
) -> None:
    """Resident memory at ten moments along so many replies."""
    read: list[float] = []
    every = max(given.replies // 10, 1)

    def on_reply(seen: int) -> None:
        if seen % every == 0:
            read.append(memory_mib(running))

    enough = Enough(32, replies=given.replies)
    enough.on_reply = on_reply
    load = measured(given.memory_arm, 32, enough)
    shown = " ".join(f"{value:,.0f}" for value in read)
    print(
        f"{given.memory_arm}, {given.replies} replies: {load.rate:.1f} a second; MiB every {every}: {shown}", flush=True
    )


def their_load(
    given: argparse.Namespace, mode: str, scenarios: Sequence[Scenario], settings: RunSettings, folder: Path
) -> Load:
    """The base model under `transformers serve`; `mode` is an option of it, or nothing."""
    base, address = settings.config["policy"]["base_model"], free_address()
    model = embedded_model() if base == "embedded" else Path(base)
    if base == "embedded":  # with a generation config that samples, or else every temperature is ignored
        served = folder / "model"
        served.mkdir(exist_ok=True)
        (served / "generation_config.json").write_text(json.dumps(GENERATION), encoding="utf-8")
        for path in model.iterdir():
            if not (served / path.name).exists():
                (served / path.name).symlink_to(path)
        model = served
    dtype = str(dtype_of(settings.config["policy"]["compute_dtype"], device_of("auto"))).removeprefix("torch.")
    where = ["--host", "127.0.0.1", "--port", address.rpartition(":")[2], "--dtype", dtype]
    options = [f"--{mode}"] if mode else []
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(model), *where, *options]
    sampler = settings.config["sampler"]
    requests: Requests = lambda scenario, seed: model_requests(str(model), sampler, scenario, seed, given.rounds)  # noqa: E731
    clients = given.side_by_side
    with process(command, folder / "theirs.log", address):
        asyncio.run(level(address, requests, scenarios, 1, Enough(1, replies=2)))  # the first reply loads the model
        load = asyncio.run(level(address, requests, scenarios, clients, Enough(1, given.their_seconds)))
    print(f"transformers serve {' '.join(options)}, {clients} conversations, {dtype}: {load}", flush=True)
    return load


if __name__ == "__main__":
    main()
