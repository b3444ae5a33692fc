"""The reward of `configs/stage/iql.yaml`, with changes."""

from pathlib import Path

import yaml

from emodistill.data.transitions import Reward

STAGE = yaml.safe_load((Path(__file__).resolve().parents[1] / "configs/stage/iql.yaml").read_text(encoding="utf-8"))


def default_reward(**changes) -> Reward:
    numbers = {key: value for key, value in STAGE["data"]["dataset"]["reward"].items() if key != "_target_"}
    return Reward(**(numbers | changes))
