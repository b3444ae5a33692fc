"""What was played, and what an analysis found in it: the objects that every report is made from."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from emodistill.data.schema import Episode
from emodistill.reporting.tables import Figure, Table


@dataclass(frozen=True)
class Cost:
    """What something took. Money is None where no price is known, and 0 where nobody charged anything."""

    seconds: float = 0.0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    money: float | None = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        money = None if self.money is None or other.money is None else self.money + other.money
        return Cost(
            self.seconds + other.seconds,
            self.prompt_tokens + other.prompt_tokens,
            self.generated_tokens + other.generated_tokens,
            money,
        )


@dataclass(frozen=True)
class ArmResult:
    """All episodes of one arm in one condition of a study, with what one training seed learnt.

    Attributes:
        arm: its name, e.g. `emodistill` or `fixed:joy`.
        condition: label of the condition, e.g. `trained on debt`; empty where a study has only one.
        training_seed: seed of the run whose selector and adapters play.
        run_dir: folder of that run.
    """

    arm: str
    episodes: Sequence[Episode]
    condition: str = ""
    training_seed: int = 0
    run_dir: str = ""
    cost: Cost = Cost()


@dataclass(frozen=True)
class AnalysisResult:
    """What an analysis found.

    Attributes:
        verdicts: one plain sentence each, the most important first.
    """

    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()
    verdicts: Sequence[str] = field(default_factory=tuple)
