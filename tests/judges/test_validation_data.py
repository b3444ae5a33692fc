"""The calibration and attack sets are what the pages say: enough, distinct, consistent, and fit to be read."""

import re
from collections import Counter

import pytest

from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.errors import UserError
from emodistill.judges.examples import examples, probes
from emodistill.judges.validation.attacks import attacks
from emodistill.judges.validation.calibration import calibrated_domains, cases
from emodistill.negotiation.offers import parse_offer
from emodistill.negotiation.protocol import COUNTERPARTY

FAULTS = {"capitulation", "empty_threat", "no_offer", "off_topic", "repetition", "role_slip", "wrong_emotion"}
UNFIT = re.compile(r"\b(?:kill|hit|blood|gun|knife|drunk|beer|wine|drug|sex|hell|damn|stupid)\w*", re.IGNORECASE)


def test_four_domains_are_calibrated():
    assert calibrated_domains() == ["debt", "disaster", "hospital", "student"]
    with pytest.raises(UserError, match="no calibration set"):
        cases("rent")


@pytest.mark.parametrize("domain", calibrated_domains())
def test_there_are_forty_of_each_level_with_every_fault_and_emotion(domain):
    found, vocabulary = cases(domain), load_vocabulary()
    assert Counter(case.level for case in found) == {"good": 40, "middling": 40, "bad": 40}
    assert {case.fault for case in found if case.level == "bad"} == FAULTS
    assert min(Counter(case.fault for case in found if case.fault).values()) >= 4
    emotions = {case.request.emotion for case in found}
    assert len(emotions) >= 26 and all(emotion in vocabulary for emotion in emotions)
    texts = [case.request.utterance for case in found]
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("domain", calibrated_domains())
def test_good_ones_state_an_offer_that_concedes_little(domain):
    for case in cases(domain):
        if case.level == "good":
            offer = parse_offer(case.request.utterance, domain)
            assert offer is not None, case.request.utterance
            assert 0.6 < case.request.scenario.position(offer) <= 1.05, case.request.utterance


@pytest.mark.parametrize("domain", calibrated_domains())
def test_histories_are_turns_in_order_with_offers(domain):
    for case in cases(domain):
        turns = case.request.history
        assert [turn.speaker for turn in turns] == ["focal", "counterparty"] * (len(turns) // 2)
        assert all(turn.offer is not None for turn in turns), turns
        if case.fault == "repetition":
            own = " ".join(turn.text for turn in turns if turn.speaker == "focal").lower()
            assert case.request.utterance.lower()[:24] in own


def test_nothing_is_unfit_for_minors():
    texts = [turn.text for case in cases("student") for turn in case.request.history]
    texts += [case.request.utterance for case in cases("student")] + [example.text for example in examples("student")]
    assert not [text for text in texts if UNFIT.search(text)]


def test_no_case_is_an_example_or_a_probe():
    shown = {example.text for domain in calibrated_domains() for example in examples(domain)} | set(probes())
    assert not shown & {case.request.utterance for domain in calibrated_domains() for case in cases(domain)}


def test_the_attacks_are_many_of_all_kinds_and_distinct():
    found = attacks()
    assert len(found) >= 60 and len({(attack.how, attack.text) for attack in found}) == len(found)
    assert {"master_key", "score_demand", "role_change", "rubric_override"} <= {attack.family for attack in found}
    assert {"delimiter_break", "flattery", "language", "history"} <= {attack.family for attack in found}
    assert 0.2 < sum(attack.held_out for attack in found) / len(found) < 0.5
    assert {attack.how for attack in found} == {"alone", "before", "after", "history"}


@pytest.mark.parametrize("attack", attacks(), ids=lambda attack: f"{attack.family} {attack.how}")
def test_an_attack_changes_its_place_and_nothing_else(attack):
    for case in (cases("debt")[2], next(case for case in cases("debt") if not case.request.history)):
        attacked = attack.on(case.request)
        assert attacked != case.request and attacked.emotion == case.request.emotion
        if attack.how == "history":
            assert attacked.utterance == case.request.utterance
            assert attacked.history[-1].speaker == COUNTERPARTY and attacked.history[-1].text.endswith(attack.text)
        else:
            assert attacked.history == case.request.history
            assert (case.request.utterance in attacked.utterance) == (attack.how != "alone")
            assert attack.text in attacked.utterance
