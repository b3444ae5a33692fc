"""Episodes as chats: what is learnt from, what is left out, and that a reply is never cut."""

from dataclasses import replace

import pytest
from episodes import make_episode
from tiny_model import build_tokenizer

from emodistill.data.chat_datasets import ContextBatch, collate_judged, judged_chats
from emodistill.data.chats import ChatEncoder, collate_encoded, contexts_by_episode, encode_chats, encode_contexts
from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.policy.chat_format import ChatFormat


@pytest.fixture(scope="module")
def chat():
    return ChatFormat(build_tokenizer(), load_vocabulary())


@pytest.fixture
def encoder(chat):
    return ChatEncoder(chat, max_tokens=4096)


def replies(chat, encoded):
    """The scored replies of an encoded chat, in words."""
    count = max(encoded.utterance) + 1
    pairs = list(zip(encoded.input_ids, encoded.utterance, strict=True))
    return [chat.text([token for token, owner in pairs if owner == i]) for i in range(count)]


def test_exactly_the_chosen_replies_are_scored_with_their_end_of_turn(chat, encoder):
    encoded = encoder.encode(make_episode(4), [True, False, True, False])
    assert encoded.turns == [0, 2]
    assert replies(chat, encoded) == ["Round 0: I want 20 days.", "Round 2: I want 22 days."]
    assert encoded.utterance[-1] == 1 and encoded.input_ids[-1] == chat.end_of_turn[-1]
    assert encoded.utterance.count(0) == len(chat.reply("Round 0: I want 20 days."))


def test_a_chat_is_the_episode_from_the_opening_to_the_last_chosen_turn(chat, encoder):
    episode = make_episode(3)
    encoded = encoder.encode(episode, [False, True, False])
    expected = chat.opening(episode.scenario)
    expected += chat.prompt(None, "anger", "propose", "20 days") + chat.reply(episode.turns[0].text)
    expected += chat.prompt(episode.turns[1].text, "joy", "propose", "21 days") + chat.reply(episode.turns[2].text)
    assert encoded.input_ids == expected


def test_one_pass_scores_the_same_tokens_as_one_example_a_turn(chat, encoder):
    episode = make_episode(3)
    whole = encoder.encode(episode, [True] * 3)
    for turn in range(3):
        single = encoder.encode(episode, [i == turn for i in range(3)])
        length = len(single.input_ids)
        assert whole.input_ids[:length] == single.input_ids
        assert [owner == turn for owner in whole.utterance[:length]] == [owner == 0 for owner in single.utterance]


def test_without_emotions_in_the_corpus_there_are_none_in_the_chat(chat, encoder):
    encoded = encoder.encode(make_episode(2, emotions=False), [True, True])
    assert "Let your words" not in chat.tokenizer.decode(encoded.input_ids)


def test_nothing_chosen_gives_no_chat(encoder):
    assert encoder.encode(make_episode(2), [False, False]) is None
    assert list(encode_chats([make_episode(2)], [[False, False]], encoder)) == []


def test_too_long_a_chat_loses_whole_early_rounds_and_never_cuts_a_reply(chat, encoder):
    episode = make_episode(6)
    full = encoder.encode(episode, [True] * 6)
    opening = len(chat.opening(episode.scenario))
    for limit in range(opening, len(full.input_ids) + 1):
        narrow = ChatEncoder(chat, limit)
        encoded = narrow.encode(episode, [True] * 6)
        if encoded is None:
            assert narrow.too_long == 1
            continue
        assert len(encoded.input_ids) <= limit
        assert encoded.input_ids[:opening] == full.input_ids[:opening]
        kept = len(encoded.input_ids) - opening
        assert encoded.input_ids[opening:] == full.input_ids[len(full.input_ids) - kept :]
        assert replies(chat, encoded) == [f"Round {i}: I want {20 + i} days." for i in encoded.turns]
        assert encoded.turns == list(range(narrow.dropped_rounds, 6)) and narrow.dropped_turns == narrow.dropped_rounds
    assert encoded.turns == list(range(6)) and narrow.dropped_rounds == 0


def test_what_is_left_out_of_a_chat_that_is_encoded_again_counts_once(chat, encoder):
    episodes = [make_episode(6), make_episode(6, seed=1)]
    narrow = ChatEncoder(chat, len(encoder.encode(episodes[0], [True] * 6).input_ids) - 1)
    for episode in (*episodes, *episodes):
        assert narrow.encode(episode, [True] * 6).turns == [1, 2, 3, 4, 5]
    assert (narrow.dropped_rounds, narrow.dropped_turns, narrow.too_long) == (2, 2, 0)
    assert narrow.anew().dropped_rounds == 0


def test_the_limit_is_used_up_before_a_round_is_dropped(chat, encoder):
    episode = make_episode(4)
    full = encoder.encode(episode, [True] * 4)
    narrow = ChatEncoder(chat, len(full.input_ids) - 1)
    assert narrow.encode(episode, [True] * 4).turns == [1, 2, 3]


def test_a_context_is_the_chat_before_the_reply(chat, encoder):
    episode = make_episode(3)
    chats = encoder.encode(episode, [False, False, True])
    [context] = encoder.contexts(episode, [False, False, True], reserve=50)
    assert context.input_ids + chat.reply(episode.turns[4].text) == chats.input_ids
    assert context.history == episode.turns[:4] and context.emotion == episode.turns[4].emotion
    assert context.words == episode.turns[3].text and context.offer == episode.turns[4].offer
    assert encoder.contexts(episode, [True, False, False], reserve=50)[0].words == ""


def test_a_context_leaves_room_for_the_reply(chat, encoder):
    last = (make_episode(3), [False, False, True])
    length = len(encoder.contexts(*last, reserve=0)[0].input_ids)
    assert len(ChatEncoder(chat, length + 10).contexts(*last, reserve=10)[0].input_ids) == length
    tight = ChatEncoder(chat, length + 10)
    assert len(tight.contexts(*last, reserve=11)[0].input_ids) < length and tight.dropped_rounds == 1
    assert tight.contexts(*last, reserve=length) == [] and tight.too_long == 1


def test_a_context_fits_with_the_emotion_that_is_asked_for(chat, encoder):
    """A longer word may be too long where the corpus's own is not: no episode is left with no context."""
    episode, selected, longer = make_episode(1), [[True]], [["disappointment"]]
    own, other = (encode_contexts([episode], selected, encoder, 8, asked)[0].input_ids for asked in (None, longer))
    assert len(own) < len(other)
    tight = ChatEncoder(chat, len(own) + 8)
    assert len(contexts_by_episode([episode], selected, tight, 8)) == 1
    assert len(contexts_by_episode([episode], selected, tight, 8, longer)) == 0


def test_a_context_may_ask_for_another_emotion_than_the_corpus_did(encoder):
    """As in play, where the selector chooses: the turns before stay as they were."""
    episode = make_episode(3)
    asked = ["pride", "pride", "relief"]
    (own,) = encoder.contexts(episode, [False, False, True], reserve=50)
    (other,) = encoder.contexts(episode, [False, False, True], reserve=50, emotions=asked)
    said = [replace(turn, emotion="relief") if i == 4 else turn for i, turn in enumerate(episode.turns)]
    (written,) = encoder.contexts(replace(episode, turns=tuple(said)), [False, False, True], reserve=50)
    assert own.emotion != other.emotion == "relief" and other.history == own.history
    assert other.input_ids == written.input_ids != own.input_ids


def test_contexts_are_made_for_the_chosen_turns_only(encoder):
    contexts = encode_contexts([make_episode(2), make_episode(2, seed=1)], [[True, False], [True, True]], encoder, 10)
    assert [len(context.history) for context in contexts] == [0, 0, 2]


def test_a_group_is_all_chosen_turns_of_the_scenario_whatever_the_episode(encoder):
    episodes = [make_episode(2, number=0, seed=0), make_episode(2, number=1, seed=1), make_episode(2, number=0, seed=2)]
    chats = judged_chats(episodes, [[True, True], [True, False], [False, True]], encoder)
    assert [item.group.name for item in chats] == ["debt/debt-000", "debt/debt-001", "debt/debt-000"]
    assert chats[0].group is chats[2].group and len(chats[0].group.requests) == 3
    for item, episode in zip(chats, episodes, strict=True):
        for turn, place in zip(item.chat.turns, item.places, strict=True):
            request = item.group.requests[place]
            assert request.utterance == episode.turns[2 * turn].text
            assert request.history == episode.turns[: 2 * turn]
            assert request.emotion == episode.turns[2 * turn].emotion


def test_a_turn_lost_to_length_still_counts_in_its_group(chat, encoder):
    episode = make_episode(4)
    length = len(encoder.encode(episode, [True] * 4).input_ids)
    [item] = judged_chats([episode], [[True] * 4], ChatEncoder(chat, length - 1), values=[[1.0, 2.0, 3.0, 4.0]])
    assert item.chat.turns == [1, 2, 3] and item.places == [1, 2, 3]
    assert item.group.values == (1.0, 2.0, 3.0, 4.0)


def test_the_key_of_a_chat_depends_on_what_is_in_it(encoder):
    episode = make_episode(2)
    keys = [judged_chats([episode], [chosen], encoder)[0].key for chosen in ([True, True], [False, True], [True, True])]
    assert keys[0] == keys[2] != keys[1]


def test_batches_number_their_utterances_and_pad_on_the_right(encoder):
    chats = encode_chats([make_episode(1), make_episode(3)], [[True], [True, False, True]], encoder)
    batch = collate_encoded(chats, pad_id=0)
    assert batch.utterances == 3
    assert batch.attention_mask.sum(1).tolist() == [len(chat.input_ids) for chat in chats]
    assert (batch.utterance[~batch.attention_mask] == -1).all() and (batch.input_ids[~batch.attention_mask] == 0).all()
    assert set(batch.utterance[1].tolist()) == {-1, 1, 2}


def test_batches_for_the_judge_can_be_moved(encoder):
    items = judged_chats([make_episode(1)], [[True]], encoder)
    batch = collate_judged(items, 0).to("cpu")
    assert len(batch) == 1 and batch.items == items
    contexts = encode_contexts([make_episode(1)], [[True]], encoder, 10)
    assert ContextBatch(contexts).to("cpu").contexts == contexts
