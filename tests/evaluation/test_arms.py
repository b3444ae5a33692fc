"""Names of arms, and what is refused."""

import pytest

from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.errors import UserError
from emodistill.evaluation.arms import Arm, parse_arm, parse_arms, selector_of
from emodistill.negotiation.selectors import FixedEmotion, NoEmotion, UniformEmotion

VOCABULARY = load_vocabulary()


@pytest.mark.parametrize(
    ("name", "emotion", "words"),
    [
        ("vanilla", "none", "base"),
        ("random", "uniform", "base"),
        ("fixed:joy", "joy", "base"),
        ("iql", "iql", "base"),
        ("sft", "iql", "sft"),
        ("emodistill", "iql", "jpo"),
        ("phrasebook_vanilla", "none", "phrasebook"),
        ("phrasebook_random", "uniform", "phrasebook"),
        ("phrasebook_iql", "iql", "phrasebook"),
        ("phrasebook_fixed:fear", "fear", "phrasebook"),
    ],
)
def test_an_arm_says_where_emotion_and_words_come_from(name, emotion, words):
    assert parse_arm(name, VOCABULARY) == Arm(name, emotion, words)


@pytest.mark.parametrize("name", ["emodistil", "fixed", "fixed:", "joy", "sft:joy", "", "Vanilla"])
def test_an_unknown_arm_is_named_with_the_choice(name):
    with pytest.raises(UserError, match=f"unknown arm '{name}'; arms are vanilla, random, .*fixed:<label>"):
        parse_arm(name, VOCABULARY)


def test_an_emotion_outside_the_vocabulary_is_named():
    with pytest.raises(UserError, match="hope"):
        parse_arm("fixed:hope", VOCABULARY)
    with pytest.raises(UserError, match="gratitude"):
        parse_arm("fixed:gratitude", load_vocabulary("ekman7"))


def test_each_arm_once():
    assert [arm.name for arm in parse_arms(["iql", "vanilla"], VOCABULARY)] == ["iql", "vanilla"]
    with pytest.raises(UserError, match="the same arm twice"):
        parse_arms(["iql", "vanilla", "iql"], VOCABULARY)
    with pytest.raises(UserError, match="no arm to play"):
        parse_arms([], VOCABULARY)


def test_only_the_iql_arms_load_the_trained_selector():
    trained = NoEmotion()

    def never():
        pytest.fail("loaded for nothing")

    assert isinstance(selector_of(parse_arm("vanilla", VOCABULARY), VOCABULARY, never), NoEmotion)
    assert isinstance(selector_of(parse_arm("random", VOCABULARY), VOCABULARY, never), UniformEmotion)
    assert isinstance(selector_of(parse_arm("fixed:joy", VOCABULARY), VOCABULARY, never), FixedEmotion)
    for name in ("iql", "sft", "emodistill", "phrasebook_iql"):
        assert selector_of(parse_arm(name, VOCABULARY), VOCABULARY, lambda: trained) is trained
