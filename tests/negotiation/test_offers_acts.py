"""Acceptance and leaving, read off words: strictly, and the same for everybody."""

import pytest

from emodistill.negotiation.offers import parse_act
from emodistill.negotiation.prompts import BARGAINS


@pytest.mark.parametrize(
    "text",
    [
        "I accept your offer.",
        "Okay, I accept your offer. Thank you for your patience.",
        "All right. We have a deal!",
        "Fine, deal.",
        "I can agree to that proposal.",
        "It’s a deal.",
        "I understand. I accept.",
        "I accept your offer. Let us say 45 days.",
    ],
)
def test_a_sentence_that_accepts_and_nothing_else(text):
    assert parse_act(text, "debt", 45.0) == "accept"
    assert parse_act(text, "debt", None) == "propose"  # nothing stands


@pytest.mark.parametrize(
    "text",
    [
        "I accept that you are angry.",
        "I accept your offer if you wait for 90 days.",
        "I would accept your offer.",
        "I cannot accept your offer.",
        "I don't accept. No way.",
        "Do we have a deal?",
        "I accept your offer, but I need 90 days.",
        "I accept your offer. My number is 90 days.",
        "Deal or no deal?",
        "I accept your offer. I am walking away.",
        "",
        "I agree with you about the bank.",
    ],
)
def test_words_that_settle_nothing(text):
    assert parse_act(text, "debt", 45.0) == "propose"


@pytest.mark.parametrize(
    "text",
    [
        "I am walking away.",
        "Enough. I'm done negotiating.",
        "We will walk away.",
        "No deal!",
        "This negotiation is over.",
    ],
)
def test_a_sentence_that_leaves(text):
    assert parse_act(text, "debt", 45.0) == parse_act(text, "debt", None) == "walk_away"


@pytest.mark.parametrize(
    "text", ["I am walking away if you insist.", "I will walk away from the bank.", "I could leave."]
)
def test_a_threat_to_leave_is_none(text):
    assert parse_act(text, "debt", 45.0) == "propose"


def test_the_sentences_that_a_model_is_told_count():
    told = [part for i, part in enumerate(BARGAINS.split('"')) if i % 2]
    assert [parse_act(sentence, "debt", 45.0) for sentence in told] == ["accept", "walk_away"]
