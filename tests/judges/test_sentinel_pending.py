"""A score that waits for its batch's probe: stored at once, not counted, paid for once."""

import sqlite3
from contextlib import closing
from dataclasses import replace

import pytest
from answering import BILL
from judge_cases import CountingJudge

from emodistill.judges.ensemble import EnsembleJudge
from emodistill.judges.examples import probes
from emodistill.judges.ledger import Ledger, LedgerJudge, judgement_key
from emodistill.judges.request import Judgement, add_usage
from emodistill.judges.sentinel import PENDING, SentinelJudge
from emodistill.language_models.completion import Usage


class ProbesLast:
    """Scores by length, "silence" has none, probes get `probe`; answers probes last, or breaks down before them."""

    name, version = "probes last", "1"

    def __init__(self, probe=3.0, usage=BILL, breaks=False):
        self.probe, self.usage, self.breaks, self.asked = probe, usage, breaks, []

    def judge(self, requests, on_judgement=None):
        self.asked += ["probe" if request.utterance in probes() else request.utterance for request in requests]
        found = [self._one(request.utterance) for request in requests]
        for place in sorted(range(len(requests)), key=lambda place: requests[place].utterance in probes()):
            if self.breaks and requests[place].utterance in probes():
                raise ConnectionError("gone")
            if on_judgement is not None:
                on_judgement(place, found[place])
        return found

    def _one(self, text):
        if text == "silence":
            return Judgement(None, "no answer", usage=self.usage)
        return Judgement(self.probe if text in probes() else float(len(text)), raw=text, usage=self.usage)


def told_by(judge, requests):
    told = []
    judge.judge(requests, lambda place, judgement: told.append((place, judgement)))
    return told


def broken_down(requests, ledger, **setting):
    with pytest.raises(ConnectionError):
        LedgerJudge(SentinelJudge(ProbesLast(breaks=True, **setting), every=4), ledger).scores(requests)


def test_a_pending_score_is_told_at_once_and_then_for_good_and_the_bill_adds_up(ask):
    told = told_by(SentinelJudge(ProbesLast(), every=2), ask("aa", "bbb", "cc"))
    assert [(place, one.score, one.pending_score) for place, one in told[:3]] == [
        (0, None, 2.0),
        (1, None, 3.0),
        (2, None, 2.0),
    ]
    assert [(place, one.score, one.pending_score) for place, one in told[3:]] == [
        (0, 2.0, None),
        (1, 3.0, None),
        (2, 2.0, None),
    ]
    assert all(one.reason == PENDING and one.raw for _, one in told[:3])
    whole = add_usage(*(one.usage for _, one in told))
    assert (whole.attempts, whole.cost, whole.prompt_tokens) == (5, 1.25, 500)


def test_what_has_no_score_waits_for_no_probe_but_one_must_bear_its_bill(ask):
    (first, second) = told_by(SentinelJudge(ProbesLast()), ask("silence", "silence"))
    assert (first[0], first[1].reason, first[1].usage.attempts) == (0, "no answer", 1)
    assert (second[0], second[1].reason, second[1].usage.attempts) == (1, "no answer", 2)


def test_what_costs_nothing_is_not_told_before_it_counts(ask):
    assert [one.score for _, one in told_by(SentinelJudge(ProbesLast(usage=Usage())), ask("aa", "bbb"))] == [2.0, 3.0]


def test_after_a_breakdown_only_the_probe_and_what_was_not_answered_are_asked(ask, path):
    with Ledger(path) as ledger:
        broken_down(ask("aa", "bbb", "silence"), ledger)
        rest = ProbesLast()
        found = LedgerJudge(SentinelJudge(rest, every=4), ledger).judgements(ask("aa", "bbb", "silence", "dddd"))
    assert rest.asked == ["probe", "silence", "dddd"]
    assert [(one.score, one.pending_score, one.raw) for one in found] == [
        *((2.0, None, "aa"), (3.0, None, "bbb"), (None, None, None), (4.0, None, "dddd"))
    ]
    assert sum(one.usage.attempts for one in found) == 6  # three before the breakdown, three after it
    assert sum(one.usage.cost for one in found) == pytest.approx(6 * 0.25)
    assert sum(one.usage.latency_s for one in found) <= 6 * BILL.latency_s


def test_who_asks_through_the_ledger_is_told_of_scores_that_count_and_the_file_has_them_then(ask, path):
    told, filed = [], []

    def hear(place, score):
        told.append((place, score))
        with closing(sqlite3.connect(path)) as file:
            filed.append(file.execute("SELECT count(*) FROM judgements WHERE score IS NOT NULL").fetchone()[0])

    with Ledger(path) as ledger:
        LedgerJudge(SentinelJudge(ProbesLast(), every=2), ledger).scores(ask("aa", "bbb", "cccc"), hear)
    assert sorted(told) == [(0, 2.0), (1, 3.0), (2, 4.0)]
    assert filed == [1, 2, 3]  # nothing that was told could be lost any more


def test_a_pending_score_counts_for_nobody_until_its_probe_is_there(ask, path):
    with Ledger(path) as ledger:
        broken_down(ask("aa"), ledger)
        offline = LedgerJudge(SentinelJudge(ProbesLast(), every=4), ledger, offline=True)
        (found,) = offline.judgements(ask("aa"))
        assert (found.score, found.reason, found.pending_score) == (None, PENDING, 2.0)
        query = "SELECT score, reason, held FROM judgements"
        assert ledger.connection.execute(query).fetchall() == [(None, PENDING, 2.0)]
        LedgerJudge(SentinelJudge(ProbesLast()), ledger).scores(ask("aa"))
        assert ledger.connection.execute(query).fetchall() == [(2.0, None, None)]


def test_a_pending_score_is_withheld_where_the_later_probe_passes_and_then_asked_anew(ask, path):
    with Ledger(path) as ledger:
        broken_down(ask("aa", "bbb"), ledger)
        (found, _) = LedgerJudge(SentinelJudge(ProbesLast(probe=9.0)), ledger).judgements(ask("aa", "bbb"))
        assert found.score is None and found.pending_score is None and "withheld" in found.reason
        judge = ProbesLast()
        assert LedgerJudge(SentinelJudge(judge), ledger).scores(ask("aa", "bbb")) == [2.0, 3.0]
    assert judge.asked == ["probe", "aa", "bbb"]


def test_what_another_process_has_pending_is_taken_over_and_not_reported_as_missing(ask, path, monkeypatch):
    (request,) = ask("aa")
    with Ledger(path) as mine, Ledger(path) as theirs:
        judge = SentinelJudge(ProbesLast(), every=4)
        keeper = LedgerJudge(judge, mine)
        take = keeper.in_flight.take

        def late(keys):  # the other process stores its score between this one's first look and its claim
            monkeypatch.setattr(keeper.in_flight, "take", take)
            broken_down([request], theirs)
            return take(keys)

        monkeypatch.setattr(keeper.in_flight, "take", late)
        assert keeper.scores([request]) == [2.0]
    assert judge.judge_behind.asked == ["probe"]


def test_a_pending_score_outside_the_scale_is_not_kept(ask, path):
    judge = CountingJudge()
    judge.judge = lambda requests, on_judgement: [
        Judgement(None, "pending for ever", pending_score=99.0, usage=BILL) for _ in requests
    ]
    with Ledger(path) as ledger:
        (found,) = LedgerJudge(judge, ledger).judgements(ask("aa"))
    assert (found.score, found.pending_score) == (None, None) and "gave 99.0" in found.reason


def test_the_key_does_not_depend_on_a_pending_score(ask):
    (request,) = ask("aa")
    judge = ProbesLast()
    pending = replace(request, pending=Judgement(None, PENDING, pending_score=4.0))
    assert judgement_key(judge, request) == judgement_key(judge, pending)


def test_an_ensemble_waits_for_the_last_word_of_its_members(ask):
    members = {"free": CountingJudge(), "probed": SentinelJudge(ProbesLast(), every=2)}
    told = told_by(EnsembleJudge(members), ask("aa", "bbb"))
    assert sorted((place, one.score) for place, one in told) == [(0, 2.5), (1, 3.5)]
    assert sum(one.usage.attempts for _, one in told) == 3  # two requests and the probe
