"""`python -m emodistill.judges`: every number is that of the rows, and what a server said is shown as plain text."""

import math
import statistics
import subprocess
import sys
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
from judge_cases import CountingJudge

from emodistill.errors import UserError
from emodistill.judges import ledger_report as command
from emodistill.judges.ledger import COLUMNS, Ledger, LedgerJudge
from emodistill.judges.ledger_report import BINS, MOST_DAYS, SCHEMA, bars, export, failures, judge_statistics
from emodistill.judges.request import Judgement, JudgeRequest
from emodistill.language_models.completion import Usage

DAY = 86400.0


@pytest.fixture
def requests(scenario):
    """Twelve in two domains with two emotions and none."""
    scenarios = [scenario, replace(scenario, id="hospital-000", domain="hospital")]
    emotions = ["joy", "anger", None]
    return [JudgeRequest(scenarios[i % 2], (), emotions[i % 3], f"Words {i}.") for i in range(12)]


def told(judgements, name="paid", version="1"):
    judge, left = CountingJudge(name, version), list(judgements)
    judge._one = lambda text: left.pop(0)
    return judge


@pytest.fixture
def ledger(path, requests):
    """Scores 1.0, 1.5 ... 5.5 from a judge that is paid, two missing ones; and one score of another version."""
    paid = Usage(prompt_tokens=100, completion_tokens=10, cost=0.5, latency_s=2.0, attempts=1)
    given = [Judgement(1.0 + i / 2, usage=paid) for i in range(10)]
    given += [Judgement(None, "status 503 after 3 s", usage=paid), Judgement(None, "status 429 after 17 s")]
    with Ledger(path) as ledger:
        LedgerJudge(told(given), ledger).scores(requests)
        LedgerJudge(told([Judgement(9.0)], version="2"), ledger).scores(requests[:1])
        yield ledger


def run(*arguments):
    command = [sys.executable, "-m", "emodistill.judges", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8")


def statistics_of(ledger, version="1"):
    return next(one for one in judge_statistics(ledger) if one.version == version)


def test_the_statistics_are_those_of_the_rows(ledger):
    judge = statistics_of(ledger)
    whole, scores = judge.scores(), [1.0 + i / 2 for i in range(10)]
    assert (whole.scored, whole.missing) == (10, 2)
    assert whole.mean == pytest.approx(statistics.fmean(scores)) and whole.std == pytest.approx(
        statistics.pstdev(scores)
    )
    assert whole.histogram == [1, 2, 2, 2, 2, 1, 0, 0, 0, 0]  # 1.5 is 2, 5.5 is 6
    cost = judge.cost
    assert (cost.attempts, cost.prompt_tokens, cost.completion_tokens, cost.cost) == (11, 1100, 110, 5.5)
    assert cost.unpriced == 0 and 0 < cost.latency_s <= 2.0


def test_domain_and_emotion_are_told_apart(ledger, requests):
    judge = statistics_of(ledger)
    assert set(judge.cells) == {(one.scenario.domain, one.emotion) for one in requests}
    assert judge.scores("debt").mean == pytest.approx(3.0) and judge.scores("hospital").missing == 1
    assert judge.scores(emotions=["joy"]).scored == 4
    assert judge.scores("debt", [None]).mean == pytest.approx((2.0 + 5.0) / 2)  # the third and the ninth of them


def test_versions_and_judges_are_not_mixed(ledger):
    assert statistics_of(ledger, "2").scores().mean == 9.0
    assert judge_statistics(ledger, "nobody") == [] and len(judge_statistics(ledger, "paid")) == 2


def test_reasons_that_differ_in_a_number_count_as_one(ledger):
    assert failures(ledger) == [("status # after # s", 2)]


@pytest.mark.parametrize(("days", "periods"), [(0, 4), (1, 2), (MOST_DAYS - 1, MOST_DAYS), (MOST_DAYS, 4)])
def test_drift_is_by_day_or_else_by_quarter(ledger, path, scenario, days, periods):
    requests = [JudgeRequest(scenario, (), None, f"Text {i}") for i in range(max(days, 11) + 1)]
    late = [i >= len(requests) // 2 for i in range(len(requests))]
    LedgerJudge(told([Judgement(5.0 + one) for one in late], "daily"), ledger).scores(requests)
    for i, request in enumerate(requests):
        moment = (100 + (i if days > 1 else days * late[i])) * DAY + i
        ledger.connection.execute(
            "UPDATE judgements SET judged_at = ? WHERE judge = 'daily' AND utterance = ?", (moment, request.utterance)
        )
    (judge,) = judge_statistics(ledger, "daily")
    assert len(judge.periods) == periods
    assert sum(period.scores.scored for period in judge.periods) == len(requests)
    assert judge.periods[0].scores.mean == 5.0 and judge.periods[-1].scores.mean == 6.0


def test_bars_show_the_fullest_bin_in_full_and_never_hide_a_bin():
    assert bars([0] * BINS) == "·" * BINS
    assert bars([8, 4, 1, 0]) == "█▄▁·" and bars([1000, 1]) == "█▁"


def test_the_tables_are_printed(ledger, path):
    shown = run(path)
    assert shown.returncode == 0 and not shown.stderr
    for word in ("paid", "joy", "(none asked)", "debt", "hospital", "5.5000", "1100", "83.3%", "status # after # s"):
        assert word in shown.stdout, word


def test_the_export_has_every_row_and_column(ledger, path, tmp_path):
    target = tmp_path / "all.parquet"
    assert run(path, "--export", target).returncode == 0
    table = pq.read_table(target)
    assert table.schema == SCHEMA and table.column_names == list(COLUMNS)
    stored = ledger.connection.execute(f"SELECT {', '.join(COLUMNS)} FROM judgements ORDER BY key").fetchall()
    found = [tuple(row.values()) for row in table.to_pylist()]
    assert [row[:-1] for row in found] == [row[:-1] for row in stored]
    assert all(math.isclose(a[-1].timestamp(), b[-1], abs_tol=1e-5) for a, b in zip(found, stored, strict=True))


def test_one_judge_alone_is_exported_and_nothing_is_overwritten(ledger, requests, tmp_path):
    LedgerJudge(CountingJudge("free"), ledger).scores(requests[:3])
    target = tmp_path / "free.parquet"
    assert export(ledger, target, "free") == 3
    assert set(pq.read_table(target).column("judge").to_pylist()) == {"free"}
    with pytest.raises(UserError, match="free.parquet is there already"):
        export(ledger, target, "free")
    with pytest.raises(UserError, match="cannot be written"):
        export(ledger, tmp_path / "no folder" / "x.parquet")
    assert sorted(file.name for file in tmp_path.iterdir() if "parquet" in file.name) == ["free.parquet"]


def test_mistakes_are_one_sentence(path, ledger, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("dear diary " * 100)
    mistakes = {
        (str(tmp_path / "none.sqlite"),): "there is no ledger",
        (str(path), "--judge", "lm"): "it knows paid",
        (str(tmp_path / "notes.txt"),): "not a readable judge ledger",
    }
    for arguments, sentence in mistakes.items():
        assert command.main(arguments) == 2
        said = capsys.readouterr()
        assert sentence in said.err and said.err.count("\n") == 1 and not said.out
    assert not (tmp_path / "none.sqlite").exists()


def test_an_empty_ledger_is_said_to_be_empty(tmp_path, capsys):
    with Ledger(tmp_path / "new.sqlite") as ledger, ledger.transaction():
        pass  # a process that was killed before its first judgement
    assert command.main([str(tmp_path / "new.sqlite")]) == 0
    assert "new.sqlite is empty" in capsys.readouterr().out.replace("\n", "")


def test_what_a_server_said_is_plain_text(path, ask, capsys):
    with Ledger(path) as ledger:
        reason = "[bold]reset\x1b[2J\x07[/bold] " + "x" * 300
        LedgerJudge(told([Judgement(None, reason)], "[red]judge"), ledger).scores(ask("word"))
    assert command.main([str(path)]) == 0
    shown = capsys.readouterr().out
    assert "[bold]reset" in shown and "[red]judge" in shown and "\x1b" not in shown and "\x07" not in shown
    assert "x" * 100 not in shown
