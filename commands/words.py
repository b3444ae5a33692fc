"""The words of a command line as Hydra reads them: a value that its grammar cannot read is quoted, `~` is the home.

A user types `run=lr=0.1`, `run=müller`, `domains=debt` or `data.corpus.path=~/episodes.parquet`, and a command that we
print says the same; Hydra is given `run='lr=0.1'`, `run='müller'`, `domains=[debt]` and the path in full.
"""

import os
import re

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

LITERAL = ("run", "run_dir", "stage_dir")  # whatever stands there is a name: no number, no list, no null
LISTS = ("arms", "conditions", "domains", "hosts")  # one name may stand there without brackets
_WORD = re.compile(r"(\+{0,2}[A-Za-z_][\w./@:-]*)=(.*)", re.DOTALL)
_HOME = re.compile(r"(?<![^\[,])~(?=/|$|[\],])")  # at the start of a value, or of an element of a list


def for_hydra(word: str, sweeping: bool = False) -> str:
    """A word of the command line in Hydra's grammar; one that it reads already stays as it is.

    Args:
        sweeping: several values may be given, separated by commas.
    """
    match = _WORD.fullmatch(word)
    if match is None:
        return word
    key, value = match[1], match[2]
    if key != "run":  # a name beneath `checkpoints`, and no path of its own
        value = _HOME.sub(os.path.expanduser("~").replace("\\", "\\\\"), value)
    if key in LISTS and not sweeping and value not in ("", "null") and value[0] not in "[{('\"$":
        value = f"[{value}]"
    word = f"{key}={value}"
    if value[:1] in ("'", '"') or "${" in value:
        return word
    if key in LITERAL and not sweeping:
        return word if _read(word) == value else literal(key, value)
    if _is_readable(word) or value[:1] in ("{", "("):
        return word
    return f"{key}={_flat_list(value)}" if value[:1] == "[" else literal(key, value)


def _flat_list(value: str) -> str:
    """A list with its elements quoted where they need it; anything but a plain list stays as it is."""
    elements = [text.strip() for text in value[1:-1].split(",")]
    if value[-1] != "]" or set("[]{}()") & set(value[1:-1]) or any(text[:1] in ("'", '"') for text in elements):
        return value
    return f"[{','.join(text if _is_readable(f'x={text}') else literal('', text)[1:] for text in elements)}]"


def literal(key: str, value: str) -> str:
    """`key=value` for Hydra, whatever the value holds."""
    escaped = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), value)
    return f"{key}='{escaped}'"


def as_typed(word: str) -> str:
    """The inverse of `for_hydra`: without quotes that a user need not type."""
    match = re.fullmatch(r"([^=]+)='(.*)'", word, re.DOTALL)
    if match is None:
        return word
    plain = f"{match[1]}=" + re.sub(r"(\\+)('|$)", lambda found: found[1][: len(found[1]) // 2] + found[2], match[2])
    return plain if for_hydra(plain) == word else word


def _is_readable(word: str) -> bool:
    try:
        OverridesParser.create().parse_override(word)
    except HydraException:
        return False
    return True


def _read(word: str) -> object:
    """The value that Hydra reads; None where it reads none, or several."""
    if not _is_readable(word):
        return None
    override = OverridesParser.create().parse_override(word)
    return None if override.is_sweep_override() else override.value()
