"""What a user may give: a value that has no meaning ends in a sentence with its key, before anything is begun."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from emodistill.errors import UserError

Allowed = Mapping[str, tuple[Callable[[Any], bool], str]]  # key -> a test of its value, and what passes it in words


def is_whole(value: Any, least: int = 1) -> bool:
    """Whether a value is a whole number of at least `least`; True and False do not count."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_number(value: Any, least: float = -math.inf, most: float = math.inf) -> bool:
    """Whether a value is a finite number from `least` to `most`; True and False do not count."""
    is_one = isinstance(value, int | float) and not isinstance(value, bool)
    return is_one and -math.inf < value < math.inf and least <= value <= most


ABOVE_0 = (lambda value: is_number(value) and value > 0, "above 0")
FROM_0 = (lambda value: is_number(value, 0), "0 or above")


def check_settings(settings: Mapping[str, Any], allowed: Allowed, prefix: str = "learner.") -> None:
    """Refuse settings that have no meaning.

    Raises:
        UserError: naming the key, its value and what is allowed.
    """
    for key, (means_something, wanted) in allowed.items():
        if not means_something(settings[key]):
            raise UserError(f"{prefix}{key}={settings[key]}: it must be {wanted}")


def check_whole(key: str, value: Any, least: int = 1, null: str = "") -> None:
    """Refuse all but a whole number of at least `least`.

    Args:
        null: what null stands for, where it may be given.

    Raises:
        UserError: naming the key, its value and what is allowed.
    """
    if not is_whole(value, least) and not (null and value is None):
        raise UserError(f"{key}={_shown(value)}: a whole number of at least {least}{null and f', or null {null}'}")


def check_number(key: str, value: Any, least: float = -math.inf, null: str = "") -> None:
    """Refuse all but a finite number of at least `least`; see `check_whole`."""
    if not is_number(value, least) and not (null and value is None):
        bound = "" if least == -math.inf else f" of at least {least:g}"
        raise UserError(f"{key}={_shown(value)}: a number{bound}{null and f', or null {null}'}")


def _shown(value: Any) -> str:
    """A value as it is typed on a command line."""
    return "null" if value is None else str(value)
