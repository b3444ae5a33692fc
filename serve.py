"""Serve the agents of a run, or of an exported folder (`run_dir=exported`): `python serve.py run=demo [key=value ...]`.

The server speaks OpenAI's chat-completions protocol and has a page to negotiate on, http://127.0.0.1:8000. See
`configs/serve.yaml` for every key, and docs/serving.md for the protocol.
"""

import os
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from omegaconf import DictConfig

from commands import entry

if TYPE_CHECKING:
    from emodistill.serving.app import Service


def serve(cfg: DictConfig) -> None:
    """Listen until the process is told to stop."""
    from emodistill.errors import UserError

    if find_spec("starlette") is None or find_spec("uvicorn") is None:
        raise UserError("serve.py needs starlette and uvicorn; install them with: pip install -e '.[serve]'")
    from emodistill.serving.gate import TOKEN, check_exposed
    from emodistill.serving.server import Server, listening

    token = os.environ.get(TOKEN) or None
    check_exposed(cfg.host, token)
    service = service_of(cfg, token)
    server = Server(service.app(), service.lockstep.stop)
    with listening(cfg.host, cfg.port) as opened:
        entry.use_threads(cfg)
        first = service.run.arms[0]
        with entry.loading_for_good():
            service.run.agents[first].ready()
        shown = f"[{cfg.host}]" if ":" in cfg.host else cfg.host
        print(f"{cfg.run_dir}: {', '.join(service.run.arms)}; guard={cfg.guard.level}, record={cfg.record}")
        print(f"http://{shown}:{opened.getsockname()[1]} (Ctrl-C ends it)", flush=True)
        server.listen(opened)


def service_of(cfg: DictConfig, token: str | None) -> "Service":
    """What is served, put together from the configuration; no models are loaded yet."""
    from hydra.utils import instantiate

    from commands.building import open_endpoint
    from emodistill.errors import UserError
    from emodistill.serving.app import Service
    from emodistill.serving.gate import LOOPBACK, Gate
    from emodistill.serving.lockstep import Lockstep
    from emodistill.serving.records import Records
    from emodistill.serving.served_run import ServedRun

    arms = None if cfg.arms is None else list(cfg.arms)
    how = (cfg.guard.level, cfg.guard.redraws, cfg.device, partial(open_endpoint, cfg), cfg.remembered)
    run = ServedRun(cfg.run_dir, arms, *how)
    if cfg.record and not cfg.record_file:
        raise UserError("record=true stores negotiations in record_file=..., which is empty; give the name of a file")
    stored = Path(cfg.record_file) if cfg.record else None
    if stored and not run.settings.has_counterparty and Path(cfg.run_dir) in stored.parents:
        raise UserError(
            f"record=true: {cfg.run_dir} is an exported agent, which is given away, and people's words do not belong "
            "in it; say where to store them, such as record_file=people.parquet"
        )
    lockstep = Lockstep(run.agents, run.counters, cfg.batch, cfg.queue, cfg.gather_s)
    usual = None if token else LOOPBACK
    hosts = usual if cfg.hosts is None else {str(host).lower() for host in cfg.hosts}
    gate = Gate(token, hosts, cfg.per_minute)
    records = Records(stored) if stored else None
    return Service(run, lockstep, gate, instantiate(cfg.limits), records)


@hydra.main(config_path="configs", config_name="serve", version_base="1.3")
def main(cfg: DictConfig) -> None:
    with entry.explained(), entry.paid(cfg):
        serve(cfg)


if __name__ == "__main__":
    entry.run(main, "serve", __doc__ or "")
