"""Names of arms, and what is refused."""

import pytest

from emodistill.emotions.vocabulary import Vocabulary, load_vocabulary
from emodistill.errors import UserError
from emodistill.evaluation.arms import Arm, draw_anew, is_imported, is_local, parse_arm, parse_arms, selector_of
from emodistill.evaluation.own_classes import OwnSelector
from emodistill.negotiation.agents import FixedEmotion, LeftToSpeaker, NoEmotion, UniformEmotion
from emodistill.negotiation.generator import generate_scenarios
from emodistill.negotiation.protocol import COUNTERPARTY, FOCAL, Negotiation

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
        ("mean_return", "mean_return", "base"),
        ("emotion_free", "none", "jpo_emotion_free"),
        ("joint", "self_selected", "jpo_joint"),
        ("positive_advantage", "iql", "jpo_positive_advantage"),
        ("phrasebook_mean_return", "mean_return", "phrasebook"),
        ("best_constant", "best_constant", "base"),
        ("best_constant+sft", "best_constant", "sft"),
        ("mean_return+jpo", "mean_return", "jpo"),
        ("random+jpo", "uniform", "jpo"),
        ("none+base", "none", "base"),
        ("joy+phrasebook", "joy", "phrasebook"),
        ("self_selected+endpoint", "self_selected", "endpoint"),
        ("closing.ThanksWhenClose+jpo", "closing.ThanksWhenClose", "jpo"),
        ("stubborn.Stubborn", "stubborn.Stubborn", "itself"),
        ("iql+my.own-adapter_2", "iql", "my.own-adapter_2"),
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
    with pytest.raises(
        UserError, match=f"unknown arm '{name}'(; did you mean .*)?; arms are vanilla, random, .*fixed:<label>"
    ):
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


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("hope+jpo", "an emotion comes from none, uniform, random, iql, mean_return, best_constant, self_selected"),
        ("+jpo", "an emotion comes from"),
        ("closing.+jpo", "or is the import path of a selector's class"),
        ("1.Always+jpo", "an emotion comes from"),
        ("joy+itself", "a generator is base, phrasebook, endpoint, or a stage folder"),
        ("stubborn.Stubborn@4", "only a language model drafts"),
        ("stubborn.", "unknown arm 'stubborn.'.* the import path of an agent's class"),
        ("iql+", "a generator is base, phrasebook, endpoint, or a stage folder"),
        ("iql+../other", "a generator is base"),
        ("iql+jpo+sft", "a generator is base"),
        ("self_selected+phrasebook", "cannot choose"),
        ("iql#1", "from 2 on, e.g. iql#2"),
        ("iql#", "from 2 on"),
        ("iql#two", "from 2 on"),
        ("#2", "e.g. iql#2|unknown arm"),
    ],
)
def test_a_spelling_that_means_nothing_is_explained(name, why):
    with pytest.raises(UserError, match=why):
        parse_arm(name, VOCABULARY)


def test_a_repetition_is_an_arm_of_its_own():
    first, second = parse_arms(["emodistill", "emodistill#2"], VOCABULARY)
    assert (first.repetition, second.repetition) == (1, 2) and second == Arm("emodistill#2", "iql", "jpo", 2)
    assert parse_arm("fixed#3", VOCABULARY) == Arm("fixed:gratitude#3", "gratitude", "base", 3)
    with pytest.raises(UserError, match="the same arm twice"):
        parse_arms(["emodistill", "iql+jpo"], VOCABULARY)
    with pytest.raises(UserError, match="the same arm twice"):
        parse_arms(["joy+base#2", "fixed:joy#2"], VOCABULARY)


def test_a_repetition_draws_anew_on_the_focal_side_alone():
    (scenario, *_) = generate_scenarios("debt", 10)

    def draws(repetition, seed=3):
        negotiation = Negotiation(scenario, seed)
        draw_anew(negotiation, repetition)
        return [negotiation.rng[side].integers(2**62) for side in (FOCAL, COUNTERPARTY)]

    plain = Negotiation(scenario, 3)
    assert draws(1) == [plain.rng[side].integers(2**62) for side in (FOCAL, COUNTERPARTY)]
    assert len({draws(n)[0] for n in (1, 2, 3)}) == 3 and len({draws(n)[1] for n in (1, 2, 3)}) == 1
    assert draws(2) == draws(2) != draws(2, seed=4)


def test_only_the_iql_arms_load_the_trained_selector():
    trained = NoEmotion()

    def never():
        pytest.fail("loaded for nothing")

    assert isinstance(selector_of(parse_arm("vanilla", VOCABULARY), VOCABULARY, never), NoEmotion)
    assert isinstance(selector_of(parse_arm("random", VOCABULARY), VOCABULARY, never), UniformEmotion)
    assert isinstance(selector_of(parse_arm("fixed:joy", VOCABULARY), VOCABULARY, never), FixedEmotion)
    assert isinstance(selector_of(parse_arm("joint", VOCABULARY), VOCABULARY, never, never), LeftToSpeaker)
    assert selector_of(parse_arm("mean_return+jpo", VOCABULARY), VOCABULARY, never, lambda: trained) is trained
    with pytest.raises(UserError, match="mean_return. needs the mean returns"):
        selector_of(parse_arm("mean_return", VOCABULARY), VOCABULARY, never)
    for name in ("iql", "sft", "emodistill", "phrasebook_iql"):
        assert selector_of(parse_arm(name, VOCABULARY), VOCABULARY, lambda: trained) is trained


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("vanila", "vanilla"),
        ("emodistil", "emodistill"),
        ("table", "mean_return"),
        ("phrasebook_table", "phrasebook_mean_return"),
        ("named+base", "self_selected"),
        ("angr+jpo", "anger"),
        ("fixd:joy", "fixed"),
    ],
)
def test_a_misspelt_or_renamed_arm_is_told_its_name(name, meant):
    with pytest.raises(UserError, match=f"; did you mean '{meant}'"):
        parse_arm(name, VOCABULARY)


def test_only_models_of_this_machine_have_an_expression_to_measure():
    assert [is_local(name) for name in ("base", "jpo", "phrasebook", "endpoint", "itself")] == [True] * 2 + [False] * 3


def test_an_agent_is_imported_whatever_the_labels_are():
    labels = Vocabulary("own", ("a.b",), ("Be so.",), ((),))
    assert is_imported(Arm("a.b", "a.b", "itself"), labels) and not is_imported(parse_arm("a.b+base", labels), labels)


def test_the_class_of_an_import_path_is_the_selector():
    def never():
        pytest.fail("loaded for nothing")

    made = selector_of(parse_arm("emodistill.negotiation.agents.NoEmotion+base", VOCABULARY), VOCABULARY, never)
    assert isinstance(made, OwnSelector) and isinstance(made.inner, NoEmotion)


def test_drafts_make_an_arm_of_its_own():
    arm = parse_arm("sft@4", VOCABULARY)
    assert (arm.name, arm.emotion, arm.generator, arm.drafts, arm.repetition) == ("sft@4", "iql", "sft", 4, 1)
    assert parse_arm("joy+jpo@2#3", VOCABULARY) == Arm("joy+jpo@2#3", "joy", "jpo", 3, 2)
    assert len(parse_arms(["sft", "sft@4", "sft@8"], VOCABULARY)) == 3
    for name, why in [("sft@1", "2 or more"), ("sft@", "2 or more"), ("phrasebook_iql@4", "only a language model")]:
        with pytest.raises(UserError, match=why):
            parse_arm(name, VOCABULARY)
