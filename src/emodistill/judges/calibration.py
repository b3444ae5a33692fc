"""Is a judge any good? Its scores of utterances that are known to be good, middling or bad.

    python -m emodistill.judges.calibration --judge rubric local ensemble

For each judge and domain: how often a good utterance scores above a bad one (AUC, with a 95 % bootstrap interval over
situations), the same against middling ones, the rank correlation with the three levels, agreement with the rubric
judge, a histogram, what each kind of fault costs, and seconds and money a judgement. docs/judges.md has the tables.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence

import numpy as np

from emodistill.errors import UserError
from emodistill.judges.bench import add_options, judges
from emodistill.judges.calibration_set import LEVELS, Case, calibrated_domains, cases
from emodistill.judges.ensemble import EnsembleJudge
from emodistill.judges.measures import Levels, Scores, agreement, auc, auc_interval, histogram, rank_correlation
from emodistill.judges.probed import together
from emodistill.judges.request import Judge, Judgement


def scores_of(judgements: Sequence[Judgement]) -> Scores:
    """(N,) scores, NaN where one is missing."""
    return np.array([np.nan if given.score is None else given.score for given in judgements])


def levels_of(found: Sequence[Case]) -> Levels:
    """(N,) 0 for bad, 1 for middling, 2 for good."""
    return np.array([LEVELS.index(case.level) for case in found])


class Calibration:
    """One judge's judgements of the whole set."""

    def __init__(self, judge: Judge, domains: Sequence[str], seed: int) -> None:
        self.judge, self.domains, self.seed = judge, domains, seed
        self.cases = [case for domain in domains for case in cases(domain)]
        self.domain = np.array([case.request.scenario.domain for case in self.cases])
        first = {domain: cases(domain)[0].request for domain in domains}
        judge.judge(list(first.values()))  # whatever is made once, a model or a connection, is no part of the time
        began = time.perf_counter()
        self.judgements = judge.judge([case.request for case in self.cases])
        self.seconds = (time.perf_counter() - began) / len(self.cases)
        self.scores, self.levels = scores_of(self.judgements), levels_of(self.cases)

    def row(self, domain: str | None, reference: Scores) -> str:
        """One line of the first table."""
        chosen = np.full(len(self.cases), True) if domain is None else self.domain == domain
        scores, levels = self.scores[chosen], self.levels[chosen]
        situations = [case.request.scenario.id for case, here in zip(self.cases, chosen, strict=True) if here]
        low, high = auc_interval(scores, levels, situations, self.seed)
        means = " / ".join(f"{_mean(scores[levels == level]):.1f}" for level in (2, 1, 0))
        cells = [
            f"{auc(scores, levels):.3f} [{low:.3f}, {high:.3f}]",
            f"{auc(scores, levels, 2, 1):.3f}",
            f"{auc(scores, levels, 1, 0):.3f}",
            f"{rank_correlation(scores, levels):.2f}",
            f"{rank_correlation(scores, reference[chosen]):.2f}",
            f"{agreement(scores, reference[chosen]):.2f}",
            means,
            f"{int(np.isnan(scores).sum())}",
        ]
        return f"| {domain or 'all'} | {' | '.join(cells)} |"

    def faults(self) -> str:
        """For each kind of fault: the mean score, and how often a good utterance of the same domain scores higher."""
        kinds = sorted({case.fault for case in self.cases if case.fault})
        fault = np.array([case.fault or "" for case in self.cases])
        parts = []
        for kind in kinds:
            rates = []
            for domain in self.domains:
                chosen = (self.domain == domain) & ((self.levels == 2) | (fault == kind))
                rates.append(auc(self.scores[chosen], self.levels[chosen]))
            parts.append(f"{kind} {_mean(self.scores[fault == kind]):.1f} ({np.nanmean(rates):.2f})")
        return ", ".join(parts)

    def cost(self) -> str:
        usage = together(*(judgement.usage for judgement in self.judgements))
        money = "nothing" if not usage.attempts else "unknown" if usage.cost is None else f"{usage.cost:.4f} in all"
        tokens = (usage.prompt_tokens + usage.completion_tokens) / len(self.cases)
        if isinstance(self.judge, EnsembleJudge):  # its members remember, so its own time says nothing
            return f"as long as its members together, {tokens:.0f} tokens a judgement billed, cost {money}"
        return f"{self.seconds:.4f} s a judgement, {tokens:.0f} tokens a judgement billed, cost {money}"


def _mean(values: Scores) -> float:
    return float(np.nanmean(values)) if not np.isnan(values).all() else float("nan")


def report(name: str, judge: Judge, calibration: Calibration, reference: Scores) -> None:
    """Print all that is measured of one judge."""
    print(f"\n{name} ({judge.version})\n")
    print(
        "| domain | AUC good / bad [95 %] | good / middling | middling / bad | rank correlation | with rubric: rank ",
        end="",
    )
    print("| kappa | mean good / middling / bad | missing |\n|---|---|---|---|---|---|---|---|---|")
    for domain in (*calibration.domains, None):
        print(calibration.row(domain, reference))
    for level in (2, 1, 0):
        counts = histogram(calibration.scores[calibration.levels == level])
        print(f"{'' if level < 2 else chr(10)}scores 1 to 10 of {LEVELS[level]}: {counts}")
    print(f"\nmean score by fault (share of good ones above it): {calibration.faults()}")
    print(calibration.cost())
    reasons = Counter((given.reason or "")[:80] for given in calibration.judgements if given.score is None)
    for reason, count in reasons.most_common(5):
        print(f"missing {count}: {reason}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--domains", nargs="+", default=calibrated_domains())
    options = parser.parse_args()
    print(f"{len(options.domains)} domains, seed {options.seed}")
    asked = judges(options)
    rubric = judges(argparse.Namespace(judge=["rubric"]))["rubric"]
    reference = Calibration(rubric, options.domains, options.seed).scores
    for name, judge in asked.items():
        report(name, judge, Calibration(judge, options.domains, options.seed), reference)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
