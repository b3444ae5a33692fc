"""Names of arms, and what is refused."""

import pytest

from emodistill.emotions.vocabulary import Vocabulary, load_vocabulary
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
        ("endpoint_vanilla", "none", "endpoint"),
        ("endpoint_random", "uniform", "endpoint"),
        ("endpoint_iql", "iql", "endpoint"),
        ("endpoint_fixed:anger", "anger", "endpoint"),
    ],
)
def test_an_arm_says_where_emotion_and_words_come_from(name, emotion, words):
    assert parse_arm(name, VOCABULARY) == Arm(name, emotion, words)


@pytest.mark.parametrize("name", ["emodistil", "fixed:", "endpoint_sft", "joy", "sft:joy", "", "Vanilla"])
def test_an_unknown_arm_is_named_with_the_choice(name):
    with pytest.raises(UserError, match=f"unknown arm '{name}'; arms are vanilla, random, .*fixed:<label>"):
        parse_arm(name, VOCABULARY)


def test_an_emotion_outside_the_vocabulary_is_named():
    with pytest.raises(UserError, match="hope"):
        parse_arm("fixed:hope", VOCABULARY)
    with pytest.raises(UserError, match="gratitude"):
        parse_arm("fixed:gratitude", load_vocabulary("ekman7"))


@pytest.mark.parametrize(("name", "label"), [("goemotions28", "gratitude"), ("ekman7", "joy"), ("izard10", "joy")])
def test_a_constant_without_a_label_exists_in_every_shipped_vocabulary(name, label):
    assert parse_arm("fixed", load_vocabulary(name)) == Arm(f"fixed:{label}", label, "base")


def test_a_constant_without_a_label_exists_in_a_vocabulary_of_yours():
    tactics = Vocabulary("tactics", ("calm", "warm"), ("Be calm.", "Be warm."), ((), ()))
    assert parse_arm("endpoint_fixed", tactics) == Arm("endpoint_fixed:calm", "calm", "endpoint")


def test_each_arm_once():
    assert [arm.name for arm in parse_arms(["iql", "vanilla"], VOCABULARY)] == ["iql", "vanilla"]
    with pytest.raises(UserError, match="the same arm twice"):
        parse_arms(["iql", "vanilla", "iql"], VOCABULARY)
    with pytest.raises(UserError, match="the same arm twice"):
        parse_arms(["fixed", "fixed:gratitude"], VOCABULARY)
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
