"""Role violations: what is one, what is none, and what is left without them."""

import pytest

from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.negotiation.domains import domain_names, load_domain
from emodistill.negotiation.generator import generate_scenarios
from emodistill.negotiation.phrasebook import bundled, renderings
from emodistill.negotiation.prompts import directive_words
from emodistill.negotiation.role_checks import (
    find_role_violation,
    first_paragraph,
    violates_role_behind,
    without_role_violations,
)

DIRECTIVE = directive_words(load_vocabulary(), "anger", "propose", "45 days")
VIOLATIONS = [
    ("", "empty", ""),
    (" \n. …", "empty", ""),
    ("Creditor: I want 45 days.", "label", "I want 45 days."),
    ("**Creditor:** I want 45 days.", "label", "I want 45 days."),
    ("Assistant: I want 45 days.", "label", "I want 45 days."),
    ("I want 45 days.\nDebtor: I agree.", "other_side", "I want 45 days."),
    ("I want 45 days. Debtor: I agree. Creditor: Good.", "other_side", "I want 45 days."),
    ("Debtor: I agree.", "other_side", ""),
    ("User: what now?", "other_side", ""),
    ("I'm the debtor. Give me time. I want 45 days.", "other_side", "Give me time. I want 45 days."),
    ("As the debtor, I need 90 days. We wait.", "other_side", "We wait."),
    ("[State your offer: 45 days.] Pay now.", "copied", "Pay now."),
    ("Pay now, please. [Your Name]", "copied", "Pay now, please."),
    ("State your offer: 45 days.", "copied", ""),
    ("Let your words show anger: you see. I want 45 days.", "copied", "I want 45 days."),
    ("No! You are angry about how this goes.", "copied", "No!"),
]
CLEAN = [
    "I want 45 days, and I am angry.",
    "The debtor before you paid in 30 days.",
    "As you know, a debtor pays. I am the creditor here.",
    "What is your offer? Mine is 45 days.",
    "Please state your offer.",
    "My terms: 45 days.",
]


@pytest.mark.parametrize(("text", "kind", "left"), VIOLATIONS)
def test_a_slip_is_named_and_cut_out(text, kind, left):
    assert find_role_violation(text, "debt", "focal", DIRECTIVE) == kind
    assert without_role_violations(text, "debt", "focal", DIRECTIVE) == left


@pytest.mark.parametrize("text", CLEAN)
def test_words_in_role_are_left_alone(text):
    assert find_role_violation(text, "debt", "focal", DIRECTIVE) is None
    assert without_role_violations(text, "debt", "focal", DIRECTIVE) == text


def test_a_label_of_ones_own_is_a_slip_at_the_beginning_only():
    assert find_role_violation("You know who speaks. The creditor: me.", "debt", "focal") is None


def test_four_words_of_a_directive_are_no_coincidence_but_three_are():
    text = "Well then, say that you wait, or give them nothing more."
    assert find_role_violation(text, "debt", "focal", "Say that you wait.") == "copied"
    assert find_role_violation(text, "debt", "focal", "Give them nothing.") is None


def test_whose_label_it_is_depends_on_the_seat():
    assert find_role_violation("Debtor: I need time.", "debt", "counterparty") == "label"
    assert find_role_violation("Creditor: Pay now.", "debt", "counterparty") == "other_side"
    assert find_role_violation("Coordinator: hold on.", "disaster", "focal") == "label"
    assert find_role_violation("Survivor: hurry.", "disaster", "focal") == "other_side"


@pytest.mark.parametrize("text", ["I am a patient person.", "I am a patient and kind listener, so 40 days."])
def test_patience_is_no_illness(text):
    assert find_role_violation(text, "hospital", "focal") is None
    assert find_role_violation("I am a patient.", "hospital", "focal") == "other_side"


def test_only_the_first_paragraph_is_said_and_what_follows_is_noticed():
    text = "  We need\nit now.  \n\nDebtor: no"
    assert first_paragraph(text) == "We need it now." and first_paragraph("") == ""
    assert find_role_violation(text, "debt", "focal") is None
    assert violates_role_behind(text, "debt", "focal") and not violates_role_behind(
        "We need it now.\n\nThanks.", "debt", "focal"
    )
    assert not violates_role_behind("I want it.\nDebtor: no.", "debt", "focal")  # that one is in front


@pytest.mark.parametrize("domain", domain_names())
def test_the_teacher_never_violates_its_role(domain):
    """Every emotion and act of the phrasebook, with the directive that goes with it: none may read as a violation."""
    vocabulary, rules = load_vocabulary(), load_domain(domain)
    if not rules.generator:
        pytest.skip("a domain of imported dialogues")
    offer = rules.snap(generate_scenarios(domain, 10)[0].focal_target)
    for emotion in bundled().emotions:
        directive = directive_words(vocabulary, emotion, "propose", rules.say(offer))
        for act in ("open", "press", "hold", "concede"):
            for i, text in enumerate(renderings(bundled(), emotion, act, domain, offer)):
                if i % 7 == 0:
                    assert find_role_violation(text, domain, "focal", directive) is None, text
