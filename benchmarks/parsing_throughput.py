"""Utterances a second that the neutral parsers read: their offers, and their acts.

    python benchmarks/parsing_throughput.py [--utterances 10000] [--repeats 3] [--against OTHER_CHECKOUT]

The utterances are those of the phrasebook with every emotion and act, in four domains. With another checkout (an
earlier commit in a git worktree) both are timed in turn, each in a process of its own, on the same utterances.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.negotiation.domains import load_domain
from emodistill.negotiation.offers import parse_act, parse_offer
from emodistill.negotiation.phrasebook import bundled

DOMAINS, ACTS = ("debt", "disaster", "hospital", "student"), ("open", "press", "hold", "concede", "close")
STANDING = 90.0  # the other side's offer


def utterances(count: int) -> list[tuple[str, str]]:
    """`count` pairs of a domain and an utterance, drawn with seed 0."""
    rng, found = np.random.default_rng(0), []
    for domain, emotion, act in itertools.product(DOMAINS, load_vocabulary().labels, ACTS):
        rules = load_domain(domain)
        offer = rules.say(rules.snap(float(rng.uniform(*rules.bounds))))
        for line, sentence in itertools.product(
            bundled().lines(emotion, act, domain), bundled().sentences(emotion, act, domain)
        ):
            found.append((domain, f"{line} {sentence}".replace("{offer}", offer)))
    return [found[i] for i in rng.integers(len(found), size=count)]


def seconds(count: int) -> dict[str, float]:
    """Processor time that each parser takes for `count` utterances; what they read once only is read before."""
    texts = utterances(count)
    for domain in DOMAINS:
        parse_offer("45 days", domain)
    begin = time.process_time()
    for domain, text in texts:
        parse_offer(text, domain)
    between = time.process_time()
    for domain, text in texts:
        parse_act(text, domain, STANDING)
    return {"offers": between - begin, "acts": time.process_time() - between}


def in_checkout(folder: Path, count: int) -> dict[str, float]:
    """The same, measured in a fresh process on the sources of another checkout."""
    environment = {**os.environ, "PYTHONPATH": str(folder / "src")}
    command = [sys.executable, __file__, "--utterances", str(count), "--repeats", "0"]
    ended = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    return {kind: float(value) for kind, value in json.loads(ended.stdout).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--utterances", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--against", type=Path)
    given = parser.parse_args()
    if given.repeats == 0:
        print(json.dumps(seconds(given.utterances)))
        return
    checkouts = {"here": Path(__file__).parents[1]} | ({"there": given.against} if given.against else {})
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in checkouts}
    for _, (name, folder) in itertools.product(range(given.repeats), checkouts.items()):
        taken[name].append(in_checkout(folder, given.utterances))
    for name, kind in itertools.product(checkouts, ("offers", "acts")):
        times = [each[kind] for each in taken[name]]
        print(
            f"{name}: {kind} of {given.utterances:,} utterances: median {statistics.median(times):.2f} s,"
            f" {min(times):.2f} to {max(times):.2f} s"
        )


if __name__ == "__main__":
    main()
