"""Tables for papers: LaTeX with the rules of booktabs."""

import pandas as pd

from emodistill.reporting.table import Table

_CHARACTERS = {
    "\\": r"\textbackslash{}",
    **{character: rf"\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "–": "--",
    "−": r"\(-\)",
    "±": r"\(\pm\)",
    "×": r"\(\times\)",
    "κ": r"\(\kappa\)",
    "β": r"\(\beta\)",
    "τ": r"\(\tau\)",
    "ρ": r"\(\rho\)",
}


def latex(table: Table) -> str:
    """A floating `table` that wants \\usepackage{booktabs}; every word is escaped."""
    # by hand: pandas escapes cells, but leaves captions as they are
    frame = pd.DataFrame(
        [[escape_latex(cell) for cell in row] for row in table.cells()],
        columns=[escape_latex(column.header) for column in table.columns],
        dtype=object,
    )
    found: str = frame.to_latex(
        index=False,
        column_format="".join("l" if column.kind == "text" else "r" for column in table.columns),
        caption=escape_latex(f"{table.title}. {table.note}" if table.note else table.title),
        label=f"tab:{table.name}",
        escape=False,
    )
    return found


def escape_latex(text: str) -> str:
    """Text that LaTeX sets as it stands, in one line."""
    return "".join(_CHARACTERS.get(character, character) for character in " ".join(text.split()))
