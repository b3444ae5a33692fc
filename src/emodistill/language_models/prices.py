"""What a model costs a token: from the price list that ships (`assets/prices.yaml`), or from the configuration."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

import yaml

from emodistill.errors import UserError

_DATED = re.compile(r"-\d{4}-\d{2}-\d{2}$")


@dataclass(frozen=True)
class Price:
    """Money for a million tokens, in the currency of the price list."""

    input: float
    output: float

    def of(self, prompt_tokens: int, completion_tokens: int) -> float:
        return (prompt_tokens * self.input + completion_tokens * self.output) / 1e6


def price_of(model: str, given: Mapping[str, float] | None = None) -> Price | None:
    """The given price, or the listed one of this model (a date at the end of its name is ignored), or None.

    Raises:
        UserError: if the given price is not two numbers, `input` and `output`, from zero.
    """
    if given is None:
        listed = _listed()
        return listed.get(model) or listed.get(_DATED.sub("", model))
    numbers = {name: value for name, value in given.items() if isinstance(value, int | float) and value >= 0}
    if numbers.keys() != {"input", "output"} or len(given) != 2:
        raise UserError(f"price={dict(given)}: give input and output in money for a million tokens, or null")
    return Price(float(given["input"]), float(given["output"]))


def currency() -> str:
    """The currency of the price list, and so of every cost and budget."""
    return str(_file()["currency"])


@cache
def _listed() -> dict[str, Price]:
    return {str(model): Price(float(each["input"]), float(each["output"])) for model, each in _file()["models"].items()}


@cache
def _file() -> dict[str, dict[str, dict[str, float]]]:
    text = resources.files("emodistill.assets").joinpath("prices.yaml").read_text(encoding="utf-8")
    loaded: dict[str, dict[str, dict[str, float]]] = yaml.safe_load(text)
    return loaded
