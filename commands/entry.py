"""What all commands share: mistakes of the user end in one sentence, everything else in a traceback."""

import difflib
import errno
import gc
import logging
import logging.handlers
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from hydra.errors import HydraException, InstantiationException
from omegaconf import DictConfig, ListConfig
from omegaconf.errors import OmegaConfBaseException

from commands.words import for_hydra
from emodistill import lazy
from emodistill.checks import check_whole
from emodistill.errors import UserError
from emodistill.models.estimates import REFERENCE_SPEED, matrix_speed

WANTS_TRACEBACK = os.environ.get("HYDRA_FULL_ERROR") == "1"
NOISE = (  # warnings of packages about themselves, which a user can do nothing about
    ".*is_gradient_checkpointing",  # peft 0.21 on transformers 5.23
    ".*_check_is_size",  # bitsandbytes 0.50 on torch 2.13
    ".*does not have many workers",  # lightning 2.6: our loaders cut tensors and need none
    ".*LeafSpec",  # lightning 2.6 on torch 2.13
    "Checkpoint directory .* exists and is not empty",  # lightning 2.6: that is what a resume is
)
CONFIGS = Path(__file__).resolve().parents[1] / "configs"
RENAMED = {  # configuration keys of version 0.1 and what they are called now
    "data.view": "data.dataset",
    "learner.judging.patience": "learner.judging.max_unscored_batches",
    "counterparty.seat": "counterparty.agent",
    "counterparty.agent.voice": "counterparty.agent.backend",
    "data.corpus.focal.voice": "data.corpus.focal.backend",
    "endpoint_voice": "endpoint_backend",
    "size.situations": "size.expression_contexts",
}
_DEFAULT = r"^ *- /?(\w+): "  # a group in the defaults of a configuration; `override` is none
_LONGEST_NAME = 200  # bytes; file systems allow 255, and files get longer names than their folder
_EARLY_RECORDS = 10_000  # log records kept in memory until the folder of the stage is claimed
_buffer = logging.handlers.MemoryHandler(_EARLY_RECORDS, flushLevel=logging.CRITICAL + 1)


def run(main: Callable[[], None], config: str, about: str) -> None:
    """Run a Hydra main function, or print its help.

    Args:
        config: name of the root configuration; `--help` prints it with its comments, and the options of its groups.
        about: first words of the help.
    """
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(help_text(config, about))
        return
    for word in sys.argv[1:]:
        for old, new in RENAMED.items():
            if re.match(rf"[+~]*{re.escape(old)}(?:[.=@]|$)", word):
                print(f"error: {word}: the key {old} is now {new}", file=sys.stderr)
                raise SystemExit(2)
        name = word.removeprefix("run=").strip("'\"")
        if word.startswith("run=") and (reason := unfit_name(name)):
            print(f"error: run={name} {reason}", file=sys.stderr)
            raise SystemExit(2)
    sweeping = bool({"-m", "--multirun"} & set(sys.argv[1:]))
    sys.argv[1:] = [for_hydra(word, sweeping) for word in sys.argv[1:]]
    quieten()
    with explained():  # a configuration that cannot be composed
        main()


def quieten() -> None:
    """Leave out what packages say about themselves, in this process."""
    for message in NOISE:
        warnings.filterwarnings("ignore", message=message)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # 0.50 misses an optional kernel on every CPU
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # 2.16 writes a line for every call
    logging.getLogger("tensorboard").setLevel(logging.WARNING)  # 2.21 says of every file that it has read it
    logging.getLogger("matplotlib.font_manager").setLevel(logging.WARNING)  # says once that it looked for fonts
    for chatty in ("utilities.rank_zero", "trainer.connectors.checkpoint_connector"):  # hardware, adverts, defaults
        logging.getLogger(f"lightning.pytorch.{chatty}").setLevel(logging.WARNING)


def unfit_name(run: str) -> str | None:
    """Why a run cannot have this name; None where it can."""
    if not run:
        return "is empty; give the run a name, for example run=demo"
    if ".." in Path(run).parts:
        return "leads out of checkpoints/; choose a name, or another folder with run_dir=..."
    if any(len(os.fsencode(part)) > _LONGEST_NAME for part in Path(run).parts):
        return f"is too long for a folder; use at most {_LONGEST_NAME} bytes"
    if os.path.expandvars(run) != run:  # the logger of the curves would do so
        return "names a variable of the environment; choose a name without it"
    return None


def log_to(path: Path) -> None:
    """Write the log to this file from now on, with what was logged before: a refused command leaves no file behind."""
    file = logging.FileHandler(path, encoding="utf-8")
    file.setFormatter(logging.Formatter("[%(asctime)s][%(name)s][%(levelname)s] - %(message)s"))
    if _buffer.target is not None:
        _buffer.target.close()
    _buffer.setTarget(file)
    _buffer.flush()
    _buffer.capacity = 1  # from here on every record goes to the file at once


@contextmanager
def explained() -> Iterator[None]:
    """Turn a mistake of the user into one sentence on standard error and exit status 2.

    The body of a Hydra main function stands in it too, or else Hydra prints its own words before ours.
    HYDRA_FULL_ERROR=1 in the environment shows the traceback all the same.
    """
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # or else Hydra prints its own words and exits
    logging.getLogger().addHandler(
        _buffer
    )  # here, since Hydra sets up logging anew before the body of its main function
    try:
        yield
    except (UserError, HydraException, OmegaConfBaseException, OSError) as error:
        sentence = explain(error)
        if WANTS_TRACEBACK or sentence is None:
            raise
        print(f"error: {sentence}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("stopped; run the same command again to continue", file=sys.stderr)
        raise SystemExit(130) from None
    finally:  # a command that is begun from here, or a second one in this process, has the user's own setting
        if before is None:
            os.environ.pop("HYDRA_FULL_ERROR", None)
        else:
            os.environ["HYDRA_FULL_ERROR"] = before


@contextmanager
def loading_for_good() -> Iterator[None]:
    """`loading`, of what a command keeps until it ends: later searches for garbage leave it out."""
    with lazy.loading():
        yield
        gc.freeze()


@contextmanager
def paid(cfg: DictConfig) -> Iterator[None]:
    """Print at the end what the endpoints of a run cost, however it ends; nothing where none was asked."""
    from emodistill.language_models.budget import billed

    path = cfg.endpoint.spending.path
    with billed(Path(path)) if path and os.environ.get("LOCAL_RANK", "0") == "0" else nullcontext():
        yield


def use_threads(cfg: DictConfig) -> None:
    """Compute with `threads` CPU threads from here on; null leaves torch its own choice.

    Raises:
        UserError: if it is no number of threads.
    """
    check_whole("threads", cfg.threads, null="to leave the choice to torch")
    if cfg.threads is None:
        return
    import torch  # here: most refusals come first, and need no PyTorch

    torch.set_num_threads(cfg.threads)


def check_files(cfg: DictConfig) -> None:
    """Refuse a vocabulary or a corpus that is not there, and a key without a value, before the imports of seconds.

    Raises:
        UserError: naming the key and the file.
        MissingMandatoryValue: naming the key.
    """
    from emodistill.emotions.vocabulary import load_vocabulary

    load_vocabulary(cfg.vocabulary)
    if "path" in cfg.data.corpus.keys():  # noqa: SIM118 - `in` alone is false of a key without a value
        given = cfg.data.corpus.path
        for path in given if isinstance(given, ListConfig) else [given]:
            if not isinstance(path, str):
                raise UserError(f"data.corpus.path={path}: give the path of a corpus")
            if not Path(path).expanduser().exists():
                raise UserError(f"data.corpus.path={path} does not exist; give the path of a corpus")


def announce(work: str, seconds: float | None) -> None:
    """Say what a command is about to do, and about how long that takes on this machine.

    Args:
        seconds: what it takes on the reference machine; None where nobody measured it.
    """
    print(work if seconds is None else f"{work}; {_about(seconds * REFERENCE_SPEED / matrix_speed())}", flush=True)


def _about(seconds: float) -> str:
    return "under a minute" if seconds < 60 else f"about {seconds / 60:.0f} min on this machine"


def explain(error: BaseException) -> str | None:
    """One sentence for a mistake that a user can mend; None for a bug, which deserves its traceback."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None:
        chain.append(cause)
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    for link in chain:
        if isinstance(link, UserError):
            return str(link)
        if isinstance(link, OSError) and link.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return f"the disk is full ({link.filename or link.strerror}); make room and run the same command again"
    if isinstance(error, OSError) and error.filename and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{error.filename}: {error.strerror}; choose another folder with run_dir=..., or by EMODISTILL_CACHE"
    if isinstance(error, OSError) and error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
        return (
            f"this disk has no file locks ({error.strerror}), so two commands could write into one folder; choose a "
            "folder on another disk with run_dir=..., or by EMODISTILL_CACHE"
        )
    if nowhere := _class_nowhere(chain):
        return nowhere
    composing = isinstance(error, HydraException | OmegaConfBaseException)
    if not composing or (isinstance(error, InstantiationException) and not _wrong_key(chain)):
        return None  # our own code failed: the place matters
    message = " ".join(str(error).split("Config search path")[0].split())
    if elsewhere := _group_elsewhere(message):
        return elsewhere
    return f"{message.rstrip('.')}{_did_you_mean(message)}; --help shows the groups and --cfg job every key"


def _class_nowhere(chain: list[BaseException]) -> str | None:
    """A sentence where a `_target_` of the configuration is in no module; None where the module itself fails."""
    named = re.search(r"Error locating target '([\w.]+)'(?:.*full_key: ([\w.]+))?", str(chain[0]), re.DOTALL)
    missing = [link.name for link in chain if isinstance(link, ModuleNotFoundError) and link.name]
    if not named or not any(f"{named[1]}.".startswith(f"{name}.") for name in missing):
        return None
    key = f"{named[2]}._target_" if named[2] else "_target_"
    command = Path(sys.argv[0]).name
    return f"{key}={named[1]}: there is no such class; a file of yours lies beside {command} or in PYTHONPATH"


def _group_elsewhere(message: str) -> str | None:
    """A sentence where Hydra did not find a group that other commands take, or other options; None otherwise."""
    found = re.search(r"Could not override '(\w+)(\.?)", message)
    command, folders = Path(sys.argv[0]).stem, _folders()
    if not found or found[1] not in folders or (found[2] and found[1] in _groups(command)):
        return None
    if found[1] in _groups(command):
        files = [(group, file) for group in _groups(command) for file in sorted(folders[group].glob("*.yaml"))]
        options = ", ".join(f"{group}={file.stem}" for group, file in files if found[1] in _defaults(file))
        return f"{found[1]}= goes with {options}"
    takers = [path.stem for path in sorted(CONFIGS.glob("*.yaml")) if path.stem != "base"]
    names = ", ".join(f"{name}.py" for name in takers if found[1] in _groups(name))
    return f"{command}.py takes no {found[1]}=; it is a group of {names}, and {command}.py --help shows its own"


def _did_you_mean(message: str) -> str:
    """The key or option of `configs/` that is most like the one which Hydra did not find, as a question."""
    option = re.search(r"Could not find '(\w+)/([\w.-]+)'", message)
    key = re.search(r"Could not override '([\w.]+)|Key '(\w+)' is not in|unexpected keyword argument '(\w+)'", message)
    if option:
        folder = "variants" if option[1] == "variant" else option[1]
        wrong, known = option[2], [path.stem for path in (CONFIGS / folder).glob("*.yaml")]
    elif key:
        wrong = next(filter(None, key.groups())).rsplit(".", 1)[-1]
        others = set(CONFIGS.glob("*.yaml")).difference(_roots(Path(sys.argv[0]).stem))
        texts = [path.read_text(encoding="utf-8") for path in CONFIGS.rglob("*.yaml") if path not in others]
        known = [name for text in texts for name in re.findall(r"^[\s{-]*(?:override )?/?(\w+):", text, re.MULTILINE)]
    else:
        return ""
    close = difflib.get_close_matches(wrong, sorted(set(known) - {wrong}), 1)
    return f"; did you mean {close[0]}?" if close else ""


def _roots(command: str) -> list[Path]:
    """The root configurations whose keys a command has: its own, and the shared one where it builds on that."""
    own = CONFIGS / f"{command}.yaml"
    if not own.is_file():
        return sorted(CONFIGS.glob("*.yaml"))  # called by another program, which may be any of them
    return [own, CONFIGS / "base.yaml"] if "\n  - base" in own.read_text(encoding="utf-8") else [own]


def _folders() -> dict[str, Path]:
    """The folder of every group of options."""
    folders = {folder.name: folder for folder in sorted(CONFIGS.iterdir()) if folder.is_dir()}
    folders["variant"] = folders.pop("variants")  # see `commands.building.register_variants`
    return folders


def _groups(command: str) -> list[str]:
    """The groups that a command takes: those in the defaults of its root configurations, and of their options."""
    folders, taken, files = _folders(), list[str](), _roots(command)
    while files:
        new = [name for name in _defaults(files.pop()) if name in folders and name not in taken]
        taken += new
        files += [file for name in new for file in folders[name].glob("*.yaml")]
    return [name for name in folders if name in taken]


def _defaults(file: Path) -> list[str]:
    """The groups in the defaults of a configuration, each once."""
    return list(dict.fromkeys(re.findall(_DEFAULT, file.read_text(encoding="utf-8"), re.MULTILINE)))


def _wrong_key(chain: list[BaseException]) -> bool:
    """Whether a constructor was given a key that it does not have, or a configuration value is missing or wrong."""
    return any(
        isinstance(link, OmegaConfBaseException)
        or (isinstance(link, TypeError) and "unexpected keyword argument" in str(link))
        for link in chain
    )


def help_text(config: str, about: str) -> str:
    """What can be set, with the comments of the YAML files; Hydra's own help needs a complete configuration."""
    roots = _roots(config)
    texts = [path.read_text(encoding="utf-8") for path in roots]
    folders = _folders()
    options = [
        f"  {name}={'|'.join(sorted(file.stem for file in folders[name].glob('[!_]*.yaml')))}"
        for name in _groups(config)
    ]
    root = "\n".join(text.split("\nhydra:")[0] for text in texts)
    lines = [about.strip(), "", "Groups (the files under configs/ say what each holds):", *options]
    return "\n".join([*lines, "", "Any key can be set as key=value; --cfg job --resolve shows all of them.", "", root])
