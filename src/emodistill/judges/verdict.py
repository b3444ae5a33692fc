"""The reply of a judging model, read strictly: one JSON object with a score, or no score at all.

A lenient reader takes the first number it meets, so that "I would not give it 10" is a 10 and an outage page with an
error code is a verdict. Here everything but the exact form is missing, with the reason.
"""

import json
from typing import Any

from emodistill.judges.request import HIGHEST, LOWEST

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"score": {"type": "integer", "enum": list(range(int(LOWEST), int(HIGHEST) + 1))}},
    "required": ["score"],
    "additionalProperties": False,
}
_LONGEST = 200  # characters; the form needs about 15
_SHOWN = 60


class Malformed(ValueError):
    """The reply is not a verdict; the message says in which way."""


def read_verdict(reply: str) -> float:
    """The score of a reply that is exactly one JSON object `{"score": n}` with a number from 1 to 10.

    Raises:
        Malformed: if it is anything else.
    """
    text = reply.strip()
    if len(text) > _LONGEST:
        raise Malformed(f"the reply is {len(text)} characters long and no verdict: {_start(text)}")
    try:
        verdict = json.loads(text, object_pairs_hook=_once, parse_constant=_refuse)
    except json.JSONDecodeError as error:
        raise Malformed(f"the reply is not one JSON object ({error.msg}): {_start(text)}") from error
    if not isinstance(verdict, dict) or verdict.keys() != {"score"}:
        raise Malformed(f"the reply is not an object with the one key score: {_start(text)}")
    score = verdict["score"]
    if isinstance(score, bool) or not isinstance(score, int | float):
        raise Malformed(f"the score is not a number: {_start(text)}")
    if not LOWEST <= score <= HIGHEST:
        raise Malformed(f"the score does not lie between 1 and 10: {_start(text)}")
    return float(score)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Malformed("the reply names a key twice")
    return found


def _refuse(constant: str) -> float:
    raise Malformed(f"the score is {constant}")


def _start(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")
