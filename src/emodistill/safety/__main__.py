"""Measure the safety detector, or scan recorded dialogues with it.

    python -m emodistill.safety
    python -m emodistill.safety EPISODES.parquet [...] [--examples 10]
    python -m emodistill.safety --text "Pay now or you will regret it."

Without arguments: precision, recall and false positives of each kind on both halves of the labelled utterances. With
Parquet files of episodes: how many of the focal side's turns are flagged, and examples of them.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from emodistill.data.schema import read_episodes
from emodistill.errors import UserError
from emodistill.reporting.formats import print_table
from emodistill.safety.detector import Flags, default_detector
from emodistill.safety.measures import HALVES, error_table, load_labelled, scan


def main(arguments: Sequence[str]) -> int:
    """Measure, scan, or explain one text; 2 and one sentence on a user's mistake."""
    parser = argparse.ArgumentParser(
        prog="python -m emodistill.safety", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("episodes", type=Path, nargs="*", metavar="EPISODES.parquet")
    parser.add_argument("--examples", type=int, default=10, help="flagged turns shown for each file (default 10)")
    parser.add_argument("--text", help="say what is found in this text, and why")
    given = parser.parse_args(arguments)
    try:
        if given.text is not None:
            print(explain(given.text, default_detector().detect([given.text])[0]))
        elif given.episodes:
            for path in given.episodes:
                show_scan(path, given.examples)
        else:
            show_error()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def explain(text: str, flags: Flags) -> str:
    """Every find of a text with the words that it was found in."""
    found = [
        f"{match.kind}: «{text[match.start : match.end]}» by the pattern {match.pattern}" for match in flags.matches
    ]
    return "\n".join(found) or "nothing found"


def show_error() -> None:
    """Print the error table and how fast the detector is."""
    detector = default_detector()
    print_table(error_table(detector))
    texts = [utterance.text for half in HALVES for utterance in load_labelled(half)] * 20
    start = time.perf_counter()
    detector.detect(texts)
    print(f"{len(texts) / (time.perf_counter() - start):,.0f} utterances a second")


def show_scan(path: Path, examples: int) -> None:
    """Print the rates of one file of episodes, and its first flagged turns.

    Raises:
        UserError: if the file is no corpus of episodes.
    """
    table, findings = scan(default_detector(), read_episodes(path))
    print(path)
    print_table(table)
    for finding in findings[:examples]:
        kinds = ", ".join(f"{m.kind} «{finding.text[m.start : m.end]}»" for m in finding.flags.matches)
        print(f"  {finding.episode}: {finding.text}\n    {kinds}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
