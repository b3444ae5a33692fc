"""Replies that name their emotion before the words."""

import pytest

from emodistill.emotions.vocabulary import Vocabulary, load_vocabulary
from emodistill.negotiation.generator import generate_scenarios
from emodistill.negotiation.prompts import (
    CHOOSE,
    Named,
    directive_words,
    opening_words,
    system_words,
    take_apart,
    with_name,
)
from emodistill.negotiation.protocol import COUNTERPARTY

VOCABULARY = load_vocabulary()


@pytest.mark.parametrize("label", VOCABULARY.labels)
def test_what_was_put_together_comes_apart(label):
    words = "Listen: I want 45 days."
    assert take_apart(with_name(label, words), VOCABULARY) == Named(label, words)
    assert with_name(None, words) == words


@pytest.mark.parametrize(
    ("reply", "named"),
    [
        ("  Joy :  We agree.", Named("joy", "We agree.")),
        ('**"anger"**: No.', Named("anger", "No.")),
        ("[fear]: I worry\n\nabout this.", Named("fear", "I worry\n\nabout this.")),
        ("joy:\nFine.", Named("joy", "Fine.")),
        ("joy:", Named("joy", "")),
        ("joy: anger: No.", Named("joy", "anger: No.")),
        ("hope: We agree.", Named(None, "hope: We agree.")),
        ("joyful: We agree.", Named(None, "joyful: We agree.")),
        ("We feel joy: we agree.", Named(None, "We feel joy: we agree.")),
        ("joy We agree.", Named(None, "joy We agree.")),
        ("Creditor: joy: yes.", Named(None, "Creditor: joy: yes.")),
        ("", Named(None, "")),
    ],
)
def test_only_a_name_of_the_vocabulary_before_a_colon_counts(reply, named):
    assert take_apart(reply, VOCABULARY) == named


def test_the_longer_of_two_names_is_read_and_the_vocabulary_spells_it():
    tactics = Vocabulary("tactics", ("warm", "Warm-hearted"), ("Be warm.", "Be kind."), ((), ()))
    assert take_apart("WARM-HEARTED: yes", tactics) == Named("Warm-hearted", "yes")


def test_a_model_that_names_emotions_is_told_their_names_once():
    (scenario, *_) = generate_scenarios("debt", 10)
    named = opening_words(scenario, VOCABULARY, "self_selected")
    assert all(label in named for label in VOCABULARY.labels)
    for emotions in ("prompted", "none"):
        assert opening_words(scenario, VOCABULARY, emotions) == system_words(scenario)
    braces = Vocabulary("odd", ("{role}", "plain"), ("One.", "Two."), ((), ()))
    assert "one of {role}, plain;" in opening_words(scenario, braces, "self_selected")
    other = opening_words(scenario, VOCABULARY, side=COUNTERPARTY)
    assert other == system_words(scenario, COUNTERPARTY) != named


def test_directives_by_how_emotions_enter():
    asked = (VOCABULARY, "joy", "propose", "45 days")
    assert directive_words(*asked) == f"{VOCABULARY.directive('joy')} State your offer: 45 days."
    assert directive_words(*asked, "none") == "State your offer: 45 days."
    assert directive_words(*asked, "self_selected") == f"{CHOOSE} State your offer: 45 days."
