"""CaSiNo files: read as they are, and refused in one sentence where they are not what they should be."""

import copy
import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from emodistill.data.casino.reading import MOST, read_dialogues
from emodistill.errors import UserError

TINY = Path(__file__).parent / "casino_tiny.json"
RAW = json.loads(TINY.read_text(encoding="utf-8"))
A, B = "mturk_agent_1", "mturk_agent_2"


def test_who_did_what_and_what_it_was_worth():
    first, second = read_dialogues([TINY])[:2]
    assert [message.move for message in first.messages] == ["say"] * 5 + ["submit", "accept"]
    assert first.deal == {A: {"Food": 3, "Water": 2, "Firewood": 0}, B: {"Food": 0, "Water": 1, "Firewood": 3}}
    assert first.participants[A].worth(first.deal[A]) == 23 and first.participants[A].satisfaction == 5
    assert second.deal[A] == {"Food": 1, "Water": 2, "Firewood": 1}
    assert (second.participants[A].liking, second.participants[B].liking) == (1, 2)


def test_no_deal_means_nothing_was_shared_out():
    assert [dialogue.deal is None for dialogue in read_dialogues([TINY])] == [False, False, True, True, False, False]


def test_the_same_two_people_are_the_same_pair_in_whatever_seats():
    dialogues = read_dialogues([TINY])
    assert dialogues[0].pair == dialogues[4].pair
    assert len({dialogue.pair for dialogue in dialogues}) == 5


def test_the_published_files_are_read_whole(shared_data):
    files = [shared_data / "casino" / f"casino_{name}.json" for name in ("train", "valid")]
    dialogues = read_dialogues(files)
    assert len(dialogues) == 930 and sum(dialogue.deal is None for dialogue in dialogues) == 24
    moves = Counter(message.move for dialogue in dialogues for message in dialogue.messages)
    assert (moves["submit"], moves["accept"], moves["reject"], moves["walk_away"]) == (1069, 906, 154, 24)
    assert all(0 < person.points <= MOST for dialogue in dialogues for person in dialogue.participants.values())


def _log(raw):
    return raw[0]["chat_logs"]


def _person(raw):
    return raw[0]["participant_info"][A]


FAULTS = {
    "there is no 'chat_logs'": lambda raw: raw[0].pop("chat_logs"),
    "there is no 'value2reason'": lambda raw: _person(raw).pop("value2reason"),
    "there is no 'Water'": lambda raw: _log(raw)[5]["task_data"]["issue2youget"].pop("Water"),
    "3 participants, not two": lambda raw: raw[0]["participant_info"].update(third=_person(raw)),
    "rank food, water and firewood": lambda raw: _person(raw)["value2issue"].update(High="Gold"),
    "'Happy' is not on the scale": lambda raw: _person(raw)["outcomes"].update(satisfaction="Happy"),
    "scored 24 points, but what they got is worth 23": lambda raw: _person(raw)["outcomes"].update(points_scored=24),
    "'nobody' speaks": lambda raw: _log(raw)[0].update(id="nobody"),
    "shares out 0 and 4 of 3 packages of food": lambda raw: _log(raw)[5]["task_data"]["issue2theyget"].update(Food="4"),
    "shares out -1 and 4": lambda raw: [
        _log(raw)[5]["task_data"]["issue2youget"].update(Food="-1"),
        _log(raw)[5]["task_data"]["issue2theyget"].update(Food="4"),
    ],
    "invalid literal": lambda raw: _log(raw)[5]["task_data"]["issue2youget"].update(Food="some"),
    "message 6 answers a deal that the other side has not": lambda raw: _log(raw).pop(5),
    "message 7 answers a deal that the other side has not": lambda raw: _log(raw)[6].update(id=B),
    "message 7 does not answer": lambda raw: _log(raw).insert(6, copy.deepcopy(_log(raw)[0])),
    "message 7 ends the dialogue, but 1 more follow": lambda raw: _log(raw).append(copy.deepcopy(_log(raw)[0])),
    "ends neither with": lambda raw: [_log(raw).pop(), _log(raw).pop()],
    "nobody says anything": lambda raw: _log(raw).clear(),
    "dialogue 1 was read before": lambda raw: raw.append(raw[0]),
    "row 0: ": lambda raw: raw.insert(0, "a text"),
}


@pytest.mark.parametrize("sentence", FAULTS)
def test_a_faulty_dialogue_is_named_with_what_is_wrong(tmp_path, sentence):
    raw = copy.deepcopy(RAW)
    FAULTS[sentence](raw)
    (tmp_path / "own.json").write_text(json.dumps(raw), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_dialogues([tmp_path / "own.json"])
    said = str(caught.value)
    assert sentence in said and str(tmp_path / "own.json") in said and "\n" not in said
    assert "dialogue 1" in said or "row 0" in said


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"[{", "is not JSON"), (b"\xff\xfe\xff", "is not JSON"), (b"{}", "not a list"), (b"[]", "no dialogue in")],
)
def test_a_file_of_another_kind_is_named(tmp_path, content, sentence):
    (tmp_path / "own.json").write_bytes(content)
    with pytest.raises(UserError, match=f"own.json.*{sentence}|{sentence}.*own.json"):
        read_dialogues([tmp_path / "own.json"])


def test_a_missing_file_says_where_to_get_it(tmp_path):
    with pytest.raises(UserError, match=r"casino_train.json from https://github.com/kushalchawla/CaSiNo"):
        read_dialogues([tmp_path / "none.json"])


def _hub(raw):
    """The dialogues as a hub of data sets gives them: no number, and every form filled in with empty texts."""
    empty = {"Food": "", "Water": "", "Firewood": ""}
    form = {"data": "", "issue2youget": empty, "issue2theyget": empty}
    rows = [{name: value for name, value in one.items() if name != "dialogue_id"} for one in copy.deepcopy(raw)]
    for row in rows:
        row["chat_logs"] = [{**message, "task_data": form | message["task_data"]} for message in row["chat_logs"]]
    return rows


def _saved(path, rows):
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        ends = "\r\n" if "crlf" in path.name else "\n"
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + ends for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["hub.parquet", "hub.jsonl", "crlf.jsonl", "misnamed.json"])
def test_the_form_of_the_hub_gives_the_same_dialogues(tmp_path, name):
    path, published = _saved(tmp_path / name, _hub(RAW)), read_dialogues([TINY])
    dialogues = read_dialogues([path])
    assert [dialogue.id for dialogue in dialogues] == list(range(6))
    assert [dialogue.messages for dialogue in dialogues] == [dialogue.messages for dialogue in published]
    assert [dialogue.deal for dialogue in dialogues] == [dialogue.deal for dialogue in published]
    assert [dialogue.pair for dialogue in dialogues] == [dialogue.pair for dialogue in published]


def test_several_files_of_the_hub_are_numbered_on(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    _saved(tmp_path / "one.jsonl", _hub(RAW)[:1])  # one line alone is one dialogue
    _saved(tmp_path / "two.parquet", _hub(RAW)[1:])
    assert [dialogue.id for dialogue in read_dialogues(["~/one.jsonl", "~/two.parquet"])] == list(range(6))


HUB_FAULTS = {
    "row 1: a message is None, not a text": lambda rows: rows[1]["chat_logs"][0].update(text=None),
    "row 0: invalid literal": lambda rows: rows[0]["chat_logs"][5]["task_data"]["issue2youget"].update(Food=""),
    "row 2: the reason for High is None": lambda rows: rows[2]["participant_info"][A]["value2reason"].update(High=None),
    "row 0: 'NoneType' object has no attribute 'items'": lambda rows: rows[0].update(participant_info=None),
}


@pytest.mark.parametrize("name", ["hub.parquet", "hub.jsonl"])
@pytest.mark.parametrize("sentence", HUB_FAULTS)
def test_faults_in_the_form_of_the_hub_are_named(tmp_path, name, sentence):
    rows = _hub(RAW)
    HUB_FAULTS[sentence](rows)
    with pytest.raises(UserError, match=rf"{name}, {sentence}"):
        read_dialogues([_saved(tmp_path / name, rows)])


NO_FILES = {
    b"PAR1 nonsense": "is not readable Parquet",
    b"": "is not JSON",
    b"{}\n{": "is not JSON",
    b"\xff\xfe\x00\xd8": "is not JSON",
    b"[" * 100_000: "is not JSON",
    b"12": "is not a list of dialogues",
    b"{}": "is not a list of dialogues",
    b"{}\n{}": "row 0: there is no 'participant_info'",
    b"chat_logs,participant_info\n1,2\n": "is not JSON",
}


@pytest.mark.parametrize("content", NO_FILES, ids=lambda content: repr(content[:20]))
def test_what_is_no_file_of_casino_is_refused_with_the_way_out(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=rf"a\.json,? {NO_FILES[content]}.*; download it again from https"):
        read_dialogues([tmp_path / "a.json"])


@pytest.mark.parametrize("name", ["casino_hub.parquet", "casino_hub.jsonl"])
def test_the_hub_file_that_people_reported(shared_data, name):
    path = shared_data / "reports" / "casino" / name
    if not path.is_file():
        pytest.skip("this file is not here")
    (dialogue,) = read_dialogues([path])
    assert {name: person.points for name, person in dialogue.participants.items()} == {A: 17, B: 21}
    assert [message.move for message in dialogue.messages] == ["say", "say", "submit", "accept"]
