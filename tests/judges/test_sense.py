"""Heaps, nonsense, repetition, copies and non-sequiturs score low, plain replies as before, whatever the batch."""

from dataclasses import replace

import numpy as np
import pytest
from hydra.utils import instantiate
from judge_cases import GOOD
from tiny_model import build_tiny_model
from tiny_runs import composed

from emodistill.emotions.perceiver import load_perceiver
from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.errors import UserError
from emodistill.files import cache_dir
from emodistill.judges import sense as sense_module
from emodistill.judges.request import JudgeRequest
from emodistill.judges.rubric import RubricJudge
from emodistill.judges.sense import Sense, Signs, copied, domain_words, generic_words, lexical_features, repeated
from emodistill.judges.validation import senseless as senseless_module
from emodistill.judges.validation.calibration import KINDS, calibrated_domains, cases, held_out, senseless
from emodistill.judges.validation.senseless import table

PLAIN = "I am angry, and I have every right to be. I can move to 45 days if you pay the first instalment this week."
SENSELESS = {
    "heap": "Angry furious hate payment. 45 days account angry now please agree invoice mad.",
    "nonsense": "I am angry that your Tuesday drowned the invoice in yellow opinions, so please fold 45 days of soup.",
    "repetition": "I am angry. I am angry. I can move to 45 days. I am angry. I am angry.",
    "non_sequitur": "I am angry at the goalkeeper, his gloves are too big. My cousin sells better ones in 45 days.",
    "copy": "The account has been open for a long time. I can move to 45 days.",
}


embedded = pytest.mark.skipif(
    not list((cache_dir() / "models").glob("smollm2-135m*")), reason="the embedded model is not here"
)


@pytest.fixture(scope="module")
def sense():
    return Sense()


@pytest.fixture(scope="module")
def with_sense(sense):
    return RubricJudge(load_vocabulary(), load_perceiver("judge"), sense=sense)


@embedded
def test_what_makes_no_sense_scores_low_and_a_plain_reply_as_without(judge, with_sense, ask):
    requests = ask(PLAIN, *SENSELESS.values())
    plain, *senseless_scores = [judgement.score for judgement in with_sense.judge(requests)]
    assert plain == judge.judge(requests[:1])[0].score > 7
    assert dict(zip(SENSELESS, senseless_scores, strict=True)) == {
        kind: pytest.approx(1, abs=2.99) for kind in SENSELESS
    }


@embedded
def test_a_score_does_not_depend_on_the_batch(with_sense, ask):
    requests = ask(PLAIN, GOOD, *SENSELESS.values(), "No.", "")
    together = with_sense.judge(requests)
    assert together == [with_sense.judge([request])[0] for request in requests]
    assert together[::-1] == with_sense.judge(requests[::-1]) and together[-1].score == 1.0


@embedded
def test_the_batch_moves_a_sense_far_less_than_what_is_measured_again_for(sense):
    requests = [case.request for case in senseless("debt")[::8]]
    together = np.array(sense._measured(requests))
    alone = np.array([sense._measured([request])[0] for request in requests])
    assert np.abs(together - alone).max() < sense_module.NOISE / 5


@embedded
def test_the_parts_show_it(with_sense, scenario, history):
    parts = [
        with_sense.parts(JudgeRequest(scenario, history, "anger", text))["sense"] for text in (PLAIN, SENSELESS["heap"])
    ]
    assert parts[0] == 1.0 and parts[1] < 0.3


@embedded
def test_it_can_be_switched_off_and_its_identity_is_part_of_the_judges(judge, sense, tmp_path):
    ledger = f"judge.ledger.path={tmp_path / 'ledger.sqlite'}"
    on, off = (
        instantiate(composed("train", "stage=iql", ledger, *more).judge, _convert_="all").judge
        for more in ((), ("judge.judge.sense=null",))
    )
    assert off.version == judge.version != on.version and off.sense is None
    vocabulary, perceiver = load_vocabulary(), load_perceiver("judge")
    assert on.version == RubricJudge(vocabulary, perceiver, sense=sense).version


@embedded
def test_its_version_changes_with_model_and_constants(sense, tmp_path):
    tiny = build_tiny_model(tmp_path / "tiny")
    others = [Sense(str(tiny)), Sense(dtype="bfloat16"), Sense(signs=Signs(repeats=0.2))]
    assert len({sense.version, *(other.version for other in others)}) == 4 and Sense().version == sense.version


def test_a_model_that_is_missing_or_blind_is_an_error_with_a_way_out(ask, tmp_path):
    lost = Sense(str(tmp_path / "nowhere"))  # nothing is looked for before it is asked
    with pytest.raises(UserError, match=r"judge\.judge\.sense=null"):
        lost.of(ask(PLAIN))
    with pytest.raises(UserError, match="shuffled words are as likely"):
        Sense(str(build_tiny_model(tmp_path / "tiny"))).of(ask(PLAIN))


@pytest.mark.parametrize(
    "changes",
    [{"fluent": (1.0,)}, {"fluent": None}, {"relevant": [1, 2, 3, 4, "5"]}, {"repeats": 1.5}, {"copy_cost": -1.0}],
)
def test_impossible_constants_are_refused(changes):
    with pytest.raises(UserError, match="sense: "):
        Signs(**changes)


def test_repetition_and_copies_are_shares(scenario, history):
    assert repeated([]) == repeated(["we", "can", "pay", "in", "full"]) == 0.0
    assert repeated(["so", "be", "it", "so", "be", "it"]) == pytest.approx(2 / 5)
    own, theirs = history[2].text, history[3].text
    for text, share in ((own, 1.0), (theirs, 1.0), ("Something entirely new is said here.", 0.0)):
        assert copied(JudgeRequest(scenario, history, None, text)) == share


def test_words_of_case_and_dialogue_are_known_and_those_of_no_case_foreign(scenario, history):
    near = lexical_features(JudgeRequest(scenario, history, None, "The invoice is overdue; pay an instalment."))
    far = lexical_features(JudgeRequest(scenario, history, None, "The parrot sings opera; feed the elephant."))
    assert near["known"] > 0.5 > far["known"] == 0 and near["foreign"] == 0 < 0.5 < far["foreign"]
    told = replace(scenario, context={"Reason": "A parrot ate the ledger"})
    assert lexical_features(JudgeRequest(told, history, None, "The parrot sings opera."))["known"] > 0
    assert domain_words("debt") != domain_words("student") and not generic_words() & {"invoic", "surger", "rescu"}


@embedded
def test_the_context_is_read_only_where_the_words_leave_a_doubt(sense, ask, monkeypatch):
    contexts = []
    monkeypatch.setattr(sense_module, "_context", lambda request: contexts.append(request.utterance) or "Creditor:")
    sense.of(ask(PLAIN, SENSELESS["non_sequitur"]))
    assert contexts == [SENSELESS["non_sequitur"]]


def test_the_senseless_set_has_ten_of_each_kind_in_each_domain():
    for domain in calibrated_domains():
        found = senseless(domain)
        assert {kind: sum(case.fault == kind for case in found) for kind in KINDS[:4]} == dict.fromkeys(KINDS[:4], 10)
        assert sum(held_out(case) for case in cases(domain)) == 60
        texts = [case.request.utterance for case in found if case.fault != "copy"]
        assert len(set(texts)) == 40 and all(case.request.emotion in load_vocabulary() for case in found)


@embedded
def test_the_table_of_a_judge_that_catches_what_repeats_itself(judge, with_sense, monkeypatch):
    """Of a fifth of the cases, and with every repetition."""
    bad, good = senseless_module.measured(["debt"])
    some = [case for case in bad if case.fault == "repetition"] + [case for case in bad if case.fault == "copy"][:4]
    monkeypatch.setattr(senseless_module, "measured", lambda domains: (some, good[:8]))
    lines = table(with_sense, judge, ["debt"])
    assert "| repetition caught | 5 of 5" in lines[4] and "| copy caught" in lines[6]
    changed = [line for line in lines if line.startswith("| good: mean change")]
    assert len(changed) == 1 and len(lines) == 10
