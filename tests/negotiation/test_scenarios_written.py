"""Scenario files as people save them: separators, spaces, line breaks in cells, amounts, targets nobody could offer."""

from pathlib import Path

import pytest

from emodistill.data.corpus import CsvScenarios
from emodistill.errors import UserError
from emodistill.negotiation.__main__ import main
from emodistill.negotiation.csv_repair import COMMAS, SEPARATORS, Layout, records
from emodistill.negotiation.domains import load_domain
from emodistill.negotiation.generator import generate_scenarios
from emodistill.negotiation.scenarios import load_csv, read_csv

COLUMNS = load_domain("debt").csv["columns"]


@pytest.fixture
def rows():
    """Three rows of debt, as dictionaries, without a comma in them."""
    return [{c: text.replace(",", ";") for c, text in s.context.items()} for s in generate_scenarios("debt", 3, seed=4)]


def _save(path, rows, separator=",", newline="\n", encoding="utf-8"):
    lines = [COLUMNS, *([row[column] for column in COLUMNS] for row in rows)]
    path.write_bytes((newline.join(separator.join(line) for line in lines) + newline).encode(encoding))
    return path


def _read(path, **more):
    return [scenario.context for scenario in load_csv(path, "debt", **more)]


@pytest.mark.parametrize("separator", [", ", " , ", ",\t", ",  "])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_a_space_after_every_separator_means_nothing(tmp_path, rows, separator, newline):
    path = _save(tmp_path / "a.csv", rows, separator, newline, "utf-8-sig")
    assert _read(path) == rows
    assert not read_csv(path, "debt")[1].repairs


def test_a_row_with_spaces_under_a_header_without(tmp_path, rows):
    path = _save(tmp_path / "a.csv", rows)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1].replace(",", ", "), *lines[2:]]))
    assert _read(path) == rows


@pytest.mark.parametrize(
    "broken", ["Trade is down\nand lunch too", "One\n\nthree", '\nstarts late, "quoted"', "a,b\nc,d"]
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_line_break_in_a_quoted_cell_is_part_of_it(tmp_path, rows, broken, newline):
    rows[1]["Business Impact Description"] = '"' + broken.replace('"', '""') + '"'
    scenarios, audit = read_csv(_save(tmp_path / "a.csv", rows, newline=newline), "debt")
    assert [scenario.id for scenario in scenarios] == ["debt-csv-000", "debt-csv-001", "debt-csv-002"]
    assert scenarios[1].context["Business Impact Description"] == broken.strip()
    assert (audit.rows, audit.repairs) == (3, [])


def test_a_quote_that_nobody_closes_costs_one_row(tmp_path, rows):
    rows[0]["Purchase Purpose"] = '"Two ovens'
    rows[2]["Purchase Purpose"] = '"Two ""old"" ovens'
    scenarios, audit = read_csv(_save(tmp_path / "a.csv", rows), "debt")
    assert [scenario.id for scenario in scenarios] == ["debt-csv-001"]
    assert ["never closed" in item.reason for item in audit.exclusions] == [True, True]


@pytest.mark.parametrize("empty", ["", "   ", "," * (len(COLUMNS) - 1), ";" * 3, '"",""', "\t\t"])
def test_lines_without_a_word_are_no_rows(empty):
    found = list(records(f"head,er\n{empty}\na,b\n{empty}\n{empty}", COMMAS))
    assert found == ["head,er", "a,b"] or (empty.strip() == ";;;" and len(found) == 5)


AMOUNTS = [
    *(
        "24,000",
        "$18000",
        "$ 18,000.50",
        "US$18,000",
        "18000 USD",
        "€18.000,00",
        "18 000 €",
        "18'000",
        "CHF 900",
        "Rs. 500",
    ),
    *("75 %", "75%", "~75", "(1,200)", "-$5", "−5", "£.50", "1.2 million", "12k", "١٢٣", "N/A", "-", "", "unknown"),
]


@pytest.mark.parametrize("amount", AMOUNTS)
def test_an_amount_that_no_target_needs_is_read_as_it_is_written(tmp_path, rows, amount):
    rows[0]["Outstanding Balance (USD)"] = amount
    written = [{column: f'"{text}"' for column, text in row.items()} for row in rows]
    assert _read(_save(tmp_path / "a.csv", written)) == rows


@pytest.mark.parametrize(
    "text", ["two ovens", "Oven 4 broke in May", "75, 444", "2025-03-11x y", "Late Delinquency", "12 or 13"]
)
def test_words_in_a_column_of_numbers_still_exclude_the_row(tmp_path, rows, text):
    rows[0]["Outstanding Balance (USD)"] = f'"{text}"'
    _, audit = read_csv(_save(tmp_path / "a.csv", rows), "debt")
    assert [(item.row, item.reason) for item in audit.exclusions] == [
        (1, f"Outstanding Balance (USD) is '{text}', not a number")
    ]


@pytest.mark.parametrize("amount", ["$30", "30 days", "1,000", "", "30%"])
def test_a_target_must_be_a_plain_number(tmp_path, rows, amount):
    rows[0]["Creditor Target Days"] = f'"{amount}"'
    scenarios, audit = read_csv(_save(tmp_path / "a.csv", rows), "debt")
    assert len(scenarios) == 2 and f"Creditor Target Days is '{amount}', not a number" in audit.exclusions[0].reason


@pytest.mark.parametrize("name", ["semicolon", "tab"])
def test_another_separator_is_named_with_the_option_that_reads_it(tmp_path, rows, name):
    rows = [{column: text.replace(";", " ") for column, text in row.items()} for row in rows]
    rows[0]["Business Impact Description"] = "Trade, which was good, is down"
    path = _save(tmp_path / "a.csv", rows, SEPARATORS[name])
    with pytest.raises(UserError, match=rf"a\.csv separates its columns by {name}s; give scenarios.separator={name}"):
        load_csv(path, "debt")
    assert _read(path, separator=name) == rows
    assert [s.context for s in CsvScenarios({"debt": str(path)}, name).load("debt")] == rows
    assert main([str(path), "debt", name]) == 0 and main([str(path), "debt"]) == 2
    plain = _save(tmp_path / "b.csv", [{c: text.replace(",", "") for c, text in row.items()} for row in rows])
    with pytest.raises(UserError, match="separates its columns by commas; give scenarios.separator=comma"):
        load_csv(plain, "debt", name)
    with pytest.raises(UserError, match="scenarios.separator=pipe: use comma, semicolon, tab"):
        load_csv(path, "debt", "pipe")


def test_a_semicolon_file_of_excel_says_so_first(tmp_path, rows):
    rows = [{column: text.replace(";", " ") for column, text in row.items()} for row in rows]
    rows[1]["Recovery Probability (%)"] = "75,5"
    path = _save(tmp_path / "a.csv", rows, ";", "\r\n", "utf-8-sig")
    path.write_bytes(path.read_bytes()[:3] + b"sep=;\r\n" + path.read_bytes()[3:])
    assert _read(path, separator="semicolon") == rows
    short = path.read_text(encoding="utf-8-sig").replace("75,5;", "")
    path.write_text(short)
    assert "18 cells for 19 columns" in read_csv(path, "debt", "semicolon")[1].exclusions[0].reason


BOUNDS = [
    ("debt", "Creditor Target Days", "-5", "1 day to 730 days"),
    ("debt", "Debtor Target Days", "5000", "1 day to 730 days"),
    ("debt", "Debtor Target Days", "0", "1 day to 730 days"),
    ("debt", "Creditor Target Days", "730.5", "1 day to 730 days"),
    ("disaster", "Rescue_Team_ETA(minutes)", "1445", "5 minutes to 1440 minutes"),
    ("hospital", "Days_On_Waitlist", "900", "1 day to 730 days"),
    ("student", "Student_Wanted_Bedtime", "6:00 AM", "8:00 PM to 5:00 AM"),
    ("student", "Robots_Requested_Bedtime", "7:00 PM", "8:00 PM to 5:00 AM"),
]


@pytest.mark.parametrize("domain, column, cell, bounds", BOUNDS)
def test_a_target_outside_the_bounds_excludes_the_row_by_name(tmp_path, domain, column, cell, bounds):
    rules, path = load_domain(domain), tmp_path / "a.csv"
    made = [scenario.context for scenario in generate_scenarios(domain, 2, seed=1)]
    made[1] = made[1] | {column: cell}
    lines = [[f'"{row.get(name, "later")}"' for name in rules.csv["columns"]] for row in made]
    path.write_text("\n".join(",".join(line) for line in [rules.csv["columns"], *lines]), encoding="utf-8")
    scenarios, audit = read_csv(path, domain)
    assert [scenario.id for scenario in scenarios] == [f"{domain}-csv-000"]
    (item,) = audit.exclusions
    assert item.row == 2 and f"{column} is '{cell}'" in item.reason and item.reason.endswith(f"bounds, {bounds}")


def test_a_target_on_the_bounds_is_read(tmp_path, rows):
    rows[0] |= {"Creditor Target Days": "1", "Debtor Target Days": "730"}
    first = load_csv(_save(tmp_path / "a.csv", rows), "debt")[0]
    assert (first.focal_target, first.counterparty_target) == (1, 730)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "cp1252", "utf-32"])
def test_another_encoding_is_named(tmp_path, rows, encoding):
    rows[0]["Creditor Name"] = "Café Müller"
    with pytest.raises(UserError, match=r"a\.csv is not UTF-8 text \(byte \d+.*\); save it as UTF-8 CSV"):
        load_csv(_save(tmp_path / "a.csv", rows, encoding=encoding), "debt")


def test_home_is_found(tmp_path, rows, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    _save(tmp_path / "a.csv", rows)
    assert _read("~/a.csv") == rows
    source = CsvScenarios({"debt": "~/a.csv"})
    assert [scenario.context for scenario in source.load("debt")] == rows
    assert source.recipe() == CsvScenarios({"debt": str(tmp_path / "a.csv")}).recipe()
    with pytest.raises(UserError, match=r"absent\.csv cannot be read"):
        CsvScenarios({"debt": "~/absent.csv"}).recipe()


REPORTED = {
    "debt_plain": (["000", "001"], []),
    "debt_comma_space": (["000", "001"], []),
    "debt_quoted_newline": (["000", "001"], []),
    "debt_thousands_separators": (["000", "001"], []),
    "debt_currency_sign": (["000", "001"], []),
    "debt_negative_target": (["001"], ["Creditor Target Days is '-5'"]),
    "debt_target_out_of_bounds": (["001"], ["Debtor Target Days is '5000'"]),
}


@pytest.mark.parametrize("name", REPORTED)
def test_files_that_people_reported(shared_data, name):
    path = Path(shared_data, "reports", "csv", f"{name}.csv")
    if not path.is_file():
        pytest.skip("this file is not here")
    scenarios, audit = read_csv(path, "debt")
    ids, reasons = REPORTED[name]
    assert [scenario.id.removeprefix("debt-csv-") for scenario in scenarios] == ids
    assert [item.reason.split(",")[0] for item in audit.exclusions] == reasons
    assert (scenarios[-1].focal_target, scenarios[-1].counterparty_target) == (25, 90)


def test_a_large_file_is_read_in_one_pass():
    text = "\n".join(['a,"b', *(f'{i},"x ""y"""' for i in range(3000)), 'z,"w'])
    assert len(list(records(text, Layout()))) == 3002


def test_a_header_with_line_breaks_is_named_in_one_short_line(tmp_path, rows):
    path = _save(tmp_path / "a.csv", rows)
    path.write_text(path.read_text().replace("Creditor Name", '"Creditor' + "\n\nName" * 30 + '"', 1))
    with pytest.raises(UserError, match="column 1 of the header is 'Creditor Name Name") as caught:
        load_csv(path, "debt")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
