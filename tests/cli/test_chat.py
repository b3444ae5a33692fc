"""The chat in the terminal, driven through a pipe as a script would, on a tiny run."""

import io
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hydra.errors import HydraException
from tiny_runs import begun, composed

from chat import chat as talk
from commands import entry
from emodistill.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return begun(tmp_path_factory, "chat", "iql", "sft").folder / "run"


def started(run, *overrides):
    environment = {key: value for key, value in os.environ.items() if key != "HYDRA_FULL_ERROR"}
    command = [sys.executable, str(ROOT / "chat.py"), f"run_dir={run}", *overrides]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment | {"OMP_NUM_THREADS": "1", "COLUMNS": "500"}, **pipes)


def piped(run, said, *overrides):
    """What the command shows for these lines of standard input."""
    process = started(run, *overrides)
    shown, errors = process.communicate("".join(f"{line}\n" for line in said))
    return process.returncode, shown, errors


@pytest.fixture
def chat(run, capsys, monkeypatch):
    """The same in this process, which spares the imports."""

    def held(said, *overrides):
        lines = io.TextIOWrapper(io.BytesIO("".join(f"{line}\n" for line in said).encode()), encoding="utf-8")
        monkeypatch.setattr(sys, "stdin", lines)
        monkeypatch.setenv("COLUMNS", "500")
        capsys.readouterr()
        talk(composed("chat", f"run_dir={run}", *overrides))
        return capsys.readouterr().out

    return held


def test_a_whole_negotiation(run):
    said = [
        "/help",
        "I need at least 110 days.",
        "/why",
        "/result",
        "109?",
        "/why",
        "",
        "/nothing",
        "[bold]Hm.[/bold]",
        "OK, deal.",
    ]
    code, shown, errors = piped(run, said, "arm=iql", "guard=off")
    assert code == 0 and errors == ""
    first = shown.splitlines()[0]
    assert first.startswith("You are talking to a machine. It may choose which emotion")
    assert "You are the debtor" in shown and "/quit    leave" in shown
    before, after = shown.split("A deal at ")
    assert "You are the creditor" not in before and "You are the creditor" in after
    assert "read in your words: an offer of 110 days" in before
    assert "read in your words: an offer of 109 days" in before and "values (Q, scaled reward): " in before
    assert "(the words are empty; say something, such as an offer)" in before
    assert "debtor (you): [bold]Hm.[/bold]" in before
    offers = [int(days) for days in re.findall(r"^creditor: .*?(\d+) days?\.?$", before, re.MULTILINE)]
    assert len(offers) == 4 and after.startswith(f"{offers[-1]} days, in round 4.")
    target = int(re.search(r"You want more time, ideally (\d+) days", before)[1])
    assert re.search(rf"debtor \(you\) +{target} days +\d+%", after)


def test_the_same_seed_gives_the_same_chat(run, chat):
    said = ["I need at least 110 days.", "100 days.", "/quit"]
    _, in_another_process, _ = piped(run, said, "arm=sft", "seed=3")
    same, other = (chat(said, "arm=sft", f"seed={seed}") for seed in (3, 4))
    assert in_another_process == same != other


def test_a_blind_chat_tells_its_arm_at_the_end(chat):
    said = ["110 days.", "/why", "No deal. I am leaving."]
    shown = chat(said, "arm=[vanilla,phrasebook_random]", "blind=true", "explain=true")
    before, after = shown.split("No deal: you walked away.")
    assert "With blind=true that is told at the end." in before and "emotion:" not in before
    assert not re.search("vanilla|phrasebook", before) and re.search(
        r"It was the arm (vanilla|phrasebook_random)", after
    )
    assert "1. " in after and "emotion: " in after and "read in your words: an offer of 110 days" in after


def test_the_other_side_of_the_table(chat):
    said = ["I want the money within 20 days.", "/why", "30 days, then.", "40 days.", "50 days."]
    shown = chat(said, "side=focal", "explain=true")
    assert "You are the creditor" in shown.split("debtor: ")[0] and shown.count("read in your words: an offer of") >= 2
    assert re.search(r"creditor \(you\) +\d+ days", shown)


def test_the_end_of_input_ends_it_with_the_result_so_far(chat):
    shown = chat([], "arm=phrasebook_iql")
    assert "No deal: you left the table." in shown and "creditor: " in shown


def test_an_interrupt_ends_it_with_the_result_so_far(run):
    process = started(run, "arm=phrasebook_iql")
    line = ""
    while not line.startswith("creditor: "):
        line = process.stdout.readline()
        assert line
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    shown, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and "No deal: you left the table." in shown and "Traceback" not in errors


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["side=debtor"], "side=debtor: use counterparty or focal"),
        (["side=focal", "blind=true"], "blind=true hides which arm is opposite"),
        (["arm=emodistill"], "which is not trained"),
        (["arm=vanilla", "domain=student"], "the run has no scenario of it; its domains are debt"),
        (["arm=vanilla", "scenario=debt-999"], "scenario=debt-999: unseen ones are debt-"),
        (["arm=fixed:anger"], "guard=strict bars 'anger' in 'debt'"),
        (["arm=phrasebook_iql", "guard=loos"], "Could not find 'guard/loos'"),
        (["arm=[]"], "arm="),
        (["arm=vanilla", "seed=-1"], "seed=-1: use a whole number from 0"),
        (["arm=vanilla", "threads=-1"], "threads=-1: a whole number of at least 1"),
        (["armm=vanilla"], "did you mean"),
    ],
)
def test_what_cannot_be_chatted_with(run, overrides, named):
    with pytest.raises((UserError, HydraException)) as refused:
        talk(composed("chat", f"run_dir={run}", *overrides))
    assert named in entry.explain(refused.value)


def test_a_refusal_is_one_sentence(run):
    code, shown, errors = piped(run, [], "arm=emodistill")
    (line,) = errors.splitlines()
    assert code == 2 and shown == "" and re.fullmatch("error: arm 'emodistill' needs .* which is not trained; .*", line)


def test_help_shows_its_own_keys():
    shown = subprocess.run(
        [sys.executable, str(ROOT / "chat.py"), "--help"], capture_output=True, text=True, check=True
    )
    assert "blind: false" in shown.stdout and "endpoint=default" in shown.stdout and "stage=" not in shown.stdout
