"""Fits the constants of `judges.sense` that depend on the base model: those of the signs `fluent` and `relevant`.

    python -m emodistill.judges.validation.sense_fit [--model MODEL] [--domains debt student]

It prints them as `configs/judge/member/rubric.yaml` takes them, and what a rubric with them catches.

1. *Directions.* Two logistic regressions on every second context of a domain: heaps and nonsense against good replies,
   and non-sequiturs and replies off the topic against them. Good are those of the calibration set and the teacher's
   lines with the same emotion and offer. Every kind weighs alike.
2. *Thresholds.* The pair, on a grid, that costs good replies the least of their arithmetic score, among those by which
   95 % of each kind without sense score below 4 in the same contexts.

The other contexts of a domain are held out from both steps.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from emodistill.emotions.perceiver import load_perceiver
from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.errors import UserError
from emodistill.judges.rubric import RubricJudge
from emodistill.judges.sense import Sense, Signs
from emodistill.judges.validation.calibration import (
    Case,
    calibrated_domains,
    cases,
    held_out,
    scores_of,
    senseless,
)
from emodistill.judges.validation.senseless import CAUGHT, table
from emodistill.negotiation.offers import parse_offer
from emodistill.negotiation.phrasebook import bundled, utterance

Floats = NDArray[np.float64]
FLUENT, RELEVANT = ("mean", "low", "rarity"), ("gain", "known", "foreign", "rarity")
STEEPNESS = 6.0  # of the signs: one unit of log odds below the threshold takes a score down to 1/400
SHARE = 0.95  # of each kind that has to be caught
MOST_LOST = 2.0  # points of their score that good replies may lose on average
GRID = np.round(np.arange(-2.0, 4.01, 0.1), 1)  # of the thresholds, in log odds
SEED = 0  # of the teacher's lines


def material(domains: Sequence[str]) -> list[Case]:
    """Good replies, the teacher's (fault `teacher`), those without sense and those off the topic."""
    found = [case for domain in domains for case in cases(domain)]
    good = [case for case in found if case.level == "good"]
    return [
        *good,
        *_teacher(good),
        *(case for case in found if case.fault == "off_topic"),
        *(case for domain in domains for case in senseless(domain) if case.fault != "copy"),
    ]


def _teacher(good: Sequence[Case]) -> Iterator[Case]:
    """The phrasebook's words for each good reply that states an offer and shows an emotion."""
    rng, book = np.random.default_rng(SEED), bundled()
    for case in good:
        request = case.request
        domain, offer = request.scenario.domain, parse_offer(request.utterance, request.scenario.domain)
        if offer is None or request.emotion not in book.emotions:
            continue
        line = rng.choice(book.lines(request.emotion, "press", domain))
        sentence = str(rng.choice(book.sentences(request.emotion, "press", domain)))
        words = utterance(str(line), sentence.replace("{offer}", request.scenario.rules.say(offer)))
        yield Case(replace(request, utterance=words), "good", "teacher")


def fitted(features: Sequence[dict[str, float]], scores: Floats, kinds: Sequence[str], own: Floats) -> Signs:
    """The signs for these replies, all of them from contexts to fit on.

    Args:
        scores: (N,) of the arithmetic alone.
        kinds: good, teacher, off_topic, heap, nonsense, repetition or non_sequitur.
        own: (N,) the smaller of the two other signs, which do not depend on the model.

    Raises:
        UserError: if no thresholds catch enough without harm to good replies.
    """
    kind = np.array(kinds)
    is_good = np.isin(kind, ("good", "teacher"))
    fluent = _direction(_columns(features, FLUENT), kind, ("heap", "nonsense"))
    relevant = _direction(_columns(features, RELEVANT), kind, ("non_sequitur", "off_topic"))
    of_fluent = fluent[0] + _columns(features, FLUENT) @ fluent[1:]
    of_relevant = relevant[0] + _columns(features, RELEVANT) @ relevant[1:]
    best: tuple[float, float, float] | None = None
    for one in GRID:
        for other in GRID:
            sign = np.minimum(STEEPNESS * np.minimum(of_fluent + one, of_relevant + other), own)
            judged = 1 + (scores - 1) * np.exp(np.minimum(sign, 0))
            if min((judged[kind == name] < CAUGHT).mean() for name in ("heap", "nonsense", "non_sequitur")) >= SHARE:
                cost = float((scores - judged)[is_good].mean())
                if best is None or cost < best[0]:
                    best = (cost, one, other)
    if best is None or best[0] > MOST_LOST:
        raise UserError(
            f"no thresholds catch {SHARE:.0%} of each kind without harm to good replies: this model cannot tell sense "
            "from nonsense well enough; choose another one with --model"
        )
    _, one, other = best
    fluent[0] += one
    relevant[0] += other
    constants = [tuple(np.round(STEEPNESS * weights, 1).tolist()) for weights in (fluent, relevant)]
    return Signs(fluent=constants[0], relevant=constants[1])


def _columns(features: Sequence[dict[str, float]], names: Sequence[str]) -> Floats:
    return np.array([[one[name] for name in names] for one in features])


def _direction(columns: Floats, kind: NDArray[np.str_], bad: Sequence[str]) -> Floats:
    """(1 + F,) constant and weights of the log odds that a reply is good."""
    good = ("good", "teacher")
    chosen = np.isin(kind, (*good, *bad))
    mean, spread = columns[chosen].mean(axis=0), columns[chosen].std(axis=0)
    weight = np.zeros(len(kind))
    for names in (good, bad):
        for name in names:
            weight[kind == name] = 100 / len(names) / max((kind == name).sum(), 1)
    model = LogisticRegression(C=3.0).fit(
        (columns[chosen] - mean) / spread, np.isin(kind[chosen], good), sample_weight=weight[chosen]
    )
    weights = model.coef_[0] / spread
    return np.array([model.intercept_[0] - (weights * mean).sum(), *weights])


def fit(model: str, domains: Sequence[str]) -> Signs:
    """The signs for a base model."""
    chosen = [case for case in material(domains) if not held_out(case)]
    requests = [case.request for case in chosen]
    sense = Sense(model)
    own = np.array([min(signs["unrepeated"], signs["own"]) for signs in sense.signs_of(requests)])
    kinds = [case.fault or case.level for case in chosen]
    return fitted(sense.features(requests, all_gains=True), scores_of(_rubric().judge(requests)), kinds, own)


def _rubric(sense: Sense | None = None) -> RubricJudge:
    return RubricJudge(load_vocabulary(), load_perceiver("judge"), sense=sense)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded", help="embedded, a folder or a hub id")
    parser.add_argument("--domains", nargs="+", default=calibrated_domains(), metavar="DOMAIN")
    given = parser.parse_args()
    signs = fit(given.model, given.domains)
    print(f"sense:\n  signs:\n    fluent: {list(signs.fluent)}\n    relevant: {list(signs.relevant)}\n")
    print("\n".join(table(_rubric(Sense(given.model, signs=signs)), _rubric(), given.domains)))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
