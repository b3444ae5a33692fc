import pytest
import torch
from chat_training import LORA, make_encoder, make_episodes, policy_settings
from tiny_model import build_tiny_model

from emodistill.data.chat_datasets import judged_chats
from emodistill.data.chats import encode_chats, encode_contexts
from emodistill.policy.expression_policy import ExpressionPolicy
from emodistill.policy.generation import RolloutSampler


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    return build_tiny_model(tmp_path_factory.mktemp("tiny_model"))


@pytest.fixture(scope="session")
def encoder(tiny_model):
    return make_encoder(tiny_model)


@pytest.fixture(scope="session")
def sft_adapter(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sft") / "adapter"
    torch.manual_seed(0)
    ExpressionPolicy(**policy_settings(tiny_model, lora=LORA | {"init_lora_weights": False})).save_adapter(folder)
    return str(folder)


@pytest.fixture
def sampler(encoder):
    return RolloutSampler(encoder.chat_format, "float32", temperature=1.0, top_k=None, max_new_tokens=8, max_batch=16)


@pytest.fixture
def chats(encoder):
    return encode_chats(make_episodes(), [[True, False], [True, True], [False, True], [True, True]], encoder)


@pytest.fixture
def items(encoder):
    """Four episodes of two scenarios, every turn chosen."""
    return judged_chats(make_episodes(4), [[True, True]] * 4, encoder)


@pytest.fixture
def contexts(encoder):
    return encode_contexts(make_episodes(2), [[True, True]] * 2, encoder, reserve=8)
