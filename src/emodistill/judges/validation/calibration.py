"""Is a judge any good? Its scores of utterances that are known to be good, middling or bad.

    python -m emodistill.judges.validation.calibration --judge rubric local ensemble lm

The calibration set (`assets/judging/calibration`) has, in each domain, ten contexts with four emotions each, and for
each of these a clearly good utterance, a middling one, and a clearly bad one with the kind of fault. All were written
for this project; none is shown to a judge as an example.

For each judge and domain: how often a good utterance scores above a bad one (AUC, with a 95 % bootstrap interval over
contexts), the same against middling ones, the rank correlation with the three levels, agreement with the rubric judge,
a histogram, what each kind of fault costs, and seconds and money per judgement. A missing score enters no number but
the count of missing ones. docs/judges.md has the tables.

`arithmetic` is rubric without its sense; `outcome` needs the fit of a corpus (--fit); `arguments` is that of the
positive control; `ensemble` is the mean of rubric and local; `lm` is a model behind an endpoint (--base-url,
--lm-model, --api-key-env).
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata, spearmanr
from sklearn.metrics import cohen_kappa_score

from emodistill.emotions.perceiver import load_perceiver
from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.errors import UserError
from emodistill.judges.arguments import ArgumentsJudge
from emodistill.judges.ensemble import EnsembleJudge
from emodistill.judges.examples import read
from emodistill.judges.ledger import judgement_key
from emodistill.judges.llm import LanguageModelJudge
from emodistill.judges.local import LocalModelJudge
from emodistill.judges.outcome import OutcomeJudge
from emodistill.judges.request import Judge, Judgement, JudgeRequest, OnJudgement, add_usage, announced
from emodistill.judges.rubric import RubricJudge
from emodistill.judges.sense import Sense
from emodistill.judges.sentinel import SentinelJudge
from emodistill.language_models.client import Endpoint
from emodistill.negotiation.domains import domain_names
from emodistill.negotiation.offers import parse_offer
from emodistill.negotiation.protocol import Turn
from emodistill.negotiation.scenarios import Scenario

# Shapes: N judgements. Scores have NaN where one is missing; levels are 0 for bad, 1 for middling, 2 for good.
Scores = NDArray[np.float64]
Levels = NDArray[np.int64]
Level = Literal["good", "middling", "bad"]
LEVELS: tuple[Level, ...] = ("bad", "middling", "good")
NAMES = ("rubric", "arithmetic", "outcome", "arguments", "local", "ensemble", "lm")
_RESAMPLES = 1000


@dataclass(frozen=True)
class Case:
    """One utterance in its context with its level; `fault` names what is wrong with a bad one."""

    request: JudgeRequest
    level: Level
    fault: str | None = None


def calibrated_domains() -> list[str]:
    """The domains that have a calibration set."""
    return [name for name in domain_names() if name in {"debt", "disaster", "hospital", "student"}]


@cache
def cases(domain: str) -> list[Case]:
    """The calibration set of a domain: 120 cases.

    Raises:
        UserError: if the domain has none.
    """
    if domain not in calibrated_domains():
        raise UserError(f"domain {domain} has no calibration set; there are: {', '.join(calibrated_domains())}")
    found = []
    for entry in read(f"calibration/{domain}.yaml"):
        name, targets = f"calibration-{domain}-{entry['id']}", (entry["focal_target"], entry["counterparty_target"])
        scenario = Scenario(name, domain, *targets, entry["context"])
        history = tuple(
            Turn(i // 2 + 1, speaker, text, offer=parse_offer(text, domain))
            for i, (speaker, text) in enumerate(entry["history"])
        )
        for case in entry["cases"]:
            ((fault, bad),) = case["bad"].items()
            texts: dict[Level, str] = {"good": case["good"], "middling": case["middling"], "bad": bad}
            for level, text in texts.items():
                request = JudgeRequest(scenario, history, case["emotion"], text)
                found.append(Case(request, level, fault if level == "bad" else None))
    return found


KINDS = ("heap", "nonsense", "repetition", "non_sequitur", "copy")


def senseless(domain: str) -> list[Case]:
    """Replies without sense in the contexts of a domain, by kind (`fault`): ten of each written, and copies.

    A copy says again what the focal side or the counterparty said last.
    """
    contexts = {case.request.scenario.id: case.request for case in cases(domain)}
    found = []
    for kind, written in read("senseless.yaml").items():
        for name, emotion, text in written[domain]:
            request = replace(contexts[f"calibration-{domain}-{name}"], emotion=emotion, utterance=text)
            found.append(Case(request, "bad", kind))
    for request in contexts.values():
        found += [Case(replace(request, utterance=turn.text), "bad", "copy") for turn in request.history[-2:]]
    return found


def held_out(case: Case) -> bool:
    """Whether the constants of `judges.sense` were not fitted on a case: every second context of a domain."""
    names = list(dict.fromkeys(other.request.scenario.id for other in cases(case.request.scenario.domain)))
    return names.index(case.request.scenario.id) % 2 == 1


def scores_of(judgements: Sequence[Judgement]) -> Scores:
    """(N,) scores, NaN where one is missing."""
    return np.array([np.nan if given.score is None else given.score for given in judgements])


def levels_of(found: Sequence[Case]) -> Levels:
    """(N,) 0 for bad, 1 for middling, 2 for good."""
    return np.array([LEVELS.index(case.level) for case in found])


def auc(scores: Scores, levels: Levels, high: int = 2, low: int = 0) -> float:
    """How often an utterance of the higher level scores above one of the lower, ties half; NaN where one is absent."""
    above, below = (scores[(levels == level) & ~np.isnan(scores)] for level in (high, low))
    if not len(above) or not len(below):
        return float("nan")
    ranks = rankdata(np.concatenate([above, below]))[: len(above)]  # the Mann-Whitney statistic, a tie counting half
    return float((ranks.sum() - len(above) * (len(above) + 1) / 2) / (len(above) * len(below)))


def auc_interval(scores: Scores, levels: Levels, contexts: Sequence[str], seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of the AUC of good against bad, resampling contexts."""
    rng, names = np.random.default_rng(seed), np.array(sorted(set(contexts)))
    members = {name: np.flatnonzero(np.array(contexts) == name) for name in names}
    drawn = []
    for _ in range(_RESAMPLES):
        rows = np.concatenate([members[name] for name in rng.choice(names, len(names))])
        drawn.append(auc(scores[rows], levels[rows]))
    low, high = np.nanquantile(drawn, (0.025, 0.975)) if not np.isnan(drawn).all() else (np.nan, np.nan)
    return float(low), float(high)


def rank_correlation(scores: Scores, other: NDArray[np.float64] | Levels) -> float:
    """Spearman's rank correlation over the places where both are there; NaN where one of them is constant."""
    both = ~np.isnan(scores) & ~np.isnan(other.astype(float))
    if both.sum() < 3 or len(set(scores[both])) < 2 or len(set(other[both])) < 2:
        return float("nan")
    return float(spearmanr(scores[both], other[both]).statistic)


def agreement(scores: Scores, other: Scores) -> float:
    """Quadratically weighted kappa of two judges' scores, rounded to whole ones: 1 is the same, 0 what chance gives."""
    both = ~np.isnan(scores) & ~np.isnan(other)
    if not both.any():
        return float("nan")
    ours, theirs = (values[both].round().astype(int) for values in (scores, other))
    if len(set(ours)) == len(set(theirs)) == 1:
        return float("nan")
    return float(cohen_kappa_score(ours, theirs, weights="quadratic", labels=range(1, 11)))


def histogram(scores: Scores) -> list[int]:
    """How many scores round to 1, 2, ... 10."""
    counts = np.bincount(scores[~np.isnan(scores)].round().astype(int), minlength=11)
    return [int(count) for count in counts[1:11]]


class CalibrationResult:
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
        contexts = [case.request.scenario.id for case, here in zip(self.cases, chosen, strict=True) if here]
        low, high = auc_interval(scores, levels, contexts, self.seed)
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
        usage = add_usage(*(judgement.usage for judgement in self.judgements))
        money = "nothing" if not usage.attempts else "unknown" if usage.cost is None else f"{usage.cost:.4f} in all"
        tokens = (usage.prompt_tokens + usage.completion_tokens) / len(self.cases)
        if isinstance(self.judge, EnsembleJudge):  # its members are cached, so its own time says nothing
            return f"as long as its members together, {tokens:.0f} tokens a judgement billed, cost {money}"
        return f"{self.seconds:.4f} s a judgement, {tokens:.0f} tokens a judgement billed, cost {money}"


def _mean(values: Scores) -> float:
    return float(np.nanmean(values)) if not np.isnan(values).all() else float("nan")


def report(name: str, judge: Judge, calibration: CalibrationResult, reference: Scores) -> None:
    """Print all that is measured of one judge."""
    print(f"\n{name} ({judge.version})\n")
    columns = ["domain", "AUC good / bad [95 %]", "good / middling", "middling / bad", "rank correlation"]
    columns += ["with rubric: rank", "kappa", "mean good / middling / bad", "missing"]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
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


class CachedJudge:
    """Asks a judge the same thing only once in this process, so that an ensemble need not ask its members again."""

    def __init__(self, judge: Judge) -> None:
        self.judge_behind, self.name, self.version = judge, judge.name, judge.version
        self._known: dict[str, Judgement] = {}

    def judge(self, requests: Sequence[JudgeRequest], on_judgement: OnJudgement | None = None) -> list[Judgement]:
        """See `Judge.judge`."""
        keys = [judgement_key(self.judge_behind, request) for request in requests]
        new = {key: request for key, request in zip(keys, requests, strict=True) if key not in self._known}
        self._known |= dict(zip(new, self.judge_behind.judge(list(new.values())), strict=True))
        return announced([self._known[key] for key in keys], on_judgement)


def add_judge_options(parser: argparse.ArgumentParser, more: Sequence[str] = ()) -> None:
    """The options that say which judges, and how they are made.

    Args:
        more: names of judges that the caller makes itself.
    """
    parser.add_argument(
        "--judge", nargs="+", choices=(*NAMES, *more), default=["rubric"], help="which judges to measure"
    )
    parser.add_argument(
        "--model",
        default="embedded",
        help="of local, and of the sense of rubric and outcome: embedded, a folder or hub id",
    )
    parser.add_argument("--dtype", default="float32", help="of local")
    parser.add_argument("--fit", help="of outcome: the .npz that it has kept of a corpus (docs/judges.md)")
    parser.add_argument("--base-url", help="of lm: address of the endpoint, up to /v1")
    parser.add_argument("--lm-model", help="of lm: the model's name there")
    parser.add_argument("--api-key-env", help="of lm: name of the environment variable with the key")
    parser.add_argument("--max-tokens", type=int, default=32, help="of lm: most tokens of a reply")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    parser.add_argument("--domains", nargs="+", default=calibrated_domains(), metavar="DOMAIN")


def judges(options: argparse.Namespace, defended: bool = True, sentinel: bool = False) -> dict[str, Judge]:
    """The judges that were asked for, by name.

    Args:
        defended: with what keeps a judged text from talking a model into a score.
        sentinel: with probes where the configuration has them too, which is for `lm`.
    """
    made: dict[str, Judge] = {}
    wanted = options.judge
    rubric = partial(RubricJudge, load_vocabulary(), load_perceiver("judge"))
    if {"rubric", "ensemble"} & set(wanted):
        made["rubric"] = CachedJudge(rubric(sense=Sense(options.model)))
    if "arithmetic" in wanted:
        made["arithmetic"] = CachedJudge(rubric())
    if "outcome" in wanted:
        outcome = OutcomeJudge(load_perceiver("judge"), fit=options.fit, sense=Sense(options.model))
        made["outcome"] = CachedJudge(outcome)
    if "arguments" in wanted:
        made["arguments"] = CachedJudge(ArgumentsJudge())
    if {"local", "ensemble"} & set(wanted):
        made["local"] = CachedJudge(LocalModelJudge(options.model, options.dtype, defended=defended))
    if "ensemble" in wanted:
        made["ensemble"] = EnsembleJudge({"rubric": made["rubric"], "local": made["local"]})
    if "lm" in wanted:
        judge = LanguageModelJudge(_endpoint(options), max_tokens=options.max_tokens, defended=defended)
        made["lm"] = SentinelJudge(judge) if sentinel and defended else judge
    return {name: made[name] for name in wanted}


def _endpoint(options: argparse.Namespace) -> Endpoint:
    if not options.base_url or not options.lm_model:
        raise UserError("--judge lm needs --base-url and --lm-model")
    return Endpoint(options.base_url, options.lm_model, options.api_key_env)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_judge_options(parser)
    options = parser.parse_args()
    print(f"{len(options.domains)} domains, seed {options.seed}")
    asked = judges(options)
    rubric = judges(argparse.Namespace(judge=["rubric"], model=options.model))["rubric"]
    reference = CalibrationResult(rubric, options.domains, options.seed).scores
    for name, judge in asked.items():
        report(name, judge, CalibrationResult(judge, options.domains, options.seed), reference)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
