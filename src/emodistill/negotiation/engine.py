"""Plays many negotiations in lockstep: one batched call a side a round."""

from collections.abc import Callable, Iterator, Sequence
from itertools import cycle

from emodistill.negotiation.agents import Agent, Fault, Move
from emodistill.negotiation.protocol import COUNTERPARTY, FOCAL, Negotiation, Side, Turn


def play(
    negotiations: Sequence[Negotiation],
    focal: Agent,
    counterparty: Agent,
    on_round: Callable[[int, int], None] | None = None,
) -> list[Negotiation]:
    """Play every negotiation from its beginning to its end, in place; returns them. One that is over is left alone.

    The same seeds give the same episodes whatever the batch, as far as the agents' own arithmetic does.

    Args:
        on_round: called after each half-round with (how many are over, how many there are), for a progress bar.

    Raises:
        ValueError: if a negotiation is half played, so that it is not the focal side's turn.
    """
    focal.begin(negotiations)
    counterparty.begin(negotiations)
    running = [negotiation for negotiation in negotiations if negotiation.end is None]
    sides: Iterator[tuple[Side, Agent]] = cycle(((FOCAL, focal), (COUNTERPARTY, counterparty)))
    while running:
        side, agent = next(sides)
        for negotiation, move in zip(running, agent.act(running), strict=True):
            take_turn(negotiation, side, move)
        running = [negotiation for negotiation in running if negotiation.end is None]
        if on_round:
            on_round(len(negotiations) - len(running), len(negotiations))
    return list(negotiations)


def take_turn(negotiation: Negotiation, side: Side, move: Move | Fault) -> None:
    """Add what a side does to its negotiation; a fault breaks it off."""
    if isinstance(move, Fault):
        negotiation.break_off(move.reason)
        return
    stated = (move.text, move.act, move.offer, move.emotion, move.emotion_prob, move.offer_appended)
    negotiation.play(Turn(negotiation.round, side, *stated, move.role_violations))
