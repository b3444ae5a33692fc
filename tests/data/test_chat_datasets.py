"""What the two language-model stages see of the corpus, and what is said of it."""

import pytest
from episodes import make_episode
from tiny_model import build_tiny_model

from emodistill.data.chat_datasets import ChatSource, JPODataset, SFTDataset
from emodistill.data.selection import AllTurns


@pytest.mark.parametrize("stage", ["sft", "corpus", "sampled"])
def test_what_did_not_fit_is_told_of_each_split_by_itself(tmp_path, caplog, stage):
    """The long chat is one of validation: nothing of training was left out."""
    source = ChatSource(build_tiny_model(tmp_path / "model"), "goemotions28", 700)
    if stage == "sft":
        view = SFTDataset(source, AllTurns(), 1, 1, 1, 8)
    else:
        view = JPODataset(source, AllTurns(), stage, 1, 2, 8, validation_chats=1 if stage == "corpus" else None)
    with caplog.at_level("INFO"):
        view.prepare([make_episode(1)], [make_episode(12, number=5)])
    training, validation = (line for line in caplog.messages if "too long" in line)
    assert training.startswith("training: 1 chats") and ": 0 early rounds (0 selected turns) and 0 whole" in training
    assert validation.startswith("validation: ") and ": 0 early rounds" not in validation
