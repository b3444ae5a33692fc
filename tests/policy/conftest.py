import pytest
from tiny_model import build_tiny_model, random_ids

from emodistill.policy.expression_policy import ExpressionPolicy
from emodistill.policy.token_batches import collate_chats

LORA = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.1, "target_modules": "all-linear"}


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    return build_tiny_model(tmp_path_factory.mktemp("tiny_model"))


@pytest.fixture(scope="session")
def make_policy(tiny_model):
    """A policy on the tiny model, in real NF4, whose adapter is not zero."""

    def make(**changes):
        arguments = {
            "base_model": tiny_model,
            "lora": LORA | {"init_lora_weights": False},
            "four_bit": True,
            "compute_dtype": "float32",
            "vocabulary": "goemotions28",
        }
        return ExpressionPolicy(**(arguments | changes))

    return make


@pytest.fixture(scope="session")
def saved_adapter(make_policy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters") / "adapter"
    make_policy().save_adapter(folder)
    return folder


@pytest.fixture
def batch():
    """Two chats of different length with two responses each."""
    owners = [[-1] * 5 + [0] * 3 + [-1] * 4 + [1] * 2, [-1] * 3 + [0] * 4 + [-1] * 2 + [1]]
    return collate_chats([(random_ids(len(owner), i), owner) for i, owner in enumerate(owners)], pad_id=0)
