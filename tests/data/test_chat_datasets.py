"""What the two language-model stages see of the corpus, and what is said of it."""

from dataclasses import replace

import pytest
from episodes import make_episode
from tiny_model import build_tiny_model

from emodistill.data.chat_datasets import ChatSource, JPODataset, SFTDataset, validation_contexts
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
        list(view.train_batches(0))
        view.finish()
    validation, training = (line for line in caplog.messages if "too long" in line)
    assert training.startswith("training: 1 chats") and ": 0 early rounds (0 selected turns), 0 whole" in training
    assert validation.startswith("validation: ") and ": 0 early rounds" not in validation


def test_a_chat_is_never_longer_than_the_files_of_the_model_say(tmp_path):
    """Whoever names a folder or ORG/NAME says nothing of its context; without this, drawing replies would fail."""
    settings = ChatSource(build_tiny_model(tmp_path / "model"), "goemotions28", 4096), AllTurns(), "sampled", 1, 4, 48
    view = JPODataset(*settings, turns_per_chat=30)
    view.prepare([make_episode(30)], [make_episode(30, number=5)])
    (contexts,) = view.items
    assert 1900 < max(len(context.input_ids) for context in [*contexts, *view.contexts]) <= 2048 - 48


def test_training_chats_are_encoded_as_they_are_served(tmp_path):
    """A run reads a part of a large corpus: to encode all of it first would take longer than the run."""
    source = ChatSource(build_tiny_model(tmp_path / "model"), "goemotions28", 4096)
    view = SFTDataset(source, AllTurns(), 2, 1, 0, 8)
    view.prepare([make_episode(2, seed=i) for i in range(40)], [make_episode(1, number=5)])
    written, encode = [], view.encoder.encode
    view.encoder.encode = lambda episode, *given: written.append(episode.seed) or encode(episode, *given)
    batches = iter(view.train_batches(0))
    assert written == []
    first = next(batches)
    assert len(written) == 2 and first.tokens_of(0, 1) == int((first.chats.utterance >= 0).sum())
    assert len(written) == 2  # not a second time, to count
    assert first.tokens_of(0, 2) > first.tokens_of(0, 1) and len(written) == 4


def test_what_can_be_learnt_from_is_known_without_encoding_it(tmp_path):
    """The bound by bytes is only a short cut: with any limit, a turn fits exactly where its chat can be written."""
    source = ChatSource(build_tiny_model(tmp_path / "model"), "goemotions28", 4096)
    encoder, _ = source.open()
    episodes = [make_episode(3, seed=i, number=i) for i in range(3)]
    lengths = [len(encoder.encode(episode, [False, False, True]).input_ids) for episode in episodes]
    for limit in (60, *range(min(lengths) - 200, max(lengths) + 20, 7)):
        encoder.max_tokens = limit
        for episode in episodes:
            for turn in range(3):
                alone = [i == turn for i in range(3)]
                assert encoder.fits(episode, turn) == (encoder.encode(episode, alone) is not None)
                assert encoder.fits(episode, turn, 10) == bool(encoder.contexts(episode, alone, 10))


def test_validation_has_as_many_contexts_as_fit_where_episodes_are_short(tmp_path):
    """Contexts that are too long are left aside before the others are counted out, not afterwards."""
    encoder, _ = ChatSource(build_tiny_model(tmp_path / "model"), "goemotions28", 1000).open()
    episodes = [make_episode(2, seed=i, number=i) for i in range(6)]
    for i in (0, 2, 4):  # the second turn answers words that do not fit
        turns = list(episodes[i].turns)
        turns[1] = replace(turns[1], text="so many words " * 500)
        episodes[i] = replace(episodes[i], turns=tuple(turns))
    found = validation_contexts(episodes, encoder, 8, 10)
    assert len(found) == 8 and len({tuple(context.input_ids) for context in found}) == 8
    assert len(validation_contexts(episodes, encoder, 100, 10)) == 9
    assert len(validation_contexts(episodes, encoder, 2, 10)) == 2
