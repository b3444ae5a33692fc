"""Imports point one way (README, architecture); this walks every import statement and says which line does not."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "emodistill"
FREE = {"errors", "assets", "locks", "progress", "runs"}  # small things that know nothing of the method
LAYERS = [
    {"losses", "networks"},
    {"negotiation", "emotions", "language_models"},
    {"policy", "data", "judges", "counterparties"},
    {"learners", "evaluation", "safety", "reporting"},
    {"studies"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names} | dict.fromkeys(FREE, -1)
ABOVE = {"hydra", "omegaconf", "callbacks", "commands", "train", "evaluate", "play"}
ONLY_THERE = {"transformers": {"language_models", "policy"}, "peft": {"policy"}, "bitsandbytes": {"policy"}}


def imports(path: Path) -> list[tuple[int, str]]:
    """Line and module of every import statement, including those inside functions."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            found.append((node.lineno, node.module or ""))
    return found


def package(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


FILES = [path for path in SOURCE.rglob("*.py") if path.name != "__init__.py" or path.parent != SOURCE]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_down(path):
    for line, module in imports(path):
        head, *rest = module.split(".")
        assert head not in ABOVE, f"{path}:{line}: {module}"
        if head == "emodistill" and rest:
            assert LEVEL[rest[0]] <= max(LEVEL[package(path)], 0), f"{path}:{line}: {module} lies above {package(path)}"
        if head in ONLY_THERE:
            assert package(path) in ONLY_THERE[head], f"{path}:{line}: only {ONLY_THERE[head]} may import {head}"


def test_every_package_has_its_place():
    assert {package(path) for path in FILES} <= LEVEL.keys()


def test_callbacks_know_lightning_and_little_else():
    for path in (ROOT / "callbacks").glob("*.py"):
        for line, module in imports(path):
            assert not module.startswith(("hydra", "omegaconf", "transformers", "peft")), f"{path}:{line}: {module}"


@pytest.mark.parametrize(
    "path",
    [*SOURCE.rglob("*.py"), *ROOT.glob("*.py"), *(ROOT / "callbacks").glob("*.py"), *(ROOT / "commands").glob("*.py")],
    ids=str,
)
def test_files_stay_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 200
