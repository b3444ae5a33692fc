"""The ledger: nothing is asked twice, nothing is made up, nothing stored is lost."""

import multiprocessing
import sqlite3
from dataclasses import replace

import pytest

from emodistill.errors import UserError
from emodistill.judges.ledger import Ledger, LedgerJudge, judgement_key
from emodistill.judges.request import Judgement, JudgeRequest


class CountingJudge:
    """Scores by length, has no score for "silence", and remembers what it was asked."""

    def __init__(self, name="counting", version="1"):
        self.name, self.version, self.asked, self.down = name, version, [], False

    def judge(self, requests):
        self.asked += [request.utterance for request in requests]
        return [self._one(request.utterance) for request in requests]

    def _one(self, text):
        if self.down or text == "silence":
            return Judgement(None, "no answer")
        return Judgement(1.0 + len(text) % 9)


@pytest.fixture
def ask(scenario, history):
    return lambda *texts: [JudgeRequest(scenario, history, "anger", text) for text in texts]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "made" / "on the way" / "ledger.sqlite"


def test_what_is_stored_is_not_asked_again_even_by_another_process_later(ask, path):
    with Ledger(path) as ledger:
        first = LedgerJudge(CountingJudge(), ledger).scores(ask("one", "three"))
    judge = CountingJudge()
    with Ledger(path) as ledger:
        assert LedgerJudge(judge, ledger).scores(ask("three", "four", "one")) == [first[1], 5.0, first[0]]
    assert judge.asked == ["four"]


def test_duplicates_in_one_call_are_asked_once_and_answered_each(ask, path):
    judge = CountingJudge()
    with Ledger(path) as ledger:
        assert LedgerJudge(judge, ledger).scores(ask("aa", "b", "aa", "aa")) == [3.0, 2.0, 3.0, 3.0]
        assert (judge.asked, ledger.count()) == (["aa", "b"], 2)


def test_a_missing_score_is_stored_with_its_reason_and_never_becomes_a_number(ask, path):
    with Ledger(path) as ledger:
        judge = CountingJudge()
        (request,) = ask("silence")
        assert LedgerJudge(judge, ledger).scores([request, request]) == [None, None]
        key = judgement_key(judge, request)
        assert ledger.get([key]) == {key: Judgement(None, "no answer")}


def test_a_missing_score_is_asked_again_and_a_present_one_is_final(ask, path):
    judge = CountingJudge()
    with Ledger(path) as ledger:
        keeper = LedgerJudge(judge, ledger)
        judge.down = True
        assert keeper.scores(ask("word")) == [None]
        judge.down = False
        assert keeper.scores(ask("word")) == [5.0]
        judge.down = True
        assert keeper.scores(ask("word")) == [5.0]
    assert judge.asked == ["word", "word"]


@pytest.mark.parametrize("score", [0.99, 10.01, 0.0, float("nan"), float("inf"), -3.0])
def test_a_score_that_is_none_is_missing_with_a_reason(ask, path, score):
    judge = CountingJudge()
    judge._one = lambda text: Judgement(score)
    with Ledger(path) as ledger:
        assert LedgerJudge(judge, ledger).scores(ask("x")) == [None]
        (stored,) = ledger.get([judgement_key(judge, ask("x")[0])]).values()
    assert "not a score from 1 to 10" in stored.reason


def test_a_missing_score_without_a_reason_gets_one(ask, path):
    judge = CountingJudge()
    judge._one = lambda text: Judgement(None)
    with Ledger(path) as ledger:
        LedgerJudge(judge, ledger).scores(ask("x"))
        assert ledger.get([judgement_key(judge, ask("x")[0])]).popitem()[1].reason


def test_scores_are_on_disk_before_they_are_returned_and_before_the_next_batch(ask, path):
    judge = CountingJudge()
    asked = judge.judge

    def fails_late(requests):
        if judge.asked:
            raise ConnectionError("gone")
        return asked(requests)

    judge.judge = fails_late
    with Ledger(path) as ledger:
        with pytest.raises(ConnectionError):
            LedgerJudge(judge, ledger, batch_size=2).scores(ask("a", "bb", "ccc"))
        with sqlite3.connect(path) as other:
            assert other.execute("SELECT count(*) FROM judgements").fetchone() == (2,)
        other.close()


def test_the_row_tells_what_it_is_about(ask, path):
    with Ledger(path) as ledger:
        LedgerJudge(CountingJudge(), ledger).scores(ask("word"))
        columns = "judge, judge_version, domain, scenario_id, emotion, utterance, score, latency_s >= 0"
        row = ledger.connection.execute(f"SELECT {columns} FROM judgements").fetchone()
    assert row == ("counting", "1", "debt", "debt-000", "anger", "word", 5.0, 1)


def test_everything_a_judgement_may_depend_on_is_in_the_key(scenario, history):
    request = JudgeRequest(scenario, history, "anger", "word")
    last = history[-1]
    others = [
        replace(request, utterance="word "),
        replace(request, emotion="joy"),
        replace(request, emotion=None),
        replace(request, history=history[:-1]),
        replace(request, history=(*history[:-1], replace(last, text="Other words."))),
        replace(request, history=(*history[:-1], replace(last, offer=100.0))),
        replace(request, history=(*history[:-1], replace(last, act="walk_away"))),
        replace(request, scenario=replace(scenario, focal_target=31.0)),
        replace(request, scenario=replace(scenario, counterparty_target=131.0)),
        replace(request, scenario=replace(scenario, domain="hospital")),
        replace(request, scenario=replace(scenario, context={"Cash": "none"})),
    ]
    keys = {judgement_key(CountingJudge(), one) for one in [request, *others]}
    keys |= {judgement_key(CountingJudge(name="x"), request), judgement_key(CountingJudge(version="2"), request)}
    assert len(keys) == len(others) + 3


def test_how_the_emotion_of_a_past_turn_was_drawn_is_not_in_the_key(scenario, history):
    drawn = tuple(replace(turn, emotion="fear", emotion_prob=0.1, offer_appended=True) for turn in history)
    judge = CountingJudge()
    plain, other = (JudgeRequest(scenario, turns, "anger", "word") for turns in (history, drawn))
    assert judgement_key(judge, plain) == judgement_key(judge, other)


def test_the_key_depends_on_the_rubric_of_its_domain(scenario, history, monkeypatch):
    request = JudgeRequest(scenario, history, "anger", "word")
    before = judgement_key(CountingJudge(), request)
    monkeypatch.setitem(scenario.rules.rubric, "empty_threats", ["or else"])
    assert judgement_key(CountingJudge(), request) != before


def test_odd_texts_are_stored_like_any_other(ask, path):
    texts = ["", "\x00 nul", "quote ' ; DROP TABLE judgements; --", "\ud800 half a pair", "\U0001f600", "x" * 100_000]
    with Ledger(path) as ledger:
        scores = LedgerJudge(CountingJudge(), ledger).scores(ask(*texts))
        assert ledger.count() == len(texts) and None not in scores


def _fill(path, scenario, start, go):
    go.wait()
    with Ledger(path) as ledger:
        keeper = LedgerJudge(CountingJudge(), ledger, batch_size=4)
        keeper.scores([JudgeRequest(scenario, (), "joy", f"text {i}") for i in range(start, start + 60)])


def test_processes_share_a_file_from_its_very_making(scenario, path):
    spawn = multiprocessing.get_context("fork")
    go = spawn.Event()
    workers = [spawn.Process(target=_fill, args=(path, scenario, start, go)) for start in (0, 20, 40, 60)]
    for worker in workers:
        worker.start()
    go.set()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0, 0]
    with Ledger(path) as ledger:
        assert ledger.count() == 120


def test_a_file_that_another_process_makes_first_is_taken_as_it_is(ask, path):
    class Beaten(Ledger):
        def _is_ledger(self):
            found = super()._is_ledger()
            if not found and not self.connection.in_transaction:
                with Ledger(self.path) as first:
                    LedgerJudge(CountingJudge(), first).scores(ask("theirs"))
            return found

    with Beaten(path) as ledger:
        assert ledger.count() == 1


def test_where_two_ask_at_once_both_report_the_score_that_was_first(ask, path):
    with Ledger(path) as mine, Ledger(path) as theirs:
        slow, quick = CountingJudge(), CountingJudge()
        slow._one = lambda text: LedgerJudge(quick, theirs).scores(ask(text)) and Judgement(9.5)
        assert LedgerJudge(slow, mine).scores(ask("word")) == [5.0]


def test_a_full_disk_is_a_user_error_and_what_was_stored_stays(ask, path):
    with Ledger(path) as ledger:
        keeper = LedgerJudge(CountingJudge(), ledger)
        keeper.scores(ask("kept"))
        pages = ledger.connection.execute("PRAGMA page_count").fetchone()[0]
        ledger.connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(UserError, match="ledger.sqlite cannot be used .*full.*free space"):
            keeper.scores(ask("x" * 50_000))
        ledger.connection.execute("PRAGMA max_page_count = 1000000")
        assert keeper.scores(ask("kept", "again")) == [5.0, 6.0]
        assert ledger.count() == 2


def test_a_file_that_is_no_database_is_named_and_left_alone(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("dear diary, " * 100)
    with pytest.raises(UserError, match="notes.txt is not a readable judge ledger.*move it away"):
        Ledger(path)
    assert path.read_text() == "dear diary, " * 100


def test_a_database_of_something_else_is_named_and_left_alone(tmp_path):
    path = tmp_path / "photos.sqlite"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE photos (id)")
    other.close()
    before = path.read_bytes()
    with pytest.raises(UserError, match="photos.sqlite is a database of something else"):
        Ledger(path)
    assert path.read_bytes() == before


def test_a_ledger_of_a_later_format_is_refused(path):
    with Ledger(path) as ledger:
        ledger.connection.execute("PRAGMA user_version = 99")
    with pytest.raises(UserError, match="has format 99, this code reads 1"):
        Ledger(path)


def test_a_damaged_ledger_is_explained(ask, path):
    with Ledger(path) as ledger:
        LedgerJudge(CountingJudge(), ledger).scores(ask(*(f"text {i} " * 40 for i in range(60))))
    damaged = bytearray(path.read_bytes())
    damaged[4096 : len(damaged)] = b"\xff" * (len(damaged) - 4096)
    path.write_bytes(damaged)
    with pytest.raises(UserError, match="is not a readable judge ledger .*malformed"), Ledger(path) as ledger:
        LedgerJudge(CountingJudge(), ledger).scores(ask("text 1 " * 40))


def test_a_path_that_cannot_be_opened_is_explained(tmp_path):
    (tmp_path / "folder.sqlite").mkdir()
    with pytest.raises(UserError, match="folder.sqlite cannot be used"):
        Ledger(tmp_path / "folder.sqlite")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be made"):
        Ledger(tmp_path / "file" / "ledger.sqlite")
