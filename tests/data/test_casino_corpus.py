"""CaSiNo as episodes: both sides of every dialogue, in the points of the one whose episode it is."""

import json
from collections import defaultdict
from pathlib import Path

import pytest

from emodistill.data.casino import corpus as corpus_module
from emodistill.data.casino.corpus import CasinoCorpus, split_by_pair
from emodistill.data.casino.episodes import EmotionLabels, episodes_of, shown_emotion
from emodistill.data.casino.reading import read_dialogues
from emodistill.data.observations import DialoguePrefix, situation_of
from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.errors import UserError
from emodistill.negotiation.prompts import system_words

TINY = Path(__file__).parent / "casino_tiny.json"
DIALOGUES = {dialogue.id: dialogue for dialogue in read_dialogues([TINY])}
LABELS = EmotionLabels.choose(load_vocabulary("goemotions28"), "neutral")


def sides(number, labels=LABELS):
    return episodes_of(DIALOGUES[number], labels, "train")


def told(episode):
    return [(turn.round, turn.speaker, turn.act, turn.offer, turn.emotion) for turn in episode.turns]


def test_a_dialogue_by_hand_from_both_sides():
    first, second = sides(1)
    assert told(first) == [
        (1, "focal", "propose", None, "joy"),
        (1, "counterparty", "propose", None, None),
        (2, "focal", "propose", None, "sadness"),
        (2, "counterparty", "propose", None, None),
        (3, "focal", "propose", None, "joy"),
        (3, "counterparty", "propose", 23.0, None),
        (4, "focal", "accept", None, None),
    ]
    assert told(second) == [
        (0, "counterparty", "propose", None, None),
        (1, "focal", "propose", None, "neutral"),
        (1, "counterparty", "propose", None, None),
        (2, "focal", "propose", None, "neutral"),
        (2, "counterparty", "propose", None, None),
        (3, "focal", "propose", 19.0, None),
        (3, "counterparty", "accept", None, None),
    ]
    assert (first.end, first.deal_value, first.utility) == ("deal", 23.0, pytest.approx(23 / 36))
    assert (second.end, second.deal_value, second.utility) == ("deal", 19.0, pytest.approx(19 / 36))


def test_clicks_are_put_in_words_without_what_nobody_gets():
    texts = [turn.text for turn in sides(1)[0].turns]
    assert texts[-2:] == [
        "I submit this deal: I get 1 water, 3 firewood, and you get 3 food, 2 water.",
        "I accept the deal.",
    ]


def test_what_one_side_says_in_a_row_is_one_turn_and_a_rejection_offers_nothing():
    first, second = sides(2)
    assert [turn.offer for turn in first.turns] == [None, None, None, 23.0, None, None, 14.0, 17.0, None]
    assert [turn.offer for turn in second.turns] == [None, None, None, 15.0, None, None, 23.0, 19.0, None]
    rejection = second.turns[4]
    assert rejection.text == "I reject the deal. No way. Be fair. 😡😡😮" and rejection.emotion == "anger"
    counter = first.turns[7]
    assert counter.text.startswith("I reject the deal. I submit this deal: I get 1 food, 2 water, 1 firewood, and you")
    assert counter.emotion is None and first.deal_value == 17.0


def test_walking_away_is_no_deal_whoever_walks():
    for number in (3, 4):
        for episode in sides(number):
            assert (episode.end, episode.deal_value, episode.utility) == ("walk_away", None, 0.0)
            assert episode.turns[-1].act == "walk_away" and episode.turns[-1].speaker in ("focal", "counterparty")


def test_points_of_every_accepted_deal_are_those_of_the_file():
    for number, dialogue in DIALOGUES.items():
        for name, episode in zip(sorted(dialogue.participants), sides(number), strict=True):
            if episode.end == "deal":
                assert episode.deal_value == dialogue.participants[name].points
                assert episode.scenario.position(episode.deal_value) == pytest.approx(episode.deal_value / 36)


def test_before_the_focal_side_speaks_no_time_has_gone():
    second = sides(1)[1]
    assert situation_of(DialoguePrefix(second.scenario, second.turns[:1]))[2] == 0.0
    assert situation_of(DialoguePrefix(second.scenario, second.turns[:3]))[2] == pytest.approx(1 / 15)


def test_the_most_frequent_emoticon_counts_and_the_first_of_equals():
    turns = [messages for messages in DIALOGUES[6].messages if "😮" in messages.text]
    assert shown_emotion(turns) == "surprise"  # 😮 before ☹, one each
    assert shown_emotion([DIALOGUES[2].messages[5]]) == "anger"  # 😡😡😮
    assert shown_emotion([DIALOGUES[6].messages[0]]) is None  # a sun is no emotion


@pytest.mark.parametrize(
    ("vocabulary", "unmarked", "expected"),
    [
        ("goemotions28", "neutral", "neutral"),
        ("ekman7", "neutral", "neutral"),
        ("izard10", "none", None),
    ],
)
def test_emoticons_become_labels_of_the_vocabulary(vocabulary, unmarked, expected):
    labels = EmotionLabels.choose(load_vocabulary(vocabulary), unmarked)
    assert labels.of == {name: name for name in ("joy", "sadness", "surprise", "anger")}
    assert labels.unmarked == expected
    assert sides(1, labels)[1].focal_turns[0].emotion == expected


def test_a_vocabulary_with_other_names_is_read_by_what_is_perceived(tmp_path):
    (tmp_path / "own.yaml").write_text(
        "name: own\nlabels:\n"
        "  pressure: {directive: press, perceived_as: [annoyance, anger]}\n"
        "  warmth: {directive: warm, perceived_as: [joy, love]}\n"
        "  sorrow: {directive: cry, perceived_as: [sadness, surprise]}\n"
    )
    vocabulary = load_vocabulary(str(tmp_path / "own.yaml"))
    labels = EmotionLabels.choose(vocabulary, "none")
    assert labels.of == {"joy": "warmth", "sadness": "sorrow", "surprise": "sorrow", "anger": "pressure"}
    with pytest.raises(UserError, match=r"'own' has no label for neutral.*unmarked=none"):
        EmotionLabels.choose(vocabulary, "neutral")
    with pytest.raises(UserError, match="unmarked=joy: use neutral or none"):
        EmotionLabels.choose(vocabulary, "joy")


def test_what_the_other_side_wants_is_in_no_prompt_of_the_focal_side():
    for number, dialogue in DIALOGUES.items():
        for name, episode in zip(sorted(dialogue.participants), sides(number), strict=True):
            words = system_words(episode.scenario)
            own, other = dialogue.participants[name], dialogue.participants[dialogue.other(name)]
            assert all(reason.rstrip(".") in words for reason in own.reasons.values())
            assert not any(reason.rstrip(".") in words for reason in other.reasons.values())
            assert f"(5 points a package): {own.items['High']}" in words and "36 points" in words


def corpus(folder, **changes):
    given = {"path": str(TINY), "vocabulary": "goemotions28"} | changes
    return CasinoCorpus(**given, folder=str(folder))


def test_it_is_built_once_with_card_recipe_and_manifest(tmp_path, monkeypatch):
    built = corpus(tmp_path)
    path = built.build()
    assert len(built.episodes()) == 12 and path.parent == built.folder
    names = {file.name for file in built.folder.iterdir() if file.name != ".lock"}
    assert names == {"README.md", "episodes.parquet", "manifest.json", "recipe.json"}
    card = (built.folder / "README.md").read_text(encoding="utf-8")
    for words in ("license: cc-by-4.0", "Both sides are **people**", "naacl-main.254", "split_seed", "| val |"):
        assert words in card
    assert json.loads((built.folder / "recipe.json").read_text(encoding="utf-8")) == built.recipe()
    monkeypatch.setattr(corpus_module, "read_dialogues", lambda paths: pytest.fail("read again"))
    assert corpus(tmp_path).build() == path


def test_both_sides_and_all_dialogues_of_a_pair_share_a_split(tmp_path):
    built = corpus(tmp_path)
    built.build()
    splits = defaultdict(set)
    for episode in built.episodes():
        splits[DIALOGUES[int(episode.scenario.id.split("-")[1])].pair].add(episode.split)
    assert len(splits) == 5 and all(len(found) == 1 for found in splits.values())
    assert set.union(*splits.values()) == {"train", "val", "test"}
    assert len(built.scenarios("val")) % 2 == 0
    drawn = [split_by_pair(list(DIALOGUES.values()), seed) for seed in range(20)]
    assert all(split[1] == split[5] for split in drawn) and len({split[1] for split in drawn}) > 1


def test_shares_of_the_splits_are_about_70_10_20(shared_data):
    dialogues = read_dialogues([shared_data / "casino" / "casino_train.json"])
    splits = split_by_pair(dialogues, 0)
    counts = [sum(split == wanted for split in splits.values()) for wanted in ("train", "val", "test")]
    assert sum(counts) == 900 and counts == pytest.approx([630, 90, 180], abs=4)
    assert splits == split_by_pair(dialogues[::-1], 0) != split_by_pair(dialogues, 1)


@pytest.mark.parametrize("change", [{"unmarked": "none"}, {"vocabulary": "ekman7"}, {"split_seed": 1}])
def test_another_recipe_is_another_folder(tmp_path, change):
    assert corpus(tmp_path).folder != corpus(tmp_path, **change).folder


def test_another_content_is_another_folder_and_another_place_is_not(tmp_path):
    same, other = tmp_path / "same.json", tmp_path / "other.json"
    same.write_bytes(TINY.read_bytes())
    other.write_bytes(TINY.read_bytes().replace(b"Hello there!", b"Hi there!"))
    folders = [corpus(tmp_path, path=str(path)).folder for path in (TINY, same, other)]
    assert folders[0] == folders[1] != folders[2]


def test_a_file_that_is_not_there_is_named_with_its_key(tmp_path):
    with pytest.raises(UserError, match=r"data.corpus.path=.*none.json cannot be read"):
        corpus(tmp_path, path=str(tmp_path / "none.json")).build()
