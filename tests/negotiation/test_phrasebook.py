"""The teacher says the right number in clean words, fit for its hearers, and the emotion can be told from them."""

import itertools
import re
from collections import Counter
from functools import cache

import numpy as np
import pytest

from emodistill.emotions.perceiver import load_perceiver
from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.negotiation.domains import domain_names, load_domain
from emodistill.negotiation.offers import parse_offer
from emodistill.negotiation.phrasebook import (
    ACTS,
    bundled,
    renderings,
    utterance,
)

EMOTIONS = load_vocabulary().labels
DOMAINS = ("debt", "disaster", "hospital", "student")
CELLS = list(itertools.product(EMOTIONS, ACTS, DOMAINS))
VIOLENT = """kill murder shoot stab strangle beat punch hit smash gun knife bomb weapon idiot stupid moron dumb fool
    liar loser scum trash pathetic worthless bastard bitch shit fuck ass bloody slut jail prison threaten revenge"""
UNFIT_FOR_MINORS = """damn hell god alcohol beer wine drunk drug drugs pills cigarette sex sexy naked suicide furious
    lazy fat lawyer court"""


def offers_of(domain: str, count: int) -> list[float]:
    rules = load_domain(domain)
    low, high = rules.bounds
    return [rules.snap(low + (high - low) * i / (count - 1)) for i in range(count)]


@cache
def texts_of(domain: str) -> list[tuple[str, str, float, str]]:
    """(emotion, act, offer, utterance): all lines with all fillings, at offers spread over the domain's bounds."""
    offers = itertools.cycle(offers_of(domain, 97))
    found = []
    for emotion, act in itertools.product(EMOTIONS, ACTS):
        offer = next(offers)
        found += [(emotion, act, offer, text) for text in renderings(bundled(), emotion, act, domain, offer)]
    return found


def test_covers_the_whole_vocabulary_and_every_bundled_domain() -> None:
    assert bundled().emotions == EMOTIONS
    assert set(domain_names()) >= set(DOMAINS)


@pytest.mark.parametrize("domain", DOMAINS)
def test_at_least_three_distinct_utterances_beside_the_offer(domain: str) -> None:
    for emotion, act in itertools.product(EMOTIONS, ACTS):
        lines = set(bundled().lines(emotion, act, domain))
        assert len(lines) >= 3, (emotion, act)


@pytest.mark.parametrize("domain", DOMAINS)
def test_the_parser_reads_exactly_the_offer_and_none_in_an_acceptance(domain: str) -> None:
    for _, act, offer, text in texts_of(domain):
        assert parse_offer(text, domain) == (None if act == "close" else offer), text


@pytest.mark.parametrize("domain", DOMAINS)
def test_every_offer_sentence_states_every_offer(domain: str) -> None:
    rules = load_domain(domain)
    emotion_of_tone = {tuple(bundled().sentences(emotion, "open", domain)): emotion for emotion in EMOTIONS}
    assert len(emotion_of_tone) >= 5
    for emotion, act, offer in itertools.product(emotion_of_tone.values(), ACTS, offers_of(domain, 41)):
        for sentence in bundled().sentences(emotion, act, domain):
            text = utterance("I hear you.", sentence.replace("{offer}", rules.say(offer)))
            assert parse_offer(text, domain) == (None if act == "close" else offer), text


def test_every_sentence_of_an_utterance_begins_with_a_capital() -> None:
    assert utterance("the wait is hard. your pain counts!", "it is 10:30 PM.") == (
        "The wait is hard. Your pain counts! It is 10:30 PM."
    )
    assert utterance("I hear you.", "") == "I hear you."


@pytest.mark.parametrize("domain", DOMAINS)
def test_well_formed(domain: str) -> None:
    for _, _, _, text in texts_of(domain):
        assert not re.search(r"[{}\[\]<>*_#\"]|  | [,.!?]|[.,!?]{2}|[^\x20-\x7e]", text), text
        assert text[0].isupper() and text[-1] in ".!?", text
        assert not re.search(r"[.!?] [a-z]", text), text
        assert not re.search(r"\b(\w+) \1\b", text.lower()), text
        assert not re.search(r"\ba [aeio]\w|\ban [b-df-gj-np-tv-z]\w", text.lower()), text
        assert not re.search(r"\b(a|an|the|my|your) (a|an|the|my|your|our|this|these)\b", text.lower()), text


@pytest.mark.parametrize("domain", DOMAINS)
def test_short_enough_for_a_small_model(domain: str) -> None:
    lengths = [len(text.split()) for _, _, _, text in texts_of(domain)]
    assert min(lengths) >= 7 and max(lengths) <= 36
    assert 14 <= np.mean(lengths) <= 26


@pytest.mark.parametrize("domain", DOMAINS)
def test_nobody_is_threatened_or_insulted_and_minors_hear_nothing_unfit(domain: str) -> None:
    banned = {*VIOLENT.split(), *(UNFIT_FOR_MINORS.split() if domain == "student" else ())}
    for emotion, _, _, text in texts_of(domain):
        found = banned & set(re.findall(r"[a-z]+", text.lower()))
        assert not found, (emotion, text)


@pytest.mark.parametrize("domain", DOMAINS)
def test_no_label_as_a_tag_and_no_directive_repeated(domain: str) -> None:
    directives = [directive.lower() for directive in load_vocabulary().directives]
    for emotion, _, _, text in texts_of(domain):
        assert not re.match(rf"\W*{emotion}\W*[:.!-]", text.lower()), text
        assert not re.search(rf"\bi (feel|show|express) {emotion}\b", text.lower()), text
        assert not any(directive in text.lower() for directive in directives), text


def test_a_line_belongs_to_one_emotion_act_and_domain() -> None:
    owners = Counter()
    for emotion, act, domain in CELLS:
        owners.update({(emotion, line, domain) for line in bundled().lines(emotion, act, domain)})
    assert all(count == 1 for count in owners.values()), [line for line, count in owners.items() if count > 1]
    assert len({line for _, line, _ in owners}) == len({(emotion, line) for emotion, line, _ in owners})


def test_the_emotion_can_be_told_from_the_words() -> None:
    """Measured (docs/teacher.md): 0.93 and 0.91 named first over all emotions, the weakest 0.60; floors below that."""
    for name in ("counterparty", "judge"):
        named = {emotion: [] for emotion in EMOTIONS}
        for domain in DOMAINS:
            emotions, _, _, texts = zip(*texts_of(domain), strict=True)
            tops = load_perceiver(name).probabilities(texts).argmax(1)
            for emotion, top in zip(emotions, tops, strict=True):
                named[emotion].append(EMOTIONS[top] == emotion)
        shares = {emotion: float(np.mean(hits)) for emotion, hits in named.items()}
        assert np.mean(list(shares.values())) >= 0.85, name
        assert min(shares.values()) >= 0.45, (name, min(shares, key=shares.__getitem__))
