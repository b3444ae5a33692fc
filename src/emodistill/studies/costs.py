"""What a study took: seconds, tokens and money, by condition and arm."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from emodistill.evaluation.results import Cost, Findings, Played
from emodistill.reporting.table import Column, Table

_COLUMNS = [
    Column("condition", "condition", "text"),
    Column("arm", "arm", "text"),
    Column("training_seed", "training seed", "count"),
    Column("episodes", "episodes", "count"),
    Column("seconds", "seconds", digits=1),
    Column("prompt_tokens", "prompt tokens", "count"),
    Column("generated_tokens", "tokens said", "count"),
    Column("money", "money (USD)", digits=4),
]
_NOTE = "Of playing; training is in each stage's own log. A dash: no price is known. Tokens of both seats, where known."


@dataclass(frozen=True)
class Costs:
    """One row for each arm in each condition, and the sum."""

    def __call__(self, played: Sequence[Played]) -> Findings:
        rows = [
            {
                "condition": one.condition,
                "arm": one.arm,
                "training_seed": one.training_seed,
                "episodes": len(one.episodes),
                **asdict(one.cost),
            }
            for one in played
        ]
        total = total_of(played)
        episodes = sum(len(one.episodes) for one in played)
        rows.append({"condition": "", "arm": "together", "episodes": episodes, **asdict(total)})
        return Findings([Table("costs", "What playing took", _COLUMNS, rows, _NOTE)])


def total_of(played: Sequence[Played]) -> Cost:
    """The sum over everything that was played."""
    return sum((one.cost for one in played), Cost())


def in_words(cost: Cost) -> str:
    """One line for the screen."""
    tokens = f"{cost.prompt_tokens + cost.generated_tokens:,} tokens ({cost.generated_tokens:,} of them said)"
    money = "at an unknown price" if cost.money is None else f"for {cost.money:.2f} USD"
    return f"playing took {cost.seconds:,.0f} s and {tokens}, {money}"
