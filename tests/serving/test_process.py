"""The command as a process: signals under load, with clients that try again, and nothing lost or crossed."""

import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from serving_cases import serving
from tiny_runs import composed

from emodistill import Negotiator
from emodistill.errors import UserError
from serve import serve

ROOT = Path(__file__).resolve().parents[2]
ARM = "phrasebook_random"
CLIENTS, ROUNDS = 16, 4
BUSY = {429, 500, 502, 503, 504}


def started(run, port, *overrides, **environment):
    """The command, once it listens."""
    command = [sys.executable, str(ROOT / "serve.py"), f"run_dir={run}", f"port={port}", f"arms=[{ARM}]", *overrides]
    clean = {key: value for key, value in os.environ.items() if key not in ("HYDRA_FULL_ERROR", "EMODISTILL_TOKEN")}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env=clean | {"OMP_NUM_THREADS": "1"} | environment, **pipes)
    for line in process.stdout:
        if line.startswith("http://"):
            return process
    raise AssertionError(process.stderr.read())


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


def words_of(seed, place):
    return f"Client {seed} cannot do it before {100 + seed - place} days."


def converse(address, seed, spoken):
    """Hold a conversation to its last round; every request is repeated until it is answered. Returns what was tried."""
    metadata, messages, tried = {"domain": "debt", "target": "20", "their_target": "180", "seed": str(seed)}, [], 0
    with httpx2.Client(base_url=address, trust_env=False, timeout=60) as client:
        for place in range(ROUNDS):
            messages += [{"role": "user", "content": words_of(seed, place)}] if place else []
            body = {"model": ARM, "messages": messages, "metadata": metadata}
            while True:
                tried += 1
                try:
                    answer = client.post("/v1/chat/completions", json=body)
                except httpx2.TransportError:
                    time.sleep(0.4)
                    continue
                if answer.status_code == 200:
                    break
                assert answer.status_code in BUSY, answer.text
                time.sleep(0.1)
            messages.append(answer.json()["choices"][0]["message"])
            spoken.append(seed)
            time.sleep(0.02)
    return [message["content"] for message in messages if message["role"] == "assistant"], tried


@pytest.mark.slow
def test_nothing_is_lost_or_crossed_when_the_server_dies(run):
    port = free_port()
    spoken = []

    def wait_for(share):
        while len(spoken) < share * CLIENTS * ROUNDS:
            time.sleep(0.005)

    process = started(run, port)
    with ThreadPoolExecutor(CLIENTS) as clients:
        address = f"http://127.0.0.1:{port}"
        talks = [clients.submit(converse, address, seed, spoken) for seed in range(CLIENTS)]
        wait_for(0.2)
        process.kill()
        process.communicate(timeout=60)
        assert len(spoken) < CLIENTS * ROUNDS
        process = started(run, port)
        wait_for(0.6)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0 and errors == ""
        assert len(spoken) < CLIENTS * ROUNDS
        with serving(run, port=port):
            said = [talk.result(timeout=120) for talk in talks]
    agent = Negotiator.load(run, ARM)
    for seed, (replies, _) in enumerate(said):
        alone = agent.open("debt", target=20, their_target=180, seed=seed)
        heard = [None, *(words_of(seed, place) for place in range(1, ROUNDS))]
        assert replies == [alone.reply(words).words for words in heard]
    assert sum(tried for _, tried in said) > CLIENTS * ROUNDS  # some were answered only when they asked again


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["host=0.0.0.0"], "set the environment variable EMODISTILL_TOKEN"),
        (["arms=[emodistill]"], "which is not trained"),
        (["arms=[phrasebok]"], "unknown arm 'phrasebok'"),
        (["arms=['fixed:anger']"], "guard=strict bars 'anger'"),
        (["port=70000"], "port=70000: a port is a whole number from 0 to 65535"),
        (["port=abc"], "port=abc: a port is a whole number"),
        (["port=80.5"], "port=80.5: a port is a whole number"),
        (["batch=a"], "batch=a: a whole number of at least 1"),
        (["remembered=x"], "remembered=x: a whole number of at least 0"),
        (["host=203.0.113.7"], "cannot listen there"),
    ],
)
def test_what_cannot_be_served(run, monkeypatch, overrides, named):
    if overrides == ["host=203.0.113.7"]:  # an address that no machine has
        monkeypatch.setenv("EMODISTILL_TOKEN", "secret")
    else:
        monkeypatch.delenv("EMODISTILL_TOKEN", raising=False)
    with pytest.raises(UserError, match=named):
        serve(composed("serve", f"run_dir={run}", *overrides))


def test_a_run_that_is_none(tmp_path):
    with pytest.raises(UserError, match="is no run that was trained"):
        serve(composed("serve", f"run_dir={tmp_path}"))


def test_help_shows_its_own_keys():
    shown = subprocess.run(
        [sys.executable, str(ROOT / "serve.py"), "--help"], capture_output=True, text=True, check=True
    )
    assert "record: false" in shown.stdout and "guard=mild|off|strict|words" in shown.stdout
