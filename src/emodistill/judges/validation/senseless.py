"""Do replies without sense score low, and good ones as before? Heaps, nonsense, repetitions, non-sequiturs, copies.

    python -m emodistill.judges.validation.senseless --judge arithmetic rubric

The replies are those of `assets/judging/senseless.yaml`, and copies of what either side said last, in the contexts of
the calibration set. The constants of `judges.sense` were fitted on every second context of a domain; the others were
looked at when its features were chosen, so they are held out from the fit and no clean test (docs/judges.md). A reply
counts as caught below a score of 4. Good ones are those of the calibration set; their change is that against the
arithmetic alone.
"""

import argparse
import sys
import time
from collections.abc import Sequence

import numpy as np

from emodistill.errors import UserError
from emodistill.judges.request import Judge
from emodistill.judges.validation.calibration import (
    KINDS,
    Case,
    Scores,
    add_judge_options,
    auc,
    cases,
    held_out,
    judges,
    scores_of,
    senseless,
)

CAUGHT = 4.0  # a score below this


def measured(domains: Sequence[str]) -> tuple[list[Case], list[Case]]:
    """The replies without sense and the good ones of these domains."""
    bad = [case for domain in domains for case in senseless(domain)]
    return bad, [case for domain in domains for case in cases(domain) if case.level == "good"]


def table(judge: Judge, plain: Judge, domains: Sequence[str]) -> list[str]:
    """Caught by kind, change of good ones, AUC of good against senseless: fitted on, and held out.

    Args:
        plain: the judge that good scores are compared with.
    """
    bad, good = measured(domains)
    scores = scores_of(judge.judge([case.request for case in (*bad, *good)]))
    before = scores_of(plain.judge([case.request for case in good]))
    of_bad, of_good = scores[: len(bad)], scores[len(bad) :]
    kind = np.array([case.fault for case in bad])
    parts = {"contexts fitted on": False, "held-out contexts": True}
    rows = [f"| | {' | '.join(parts)} |", "|---|---|---|"]
    chosen = {
        name: (np.array([held_out(one) == flag for one in bad]), np.array([held_out(one) == flag for one in good]))
        for name, flag in parts.items()
    }
    for name in KINDS:
        rows.append(_row(f"{name} caught", [_caught(of_bad[mine & (kind == name)]) for mine, _ in chosen.values()]))
    changes = [np.abs(of_good[ours] - before[ours]) for _, ours in chosen.values()]
    rows.append(_row("good: mean change, worst", [f"{one.mean():.2f}, {one.max():.1f}" for one in changes]))
    rows.append(_row("good: share that changed", [f"{100 * (one > 0).mean():.1f} %" for one in changes]))
    rows.append(_row("AUC good / senseless", [_auc(of_good[ours], of_bad[mine]) for mine, ours in chosen.values()]))
    return rows


def _row(name: str, cells: Sequence[str]) -> str:
    return f"| {name} | {' | '.join(cells)} |"


def _caught(scores: Scores) -> str:
    return f"{int((scores < CAUGHT).sum())} of {len(scores)} (mean {np.mean(scores):.1f})" if len(scores) else "-"


def _auc(good: Scores, bad: Scores) -> str:
    levels = np.array([2] * len(good) + [0] * len(bad))
    return f"{auc(np.concatenate([good, bad]), levels):.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_judge_options(parser)
    options = parser.parse_args()
    plain = judges(argparse.Namespace(judge=["arithmetic"]))["arithmetic"]
    for name, judge in judges(options).items():
        began = time.monotonic()
        lines = table(judge, plain, options.domains)
        print(f"\n{name} ({judge.version}), {time.monotonic() - began:.0f} s\n")
        print("\n".join(lines), flush=True)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
