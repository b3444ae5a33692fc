"""The main table as an analysis, and how the arms behave."""

from collections.abc import Sequence
from dataclasses import dataclass

from emodistill.emotions.perceiver import load_perceiver
from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.evaluation.main_table import main_findings
from emodistill.evaluation.report import RIVALS, SUBJECT
from emodistill.evaluation.results import Findings, Played
from emodistill.reporting.figure import Figure
from emodistill.reporting.figures.emotions import emotion_use
from emodistill.reporting.figures.intervals import Estimate, differences, interval_plot
from emodistill.reporting.figures.offers import offer_trajectories
from emodistill.studies.estimates import arms_of, domains_of, mean_interval, utility
from emodistill.studies.guard_price import guard_curve
from emodistill.studies.readings import readings
from emodistill.studies.safety import safety_findings


@dataclass(frozen=True)
class MainTable:
    """Arms by domain, paired comparisons of one arm with all others, exclusions, and the verdicts.

    Attributes:
        vocabulary: its name.
        subject: the arm that the verdict is about.
        rivals: the arms that it has to exceed.
    """

    vocabulary: str
    subject: str = SUBJECT
    rivals: Sequence[str] = RIVALS
    seed: int = 0

    def __call__(self, played: Sequence[Played]) -> Findings:
        perceiver, vocabulary = load_perceiver("counterparty"), load_vocabulary(self.vocabulary)
        found = main_findings(played, perceiver, vocabulary, self.subject, self.rivals, self.seed)
        figures = [*found.figures, _intervals(played, self.seed), *_differences(found)]
        return Findings(found.tables, figures, found.verdicts)


@dataclass(frozen=True)
class Behaviour:
    """Emotions and offers over the rounds, and what the emotions are read as, by arm."""

    vocabulary: str

    def __call__(self, played: Sequence[Played]) -> Findings:
        vocabulary = load_vocabulary(self.vocabulary)
        figures = [emotion_use(played, vocabulary), offer_trajectories(played)]
        table = readings(played, load_perceiver("counterparty"), vocabulary)
        return Findings([table] if table.rows else [], [figure for figure in figures if figure is not None])


@dataclass(frozen=True)
class Safety:
    """Rates of flagged words, by arm."""

    seed: int = 0

    def __call__(self, played: Sequence[Played]) -> Findings:
        return safety_findings(played, self.seed)


@dataclass(frozen=True)
class GuardPrice:
    """Utility against flagged words, by level of the guard."""

    seed: int = 0

    def __call__(self, played: Sequence[Played]) -> Findings:
        return guard_curve(played, self.seed)


def _differences(found: Findings) -> list[Figure]:
    drawn = [differences(table.rows, table.title) for table in found.tables if table.name == "comparisons"]
    return [figure for figure in drawn if figure is not None]


def _intervals(played: Sequence[Played], seed: int) -> Figure:
    estimates = [
        Estimate(domain, arm, *mean_interval(utility(played, arm, domain=domain), seed))
        for domain in domains_of(played)
        for arm in arms_of(played)
    ]
    return interval_plot("utility", "Utility by arm and domain", estimates, "mean utility, 95 % interval")
