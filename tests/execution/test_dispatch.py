"""Dispatch: which piece goes to which worker next, and what many pieces cost to hand out."""

import random
from collections import Counter
from dataclasses import dataclass

import pytest

from emodistill.execution.dispatch import Dispatch
from emodistill.execution.pieces import Piece


def piece(name, kit="kit", after=()):
    return Piece(name, f"the piece {name}", open, kit, (), bool, after=tuple(after))


def test_the_kit_that_a_worker_has_then_one_that_nobody_has_then_the_first():
    dispatch = Dispatch([piece(f"{kit}{i}", kit) for i in range(2) for kit in "xyz"], 0)
    first, second = dispatch.take(None), dispatch.take(None)
    assert (first.name, second.name) == ("x0", "y0")
    assert dispatch.take("x").name == "x1" and dispatch.take("x").name == "z0"  # x is used up, y is held
    assert dispatch.take("y").name == "y1" and dispatch.take("y").name == "z1" and dispatch.take("z") is None


def test_a_kit_whose_workers_are_gone_is_held_by_nobody():
    dispatch = Dispatch([piece(f"{kit}{i}", kit) for i in range(3) for kit in "xy"], 1)
    lost = dispatch.take(None)
    dispatch.take(None)
    dispatch.let_go("x")
    assert dispatch.lost(lost) and dispatch.take(None) is lost  # before x1, and before y1, whose kit is held
    assert dispatch.take(None).name == "x1"  # both are held: the first
    dispatch.let_go("x")
    assert dispatch.take(None).name == "y1"  # the other worker still has x
    assert not dispatch.lost(lost) and dispatch.losses["x0"] == 2


def test_a_piece_is_ready_when_all_that_it_waits_for_is_done():
    pieces = [piece("a"), piece("b", after=["a", "c", "not here"]), piece("c"), piece("d", after=["b"])]
    dispatch = Dispatch(pieces, 0)
    a, c = dispatch.take_first(), dispatch.take_first()
    assert (a.name, c.name, dispatch.ready, dispatch.take_first()) == ("a", "c", 0, None)
    dispatch.done(c)
    assert dispatch.take("kit") is None
    dispatch.done(a)
    b = dispatch.take_first()
    assert b.name == "b" and dispatch.ready == 0 and dispatch.unfinished == {"b", "d"}
    dispatch.done(b)
    assert dispatch.take_first().name == "d"


class Rule:
    """The rule word for word: a look at every piece for each choice."""

    def __init__(self, pieces):
        self.todo, self.unfinished, self.lost = list(pieces), {one.name for one in pieces}, set()

    def take(self, kits, worker):
        possible = [one for one in self.todo if not self.unfinished.intersection(one.after)]
        held = Counter(kit for other, kit in kits.items() if other != worker)
        own = [one for one in possible if one.kit == kits[worker]]
        free = [one for one in possible if one.kit not in held]
        left = Counter(one.kit for one in possible)

        def rank(one):
            return (True, 0) if one in self.lost else (False, left[one.kit] / (held[one.kit] + 1))

        fullest = max(possible, key=rank, default=None)
        best = (own or free or [fullest])[0]
        if best:
            self.lost.discard(best)
            self.todo.remove(best)
        return best


@pytest.mark.parametrize("seed", range(40))
def test_every_choice_is_that_of_the_rule(seed):
    draw = random.Random(seed)
    names = [f"{i}" for i in range(60)]
    kits = draw.choice(["x", "xy", "abcdefgh", "abcdefghijklmnopqrstuvwxyz"])
    pieces = [
        piece(name, draw.choice(kits), draw.sample(names[:i], draw.choice([0, 0, min(i, 2)])))
        for i, name in enumerate(names)
    ]
    dispatch, rule = Dispatch(pieces, retries=1000), Rule(pieces)
    has, does = {}, {}  # the kit of every worker, and the piece that it is at
    born = 0
    while dispatch.unfinished:
        what = draw.random()
        if what < 0.5:
            idle = [worker for worker in has if worker not in does]
            if not idle:
                idle, born = [born], born + 1
                has[idle[0]] = None
            worker = draw.choice(idle)
            expected = rule.take(has, worker)
            given = dispatch.take(has[worker])
            assert given is expected
            if given:
                has[worker], does[worker] = given.kit, given
        elif does and what < 0.9:
            worker = draw.choice(list(does))
            rule.unfinished.discard(does[worker].name)
            dispatch.done(does.pop(worker))
        elif has:
            worker = draw.choice(list(has))
            lost = does.pop(worker, None)
            dispatch.let_go(has.pop(worker))
            if lost:
                assert dispatch.lost(lost)
                rule.todo.insert(0, lost)
                rule.lost.add(lost)
    assert not rule.unfinished and not rule.todo and dispatch.ready == 0


looked_at = Counter()


@dataclass(frozen=True)
class Watched(Piece):
    """A piece that counts how often somebody looks at it."""

    def __getattribute__(self, name):
        looked_at["pieces"] += 1
        return super().__getattribute__(name)


@pytest.mark.parametrize(("count", "kits", "workers"), [(100_000, 300, 1000), (10_000, 1, 10)])
def test_many_pieces_are_handed_out_without_looking_through_them(count, kits, workers):
    pieces = [Watched(f"{i}", "", open, f"{i % kits}", (), bool) for i in range(count)]
    looked_at.clear()
    dispatch = Dispatch(pieces, 0)
    has = [None] * workers
    handed = 0
    while dispatch.unfinished:
        for worker in range(workers):
            given = dispatch.take(has[worker])
            has[worker] = given.kit
            dispatch.done(given)
            handed += 1
    assert handed == count and looked_at["pieces"] < 12 * count
