"""Run a whole experiment: `python reproduce.py experiment=paper|rehearsal [dry_run=true] [key=value ...]`.

For each domain: its corpus (play.py), the three stages (train.py), the evaluation (evaluate.py). Running the same
command again continues; what is finished says that there is nothing to do. docs/reproduce.md says what is published.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import hydra
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from commands import entry
from commands.building import register_variants
from commands.words import as_typed, for_hydra

ROOT = Path(__file__).resolve().parent
# keys that the commands are told otherwise, or not at all
OWN = ("dry_run", "estimate", "experiment", "run", "domains")
COMMANDS = {
    "play": ("play", []),
    "iql": ("train", ["stage=iql"]),
    "sft": ("train", ["stage=sft"]),
    "jpo": ("train", ["stage=jpo"]),
    "evaluate": ("evaluate", []),
}


def reproduce(cfg: DictConfig, experiment: str, overrides: Sequence[str]) -> None:
    """Run the commands of every domain one after the other, or say what they will take.

    Args:
        overrides: what the user gave, as Hydra reads it; each command is told the same.
    """
    from emodistill.errors import UserError

    if experiment == "none":
        raise UserError("experiment=none has nothing to run; use experiment=paper or experiment=rehearsal")
    budget = f"endpoint.spending.path={Path('checkpoints', cfg.run, 'spending.json')}"  # one for all domains
    given = [as_typed(word) for word in overrides if word.lstrip("+~").split("=")[0].split(".")[0] not in OWN]
    words = {
        domain: [f"experiment={experiment}", budget, *given, f"run={cfg.run}/{domain}", f"domains=[{domain}]"]
        for domain in list(cfg.domains)
    }
    if cfg.dry_run:
        print(dry_run(cfg, words))
        return
    with ExitStack() as stack:
        if experiment == "rehearsal":
            from commands.rehearsal import RuleServer, make_tiny_model

            make_tiny_model(Path(cfg.model.base_model))
            stack.enter_context(RuleServer(cfg.endpoint.base_url))
        elif not cfg.endpoint.base_url:
            raise UserError("endpoint.base_url is not set; give the address of the server, endpoint.base_url=URL")
        for own in words.values():
            for script, more in COMMANDS.values():
                run_command(script, [*more, *own])
    print(f"all of it is in {Path('checkpoints', cfg.run)}")


def run_command(script: str, words: Sequence[str]) -> None:
    """Run one command in a process of its own, whose output is shown; end as it ends where it fails."""
    typed = [f"{script}.py", *words]
    print(f"$ python {shlex.join(typed)}", flush=True)
    environment = {**os.environ, "HYDRA_FULL_ERROR": "1" if entry.WANTS_TRACEBACK else "0"}
    status = subprocess.run([sys.executable, str(ROOT / typed[0]), *typed[1:]], env=environment, check=False).returncode
    if status:
        print(f"{script}.py ended with status {status}; mend it and run the same command again", file=sys.stderr)
        raise SystemExit(status)


def dry_run(cfg: DictConfig, words: dict[str, list[str]]) -> str:
    """The commands and what they will take, in words; opens no connection."""
    from commands.estimate import Assumptions, plain, report, setting_of

    assumptions = Assumptions(**plain(cfg.estimate))
    settings, lines = {}, []
    for domain, own in words.items():
        composed = {
            name: compose(script, overrides=[*more, *map(for_hydra, own)]) for name, (script, more) in COMMANDS.items()
        }
        lines += [f"python {shlex.join([f'{script}.py', *more, *own])}" for script, more in COMMANDS.values()]
        settings[domain] = setting_of(composed, assumptions, domain)
    return "\n".join([*lines, "", report(settings, assumptions, comments())])


def comments() -> dict[str, str]:
    """What `configs/reproduce.yaml` says behind each of its keys."""
    text = (ROOT / "configs" / "reproduce.yaml").read_text(encoding="utf-8")
    return dict(re.findall(r"^\s*(\w+):.*?\s# (.*)$", text, re.MULTILINE))


register_variants()


@hydra.main(config_path="configs", config_name="reproduce", version_base="1.3")
def main(cfg: DictConfig) -> None:
    with entry.explained():
        chosen = HydraConfig.get()
        reproduce(cfg, chosen.runtime.choices["experiment"], list(chosen.overrides.task))


if __name__ == "__main__":
    entry.run(main, "reproduce", __doc__ or "")
