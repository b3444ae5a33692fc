"""Real servers on loopback: `transformers serve`, with the embedded model or with any that a request names."""

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from emodistill.language_models.embedded import embedded_model

STARTUP_S = 600  # a busy machine imports slowly
GENERATION = {"do_sample": True, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}


@dataclass(frozen=True)
class ModelServer:
    """Where it listens, and the name that its model goes by."""

    base_url: str
    model: str


@pytest.fixture(scope="module")
def model_server(tmp_path_factory):
    """A server of chat completions; one reply at a time, about fifteen tokens a second.

    It knows a seed (one call at a time, or the seeds of two calls mix), ignores a JSON schema and logprobs, and refuses
    fields that it does not know.
    """
    pytest.importorskip("fastapi", reason="needs the extra `serving`: pip install -e .[serving]")
    place = tmp_path_factory.mktemp("server")
    folder = served_folder(place / "embedded-model")
    process, port = start(place / "server.log", str(folder))
    yield ModelServer(f"http://127.0.0.1:{port}/v1", str(folder))
    stop(process)


@pytest.fixture(scope="module")
def server_of_any_model(tmp_path_factory):
    """The address of a server that loads the model whose folder a request names."""
    pytest.importorskip("fastapi", reason="needs the extra `serving`: pip install -e .[serving]")
    process, port = start(tmp_path_factory.mktemp("server") / "server.log")
    yield f"http://127.0.0.1:{port}/v1"
    stop(process)


def start(log_file, *model):
    """Start a server and wait until it answers: its process and port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("transformers")), "serve", *model, "--dtype", "float32"]
    no_hub = str(log_file.with_name("no-hub"))
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "HF_HOME": no_hub}
    with open(log_file, "wb") as log:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,  # an interrupt of the tests is theirs, and they end the server
        )
    deadline = time.monotonic() + STARTUP_S
    while not healthy(port):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"the model server did not start: {log_file.read_text()[-2000:]}")
        time.sleep(0.2)
    return process, port


def served_folder(folder):
    """The embedded model with a generation config that samples, or else the server ignores every temperature."""
    folder.mkdir()
    for path in embedded_model().iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "generation_config.json").write_text(json.dumps(GENERATION), encoding="utf-8")
    return folder


def healthy(port):
    try:
        return httpx2.get(f"http://127.0.0.1:{port}/health", trust_env=False).status_code == 200
    except httpx2.TransportError:
        return False


def stop(process):
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
