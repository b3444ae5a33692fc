"""Whole dialogues as Markdown, to be read: some drawn by chance, and the worst.

    python -m emodistill.evaluation.dialogues checkpoints/demo/evaluation/episodes/emodistill.parquet

Of each domain `--drawn` episodes are drawn by the seed, and the `--worst` of lowest utility to the focal side are added
(the first of them in the file's order where several are equal). So nobody picks what is shown.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from emodistill.data.schema import Episode, read_episodes
from emodistill.errors import UserError
from emodistill.negotiation.domains import load_domain
from emodistill.negotiation.protocol import Turn


def chosen(episodes: Sequence[Episode], drawn: int, worst: int, seed: int) -> list[Episode]:
    """Of each domain the episodes of lowest utility, and others drawn by the seed; in the order of the file."""
    rng = np.random.default_rng(seed)
    found: list[int] = []
    for domain in dict.fromkeys(one.scenario.domain for one in episodes):
        places = [place for place, one in enumerate(episodes) if one.scenario.domain == domain]
        lowest = sorted(places, key=lambda place: episodes[place].utility)[:worst]
        others = [place for place in places if place not in lowest]
        more = rng.permutation(len(others))[:drawn]
        found += sorted([*lowest, *(others[place] for place in more)])
    return [episodes[place] for place in found]


def as_markdown(episode: Episode) -> str:
    """A heading with scenario, both targets and result; then each turn with the emotion that was to be shown."""
    scenario, rules = episode.scenario, load_domain(episode.scenario.domain)
    targets = " against ".join(rules.say(value) for value in (scenario.focal_target, scenario.counterparty_target))
    ended = episode.end if episode.deal_value is None else f"{episode.end} at {rules.say(episode.deal_value)}"
    head = f"**{scenario.id}**, {targets}; {episode.counterparty}; {ended}, utility {episode.utility:.2f}"
    return "\n\n".join([head, "\\\n".join(_line(turn, rules.roles) for turn in episode.turns)])


def _line(turn: Turn, roles: dict[str, str]) -> str:
    shown = f" ({turn.emotion})" if turn.emotion else ""
    added = " [the last sentence was added]" if turn.offer_appended else ""
    return f"{roles[turn.speaker].capitalize()}{shown}: {_plain(turn.text)}{added}"


def _plain(text: str) -> str:
    """Without what Markdown would take for formatting."""
    return "".join(f"\\{sign}" if sign in "*_<>`[]|\\" else sign for sign in " ".join(text.split()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("episodes", type=Path, help="episodes of one arm, a Parquet file")
    parser.add_argument("--drawn", type=int, default=3, help="a domain (3)")
    parser.add_argument("--worst", type=int, default=2, help="a domain (2)")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if min(given.drawn, given.worst, given.seed) < 0:
        parser.error("--drawn, --worst and --seed are whole numbers from 0")
    episodes = read_episodes(given.episodes)
    print("\n\n".join(as_markdown(one) for one in chosen(episodes, given.drawn, given.worst, given.seed)))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
