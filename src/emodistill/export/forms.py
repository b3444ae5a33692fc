"""Writes an export into a new folder, or none at all: parts, weights, check, card, and only then the folder's name."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from emodistill.errors import UserError
from emodistill.export.agent import TrainedAgent, write_base, write_parts, write_sums
from emodistill.export.card import card
from emodistill.export.ollama import write_ollama
from emodistill.export.verification import (
    Measured,
    Spoken,
    check_private,
    verify_gguf,
    verify_merged,
    verify_peft,
)
from emodistill.export.weights import half, write_merged, write_peft
from emodistill.files import replacing
from emodistill.reporting.model_card import CARD

Form = Literal["peft", "merged", "ollama"]
Base = Literal["auto", "included", "named"]
SAYS = Callable[[str], None]


@dataclass(frozen=True)
class Wanted:
    """What is asked for.

    Attributes:
        form: `peft`, `merged` or `ollama`.
        base: of `peft`: whether the base model is copied into the folder. `auto` does so where no hub has its bytes.
        dtype: of merged weights, `float16` or `bfloat16`.
        place: its id on the hub, for the card; by default the folder's name.
        dataset: id on the hub of the corpus that it learnt from, for the card.
    """

    form: str = "peft"
    base: str = "auto"
    dtype: str = "float16"
    place: str | None = None
    dataset: str | None = None

    def __post_init__(self) -> None:
        for key, value, allowed in (("to", self.form, get_args(Form)), ("base", self.base, get_args(Base))):
            if value not in allowed:
                raise UserError(f"{key}={value}: choose {', '.join(allowed)}")
        half(self.dtype)


def write_export(agent: TrainedAgent, folder: Path, wanted: Wanted, say: SAYS = lambda _: None) -> Measured:
    """Write an export and check it.

    Args:
        folder: must not exist yet.
        say: told what is done.

    Raises:
        UserError: if the folder exists, or what was written is not the run's own agent; nothing is left then.
    """
    with new_folder(folder) as partial:
        place = wanted.place or folder.name
        say(f"writing {wanted.form} of {agent.arm.name} ({agent.run})")
        form, included = wanted.form, False
        if form == "peft":
            included = _takes_base(agent, wanted.base)
            write_parts(agent, partial, "base" if included else agent.base_name)
            write_peft(agent, partial)
            if included:
                write_base(agent, partial / "base")
        elif form == "merged":
            write_parts(agent, partial, ".")
            write_merged(agent, partial, wanted.dtype)
        else:
            form = "gguf" if write_ollama(agent, partial, wanted.dtype) else "safetensors"
            write_parts(agent, partial, None if form == "gguf" else ".")
        write_sums(partial)
        say("checking it against the run")
        measured = verify(agent, partial, form, wanted.dtype)
        text = card(agent, form, place, measured, included, wanted.dataset)
        (partial / CARD).write_text(text, encoding="utf-8")
        check_private(partial)
    return measured


def verify(agent: TrainedAgent, folder: Path, form: str, dtype: str) -> Measured:
    """Check what is in a folder against the run.

    Args:
        form: `peft`, `merged`, `safetensors` or `gguf`.

    Raises:
        UserError: if it is not the run's own agent.
    """
    own = Spoken.of(agent)
    if form == "peft":
        return verify_peft(agent, folder, own)
    return (verify_gguf if form == "gguf" else verify_merged)(agent, folder, own, dtype)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into, which gets its name at the end; where anything fails, nothing is left.

    Raises:
        UserError: if there is something by that name.
    """
    if folder.exists():
        raise UserError(f"folder={folder} exists; give another name, or delete it first")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replacing(folder) as partial:
        partial.mkdir()
        yield partial


def _takes_base(agent: TrainedAgent, base: str) -> bool:
    """Whether the base model is copied.

    Raises:
        UserError: if it is not, and no other machine can find it by its name.
    """
    if base == "auto":
        return not agent.base_is_on_hub
    findable = agent.base_is_on_hub or agent.base == agent.base_name
    if base == "named" and not findable:
        raise UserError("base=named: the run's base model is a folder of this machine; leave base= out to include it")
    return base == "included"


def listing(folder: Path) -> list[tuple[str, int]]:
    """Every file of a folder with its size in bytes, by name."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(path.relative_to(folder).as_posix(), path.stat().st_size) for path in paths]
