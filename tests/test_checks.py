"""Which numbers pass, and what is said of those that do not."""

import math

import pytest

from emodistill.checks import check_number, check_whole, is_number, is_whole
from emodistill.errors import UserError


def test_numbers():
    assert is_whole(1) and is_whole(0, 0) and is_number(0.5) and is_number(5, 1, 5) and is_number(10**400)
    assert not any(map(is_whole, (0, 1.0, True, "1", None)))
    assert not any(map(is_number, (math.nan, math.inf, -math.inf, True, "1", None)))
    assert not is_number(5.5, 1, 5) and not is_number(0, 1, 5)


def test_what_is_said():
    check_whole("seeds", None, null="for all")
    check_number("rate", 0.0, 0)
    with pytest.raises(UserError, match="^seeds=x: a whole number of at least 1, or null for all$"):
        check_whole("seeds", "x", null="for all")
    with pytest.raises(UserError, match="^rate=null: a number of at least 0$"):
        check_number("rate", None, 0)
    with pytest.raises(UserError, match="^rate=abc: a number$"):
        check_number("rate", "abc")
