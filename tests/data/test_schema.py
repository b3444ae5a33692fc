"""Rows on disk: round trips, whole files, and errors that name the row."""

import math
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from episodes import make_episode

from emodistill.data.schema import (
    SCHEMA,
    Episode,
    _parts,
    _sound_turns,
    join_rows,
    read_episodes,
    write_episodes,
    write_rows,
)
from emodistill.errors import UserError
from emodistill.negotiation.protocol import FOCAL, Negotiation, Turn
from emodistill.negotiation.scenarios import Scenario


def test_episodes_survive_the_disk(tmp_path):
    episodes = [make_episode(seed=s) for s in range(3)] + [replace(make_episode(seed=9), end="deal", deal_value=41.5)]
    write_episodes(episodes, tmp_path / "episodes.parquet")
    assert read_episodes(tmp_path / "episodes.parquet") == episodes
    assert [path.name for path in tmp_path.iterdir()] == ["episodes.parquet"]


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 100])
def test_a_file_is_read_in_parts_in_its_order(tmp_path, monkeypatch, rows):
    monkeypatch.setattr("emodistill.data.schema.ROWS", rows)
    episodes = [make_episode(number=number, seed=seed) for number in range(2) for seed in range(3)]
    write_episodes(episodes, tmp_path / "episodes.parquet")
    assert read_episodes(tmp_path / "episodes.parquet") == episodes


def test_rows_of_several_files_are_joined_into_the_bytes_of_one(tmp_path):
    slipped = replace(make_episode(seed=5), fault="names a model", deal_value=None, end="invalid")
    episodes = [*(make_episode(number=number, seed=seed) for number in range(3) for seed in range(4)), slipped]
    for name, own in (("a", [12, 7, 1]), ("b", [0, 2, 11, 3, 5]), ("c", [4, 6, 8, 9, 10])):
        write_episodes([episodes[place] for place in own], tmp_path / name)
    write_episodes(episodes, tmp_path / "whole")
    parts = [(tmp_path / "a", 0, 3), (tmp_path / "b", 0, 5), (tmp_path / "c", 0, 5)]
    write_rows(join_rows(parts, [12, 7, 1, 0, 2, 11, 3, 5, 4, 6, 8, 9, 10]), tmp_path / "joined")
    assert (tmp_path / "joined").read_bytes() == (tmp_path / "whole").read_bytes()
    write_episodes([episodes[place] for place in (2, 3, 8)], tmp_path / "some")
    write_rows(
        join_rows([(tmp_path / "c", 2, 1), (tmp_path / "b", 1, 1), (tmp_path / "b", 3, 1)], [8, 2, 3]),
        tmp_path / "joined",
    )
    assert (tmp_path / "joined").read_bytes() == (tmp_path / "some").read_bytes()


def test_sound_columns_give_what_rows_one_by_one_give(tmp_path):
    """A file as we write it is made column by column; one of other types of text, turn by turn."""
    path, other, first = tmp_path / "c.parquet", tmp_path / "d.parquet", make_episode()
    slipped = replace(first.turns[0], role_violations=("names a model", "no words"), offer_appended=True, emotion=None)
    episodes = [first, replace(make_episode(seed=1), turns=(slipped, *first.turns[1:])), make_episode(seed=2)]
    write_episodes(episodes, path)
    (part,) = _parts(path, "")
    assert _sound_turns(part) == [episode.turns for episode in episodes]
    text = SCHEMA.get_field_index("focal_agent")
    wide = SCHEMA.set(text, pa.field("focal_agent", pa.large_string()))
    pq.write_table(pq.read_table(path).cast(wide), other)
    (part,) = _parts(other, "")
    assert _sound_turns(part) is None
    assert repr(read_episodes(other)) == repr(read_episodes(path)) == repr(episodes)


def test_an_episode_records_its_negotiation():
    negotiation = Negotiation(Scenario("debt-1", "debt", 20, 120, {"a": "b"}), 3)
    negotiation.counterparty = "someone"
    with pytest.raises(ValueError, match="not over"):
        Episode.of(negotiation, "train", "uniform", "me")
    negotiation.play(Turn(1, FOCAL, "I leave.", "walk_away"))
    episode = Episode.of(negotiation, "train", "uniform", "me")
    assert (episode.end, episode.utility, episode.counterparty, episode.seed) == ("walk_away", 0.0, "someone", 3)
    assert Episode.from_row(episode.row()) == episode


def test_an_old_file_stays_when_writing_fails(tmp_path):
    path = tmp_path / "episodes.parquet"
    write_episodes([make_episode()], path)
    bad = replace(make_episode(), turns=(Turn(1, FOCAL, "x", offer="many"),))
    with pytest.raises(pa.ArrowInvalid):
        write_episodes([bad], path)
    assert read_episodes(path) == [make_episode()]
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def corrupt(path, rows, schema=SCHEMA):
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
    return path


def test_errors_name_file_and_row(tmp_path):
    path, row = tmp_path / "c.parquet", make_episode().row()
    with pytest.raises(UserError, match="does not exist"):
        read_episodes(path)
    path.write_bytes(b"PAR1 nonsense")
    with pytest.raises(UserError, match="not a readable Parquet"):
        read_episodes(path)
    with pytest.raises(UserError, match="is empty"):
        read_episodes(corrupt(path, []))
    with pytest.raises(UserError, match="columns .*turns.* are missing"):
        read_episodes(corrupt(path, [{"domain": "debt"}], pa.schema([("domain", pa.string())])))
    with pytest.raises(UserError, match=r"row 1.*both targets are 20"):
        read_episodes(corrupt(path, [row, row | {"counterparty_target": 20.0}]))
    with pytest.raises(UserError, match="row 0: schema version 99"):
        read_episodes(corrupt(path, [row | {"schema_version": 99}]))
    with pytest.raises(UserError, match=r"row 0 .*no domain 'chess'"):
        read_episodes(corrupt(path, [row | {"domain": "chess"}]))


def test_a_nan_offer_is_refused_by_row_and_round(tmp_path):
    row = make_episode().row()
    row["turns"][2]["offer"] = math.nan
    with pytest.raises(UserError, match=r"row 0 .*focal's offer in round 2 is nan"):
        read_episodes(corrupt(tmp_path / "c.parquet", [row]))


def test_words_that_are_not_utf8_are_explained(tmp_path):
    path = tmp_path / "c.parquet"
    table = pa.Table.from_pylist([make_episode().row()], schema=SCHEMA)
    broken = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xe5\xff"]).buffers())
    pq.write_table(table.set_column(table.schema.get_field_index("episode_id"), "episode_id", broken), path)
    with pytest.raises(UserError, match="words that are not UTF-8"):
        read_episodes(path)


def test_damaged_pages_behind_a_sound_footer_are_explained(tmp_path, caplog):
    path = tmp_path / "c.parquet"
    write_episodes([make_episode()], path)
    whole = path.read_bytes()
    path.write_bytes(whole[:4] + b"\xff" * 400 + whole[404:])
    with pytest.raises(UserError, match="not a readable Parquet"):
        read_episodes(path)


@pytest.mark.parametrize(
    "name", ["run [1] *", "lr=0.1", "a::b", "müller's #1?", "file:x", "~", "$HOME", "{a,b}", "施压"]
)
def test_reading_leaves_nothing_behind_and_takes_a_name_as_it_is(tmp_path, monkeypatch, name):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    monkeypatch.setenv("HOME", str(scratch))
    path = tmp_path / name / "episodes.parquet"
    write_episodes([make_episode()], path)
    assert read_episodes(path) == [make_episode()]
    assert not list(scratch.iterdir())
    assert list(path.parent.iterdir()) == [path]


def _turn(**changes):
    return lambda row: row["turns"][2].update(changes)


def _field(**changes):
    return lambda row: row.update(changes)


FAULTS = {
    "end is 'agreement', not one of deal, walk_away, deadline, invalid": _field(end="agreement"),
    "end is null": _field(end=None),
    "split is 'training', not one of train, val, test": _field(split="training"),
    "scenario_id is '', not a text that is not empty": _field(scenario_id=""),
    "behaviour is null": _field(behaviour=None),
    "counterparty is null": _field(counterparty=None),
    "seed is null": _field(seed=None),
    "focal_target is nan": _field(focal_target=math.nan),
    "counterparty_target is inf": _field(counterparty_target=math.inf),
    "unit is 'weeks', but the domain debt counts in days": _field(unit="weeks"),
    "deal_value is nan": _field(end="deal", deal_value=math.nan),
    "utility is nan": _field(utility=math.nan),
    "end is 'deal', but deal_value is null": _field(end="deal"),
    "end is 'deadline', but deal_value is 40.0; only a deal has one": _field(deal_value=40.0),
    "turns is null, not a list of turns": _field(turns=None),
    "turns is empty, but end is 'deadline'": _field(turns=[]),
    "context is null": _field(context=None),
    "context is not JSON": _field(context="{"),
    r"context is \[1, 2\], not an object of texts": _field(context="[1, 2]"),
    r"context\['Days Overdue'\] is 75, not a text": _field(context='{"Days Overdue": 75}'),
    "the focal's text in round 2 is null, not a text": _turn(text=None),
    "the focal's act in round 2 is 'agree', not one of propose, accept, walk_away": _turn(act="agree"),
    "the focal's act in round 2 is null": _turn(act=None),
    r"turns\[2\].speaker is 'seller', not one of focal, counterparty": _turn(speaker="seller"),
    r"turns\[2\].round is null": _turn(round=None),
    r"turns\[2\].round is -1, not a whole number from 0 on": _turn(round=-1),
    "the focal's emotion in round 2 is ''": _turn(emotion=""),
    "the focal's emotion_prob in round 2 is 25.0, not a probability above 0 and at most 1": _turn(emotion_prob=25.0),
    "the focal's emotion_prob in round 2 is 0.0": _turn(emotion_prob=0.0),
    "the focal's emotion_prob in round 2 is -0.5": _turn(emotion_prob=-0.5),
    "the focal's emotion_prob in round 2 is nan": _turn(emotion_prob=math.nan),
    "the focal's offer in round 2 is inf": _turn(offer=math.inf),
    r"turns\[2\] is out of order: the counterparty speaks in round 1 after the counterparty in round 1": _turn(
        speaker="counterparty", round=1
    ),
    r"turns\[2\] is out of order: the focal speaks in round 1 after the counterparty in round 1": _turn(round=1),
    r"turns\[3\] is out of order: the counterparty speaks in round 2 after the focal in round 3": _turn(round=3),
}


@pytest.mark.parametrize("sentence", FAULTS)
def test_every_field_is_checked_and_named_with_its_row(tmp_path, sentence):
    rows = [make_episode(number=i).row() for i in range(2)]
    FAULTS[sentence](rows[1])
    path = corrupt(tmp_path / "c.parquet", rows)
    with pytest.raises(
        UserError, match=rf"c\.parquet, row 1 \({rows[1]['episode_id']}\): {sentence}.*; remove the row"
    ):
        read_episodes(path)


def test_what_may_be_left_out_is_read(tmp_path):
    row = make_episode().row() | {"utility": None, "fault": None, "counterparty": ""}
    for turn in row["turns"]:
        turn |= {"emotion_prob": None, "slips": None, "offer_appended": None}
    (read,) = read_episodes(corrupt(tmp_path / "c.parquet", [row]))
    assert all(turn.role_violations == () and turn.offer_appended is False for turn in read.turns)
    assert all(turn.emotion_prob is None for turn in read.turns)
    bare = [{name: turn[name] for name in ("round", "speaker", "text")} for turn in row["turns"]]
    inferred = pa.Table.from_pylist([row | {"turns": bare}])
    pq.write_table(inferred, tmp_path / "d.parquet")
    (read,) = read_episodes(tmp_path / "d.parquet")
    assert [turn.act for turn in read.turns] == ["propose"] * len(bare)


def test_the_counterparty_may_open_in_round_0(tmp_path):
    row = make_episode().row()
    row["turns"].insert(0, row["turns"][1] | {"round": 0, "text": "Hello."})
    (read,) = read_episodes(corrupt(tmp_path / "c.parquet", [row]))
    assert [(turn.round, turn.speaker) for turn in read.turns[:2]] == [(0, "counterparty"), (1, "focal")]
    row["turns"][0]["speaker"] = "focal"
    with pytest.raises(UserError, match=r"turns\[0\] is out of order: the focal speaks in round 0 first"):
        read_episodes(corrupt(tmp_path / "c.parquet", [row]))


WRONG_TYPES = {
    "focal_target is '20', not a finite number": {"focal_target": "20"},
    "focal_target is True": {"focal_target": True},
    "seed is '0'": {"seed": "0"},
    "seed is 0.5": {"seed": 0.5},
    "end is 1": {"end": 1},
    "turns is '.*', not a list of turns": {"turns": "[]"},
    r"turns\[0\] is 'hello', not a turn": {"turns": ["hello"]},
    r"turns\[0\] has an unknown field price": {"turns": [{"round": 1, "speaker": "focal", "text": "x", "price": 3}]},
    r"turns\[0\].round is null": {"turns": [{"speaker": "focal", "text": "x"}]},
    "scenario_id is 7": {"scenario_id": 7},
    "context is b'{}'": {"context": b"{}"},
    "the focal's offer_appended in round 1 is 'no', not true or false": {
        "turns": [{"round": 1, "speaker": "focal", "text": "x", "offer_appended": "no"}]
    },
    "the focal's slips in round 1 is 'none', not a list of texts": {
        "turns": [{"round": 1, "speaker": "focal", "text": "x", "slips": "none"}]
    },
}


@pytest.mark.parametrize("sentence", WRONG_TYPES)
def test_columns_of_other_types_are_named(tmp_path, sentence):
    row = make_episode().row() | WRONG_TYPES[sentence]
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "c.parquet")
    with pytest.raises(UserError, match=rf"row 0 .*: {sentence}"):
        read_episodes(tmp_path / "c.parquet")


REPORTED = {
    "corpus_plain": None,
    "corpus_equal_rewards": None,
    "corpus_unknown_end": "row 0 .*end is 'agreement'",
    "corpus_nan_deal_value": "row 1 .*deal_value is nan",
    "corpus_null_text": "row 0 .*the focal's text in round 2 is null",
    "corpus_propensity_percent": "row 0 .*the focal's emotion_prob in round 1 is 3.5714",
}


@pytest.mark.parametrize("name", REPORTED)
def test_corpora_that_people_reported(shared_data, name):
    path = shared_data / "reports" / "corpora" / f"{name}.parquet"
    if not path.is_file():
        pytest.skip("this file is not here")
    if REPORTED[name] is None:
        assert len(read_episodes(path)) == 13
    else:
        with pytest.raises(UserError, match=REPORTED[name]):
            read_episodes(path)


def test_a_footer_that_is_no_text_is_explained(tmp_path):
    path = tmp_path / "c.parquet"
    write_episodes([make_episode()], path)
    path.write_bytes(path.read_bytes().replace(b"scenario_id", b"scen\xadrio_id"))
    with pytest.raises(UserError, match=r"c\.parquet is not a"):
        read_episodes(path)
