"""Which values of a learner's settings mean something; others are refused before any model is loaded."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from emodistill.errors import UserError

Allowed = Mapping[str, tuple[Callable[[Any], bool], str]]  # key -> a test of its value, and what passes it in words


def is_number(value: Any) -> bool:
    """Whether a value is a finite number; True and False are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def is_count(value: Any, least: int = 1) -> bool:
    """Whether a value is a whole number of at least `least`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


ABOVE_0 = (lambda value: is_number(value) and value > 0, "above 0")
FROM_0 = (lambda value: is_number(value) and value >= 0, "0 or above")


def check_settings(settings: Mapping[str, Any], allowed: Allowed, prefix: str = "learner.") -> None:
    """Refuse settings that have no meaning.

    Raises:
        UserError: naming the key, its value and what is allowed.
    """
    for key, (means_something, wanted) in allowed.items():
        if not means_something(settings[key]):
            raise UserError(f"{prefix}{key}={settings[key]}: it must be {wanted}")
