"""Rows on disk: round trips, whole files, and errors that name the row."""

import math
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from episodes import make_episode

from emodistill.data.schema import SCHEMA, Episode, read_episodes, write_episodes
from emodistill.errors import UserError
from emodistill.negotiation.protocol import FOCAL, Negotiation, Turn
from emodistill.negotiation.scenarios import Scenario


def test_episodes_survive_the_disk(tmp_path):
    episodes = [make_episode(seed=s) for s in range(3)] + [replace(make_episode(seed=9), end="deal", deal_value=41.5)]
    write_episodes(episodes, tmp_path / "episodes.parquet")
    assert read_episodes(tmp_path / "episodes.parquet") == episodes
    assert [path.name for path in tmp_path.iterdir()] == ["episodes.parquet"]


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


def test_damaged_pages_behind_a_sound_footer_are_explained(tmp_path, caplog):
    path = tmp_path / "c.parquet"
    write_episodes([make_episode()], path)
    whole = path.read_bytes()
    path.write_bytes(whole[:4] + b"\xff" * 400 + whole[404:])
    with pytest.raises(UserError, match="not a readable Parquet"):
        read_episodes(path)


def test_reading_leaves_nothing_behind_and_takes_a_name_as_it_is(tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    monkeypatch.setenv("HOME", str(scratch))
    path = tmp_path / "run [1] *" / "episodes.parquet"
    write_episodes([make_episode()], path)
    assert read_episodes(path) == [make_episode()]
    assert not list(scratch.iterdir())
    assert list(path.parent.iterdir()) == [path]
