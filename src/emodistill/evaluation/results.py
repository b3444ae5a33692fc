"""What an arm has played in one condition of a study, and what that cost."""

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

    def __str__(self) -> str:
        tokens = f"{self.prompt_tokens + self.generated_tokens:,} tokens ({self.generated_tokens:,} generated)"
        money = "at an unknown price" if self.money is None else f"for {self.money:.2f} USD"
        return f"{self.seconds:,.0f} s and {tokens}, {money}"


@dataclass(frozen=True)
class ArmResult:
    """All episodes of one arm in one condition of a study, played with one training seed.

    Attributes:
        arm: its name, e.g. `emodistill` or `fixed:joy`.
        condition: label of the condition, e.g. `trained on debt`; empty where a study has only one.
        training_seed: seed of the run whose selector and adapters play.
        run_dir: folder of that run; empty where no run was played.
        cost: of playing.
        stages: the folders under `run_dir` whose training is in what the arm plays with.
    """

    arm: str
    episodes: Sequence[Episode]
    condition: str = ""
    training_seed: int = 0
    run_dir: str = ""
    cost: Cost = Cost()
    stages: Sequence[str] = ()


def distinct(played: Sequence[ArmResult]) -> list[ArmResult]:
    """Each list of episodes once for an arm in a condition, under the first training seed that has it.

    Those of an arm in which nothing is trained are the same list for all training seeds.
    """
    found: dict[tuple[str, str, int], ArmResult] = {}
    for one in played:
        found.setdefault((one.arm, one.condition, id(one.episodes)), one)
    return list(found.values())
