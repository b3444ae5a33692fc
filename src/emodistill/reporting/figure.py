"""A picture and the words that go with it; how it is drawn is left to a function of matplotlib."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas


@dataclass(frozen=True)
class Figure:
    """One figure of a report.

    Attributes:
        name: of its file, e.g. `utility_by_arm`.
        alternative: what it shows, in words, for those who do not see it.
        draw: fills an empty matplotlib figure; it sets its size itself.
    """

    name: str
    title: str
    alternative: str
    draw: "Callable[[Canvas], None]"
