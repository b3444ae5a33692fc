"""Plans: what is missing, in which order, and who does which share of it."""

from dataclasses import replace

import pytest
from small_pieces import marks, piece

from emodistill.errors import UserError
from emodistill.execution.pieces import OneAfterOther, Share, digest, plan


def names(pieces):
    return [one.task[0] for one in pieces]


def test_a_plan_holds_what_has_no_result_yet(tmp_path):
    pieces = [piece(tmp_path, name) for name in "abc"]
    (tmp_path / "b").touch()
    assert names(plan(pieces).now) == ["a", "c"]
    OneAfterOther().run("test", plan(pieces).now)
    assert plan(pieces).now == [] and [name for name, _ in marks(tmp_path, "did")] == ["a", "c"]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 12])
def test_shares_cover_everything_once_whatever_is_done_already(tmp_path, count):
    pieces = [piece(tmp_path, f"{number}") for number in range(11)]
    done = []
    for number in range(1, count + 1):
        now = plan(pieces, Share(number, count)).now
        OneAfterOther().run("test", now)
        done += names(now)
    assert sorted(done, key=int) == [str(number) for number in range(11)]


def test_what_takes_something_from_other_shares_waits_for_it(tmp_path):
    pieces = [piece(tmp_path, "a"), piece(tmp_path, "b", after=["a"]), piece(tmp_path, "c"), piece(tmp_path, "d")]
    second = plan(pieces, Share(2, 2))
    assert names(second.now) == ["d"] and names(second.waiting) == ["b"]
    OneAfterOther().run("test", plan(pieces, Share(1, 2)).now)
    assert names(plan(pieces, Share(2, 2)).now) == ["b", "d"]
    assert names(plan([replace(one) for one in pieces]).now) == ["b", "d"]


def test_a_share_asks_the_disk_for_its_own_results_and_for_what_they_come_after(tmp_path):
    asked = []
    pieces = [piece(tmp_path, f"{i}", after=["0"] if i == 5 else []) for i in range(8)]
    pieces = [replace(one, done=lambda name=one.task[0]: asked.append(name)) for one in pieces]
    plan(pieces, Share(2, 4))
    assert sorted(asked) == ["0", "1", "5"]


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/0", "1/2/3"])
def test_a_share_that_cannot_be_meant(text):
    with pytest.raises(UserError, match="write i/n"):
        Share.parse(text)
    assert Share.parse("2/3") == Share(2, 3)


def test_a_name_is_of_the_content_and_not_of_its_order():
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1}) != digest({"a": 1, "b": [2, 1]})


def test_a_kit_is_opened_once_for_the_pieces_in_a_row_that_have_it(tmp_path):
    pieces = [piece(tmp_path, f"{number}", kit=kit) for number, kit in enumerate("xxyyx")]
    OneAfterOther().run("test", pieces)
    assert [kit for kit, _ in marks(tmp_path, "opened")] == ["x", "y", "x"]
