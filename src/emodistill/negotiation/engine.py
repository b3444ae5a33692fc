"""Plays many negotiations in lockstep: one batched call a side a round."""

from collections.abc import Callable, Sequence

from emodistill.negotiation.agents import Agent, Fault
from emodistill.negotiation.protocol import Negotiation, Turn


def play(
    negotiations: Sequence[Negotiation],
    focal: Agent,
    counterparty: Agent,
    on_round: Callable[[int, int], None] | None = None,
) -> list[Negotiation]:
    """Play every negotiation to its end, in place; returns them.

    The same seeds give the same episodes whatever the batch, as far as the agents' own arithmetic does.

    Args:
        on_round: called after each half-round with (how many are over, how many there are), for a progress bar.
    """
    focal.begin(negotiations)
    counterparty.begin(negotiations)
    running = list(negotiations)
    while running:
        for agent in (focal, counterparty):
            for negotiation, move in zip(running, agent.act(running), strict=True):
                if isinstance(move, Fault):
                    negotiation.break_off(move.reason)
                    continue
                turn = Turn(
                    negotiation.round,
                    negotiation.next_speaker,
                    move.text,
                    move.act,
                    move.offer,
                    move.emotion,
                    move.emotion_prob,
                    move.offer_appended,
                )
                negotiation.play(turn)
            running = [negotiation for negotiation in running if negotiation.end is None]
            if on_round:
                on_round(len(negotiations) - len(running), len(negotiations))
            if not running:
                break
    return list(negotiations)
