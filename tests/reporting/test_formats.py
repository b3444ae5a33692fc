import io
import json

import pandas as pd
import pyarrow.parquet as pq
import pytest
from reporting_cases import TABLE
from rich.console import Console

from emodistill.reporting.formats import escape_latex, escape_markdown, latex, markdown, parquet, print_table
from emodistill.reporting.tables import Column, Table


def printed(table, width=150):
    console = Console(file=io.StringIO(), width=width)
    print_table(table, console)
    return console.file.getvalue()


def test_the_screen_shows_words_as_they_are():
    text = printed(TABLE)
    assert "a|b <b>*x*</b> 50 % $5 [red]" in text and "0.50 [0.25, 0.75]" in text and "12 %" in text
    assert "Read it with care: 5 % & \\more." in text


def test_the_screen_parts_what_differs_in_the_first_column():
    columns = [Column("domain", "domain", "text"), Column("arm", "arm", "text")]
    rows = [{"domain": d, "arm": a} for d in ("debt", "student") for a in ("x", "y")]
    assert sum("├" in line for line in printed(Table("t", "t", columns, rows)).splitlines()) == 1
    assert "├" not in printed(Table("t", "t", columns[1:], rows))


def test_a_table_that_is_piped_is_as_wide_as_it_needs(capsys):
    wide = Table(
        "t", "t", [Column(str(i), f"column {i}", "text") for i in range(8)], [{str(i): "word word" for i in range(8)}]
    )
    print_table(wide)
    assert max(map(len, capsys.readouterr().out.splitlines())) > 90


def test_markdown_has_a_row_a_line_and_escapes():
    text = markdown(TABLE)
    title, *lines, note = [line for line in text.splitlines() if line]
    assert title == "**Arms & \\<others\\>**"
    assert len(lines) == 5 and lines[1] == "|---|---:|---:|---:|---:|"
    assert all(line.replace("\\|", "").count("|") == 6 for line in lines)
    assert "a\\|b \\<b\\>\\*x\\*\\</b\\>" in lines[3] and "– [–, –]" in lines[3]
    assert note == "Read it with care: 5 % & \\\\more."


@pytest.mark.parametrize("text", ["a\nb", "  a   b "])
def test_a_cell_is_one_line(text):
    assert escape_markdown(text) == escape_latex(text) == "a b"


def test_a_cell_can_be_no_link():
    assert "](" not in escape_markdown("[click](http://x)")


def test_latex_is_balanced_and_escaped():
    text = latex(TABLE)
    for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\begin{tabular}{lrrrr}", r"\label{tab:arms}"):
        assert rule in text
    assert (
        r"\caption{Arms \& \textless{}others\textgreater{}. Read it with care: 5 \% \& \textbackslash{}more.}" in text
    )
    assert r"50 \% \$5 [red]" in text and r"fixed:joy\_1" in text and r"p\_\{Holm\}" in text
    body = text.split(r"\toprule")[1].split(r"\bottomrule")[0]
    rows = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 4 and all(line.replace(r"\&", "").count("&") == 4 for line in rows)
    plain = text.replace("\\{", "").replace("\\}", "")
    assert plain.count("{") == plain.count("}") and text.count(r"\begin") == text.count(r"\end") == 2
    for special in "%$#_":
        assert special not in text.replace(f"\\{special}", "")


@pytest.mark.parametrize("character", list("\\&%$#_{}~^<>–−±×κβτρ"))
def test_latex_leaves_no_special_character_bare(character):
    escaped = escape_latex(f"a{character}b")
    assert escaped.startswith("a") and escaped.endswith("b") and escaped != f"a{character}b"


def test_latex_of_an_empty_table_still_stands():
    empty = Table("none", "None", [Column("a", "a_b", "text"), Column("b", "b")], [])
    assert r"a\_b & b" in latex(empty)
    assert markdown(empty).count("|") == 6


def test_parquet_keeps_raw_values_and_parts_intervals():
    raw = parquet(TABLE)
    frame = pd.read_parquet(io.BytesIO(raw))
    assert list(frame.columns) == ["arm", "episodes", "utility", "utility_low", "utility_high", "p", "share"]
    assert frame.loc[0, ["utility", "utility_low", "utility_high"]].tolist() == [0.5, 0.25, 0.75]
    assert frame["utility"].isna().tolist() == [False, True, False] and frame.loc[0, "p"] == 0.04
    about = json.loads(pq.read_schema(io.BytesIO(raw)).metadata[b"emodistill"])
    assert about["title"] == TABLE.title and about["headers"]["utility"] == "utility [95 %]"
