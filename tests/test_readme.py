"""What the pages say can be done: commands compose, targets and linked files exist, nothing names a private place."""

import importlib.util
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from schedules import concession_schedule
from tiny_runs import composed

from commands.building import register_variants
from emodistill.counterparties.simulation import BehaviouralCounterparty
from emodistill.data.agent_specs import TeacherSpec
from emodistill.data.corpus import GeneratedScenarios, PlayedCorpus
from emodistill.data.schema import Episode, read_episodes
from emodistill.emotions.perceiver import load_perceiver
from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.evaluation.arms import parse_arms
from emodistill.evaluation.results import ArmResult
from emodistill.negotiation import domains
from emodistill.negotiation.agents import FocalAgent, UniformEmotion
from emodistill.negotiation.engine import play
from emodistill.negotiation.generator import generate_scenarios
from emodistill.negotiation.phrasebook import PhrasebookSpeaker
from emodistill.negotiation.protocol import Negotiation

ROOT = Path(__file__).parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "checkpoints/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
BLOCK = re.compile(r"^(?:```\w*\n(.*?)^```|((?:^ {4}\S.*\n)+))", re.MULTILINE | re.DOTALL)
OURS = r"(?:python (?:train|evaluate|play|chat|serve|export|reproduce)\.py|make)"
COMMAND = re.compile(rf"^\s*((?:[A-Z_]+=\S+ )*{OURS} .*)$", re.MULTILINE)
INLINE = re.compile(rf"`({OURS} [^`]+|python -m emodistill[^`]*)`", re.DOTALL)
MODULE = re.compile(r"python -m (emodistill[\w.]*)")
LINK = re.compile(r"\]\(([^)#\s]+)(#[^)]*)?\)")
PRIVATE = re.compile(r"/(?:work|root|home|tmp)/|//[l]ocalhost")  # folders and addresses of one machine


def commands():
    """Words of every command of ours in a code block or in inline code, each once; `...` stands for more of them."""
    known = set()
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        found = [command for block in BLOCK.finditer(text) for command in COMMAND.findall(block[1] or block[2])]
        found += [" ".join(command.split()) for command in INLINE.findall(text) if not command.startswith("python -m")]
        for command in found:
            words = [word for word in shlex.split(command, comments=True) if not re.match(r"[A-Z_]+=", word)]
            if not {"...", "lint`"} & set(words) and tuple(words) not in known:
                known.add(tuple(words))
                yield pytest.param(words, id=f"{page.stem}: {' '.join(words)}")


@pytest.fixture(scope="module", autouse=True)
def variants():
    register_variants()


def check_python(script, arguments):
    overrides = [word for word in arguments if "=" in word or word.startswith("~")]
    assert set(arguments) - set(overrides) <= {"--help", "--cfg", "job", "--resolve"}
    if "--help" not in arguments:
        cfg = composed(script.removesuffix(".py"), *overrides)
        OmegaConf.to_container(cfg, resolve=True)
        if script == "evaluate.py":
            parse_arms(cfg.arms, load_vocabulary(cfg.vocabulary))


@pytest.mark.parametrize("words", commands())
def test_commands_of_the_pages_work_as_printed(words):
    if words[0] == "python":
        check_python(words[1], words[2:])
        return
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    variables = dict(word.split("=", 1) for word in words[1:] if "=" in word)
    targets = [word for word in words[1:] if "=" not in word]
    assert targets and all(re.search(rf"^{target}:.*##", makefile, re.MULTILINE) for target in targets)
    assert all(re.search(rf"^{name} +\?=", makefile, re.MULTILINE) for name in variables)
    size, more = variables.get("SIZE", "demo"), shlex.split(variables.get("ARGS", ""))
    for script, stage in (("train.py", ["stage=jpo"]), ("evaluate.py", [])):
        check_python(script, [*stage, f"size={size}", *more])


def test_modules_named_in_the_pages_can_be_run():
    named = {module for page in PAGES for module in MODULE.findall(page.read_text(encoding="utf-8"))}
    assert len(named) > 4
    for module in sorted(named):
        found = importlib.util.find_spec(module)
        assert found is not None, module
        assert found.submodule_search_locations is None or importlib.util.find_spec(f"{module}.__main__"), module


def test_the_readme_is_short_and_is_found_from_the_index():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 900
    assert len((ROOT / "docs" / "results.md").read_text(encoding="utf-8").split()) <= 1500
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"({page.name})" in index, f"docs/README.md does not list {page.name}"


def test_the_readme_shows_each_entry():
    shown = [param.values[0] for param in commands()]
    assert {"train.py", "evaluate.py"} <= {words[1] for words in shown} and ["make", "demo"] in shown
    assert {f"stage={name}" for name in ("iql", "sft", "jpo")} <= {word for words in shown for word in words}


def blocks(page, language):
    return re.findall(
        rf"^```{language}\n(.*?)^```", (ROOT / "docs" / page).read_text("utf-8"), re.MULTILINE | re.DOTALL
    )


def test_the_examples_of_extending_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = {}
    exec(compile("\n".join(blocks("extending.md", "python")), "docs/extending.md", "exec"), found)
    mine = read_episodes(tmp_path / "mine" / "episodes.parquet")
    assert {episode.split for episode in mine} == {"train", "val", "test"} and any(
        episode.end == "deal" for episode in mine
    )
    focal, corpus = TeacherSpec("goemotions28", concession_schedule()), tmp_path / "corpora"
    scenarios = GeneratedScenarios(per_domain=10, seed=0)
    built = PlayedCorpus("own", ["debt"], scenarios, 1, focal, found["SplitterSpec"](["vanilla"]), 0, str(corpus))
    assert {episode.counterparty for episode in read_episodes(built.build())} == {"splitter"}


def test_the_analysis_of_the_page_on_reports_makes_a_table():
    found = {}
    exec(compile("\n".join(blocks("report.md", "python")), "docs/report.md", "exec"), found)
    scenarios = generate_scenarios("debt", 8)
    vocabulary = load_vocabulary("goemotions28")
    focal = FocalAgent(UniformEmotion(vocabulary), concession_schedule(), PhrasebookSpeaker(vocabulary))
    counterparty = BehaviouralCounterparty(load_perceiver("counterparty"), ["vanilla"])
    played = play([Negotiation(scenario, 0) for scenario in scenarios], focal, counterparty)
    episodes = [Episode.of(negotiation, "test", "uniform", "random") for negotiation in played]
    (table,) = found["Politeness"]()([ArmResult("random", episodes)]).tables
    polite = ["please" in turn.text.lower() for episode in episodes for turn in episode.focal_turns]
    assert table.rows == [{"arm": "random", "share": sum(polite) / len(polite)}] and any(polite)


def test_the_files_of_extending_are_read(tmp_path, monkeypatch):
    rent, tactics = blocks("extending.md", "yaml")
    (tmp_path / "rent.yaml").write_text(rent, encoding="utf-8")
    (tmp_path / "tactics.yaml").write_text(tactics, encoding="utf-8")
    vocabulary = load_vocabulary(str(tmp_path / "tactics.yaml"))
    monkeypatch.setattr(domains, "_FOLDER", tmp_path)
    domains.load_domain.cache_clear()
    scenarios = generate_scenarios("rent", 10)
    focal = FocalAgent(UniformEmotion(vocabulary), concession_schedule(), PhrasebookSpeaker(vocabulary))
    counterparty = BehaviouralCounterparty(load_perceiver("counterparty"), ["vanilla"])
    played = play([Negotiation(scenario, 0) for scenario in scenarios], focal, counterparty)
    domains.load_domain.cache_clear()
    assert all(negotiation.end in ("deal", "walk_away", "deadline") for negotiation in played)
    assert not any(turn.offer_appended for negotiation in played for turn in negotiation.turns)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page):
    for target, _ in LINK.findall(page.read_text(encoding="utf-8")):
        if not target.startswith(("https://", "http://")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_tests_named_in_the_pages_exist():
    named = {
        pair for page in PAGES for pair in re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", page.read_text("utf-8"))
    }
    assert len(named) > 20
    for file, name in sorted(named):
        assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file}::{name}"


def test_no_tracked_text_names_a_private_place():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout, so what ships cannot be listed")
    for name in filter(None, listed.stdout.split("\0")):
        content = (ROOT / name).read_bytes() if (ROOT / name).is_file() else b"\0"
        if b"\0" not in content:
            found = PRIVATE.findall(content.decode("utf-8"))
            assert not found, f"{name} names {found}"
