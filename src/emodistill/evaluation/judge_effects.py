"""Does a judge's score say what the counterparty then does? Rank correlations within groups of the same context.

    python -m emodistill.evaluation.judge_effects EPISODES.parquet --judge arithmetic rubric

For focal turns of the validation split: the score of the words, and what followed them,

- *concession*: how far the counterparty's next offer moved towards the focal side's target, in position; where it
  accepts, how far the agreed offer lies beyond its last one. Turns before its first offer, and walking away, have none.
- *mood*: warm minus cold feelings in its next words, as the judge's perceiver reads them.

Turns form a group if they have scenario, counterparty and round in common. In the first round their contexts are the
same to the letter; later ones differ in what was said before. Within a group scores and effects are replaced by their
ranks, centred; the correlation of all of these is Spearman's, without what differs between groups. Intervals are
bootstraps over groups.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from emodistill.data.corpus import CorpusFile
from emodistill.data.schema import Episode, read_episodes
from emodistill.emotions.perceiver import GOEMOTIONS, load_perceiver
from emodistill.errors import UserError
from emodistill.judges.outcome import OutcomeJudge
from emodistill.judges.request import Judge, JudgeRequest
from emodistill.judges.validation.calibration import add_judge_options, judges, scores_of
from emodistill.negotiation.protocol import COUNTERPARTY, FOCAL

Values = NDArray[np.float64]
# Positive and negative labels after Demszky et al. 2020 (GoEmotions), table 2; the others count for neither
WARM = {"admiration", "amusement", "approval", "caring", "desire", "excitement", "gratitude", "joy", "love"}
WARM |= {"optimism", "pride", "relief"}
COLD = {"anger", "annoyance", "disappointment", "disapproval", "disgust", "embarrassment", "fear", "grief"}
COLD |= {"nervousness", "remorse", "sadness"}
LEAST = 3  # turns in a group
_RESAMPLES = 1000


@dataclass(frozen=True)
class Effect:
    """A focal turn with what followed it.

    Attributes:
        group: turns of one group are compared.
        concession: in position; NaN where there is none.
        answer: the counterparty's next words.
    """

    request: JudgeRequest
    group: tuple[str, str, int]
    concession: float
    answer: str


def effects(episodes: Sequence[Episode]) -> list[Effect]:
    """Every focal turn that was answered, in the order of the episodes, in groups of at least `LEAST`."""
    found = [
        Effect(
            JudgeRequest(episode.scenario, episode.turns[:place], turn.emotion, turn.text),
            (f"{episode.scenario.domain}/{episode.scenario.id}", episode.counterparty, turn.round),
            _concession(episode, place + 1),
            episode.turns[place + 1].text,
        )
        for episode in episodes
        if episode.end != "invalid"
        for place, turn in enumerate(episode.turns[:-1])
        if turn.speaker == FOCAL and episode.turns[place + 1].speaker == COUNTERPARTY
    ]
    sizes: dict[tuple[str, str, int], int] = {}
    for one in found:
        sizes[one.group] = sizes.get(one.group, 0) + 1
    return [one for one in found if sizes[one.group] >= LEAST]


def _concession(episode: Episode, place: int) -> float:
    answer, before = episode.turns[place], episode.turns[:place]
    own, theirs = (
        [turn.offer for turn in before if turn.speaker == side and turn.offer is not None]
        for side in (FOCAL, COUNTERPARTY)
    )
    offer = (own[-1] if own else None) if answer.act == "accept" else answer.offer
    if answer.act == "walk_away" or offer is None or not theirs:
        return float("nan")
    return episode.scenario.position(offer) - episode.scenario.position(theirs[-1])


def mood(answers: Sequence[str]) -> Values:
    """(N,) share of warm feelings minus that of cold ones in each text."""
    sign = np.array([float(label in WARM) - float(label in COLD) for label in GOEMOTIONS])
    result: Values = load_perceiver("judge").probabilities(answers).astype(float) @ sign
    return result


def within_groups(
    scores: Values, effect: Values, groups: Sequence[object], seed: int = 0
) -> tuple[float, float, float]:
    """Rank correlation within groups, and its 95 % bootstrap interval over groups; NaN where nothing varies."""
    members: dict[object, list[int]] = {}
    for place in np.flatnonzero(~np.isnan(scores) & ~np.isnan(effect)).tolist():
        members.setdefault(groups[place], []).append(place)
    centred = [
        np.stack([ranks - ranks.mean() for ranks in (rankdata(scores[rows]), rankdata(effect[rows]))])
        for rows in members.values()
        if len(rows) >= LEAST
    ]
    sums = np.array([[(a * b).sum(), (a * a).sum(), (b * b).sum()] for a, b in centred]).reshape(-1, 3)
    if not len(sums):
        return float("nan"), float("nan"), float("nan")
    drawn = np.random.default_rng(seed).integers(0, len(sums), (_RESAMPLES, len(sums)))
    with np.errstate(invalid="ignore", divide="ignore"):
        totals = np.array([sums.sum(0), *(sums[rows].sum(0) for rows in drawn)])
        found = totals[:, 0] / np.sqrt(totals[:, 1] * totals[:, 2])
    low, high = np.nanquantile(found[1:], (0.025, 0.975)) if np.isfinite(found[1:]).any() else (np.nan, np.nan)
    return float(found[0]), float(low), float(high)


def row(name: str, judge: Judge, found: Sequence[Effect], seed: int) -> str:
    """One line of the table."""
    scores = scores_of(judge.judge([one.request for one in found]))
    groups = [one.group for one in found]
    columns = {
        "concession": np.array([one.concession for one in found]),
        "mood": mood([one.answer for one in found]),
    }
    cells = [
        f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"
        for value, low, high in (within_groups(scores, effect, groups, seed) for effect in columns.values())
    ]
    return f"| `{name}` | {len(found)} | {len(set(groups))} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("episodes", type=Path, help="a corpus: the Parquet file of its episodes")
    add_judge_options(parser)
    parser.add_argument("--split", default="val", help="episodes of this split")
    parser.add_argument(
        "--rounds", type=int, default=15, help="turns up to this round; 1 has equal contexts to the letter"
    )
    parser.add_argument("--groups", type=int, help="so many groups, drawn by the seed; all of them by default")
    parser.add_argument("--learn-from", metavar="CORPUS", help="of outcome: the corpus to fit, in place of --fit")
    options = parser.parse_args()
    if options.learn_from is not None:
        options.fit = OutcomeJudge(load_perceiver("judge"), CorpusFile(options.learn_from)).file
        print(f"--fit {options.fit}\n")
    found = [
        one
        for one in effects([episode for episode in read_episodes(options.episodes) if episode.split == options.split])
        if one.group[2] <= options.rounds and one.request.scenario.domain in options.domains
    ]
    if not found:
        raise UserError(f"{options.episodes}: no group of {LEAST} answered turns in split {options.split}")
    names = sorted({one.group for one in found})
    if options.groups is not None and options.groups < len(names):
        chosen = np.random.default_rng(options.seed).choice(len(names), options.groups, replace=False)
        kept = {names[place] for place in chosen}
        found = [one for one in found if one.group in kept]
    print("| judge | turns | groups | next concession [95 %] | mood of the answer [95 %] |\n|---|---|---|---|---|")
    for name, judge in judges(options).items():
        print(row(name, judge, found, options.seed), flush=True)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
