"""How long a report of many episodes takes to write, its page to load in Chromium, a transcript to open, words to find.

    python benchmarks/report_page.py [--episodes 1000] [--repeats 5] [--selector checkpoints/demo/iql/best.ckpt]

The episodes are played by the phrasebook with random emotions in four domains, under five names.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from playwright.sync_api import Locator, Page, sync_playwright

from emodistill.counterparties.specs import SimulatedCounterpartySpec
from emodistill.data.schema import Episode
from emodistill.emotions.perceiver import load_perceiver
from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.evaluation.results import ArmResult
from emodistill.negotiation.agents import FocalAgent, UniformEmotion
from emodistill.negotiation.engine import play
from emodistill.negotiation.generator import generate_scenarios
from emodistill.negotiation.phrasebook import PhrasebookSpeaker
from emodistill.negotiation.protocol import Negotiation
from emodistill.negotiation.schedule import ConcessionSchedule
from emodistill.reporting.figures.episodes import emotion_use, offer_trajectories
from emodistill.reporting.report import write_report
from emodistill.reporting.results import AnalysisResult, StudyResult
from emodistill.safety.detector import detect

ARMS = ("one", "two", "three", "four", "five")
DOMAINS = ("debt", "disaster", "hospital", "student")
PERSONAS = ("vanilla", "pressure", "victim", "threat")
WORDS = load_vocabulary()
SCHEDULE = ConcessionSchedule(start=1.0, reserve=0.3, rounds=10, exponent=1.0)


def episodes(count: int, offset: int) -> list[Episode]:
    """`count` episodes over four domains and five scenarios each, with other draws for each offset."""
    scenarios = [scenario for domain in DOMAINS for scenario in generate_scenarios(domain, 5)]
    games = [Negotiation(scenarios[i % len(scenarios)], i // len(scenarios) + 1000 * offset) for i in range(count)]
    focal = FocalAgent(UniformEmotion(WORDS), SCHEDULE, PhrasebookSpeaker(WORDS))
    play(games, focal, SimulatedCounterpartySpec(list(PERSONAS)).open(), lambda finished, total: None)
    return [Episode.of(game, "test", "uniform", "phrasebook") for game in games]


def written(folder: Path, count: int, selector: Path | None) -> float:
    """Write a report; returns seconds."""
    played = [ArmResult(arm, episodes(count // len(ARMS), i)) for i, arm in enumerate(ARMS)]
    figures = [figure for figure in (emotion_use(played, WORDS), offer_trajectories(played)) if figure]
    perceiver = load_perceiver("counterparty")
    perceiver.probabilities(["warm"])
    start = time.perf_counter()
    about = {"run": "benchmark"}
    result = StudyResult(played, {"behaviour": AnalysisResult(figures=figures)}, about, WORDS, perceiver, selector)
    write_report(folder, result, detect)
    return time.perf_counter() - start


def timed(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def follow(page: Page, row: Locator) -> None:
    row.click()
    page.locator(".transcript h3").wait_for()


def in_browser(address: str, repeats: int) -> dict[str, list[float]]:
    """Seconds of each action, once a repeat."""
    browser = next(path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name)))
    found: dict[str, list[float]] = {"load": [], "open a transcript": [], "search all words": [], "choose an arm": []}
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        for _ in range(repeats):
            page = chromium.new_page()
            found["load"].append(timed(partial(page.goto, address)))
            page.locator("#results a").nth(2).wait_for()
            row = page.locator("#results a").nth(2)
            found["open a transcript"].append(timed(partial(follow, page, row)))
            found["search all words"].append(timed(partial(page.fill, "#filter-words", "instalment")))
            found["choose an arm"].append(timed(partial(page.select_option, "#filter-arm", "two")))
            page.close()
        chromium.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--selector", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seconds = written(folder, given.episodes, given.selector)
        size = (folder / "report.html").stat().st_size / 1e6
        print(f"{given.episodes} episodes: written in {seconds:.1f} s, report.html {size:.1f} MB")
        for action, values in in_browser((folder / "report.html").as_uri(), given.repeats).items():
            print(f"{action}: median {statistics.median(values):.2f} s, worst {max(values):.2f} s of {len(values)}")


if __name__ == "__main__":
    main()
