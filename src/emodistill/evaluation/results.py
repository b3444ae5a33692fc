"""What an arm has played in one condition, and what that cost."""

from collections.abc import Sequence
from dataclasses import dataclass

from emodistill.data.schema import Episode


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
