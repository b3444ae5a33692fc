"""Ledgers of an earlier format are brought up to the present one and keep what they know."""

import sqlite3
from contextlib import closing

import pytest
from judge_cases import CountingJudge

from emodistill.errors import UserError
from emodistill.judges import ledger as ledger_format
from emodistill.judges.ledger import COLUMNS, FORMAT, Ledger, LedgerJudge, judgement_key
from emodistill.judges.request import Judgement
from emodistill.language_models.completion import Usage

FORMAT_1 = """CREATE TABLE judgements (
    key TEXT PRIMARY KEY, judge TEXT NOT NULL, judge_version TEXT NOT NULL, rubric_version TEXT NOT NULL,
    domain TEXT NOT NULL, scenario_id TEXT NOT NULL, emotion TEXT, utterance TEXT NOT NULL,
    score REAL CHECK (score BETWEEN 1 AND 10), reason TEXT, latency_s REAL NOT NULL, judged_at REAL NOT NULL,
    CHECK ((score IS NULL) <> (reason IS NULL))
) WITHOUT ROWID"""


@pytest.fixture
def old(tmp_path, ask):
    """A ledger as format 1 wrote it: a score for "known", a reason for "silence"."""
    path = tmp_path / "old.sqlite"
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("PRAGMA journal_mode = WAL")
        file.execute(FORMAT_1)
        file.execute("PRAGMA application_id = 1162694474")
        file.execute("PRAGMA user_version = 1")
        for text, score, reason in (("known", 9.25, None), ("silence", None, "no answer")):
            key = judgement_key(CountingJudge(), ask(text)[0])
            about = (key, "counting", "1", "r", "debt", "debt-000", "anger", text)
            file.execute(f"INSERT INTO judgements VALUES ({', '.join('?' * 12)})", (*about, score, reason, 0.5, 1.0))
    return path


def test_scores_of_the_first_format_are_kept_and_not_asked_again(old, ask):
    judge = CountingJudge()
    with Ledger(old) as ledger:
        assert ledger.connection.execute("PRAGMA user_version").fetchone() == (FORMAT,)
        assert LedgerJudge(judge, ledger).scores(ask("known", "new")) == [9.25, 4.0]
        key = judgement_key(judge, ask("known")[0])
        assert ledger.get([key]) == {key: Judgement(9.25, usage=Usage(latency_s=0.5))}
    assert judge.asked == ["new"]


def test_a_brought_up_file_has_the_columns_of_a_new_one(old, path):
    with Ledger(old) as brought_up, Ledger(path) as new:
        query = "SELECT name, type, \"notnull\", dflt_value, pk FROM pragma_table_info('judgements') ORDER BY name"
        assert brought_up.connection.execute(query).fetchall() == new.connection.execute(query).fetchall()
        assert {row[0] for row in new.connection.execute(query)} == set(COLUMNS)


def test_bringing_up_happens_whole_or_not_at_all(old, monkeypatch):
    steps = ledger_format._STEPS
    monkeypatch.setitem(steps, 1, (*steps[1][:2], "ALTER TABLE no_such_table ADD COLUMN x"))
    with closing(sqlite3.connect(old)) as file:
        before = file.execute("SELECT sql FROM sqlite_master").fetchall()
        with pytest.raises(UserError, match="old.sqlite cannot be used"):
            Ledger(old)
        assert file.execute("SELECT sql FROM sqlite_master").fetchall() == before
        assert file.execute("PRAGMA user_version").fetchone() == (1,)


def test_the_bills_of_all_tries_add_up_and_the_first_score_stays(ask, path):
    judge, replies = CountingJudge(), []
    judge._one = lambda text: replies.pop(0)
    with Ledger(path) as ledger:
        keeper = LedgerJudge(judge, ledger)
        replies.append(Judgement(None, "an outage", "<html>", Usage(10, 1, None, 2.0, 4)))
        assert keeper.scores(ask("word")) == [None]
        replies.append(Judgement(7.0, None, '{"score": 7}', Usage(100, 5, 0.5, 1.0, 1)))
        assert keeper.scores(ask("word")) == [7.0]
        assert keeper.judgements(ask("word")) == [Judgement(7.0, None, '{"score": 7}', Usage(110, 6, 0.5, 3.0, 5))]


def test_a_second_payer_changes_the_bill_and_not_the_score(ask, path):
    with Ledger(path) as mine, Ledger(path) as theirs:
        slow, quick = CountingJudge(), CountingJudge()
        quick._one = lambda text: Judgement(4.0, usage=Usage(10, 1, 0.25, 1.0, 1))
        slow._one = lambda text: (
            LedgerJudge(quick, theirs).scores(ask(text)) and Judgement(9.5, usage=Usage(20, 2, 0.5, 1.0, 1))
        )
        assert LedgerJudge(slow, mine).judgements(ask("word")) == [Judgement(4.0, usage=Usage(30, 3, 0.75, 2.0, 2))]


def test_raw_replies_and_reasons_may_be_any_text(ask, path):
    judge = CountingJudge()
    judge._one = lambda text: Judgement(None, "bad \ud800", "raw \ud800 \x00")
    with Ledger(path) as ledger:
        (found,) = LedgerJudge(judge, ledger).judgements(ask("word"))
    assert (found.reason, found.raw) == ("bad ?", "raw ? \x00")
