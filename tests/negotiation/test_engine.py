"""The engine: lockstep, faults, order of the seats, and the same episodes whatever the batch."""

from collections.abc import Iterable, Sequence

import pytest

from emodistill.negotiation.agents import Fault, Move
from emodistill.negotiation.engine import play
from emodistill.negotiation.protocol import COUNTERPARTY, FOCAL, Negotiation, Side
from emodistill.negotiation.scenarios import Scenario

SCENARIOS = [
    *(Scenario(f"debt-{i}", "debt", 30 + i, 130 + i) for i in range(4)),
    *(Scenario(f"disaster-{i}", "disaster", 160 + 5 * i, 60) for i in range(4)),
]


class Haggler:
    """Draws its offers around a line of concession from the negotiation's own generator; counts its calls."""

    def __init__(self, side: Side) -> None:
        self.side, self.name = side, "haggler"
        self.begun, self.calls = 0, list[int]()

    def begin(self, negotiations: Sequence[Negotiation]) -> None:
        self.begun += len(negotiations)

    def act(self, negotiations: Sequence[Negotiation]) -> list[Move | Fault]:
        self.calls.append(len(negotiations))
        return [self._move(negotiation) for negotiation in negotiations]

    def _move(self, negotiation: Negotiation) -> Move:
        draw = negotiation.rng[self.side].random()
        if draw < 0.02:
            return Move("Enough.", "walk_away")
        given = min(negotiation.round / 30, 0.5) + 0.1 * (draw - 0.5)
        position = 1 - given if self.side == FOCAL else given
        return Move(f"{draw:.6f}", offer=negotiation.scenario.value_at(position))


class Scripted:
    """Makes the same moves, in order, in every negotiation."""

    name = "scripted"

    def __init__(self, moves: Iterable[Move | Fault]) -> None:
        self._moves = list(moves)

    def begin(self, negotiations: Sequence[Negotiation]) -> None:
        """Nothing to prepare."""

    def act(self, negotiations: Sequence[Negotiation]) -> list[Move | Fault]:
        return [self._moves[negotiation.round - 1] for negotiation in negotiations]


def fresh(seeds: Iterable[int] = range(3)) -> list[Negotiation]:
    return [Negotiation(scenario, seed) for seed in seeds for scenario in SCENARIOS]


def record(negotiation: Negotiation) -> tuple[object, ...]:
    return (
        negotiation.scenario.id,
        negotiation.seed,
        tuple(negotiation.turns),
        negotiation.end,
        negotiation.deal_value,
    )


def records(negotiations: Iterable[Negotiation]) -> list[tuple[object, ...]]:
    return [record(negotiation) for negotiation in negotiations]


def test_every_negotiation_ends_and_the_cases_differ() -> None:
    played = play(fresh(range(10)), Haggler(FOCAL), Haggler(COUNTERPARTY))
    assert len(played) == 80
    assert {negotiation.end for negotiation in played} == {"deal", "walk_away", "deadline"}
    assert len({len(negotiation.turns) for negotiation in played}) > 3


def test_same_seeds_same_episodes_whatever_the_batch() -> None:
    whole = records(play(fresh(), Haggler(FOCAL), Haggler(COUNTERPARTY)))
    one_by_one = [record(play([negotiation], Haggler(FOCAL), Haggler(COUNTERPARTY))[0]) for negotiation in fresh()]
    backwards = records(play(fresh()[::-1], Haggler(FOCAL), Haggler(COUNTERPARTY)))[::-1]
    assert whole == one_by_one == backwards
    assert whole != records(play(fresh(range(3, 6)), Haggler(FOCAL), Haggler(COUNTERPARTY)))


def test_lockstep_is_one_call_a_side_a_round() -> None:
    focal, counterparty = Haggler(FOCAL), Haggler(COUNTERPARTY)
    played = play(fresh(), focal, counterparty)
    turns = [len(negotiation.turns) for negotiation in played]
    assert (focal.begun, counterparty.begun) == (len(played), len(played))
    assert focal.calls == [sum(n > 2 * i for n in turns) for i in range((max(turns) + 1) // 2)]
    assert counterparty.calls == [sum(n > 2 * i + 1 for n in turns) for i in range(max(turns) // 2)]


def test_turns_hold_what_the_agents_did() -> None:
    said = Move("Please.", "propose", 45.0, "sadness", 1 / 28, True)
    [negotiation] = play(
        [fresh()[0]], Scripted([said, Move("", "walk_away")]), Scripted([Move("130 days.", offer=130)])
    )
    first, second, third = negotiation.turns
    assert (first.round, first.speaker, first.text, first.act, first.offer) == (1, FOCAL, "Please.", "propose", 45.0)
    assert (first.emotion, first.emotion_prob, first.offer_appended) == ("sadness", 1 / 28, True)
    assert (second.round, second.speaker, second.offer, second.emotion) == (1, COUNTERPARTY, 130, None)
    assert (third.round, third.speaker, third.act) == (2, FOCAL, "walk_away")


def test_silent_agents_meet_the_deadline_after_fifteen_rounds() -> None:
    played = play(fresh(), Scripted([Move("Hm.")] * 15), Scripted([Move("Hm.")] * 15))
    assert {(negotiation.end, len(negotiation.turns)) for negotiation in played} == {("deadline", 30)}


def test_a_fault_is_invalid_for_its_own_negotiation_alone() -> None:
    class Faulty(Haggler):
        def _move(self, negotiation: Negotiation) -> Move:
            if negotiation.scenario.id == "debt-1" and negotiation.round == 2:
                return Fault("the endpoint answered 503")  # type: ignore[return-value]  # a fault in a move's place
            return super()._move(negotiation)

    sound = play(fresh(), Haggler(FOCAL), Haggler(COUNTERPARTY))
    played = play(fresh(), Haggler(FOCAL), Faulty(COUNTERPARTY))
    hit = [negotiation for negotiation in played if negotiation.scenario.id == "debt-1"]
    assert {(n.end, n.fault, n.deal_value, len(n.turns)) for n in hit} == {
        ("invalid", "the endpoint answered 503", None, 3)
    }
    unhit = [n.scenario.id != "debt-1" for n in played]
    assert [r for r, keep in zip(records(played), unhit, strict=True) if keep] == [
        r for r, keep in zip(records(sound), unhit, strict=True) if keep
    ]


def test_progress_counts_up_to_all() -> None:
    seen = list[tuple[int, int]]()
    play(fresh(), Haggler(FOCAL), Haggler(COUNTERPARTY), on_round=lambda over, total: seen.append((over, total)))
    assert seen[-1] == (24, 24)
    assert seen == sorted(seen)


def test_an_agent_that_answers_too_few_is_an_error() -> None:
    class Forgetful(Haggler):
        def act(self, negotiations: Sequence[Negotiation]) -> list[Move | Fault]:
            return super().act(negotiations)[1:]

    with pytest.raises(ValueError, match="zip"):
        play(fresh(), Forgetful(FOCAL), Haggler(COUNTERPARTY))


def test_what_is_over_is_left_alone_and_half_played_is_refused() -> None:
    over, half = fresh()[:2]
    over.break_off("the disk is full")
    assert play([over], Haggler(FOCAL), Haggler(COUNTERPARTY))[0].turns == []
    play([], Haggler(FOCAL), Haggler(COUNTERPARTY))
    half.play(play([fresh()[1]], Haggler(FOCAL), Haggler(COUNTERPARTY))[0].turns[0])
    with pytest.raises(ValueError, match="turn 1/focal is out of order"):
        play([half], Haggler(FOCAL), Haggler(COUNTERPARTY))
