"""CaSiNo's files, read into plain objects: who said or clicked what, and what came of it.

They are read as they were published (a JSON list of dialogues) and as hubs of data sets give them: Parquet, or a line
of JSON for each dialogue. There a dialogue has no number; it gets its place among all that are read, from 0 on.

Two people share three packages each of food, water and firewood; a package is worth 5, 4 or 3 points to a person, by
the priority it has for them. They write to each other, submit a deal by a form, accept or reject it, or walk away.

Nothing in a file is believed that was not checked. The points that it states must be those that its deal gives: a file
in which they are not was put together wrongly, and a corpus made of it would teach nonsense.

Source: https://github.com/kushalchawla/CaSiNo (CC BY 4.0), https://aclanthology.org/2021.naacl-main.254
"""

import hashlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from emodistill.errors import UserError

POINTS = {"High": 5, "Medium": 4, "Low": 3}
PACKAGES = {"Food": 3, "Water": 3, "Firewood": 3}
MOST = 36  # all packages: 3 * (5 + 4 + 3)
ALONE = 5  # what each side gets where they part without a deal
Move = Literal["say", "submit", "accept", "reject", "walk_away"]
Share = Mapping[str, int]  # item -> packages
SATISFACTION = (
    "Extremely dissatisfied",
    "Slightly dissatisfied",
    "Undecided",
    "Slightly satisfied",
    "Extremely satisfied",
)
LIKING = ("Extremely dislike", "Slightly dislike", "Undecided", "Slightly like", "Extremely like")
_FORMS: dict[str, Move] = {
    "Submit-Deal": "submit",
    "Accept-Deal": "accept",
    "Reject-Deal": "reject",
    "Walk-Away": "walk_away",
}
_REMEDY = "download it again from https://github.com/kushalchawla/CaSiNo, or take the dialogue out"


@dataclass(frozen=True)
class Message:
    """What one person wrote or clicked; `shares` says who would get how many packages, on `submit` only."""

    speaker: str
    move: Move
    text: str
    shares: Mapping[str, Share] | None = None


@dataclass(frozen=True)
class Participant:
    """One of the two.

    Attributes:
        items: priority (`High`, `Medium`, `Low`) -> item.
        reasons: priority -> why, in the person's own words.
        points: what they scored.
        satisfaction: with the outcome, 1 to 5.
        liking: of the other person, 1 to 5.
        profile: fingerprint of the answers about oneself; the files have no id of a person.
    """

    items: dict[str, str]
    reasons: dict[str, str]
    points: int
    satisfaction: int
    liking: int
    profile: str

    def worth(self, share: Share) -> int:
        """Points that a share gives this person, 0 to 36."""
        return sum(POINTS[priority] * share[item] for priority, item in self.items.items())


@dataclass(frozen=True)
class Dialogue:
    """One negotiation, checked: it ends with an accepted deal or with somebody walking away."""

    id: int
    messages: tuple[Message, ...]
    participants: dict[str, Participant]

    def other(self, name: str) -> str:
        return next(one for one in self.participants if one != name)

    @property
    def pair(self) -> tuple[str, ...]:
        """Who sat at the table, by profile, whatever their seats."""
        return tuple(sorted(person.profile for person in self.participants.values()))

    @property
    def deal(self) -> Mapping[str, Share] | None:
        """Who got how many packages, None where there was no deal."""
        return self.messages[-2].shares if self.messages[-1].move == "accept" else None


def read_dialogues(paths: Sequence[str | Path]) -> list[Dialogue]:
    """The dialogues of these files, in order.

    Raises:
        UserError: in one sentence with the file and the dialogue at fault.
    """
    dialogues: dict[int, Dialogue] = {}
    for path in map(_expanded, paths):
        for place, raw in enumerate(_load(path)):
            numbered = isinstance(raw, dict) and raw.get("dialogue_id") is not None
            name = f"dialogue {raw['dialogue_id']}" if numbered else f"row {place}"
            try:
                dialogue = _dialogue(raw if numbered else {**raw, "dialogue_id": len(dialogues)})
            except KeyError as error:
                raise UserError(f"{path}, {name}: there is no {error}; {_REMEDY}") from error
            except (AttributeError, OverflowError, TypeError, ValueError) as error:
                raise UserError(f"{path}, {name}: {error}; {_REMEDY}") from error
            if dialogue.id in dialogues:
                raise UserError(f"{path}, {name} was read before; give every file once")
            dialogues[dialogue.id] = dialogue
    if not dialogues:
        raise UserError(f"no dialogue in {', '.join(map(str, paths)) or 'no file'}; {_REMEDY}")
    return list(dialogues.values())


def read_content(path: Path, key: str = "") -> bytes:
    """The bytes of a file of CaSiNo.

    Args:
        key: the configuration key that named it, with its `=`, for the message.

    Raises:
        UserError: if it cannot be read, with where to get it.
    """
    try:
        return _expanded(path).read_bytes()
    except OSError as error:
        raise UserError(
            f"{key}{path} cannot be read ({error.strerror}); get casino_train.json from "
            "https://github.com/kushalchawla/CaSiNo (docs/casino.md)"
        ) from error


def _expanded(path: str | Path) -> Path:
    return Path(os.path.expanduser(path))


def _load(path: Path) -> list[Any]:
    content, remedy = read_content(path), _REMEDY.partition(",")[0]
    try:
        if content[:4] == b"PAR1":
            rows: list[Any] = pq.read_table(io.BytesIO(content)).to_pylist()
            return rows
        raw = _json(content)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} is not readable Parquet ({str(error).splitlines()[0]}); {remedy}") from error
    except (ValueError, RecursionError) as error:  # not JSON, or not UTF-8
        raise UserError(f"{path} is not JSON ({error}), nor lines of JSON or Parquet; {remedy}") from error
    if not isinstance(raw, list):
        raise UserError(f"{path} is not a list of dialogues; {remedy}")
    return raw


def _json(content: bytes) -> Any:
    """One JSON value, or a list of those that stand in a line each."""
    try:
        whole = json.loads(content)
    except json.JSONDecodeError:
        lines = [line for line in content.splitlines() if line.strip()]
        if len(lines) < 2:
            raise
        return [json.loads(line) for line in lines]
    return [whole] if isinstance(whole, dict) and "chat_logs" in whole else whole


def _dialogue(raw: Any) -> Dialogue:
    people = {name: _participant(one) for name, one in raw["participant_info"].items()}
    if len(people) != 2:
        raise ValueError(f"it has {len(people)} participants, not two")
    messages = tuple(_message(one, people) for one in raw["chat_logs"])
    dialogue = Dialogue(int(raw["dialogue_id"]), messages, people)
    _check_moves(messages)
    deal = dialogue.deal
    for name, person in people.items():
        scored = ALONE if deal is None else person.worth(deal[name])
        if scored != person.points:
            raise ValueError(f"{name} scored {person.points} points, but what they got is worth {scored}")
    return dialogue


def _participant(raw: Any) -> Participant:
    items, outcomes = dict(raw["value2issue"]), raw["outcomes"]
    if set(items) != set(POINTS) or set(items.values()) != set(PACKAGES):
        raise ValueError(f"the priorities {items} do not rank food, water and firewood as High, Medium and Low")
    about = json.dumps([raw["demographics"], raw["personality"]], sort_keys=True)
    return Participant(
        items,
        {priority: _text(raw["value2reason"][priority], f"the reason for {priority}") for priority in POINTS},
        int(outcomes["points_scored"]),
        _rank(SATISFACTION, outcomes["satisfaction"]),
        _rank(LIKING, outcomes["opponent_likeness"]),
        hashlib.sha256(about.encode()).hexdigest()[:12],
    )


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{what} is {value!r}, not a text")
    return value


def _rank(scale: Sequence[str], answer: str) -> int:
    if answer not in scale:
        raise ValueError(f"the answer '{answer}' is not on the scale {', '.join(scale)}")
    return scale.index(answer) + 1


def _message(raw: Any, people: Mapping[str, Participant]) -> Message:
    speaker, text = raw["id"], _text(raw["text"], "a message").strip()
    if speaker not in people:
        raise ValueError(f"'{speaker}' speaks, who is no participant")
    move = _FORMS.get(text, "say")
    if move != "submit":
        return Message(speaker, move, text)
    other = next(name for name in people if name != speaker)
    given = {speaker: raw["task_data"]["issue2youget"], other: raw["task_data"]["issue2theyget"]}
    shares = {name: {item: int(share[item]) for item in PACKAGES} for name, share in given.items()}
    for item, packages in PACKAGES.items():
        counts = [share[item] for share in shares.values()]
        if min(counts) < 0 or sum(counts) != packages:
            raise ValueError(f"a deal shares out {counts[0]} and {counts[1]} of {packages} packages of {item.lower()}")
    return Message(speaker, move, text, shares)


def _check_moves(messages: Sequence[Message]) -> None:
    """A deal is answered at once by the other side, and the dialogue ends where it should and nowhere else."""
    if not messages:
        raise ValueError("nobody says anything")
    for i, message in enumerate(messages):
        before = messages[i - 1] if i else None
        submitted = before is not None and before.move == "submit" and before.speaker != message.speaker
        if message.move in ("accept", "reject") and not submitted:
            raise ValueError(f"message {i + 1} answers a deal that the other side has not just submitted")
        if message.move in ("say", "submit") and before is not None and before.move == "submit":
            raise ValueError(f"message {i + 1} does not answer the deal before it")
        if message.move in ("accept", "walk_away") and i < len(messages) - 1:
            raise ValueError(f"message {i + 1} ends the dialogue, but {len(messages) - 1 - i} more follow")
    if messages[-1].move not in ("accept", "walk_away"):
        raise ValueError("it ends neither with Accept-Deal nor with Walk-Away")
