"""A flaw in a phrasebook file is found on loading, and the message names file and key."""

from pathlib import Path

import pytest

from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.errors import UserError
from emodistill.negotiation.phrasebook import Phrasebook, default_folder


def copied(folder: Path, name: str, old: str, new: str) -> Path:
    for entry in default_folder().iterdir():
        text = entry.read_text(encoding="utf-8")
        (folder / entry.name).write_text(text.replace(old, new, 1) if entry.name == name else text, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("anger.yaml", "tone: firm", "tone: shrill", r"anger\.yaml: tone 'shrill' is unknown"),
        ("anger.yaml", "press:", "pressing:", r"anger\.yaml must have exactly the keys"),
        ("anger.yaml", "{matter}", "{weather}", r"anger\.yaml: open .*unknown slot \['weather'\]"),
        ("anger.yaml", "  - debt:", "  - farm:", r"anger\.yaml: open: no domain 'farm'"),
        ("anger.yaml", "  - debt:", "  - 3\n  - debt:", r"anger\.yaml: open: a line is a text or a mapping"),
        ("anger.yaml", "tone: firm", "- tone", r"anger\.yaml (must be a mapping|is not valid YAML)"),
        (
            "offers.yaml",
            "Please {ask}.",
            "Please {asked}.",
            r"offers\.yaml: tones\.plain\.open: unknown slot \['asked'\]",
        ),
        ("offers.yaml", "  any:", "  every:", r"offers\.yaml: wordings has no 'any'"),
        ("offers.yaml", "walk_away:", "leave:", r"offers\.yaml has no 'walk_away'"),
        (
            "offers.yaml",
            "  plain:\n    open:",
            "  plain:\n    begin:",
            r"offers\.yaml: tones\.plain\.open must be a list",
        ),
    ],
)
def test_a_flawed_file_is_named_with_its_key(tmp_path: Path, name: str, old: str, new: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Phrasebook(copied(tmp_path, name, old, new))


def test_a_missing_file_and_missing_lines_are_named(tmp_path: Path) -> None:
    book = copied(tmp_path, "", "", "")
    assert Phrasebook(book).emotions == load_vocabulary().labels
    kept = (book / "joy.yaml").read_text(encoding="utf-8").splitlines()
    thinned = [line for i, line in enumerate(kept) if i not in (2, 3)]
    (book / "joy.yaml").write_text("\n".join(thinned), encoding="utf-8")
    with pytest.raises(UserError, match=r"joy\.yaml: open has 3 lines"):
        Phrasebook(book)
    (book / "joy.yaml").unlink()
    with pytest.raises(UserError, match=r"joy\.yaml is missing"):
        Phrasebook(book)
