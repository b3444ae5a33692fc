"""How emotions enter the chats of training: prompted, none, or self-selected; and what a judge hears of it."""

import pytest
from episodes import make_episode
from tiny_model import build_tiny_model
from transformers import AutoTokenizer

from emodistill.data.chat_datasets import ChatSource, JPODataset, judged_chats
from emodistill.data.chats import ChatEncoder, encode_contexts
from emodistill.data.selection import AllTurns
from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.errors import UserError
from emodistill.negotiation.prompts import Named
from emodistill.policy.chat_format import ChatFormat

VOCABULARY = load_vocabulary()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return build_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def read(model):
    """Encodes all turns of an episode in one of the three ways, and writes it out again."""
    tokenizer = AutoTokenizer.from_pretrained(model)

    def chat(emotions, episode):
        encoder = ChatEncoder(ChatFormat(tokenizer, VOCABULARY, emotions), 4096)
        encoded = encoder.encode(episode, [True] * len(episode.focal_turns))
        replies = [
            tokenizer.decode([t for t, owner in zip(encoded.input_ids, encoded.utterance, strict=True) if owner == i])
            for i in encoded.turns
        ]
        return tokenizer.decode(encoded.input_ids), [reply.removesuffix("<|im_end|>") for reply in replies]

    return chat


def encoder(model, emotions):
    return ChatSource(model, "goemotions28", 4096, emotions=emotions).open()[0]


def test_hidden_emotions_leave_no_trace(read):
    episode = make_episode(3)
    hidden, replies = read("none", episode)
    bare, _ = read("prompted", make_episode(3, emotions=False))
    assert hidden == bare and replies == [turn.text for turn in episode.focal_turns]
    assert not any(label in hidden for label in ("anger", "joy", "caring", "emotion"))


def test_named_emotions_are_learnt_with_the_words_and_told_nowhere(read):
    episode = make_episode(3)
    named, replies = read("self_selected", episode)
    assert replies == [f"{turn.emotion}: {turn.text}" for turn in episode.focal_turns]
    assert named.count("Choose an emotion.") == 3 and named.count(", ".join(VOCABULARY.labels)) == 1
    assert not any(VOCABULARY.directive(turn.emotion) in named for turn in episode.focal_turns)
    _, bare = read("self_selected", make_episode(2, emotions=False))
    assert bare == [turn.text for turn in make_episode(2).focal_turns]


@pytest.mark.parametrize("emotions", ["prompted", "none", "self_selected"])
def test_what_the_judge_is_asked_about_a_reply(model, emotions):
    episode = make_episode(2)
    contexts = encode_contexts([episode], [[True, True]], encoder(model, emotions), reserve=8)
    asked = [context.request("joy: Fine, 20 days.") for context in contexts]
    expected = {
        "prompted": ([turn.emotion for turn in episode.focal_turns], "joy: Fine, 20 days."),
        "none": ([None, None], "joy: Fine, 20 days."),
        "self_selected": (["joy", "joy"], "Fine, 20 days."),
    }[emotions]
    assert ([request.emotion for request in asked], asked[0].utterance) == expected
    assert [request.history for request in asked] == [(), episode.turns[:2]]


def test_a_reply_that_names_nothing_is_not_judged(model):
    (context,) = encode_contexts([make_episode(1)], [[True]], encoder(model, "self_selected"), reserve=8)
    assert context.taken("hope: Fine.") == Named(None, "hope: Fine.")
    assert context.request("hope: Fine.") is None and context.request("Fine.") is None


@pytest.mark.parametrize(("emotions", "asked"), [("prompted", "anger"), ("none", None), ("self_selected", "anger")])
def test_what_the_judge_is_asked_about_the_corpus(model, emotions, asked):
    (item,) = judged_chats([make_episode(1)], [[True]], encoder(model, emotions))
    (request,) = item.group.requests
    assert (request.emotion, request.utterance) == (asked, make_episode(1).focal_turns[0].text)


def test_an_unknown_way_is_refused(model):
    with pytest.raises(UserError, match="emotions=shown: use one of prompted, none, self_selected"):
        ChatSource(model, "goemotions28", 4096, emotions="shown")


def test_turns_without_a_value_stay_without(model):
    """A turn that shows no emotion has no advantage: it must not turn its whole group into not-a-number."""
    advantages = lambda episodes: [[1.0, float("nan")] for _ in episodes]  # noqa: E731
    source = ChatSource(model, "goemotions28", 4096)
    view = JPODataset(source, AllTurns(), "corpus", 1, 2, 8, advantages, validation_chats=1)
    view.prepare([make_episode(2), make_episode(2, seed=1)], [make_episode(2, number=5), make_episode(2, number=6)])
    assert view.items[0].group.values == (1.0, None, 1.0, None)
    (batch,) = view.validation_batches()
    assert [item.group.name for item in batch.items] == ["debt/debt-005"]
    assert batch.items[0].group.values == (1.0, None)
