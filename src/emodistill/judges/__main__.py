"""Look into a ledger of judgements.

    python -m emodistill.judges LEDGER [--judge NAME] [--export FILE.parquet]

Shows for each version of each judge how many judgements there are and how many of them have a score, what they cost,
how scores are spread over emotions and domains, whether they drift with time, and why scores are missing.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from emodistill.errors import UserError
from emodistill.judges.ledger_export import export
from emodistill.judges.ledger_figures import failures, judge_figures
from emodistill.judges.ledger_rows import Ledger
from emodistill.judges.ledger_tables import show, terminal


def main(arguments: Sequence[str]) -> int:
    """Show or export one ledger; 2 and one sentence on a user's mistake."""
    parser = argparse.ArgumentParser(
        prog="python -m emodistill.judges", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ledger", type=Path, help="the SQLite file, checkpoints/ledger.sqlite for example")
    parser.add_argument("--judge", help="only judgements of the judge of this name")
    parser.add_argument("--export", type=Path, metavar="FILE.parquet", help="write the judgements to a Parquet file")
    given = parser.parse_args(arguments)
    try:
        look(given.ledger, given.judge, given.export)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def look(path: Path, judge: str | None, to: Path | None) -> None:
    """Print the tables of a ledger; export it where `to` says so.

    Raises:
        UserError: if there is no ledger, or nothing in it of that judge.
    """
    if not path.is_file():
        raise UserError(f"there is no ledger {path}; a run makes checkpoints/ledger.sqlite unless told otherwise")
    with Ledger(path) as ledger:
        judges = judge_figures(ledger, judge)
        if not judges and judge is not None:
            names = sorted({one.name for one in judge_figures(ledger)})
            raise UserError(f"{path} has no judgement of {judge!r}; it knows {', '.join(names) or 'no judge'}")
        console = terminal()
        if judges:
            show(console, judges, failures(ledger, judge))
        else:
            console.print(f"{path} is empty")
        if to is not None:
            console.print(f"{export(ledger, to, judge)} judgements written to {to}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
