"""Small works for the tests of executors: what they do is seen from files."""

import os
import signal
import time
from functools import partial
from pathlib import Path

from emodistill.errors import UserError
from emodistill.execution.pieces import Needs, Piece, digest
from emodistill.files import atomic_write

ENOUGH = 1000.0  # seconds that a piece claims to take, so that it is worth other processes


class Writer:
    """Opens by leaving a mark, and writes the name of a piece into its file.

    Args:
        marks: folder; one file for every kit that was opened, with the process in its name.
    """

    def __init__(self, marks, kit):
        self.marks, self.kit = Path(marks), kit
        self.mark("opened", kit)
        self.mark("card", os.environ.get("CUDA_VISIBLE_DEVICES"))

    def mark(self, what, name):
        (self.marks / f"{what}-{name}-{os.getpid()}-{time.monotonic_ns()}").touch()

    def __call__(self, name, file, does, advance):
        self.mark("did", name)
        does_now = does if isinstance(does, str) else ""
        if does_now == "mistake":
            raise ValueError("wrapped") from UserError("there is no such thing; choose another")
        if does_now == "bug":
            raise KeyError("a bug of ours")
        if does_now == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if does_now == "die once" and not (self.marks / f"died-{name}").exists():
            (self.marks / f"died-{name}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if isinstance(does, float):
            time.sleep(does)
        advance(1)
        atomic_write(Path(file), f"{name} {self.kit}\n")


def piece(folder, name, does="", kit="kit", after=()):
    """A piece that writes `<folder>/<name>`."""
    file, marks = folder / name, folder / "marks"
    marks.mkdir(parents=True, exist_ok=True)
    return Piece(
        name=digest(name),
        title=f"the piece {name}",
        open=partial(Writer, marks, kit),
        kit=kit,
        task=(name, file, does),
        done=file.is_file,
        after=tuple(map(digest, after)),
        needs=Needs(seconds=ENOUGH),
    )


def marks(folder, what):
    """[name, process] of each mark, in the order in which they were left."""
    found = sorted((folder / "marks").glob(f"{what}-*"), key=lambda path: int(path.name.rsplit("-", 1)[1]))
    return [path.name.removeprefix(f"{what}-").split("-")[:2] for path in found]
