"""The schedule of `configs/base.yaml`, for tests that need one and not its numbers."""

from functools import cache
from pathlib import Path
from typing import Any

import yaml

from emodistill.negotiation.schedule import ConcessionSchedule

BASE = Path(__file__).parents[1] / "configs" / "base.yaml"


@cache
def _numbers() -> dict[str, Any]:
    schedule: dict[str, Any] = yaml.safe_load(BASE.read_text(encoding="utf-8"))["schedule"]
    return {key: value for key, value in schedule.items() if key != "_target_"}


def concession_schedule(**changes: Any) -> ConcessionSchedule:
    return ConcessionSchedule(**(_numbers() | changes))
