"""Files of one's own and broken ones: quoted cells, repairs with one reading only, and mistakes that are named."""

import csv as standard_csv
import subprocess
import sys

import pytest

from emodistill.errors import UserError
from emodistill.negotiation.__main__ import main
from emodistill.negotiation.domains import domain_names, load_domain
from emodistill.negotiation.generator import generate_scenarios
from emodistill.negotiation.scenarios import load_csv, read_csv

HEADER = ",".join(load_domain("disaster").csv["columns"])
STUDENT = ",".join(load_domain("student").csv["columns"])


def _write(path, *rows, header=HEADER, newline="\n"):
    path.write_bytes(newline.join([header, *rows]).encode())
    return path


@pytest.mark.parametrize("domain", domain_names())
def test_a_properly_quoted_file_is_read_as_it_is(tmp_path, domain):
    columns, path = load_domain(domain).csv["columns"], tmp_path / "own.csv"
    made = generate_scenarios(domain, 30)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = standard_csv.DictWriter(file, columns, restval="later, maybe", quoting=standard_csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows([s.context for s in made])
    scenarios, audit = read_csv(path, domain)
    assert [s.context for s in scenarios] == [s.context for s in made] and not audit.repairs
    assert [s.focal_target for s in scenarios] == [s.focal_target for s in made]


ROW = "7,Flood,Cold,60,120,"
REPAIRS = {
    "Water, Rope,“It holds, wait.”": "Water, Rope",
    "Water,Rope,“It holds, wait.”": "Water,Rope",  # no space, but the quotes tell where the needs end
    "Water, Rope,“One,two,three,four, go.”": "Water, Rope",  # inside curly quotes nothing separates
    '"Water,Rope","It holds, wait."': "Water,Rope",
    '"Say ""now"", then",“Yes.”': 'Say "now", then',
}


@pytest.mark.parametrize("tail", REPAIRS)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_ragged_rows_are_repaired_where_only_one_reading_fits(tmp_path, tail, newline):
    scenarios, _ = read_csv(_write(tmp_path / "a.csv", ROW + tail, newline=newline), "disaster")
    assert scenarios[0].context["Critical_Needs"] == REPAIRS[tail]
    assert "\r" not in scenarios[0].context["Key_Negotiation_Argument_By_RoboDog"]


HOPELESS = {
    "7,Flood,Cold,60,120,Water,Rope,It holds": "2 ways to join",
    "7,Flood,Cold,sixty,120,Water,“Yes.”": "'sixty', not a number",
    "7,Flood,Cold,60,120": "5 cells for 7 columns, and no ways",
    "7,Flood,60,120,Water,“Yes.”": "6 cells for 7 columns, and no ways",
    "7,a,b,c,d,Flood,Cold,60,120,Water,“Yes.”": "too far apart",
    '7,"Flood,Cold,60,120,Water,“Yes.”': "a quote is opened and never closed",
}


@pytest.mark.parametrize("row", HOPELESS)
def test_a_row_without_one_sure_reading_is_excluded_and_never_guessed(tmp_path, row):
    path = _write(tmp_path / "a.csv", ROW + "Water,“Yes.”", row.replace("7", "8", 1))
    scenarios, audit = read_csv(path, "disaster")
    assert len(scenarios) == 1 and [item.row for item in audit.exclusions] == [2]
    assert HOPELESS[row] in audit.exclusions[0].reason
    with pytest.raises(UserError, match="none of its 1 rows.*Row 1"):
        read_csv(_write(tmp_path / "b.csv", row), "disaster")


def test_only_the_column_that_a_file_leaves_out_may_be_missing(tmp_path):
    columns = load_domain("hospital").csv["columns"]
    cells = [*generate_scenarios("hospital", 1)[0].context.values(), "Accepted"]
    rows = [cells.copy(), cells.copy()]
    del rows[0][columns.index("Surgeon_Availability_Reason")], rows[1][columns.index("Urgency_Level")]
    rows[1][0] = "2"
    path = _write(tmp_path / "a.csv", *(",".join(row) for row in rows), header=",".join(columns))
    scenarios, audit = read_csv(path, "hospital")
    assert [s.context["Surgeon_Availability_Reason"] for s in scenarios] == [""]
    assert [s.context["Risk_If_Delayed"] for s in scenarios] == [cells[columns.index("Risk_If_Delayed")]]
    assert [(e.row, "without Surgeon_Availability_Reason Urgency_Level" in e.reason) for e in audit.exclusions] == [
        (2, True)
    ]


def test_excluded_rows_are_logged(tmp_path, caplog):
    path = _write(tmp_path / "a.csv", ROW + "Water,“Yes.”", "8,Flood,Cold,Variable,120,Water,“Yes.”")
    assert len(load_csv(path, "disaster")) == 1
    assert "row 2 (disaster-csv-001) is excluded" in caplog.text and "'Variable'" in caplog.text


@pytest.mark.parametrize("cell", ["nan", "inf", "1e5", "Variable", "N/A (listed)"])
def test_a_target_that_is_no_number_excludes_the_row(tmp_path, cell):
    path = _write(tmp_path / "a.csv", ROW + "Water,“Yes.”", f"8,Flood,Cold,60,{cell},Water,“Yes.”")
    scenarios, audit = read_csv(path, "disaster")
    assert len(scenarios) == 1 and f"'{cell}', not a number" in audit.exclusions[0].reason


def test_equal_targets_name_file_and_row(tmp_path):
    context = generate_scenarios("debt", 1)[0].context
    row = ",".join(context.values()).replace(",None,", ",Equipment,")
    cells = row.split(",")
    cells[6] = cells[5]
    path = _write(tmp_path / "a.csv", row, ",".join(cells), header=",".join(context))
    with pytest.raises(UserError, match=r"a\.csv, row 2: scenario debt-csv-001: both targets are"):
        load_csv(path, "debt")


def test_mistakes_in_the_file_are_named(tmp_path):
    good = ROW + "Water,“Yes.”"
    with pytest.raises(UserError, match="absent.csv cannot be read"):
        load_csv(tmp_path / "absent.csv", "disaster")
    with pytest.raises(UserError, match=r"column 2 of the header is 'Student_Age'.*'disaster' needs 'Disaster_Type'"):
        load_csv(_write(tmp_path / "a.csv", good, header=STUDENT), "disaster")
    with pytest.raises(UserError, match="column 3 of the header is 'Condition'"):
        load_csv(_write(tmp_path / "a.csv", good, header=HEADER.replace("Survivor_Condition", "Condition")), "disaster")
    with pytest.raises(UserError, match="column 8 of the header is 'Mood'.* needs nothing more"):
        load_csv(_write(tmp_path / "a.csv", good, header=HEADER + ",Mood"), "disaster")
    with pytest.raises(UserError, match="rows 1 and 3 have the same id '7'"):
        load_csv(_write(tmp_path / "a.csv", good, good.replace("7", "9", 1), good), "disaster")
    with pytest.raises(UserError, match="none of its 0 rows"):
        load_csv(_write(tmp_path / "a.csv"), "disaster")
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="b.csv is not UTF-8"):
        load_csv(tmp_path / "b.csv", "disaster")
    (tmp_path / "c.csv").write_bytes(b"\n")
    with pytest.raises(UserError, match="c.csv is empty"):
        load_csv(tmp_path / "c.csv", "disaster")
    with pytest.raises(UserError, match="no domain 'chess'"):
        load_csv(tmp_path / "c.csv", "chess")


def test_the_command_prints_the_audit_and_one_sentence_on_a_mistake(tmp_path, capsys):
    path = _write(tmp_path / "a.csv", ROW + "Water, Rope,“Yes.”", "8,Flood,Cold,Variable,120,Water,“Yes.”")
    assert main([str(path), "disaster"]) == 0
    printed = capsys.readouterr().out
    assert "2 rows, 1 scenarios, 1 rows repaired, 1 excluded" in printed and "joined 'Water, Rope'" in printed
    command = [sys.executable, "-m", "emodistill.negotiation", str(tmp_path / "absent.csv"), "disaster"]
    failed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert failed.returncode == 2 and len(failed.stderr.strip().splitlines()) == 1 and "absent.csv" in failed.stderr
