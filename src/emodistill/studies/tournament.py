"""Every arm against every arm, on both chairs: the payoff matrix and ratings.

A condition is the arm on the counterparty's chair. The counterparty's own utility is 1 minus the focal side's on a
deal, and 0 without one; so both lose where no deal is reached.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from emodistill.data.schema import Episode
from emodistill.evaluation.metrics import valid
from emodistill.evaluation.ratings import Meeting, Rating, bradley_terry, payoffs
from emodistill.evaluation.results import ArmResult, distinct
from emodistill.evaluation.statistics import bootstrap_interval
from emodistill.reporting.figures.matrix import matrix
from emodistill.reporting.results import RULE, AnalysisResult
from emodistill.reporting.tables import Column, Table
from emodistill.studies.comparisons import arms_of, chosen, conditions_of

_RATINGS = [
    Column("arm", "arm", "text"),
    Column("rating_interval", "rating, log odds [95 %]", "interval"),
    Column("standard_error", "standard error of the model"),
    Column("wins", "wins (ties half)", digits=1),
    Column("meetings", "meetings", "count"),
]
_CHAIRS = [
    Column("focal", "focal chair", "text"),
    Column("counterparty", "counterparty's chair", "text"),
    Column("focal_interval", "focal utility [95 %]", "interval", 3),
    Column("counterparty_interval", "counterparty's [95 %]", "interval", 3),
    Column("deals", "deals", "percent"),
    Column("meetings", "meetings", "count"),
    Column("scenarios", "scenarios", "count"),
]
_PAYOFFS = [
    Column("arm", "arm", "text"),
    Column("against", "against", "text"),
    Column("interval", "own utility [95 %]", "interval", 3),
    Column("meetings", "meetings", "count"),
    Column("scenarios", "scenarios", "count"),
]
_RULE = (
    f"{RULE} an arm is rated above another where the intervals of their ratings do not "
    "overlap; otherwise their order is within noise."
)


@dataclass(frozen=True)
class Tournament:
    """Ratings, payoffs over both chairs, and the payoff matrix of the focal chair."""

    seed: int = 0

    def __call__(self, played: Sequence[ArmResult]) -> AnalysisResult:
        meetings = [meeting_of(one, episode) for one in distinct(played) for episode in valid(one.episodes)]
        if not meetings:
            return AnalysisResult(verdicts=["no valid meeting was played"])
        ratings = bradley_terry(meetings, self.seed)
        chairs = self._chairs(played)
        cells = {(row["focal"], row["counterparty"]): row["focal_interval"][0] for row in chairs}
        arms, others = arms_of(played), conditions_of(played)
        values = [[cells.get((arm, other)) for other in others] for arm in arms]
        axes = ("arm on the focal chair", "arm on the counterparty's chair", "mean focal utility")
        figure = matrix("payoffs", "Payoff to the focal chair", arms, others, values, axes)
        rated = _rated(ratings)
        tables = [rated, self._both(meetings), chairs_table(chairs)]
        return AnalysisResult(tables, [figure], verdicts(ratings), summary=replace(rated, note=""))

    def _chairs(self, played: Sequence[ArmResult]) -> list[dict[str, Any]]:
        pairs = dict.fromkeys((one.arm, one.condition) for one in played)
        return [self._chair(arm, other, played) for arm, other in pairs]

    def _chair(self, arm: str, other: str, played: Sequence[ArmResult]) -> dict[str, Any]:
        episodes = valid(chosen(played, arm, other))
        scenarios = [(episode.scenario.domain, episode.scenario.id) for episode in episodes]
        row: dict[str, Any] = {"focal": arm, "counterparty": other, "meetings": len(episodes)}
        for side, values in (
            ("focal", [episode.utility for episode in episodes]),
            ("counterparty", [counterparty_utility(episode) for episode in episodes]),
        ):
            mean = sum(values) / len(values) if values else float("nan")
            row[f"{side}_interval"] = [mean, *bootstrap_interval(values, scenarios, self.seed, unseen=0.0)]
        deals = sum(episode.end == "deal" for episode in episodes)
        return {**row, "deals": deals / max(len(episodes), 1), "scenarios": len(set(scenarios))}

    def _both(self, meetings: Sequence[Meeting]) -> Table:
        rows = [{**row, "interval": [row["utility"], row["low"], row["high"]]} for row in payoffs(meetings, self.seed)]
        note = "Each arm's own utility, over both chairs; an arm against itself is there as well."
        return Table("payoffs_both_chairs", "Own utility against each other arm", _PAYOFFS, rows, note)


def meeting_of(one: ArmResult, episode: Episode) -> Meeting:
    scenario = (episode.scenario.domain, episode.scenario.id)
    return Meeting(one.arm, one.condition, scenario, episode.utility, counterparty_utility(episode))


def counterparty_utility(episode: Episode) -> float:
    """1 minus the focal side's on a deal, 0 without one."""
    return 1.0 - episode.utility if episode.end == "deal" else 0.0


def chairs_table(rows: Sequence[dict[str, Any]]) -> Table:
    note = "Intervals by bootstrap over scenarios. Without a deal both sides have 0."
    return Table("payoffs", "Payoff matrix: row on the focal chair, column opposite", _CHAIRS, rows, note)


def _rated(ratings: Sequence[Rating]) -> Table:
    rows = [{**asdict(one), "rating_interval": [one.rating, one.low, one.high]} for one in ratings]
    note = "Bradley-Terry; a win is the higher own utility, a tie half a win for each; games with itself left out."
    return Table("ratings", "Ratings", _RATINGS, rows, note)


def verdicts(ratings: Sequence[Rating]) -> list[str]:
    """The rule, then the ranking, each arm with those that it is clearly above."""
    lines = [_RULE]
    for one in ratings:
        under = [other.arm for other in ratings if one.low > other.high]
        above = f"clearly above {', '.join(under)}" if under else "clearly above nobody"
        lines.append(f"{one.arm}: rating {one.rating:+.2f} [{one.low:+.2f}, {one.high:+.2f}], {above}.")
    return lines
