"""A scenario: who wants what, in which situation."""

import logging
import math
from dataclasses import dataclass, field
from pathlib import Path

from emodistill.errors import UserError
from emodistill.negotiation.domains import Domain, load_domain

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scenario:
    """One situation to negotiate over.

    Attributes:
        id: unique among all scenarios, e.g. `debt-017`.
        domain: name of the domain.
        focal_target: c, what the focal side wants, in the domain's unit.
        counterparty_target: d, what the counterparty wants, in the same unit; never equal to c.
        context: the situation, keyed by column name; no outcome column is ever in it.
    """

    id: str
    domain: str
    focal_target: float
    counterparty_target: float
    context: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        targets = (self.focal_target, self.counterparty_target)
        if not all(isinstance(target, int | float) and math.isfinite(target) for target in targets):
            raise UserError(f"scenario {self.id}: the targets must be finite numbers, not {targets}")
        if self.focal_target == self.counterparty_target:
            raise UserError(f"scenario {self.id}: both targets are {self.focal_target:g}, so nothing is negotiable")

    @property
    def rules(self) -> Domain:
        """The domain this scenario belongs to."""
        return load_domain(self.domain)

    def position(self, value: float) -> float:
        """x(v) = (d - v) / (d - c): 1 at the focal side's target, 0 at the counterparty's (METHOD 1)."""
        return (self.counterparty_target - value) / (self.counterparty_target - self.focal_target)

    def value_at(self, position: float) -> float:
        """The value, in the domain's unit, at a position: the inverse of `position`."""
        return self.counterparty_target - position * (self.counterparty_target - self.focal_target)

    def utility(self, value: float | None) -> float:
        """Utility of an episode to the focal side, in [0, 1]: the clipped position of the deal, 0 without one."""
        return 0.0 if value is None else min(max(self.position(value), 0.0), 1.0)


def load_csv(path: str | Path, domain: str) -> list[Scenario]:
    """The scenarios of a published CSV file; excluded rows are logged, `csv_import.read_csv` gives the full audit.

    Raises:
        UserError: naming the file and the row or column at fault.
    """
    from emodistill.negotiation.csv_import import read_csv  # imports Scenario from here

    scenarios, audit = read_csv(path, domain)
    for item in audit.exclusions:
        _LOGGER.warning("%s: row %d (%s) is excluded: %s", path, item.row, item.id, item.reason)
    return scenarios
