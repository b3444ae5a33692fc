"""What may be asked of the IQL learner, and what must not come out of it."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from emodistill.errors import UserError

HEADS = ("q", "v", "policy")


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


_ALLOWED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "observation_dim": (_count, "a whole number of at least 1"),
    "num_emotions": (_count, "a whole number of at least 1"),
    "hidden_dims": (lambda v: isinstance(v, (list, tuple)) and all(map(_count, v)), "a list of widths, [] for linear"),
    "discount": (lambda v: _number(v) and 0 <= v <= 1, "between 0 and 1"),
    "expectile": (lambda v: _number(v) and 0 < v < 1, "above 0 and below 1"),
    "inverse_temperature": (lambda v: _number(v) and v >= 0, "0 or above"),
    "max_advantage_weight": (lambda v: _number(v) and v > 0, "above 0"),
    "polyak": (lambda v: _number(v) and 0 < v <= 1, "above 0 and at most 1"),
    "learning_rates": (
        lambda v: isinstance(v, Mapping) and set(v) == set(HEADS) and all(_number(r) and r > 0 for r in v.values()),
        "{q: ..., v: ..., policy: ...}, each above 0",
    ),
}


def check_settings(settings: Mapping[str, Any]) -> None:
    """Refuse hyperparameters that have no meaning.

    Raises:
        UserError: naming the key, its value and what is allowed.
    """
    for key, (allowed, wanted) in _ALLOWED.items():
        if not allowed(settings[key]):
            raise UserError(f"learner.{key}={settings[key]}: it must be {wanted}")


def check_losses(losses: Mapping[str, Tensor], step: int) -> None:
    """Stop a run that has nothing left to learn from.

    Raises:
        UserError: naming the first loss that is not finite.
    """
    for head, loss in losses.items():
        if not math.isfinite(loss.item()):
            raise UserError(
                f"the {head} loss is {loss.item()} at step {step}; lower learner.learning_rates.{head}, or look for "
                "rewards and observations in the corpus that are not finite"
            )
