"""Names of runs, paths and labels as people type them: Hydra reads them as they stand, and so do printed commands."""

import shlex
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from commands import entry
from commands.words import as_typed, for_hydra, literal
from emodistill.evaluation.stage_graph import Stage
from emodistill.studies.study import MissingStage, conditions_of

ROOT = Path(__file__).resolve().parents[2]
NAMES = [
    *(
        "lr=0.1",
        "müller",
        "my run",
        "o'brien",
        'say "x"',
        "a,b",
        "a#b",
        "(x)",
        "a:b",
        "$x",
        "100%",
        "1e3",
        "007",
        "null",
    ),
    *(
        "true",
        "{a}",
        "[a]",
        "施压",
        "back\\slash",
        "end\\",
        "x\\'y",
        "a=b=c",
        "  spaces ",
        "~",
        "~/x",
        "🙂",
        "a;b",
        "a&b",
    ),
    *("-x", "@x", "a*", "x'", "e\u0301", "demo", "0", "1,2", "[1,2]", "choice(1,2)"),
]


def _value(word):
    return OverridesParser.create().parse_override(word).value()


@pytest.fixture(scope="module")
def configs():
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        yield


ROOTS = (("train", ["stage=iql"]), ("evaluate", []), ("play", []))


@pytest.fixture(scope="module")
def composed(configs):
    return [compose(config, overrides=more) for config, more in ROOTS]


@pytest.mark.parametrize("name", NAMES)
def test_a_run_may_have_any_name(composed, name):
    word = for_hydra(f"run={name}")
    assert for_hydra(word) == word and as_typed(word) == f"run={name}"
    for cfg in composed:
        OmegaConf.update(cfg, "run", _value(word))
        assert (cfg.run, cfg.run_dir) == (name, f"checkpoints/{name}")


@pytest.mark.parametrize("name", ["o'brien", "back\\slash", "{a}"])
def test_hydra_itself_reads_such_a_name(configs, name):
    for config, more in ROOTS:
        cfg = compose(config, overrides=[for_hydra(f"run={name}"), *more])
        assert (cfg.run, cfg.run_dir) == (name, f"checkpoints/{name}")


@given(st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1).filter(lambda text: "${" not in text))
def test_any_text_is_given_to_hydra_as_it_stands(text):
    assert _value(literal("run", text)) == text
    if text[0] not in "'\"":
        assert str(_value(for_hydra(f"run={text}"))) == text


@pytest.mark.parametrize(
    "word",
    ["seeds=[0,1]", "~scenarios.per_domain", "+a.b=1e-3", "--cfg", "x='y'", "x=${run}", "arms=[vanilla", "a={b: 1}",
     "x=null", "learner.learning_rates={q: 1e-3}", "-m", "size.iql_steps=8", "arms=['fixed:ü',iql]"],
)  # fmt: skip
def test_what_hydra_reads_or_should_refuse_stays_as_it_is(word):
    assert for_hydra(word) == as_typed(for_hydra(word)) == word


@pytest.mark.parametrize(
    ("typed", "read"),
    [("domains=debt", "domains=[debt]"), ("arms=fixed:joy", "arms=[fixed:joy]"), ("arms=iql,sft", "arms=[iql,sft]")]
    + [("conditions=null", "conditions=null"), ("hosts=box.example.org", "hosts=[box.example.org]")]
    + [("domains='debt'", "domains='debt'"), ("arms=${x}", "arms=${x}")],
)
def test_one_name_is_a_list_of_one(typed, read):
    assert for_hydra(typed) == for_hydra(read) == read


def test_a_sweep_over_runs_stays_a_sweep():
    assert for_hydra("domains=debt,student", sweeping=True) == "domains=debt,student"
    assert for_hydra("run=a,b", sweeping=True) == "run=a,b"
    assert for_hydra("run=lr=1", sweeping=True) == "run='lr=1'"


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("data.corpus.path=~/a.parquet", "HOME/a.parquet"),
        ("run_dir=~", "HOME"),
        ("run_dir=~/lr=0.1", "HOME/lr=0.1"),
        ("+scenarios.files.debt=~/my files/ü.csv", "HOME/my files/ü.csv"),
        ("study.files=[~/a.json,~/b c.json]", ["HOME/a.json", "HOME/b c.json"]),
        ("data.corpus.path=a~/b", "a~/b"),
        ("vocabulary=ü.yaml", "ü.yaml"),
        ("arms=[fixed:施压,fixed:it's $$ now, vanilla]", ["fixed:施压", "fixed:it's $$ now", "vanilla"]),
        ("conditions=[gamma=0.9]", ["gamma=0.9"]),
    ],
)
def test_home_and_labels_of_any_language(monkeypatch, word, value):
    monkeypatch.setenv("HOME", "/people/o'brien")
    found = _value(for_hydra(word))
    home = [text.replace("HOME", "/people/o'brien") for text in ([value] if isinstance(value, str) else value)]
    assert ([found] if isinstance(value, str) else found) == home


@pytest.mark.parametrize("name", ["lr=0.1", "o'brien's ü", "$(x) #1", "施压"])
def test_a_printed_command_is_read_as_it_was_meant(name):
    missing = MissingStage(Stage("iql"), Path("checkpoints", name), ["stage=iql", f"run_dir=checkpoints/{name}"])
    words = shlex.split(missing.command)
    assert [_value(for_hydra(word)) for word in words[2:]] == ["iql", f"checkpoints/{name}"]


def test_an_arm_with_an_apostrophe_is_a_condition():
    (condition,) = conditions_of({"per_arm": "opponent"}, ["fixed:it's \\'now"])
    assert _value(condition.play[0]) == "fixed:it's \\'now"


@pytest.mark.parametrize("word", ["run=", "run=''"])
def test_a_run_without_a_name_is_refused(monkeypatch, capsys, word):
    monkeypatch.setattr(sys, "argv", ["train.py", "stage=iql", word])
    with pytest.raises(SystemExit) as end:
        entry.run(lambda: pytest.fail("it ran"), "train", "")
    assert end.value.code == 2 and "run= is empty" in capsys.readouterr().err


@pytest.mark.parametrize("script", ["train.py", "evaluate.py", "play.py"])
def test_every_command_takes_such_words(monkeypatch, script):
    monkeypatch.setenv("HOME", "/people/me")
    seen = []
    monkeypatch.setattr(sys, "argv", [script, "run=lr=0.1 müller's", "data.corpus.folder=~/here"])
    entry.run(lambda: seen.extend(sys.argv[1:]), script.removesuffix(".py"), "")
    assert [_value(word) for word in seen] == ["lr=0.1 müller's", "/people/me/here"]
