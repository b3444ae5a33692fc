"""What an utterance does at the table: the offer it states, whom that favours, and how much ground it gives.

Everything is measured in positions (1 is the focal side's target, 0 the counterparty's), so it has the right sign in
every domain. Offers are read by the neutral parser, never from what the speaker was told to offer.
"""

import re
from dataclasses import dataclass

from emodistill.judges.request import JudgeRequest
from emodistill.judges.wording import says
from emodistill.negotiation.offers import parse_offer
from emodistill.negotiation.protocol import COUNTERPARTY, FOCAL, Speaker

_ACCEPTS = re.compile(
    r"\b(?:(?:i|we)(?:'ll| will| can| do)? (?:gladly |happily )?accept|(?:is|are) accepted|it'?s a deal|it is a deal|"
    r"(?:i|we) have a deal|do (?:it your way|as you (?:ask|say)))\b|"
    r"(?:^|[.,;:!?] |\b(?:yes|fine|right|so|but) )agreed\b(?! (?:on (?!your)|to|that|last|before))"
)
_RESERVES = re.compile(r"\b(?:not|never|before|if|unless|until|when|once)\b")
_ASKS = re.compile(
    r"\?|\b(?:please|let's|let us|(?:could|can|will|would|i need|we need) you|you need|i(?:'d)? ask|i am asking|"
    r"we need|i propose|i suggest|my (?:offer|proposal|answer) is|it has to be|the (?:plan|offer) is|agree to|settle|"
    r"i can)\b"
)
_HELD = 0.02  # giving up to this much position is holding; rounding to the grid does it


@dataclass(frozen=True)
class Bargaining:
    """What one utterance does.

    Attributes:
        position: of the offer stated or accepted, None where it does neither.
        conceded: position given up against the focal side's last offer; negative where it asks for more than before,
            None where there is no earlier offer or no new one.
        accepts: it takes the counterparty's standing offer.
        asks: it asks for something, puts something forward or speaks of agreeing.
        on_topic: it names one of the domain's own terms, so it is about this case.
    """

    position: float | None
    conceded: float | None
    accepts: bool
    asks: bool
    on_topic: bool

    @property
    def progress(self) -> float:
        """0 to 1: an offer on the table, good for the focal side; a request that moves things on; about this case."""
        offer = 0.0 if self.position is None else 0.45 + 0.2 * min(max(self.position, 0.0), 1.0)
        return offer + 0.2 * (self.asks or self.accepts) + 0.15 * (self.on_topic or self.accepts)

    @property
    def firmness(self) -> float:
        """0 to 1: small steps are firm, leaps are not, and neither going back nor asking for the moon is realistic.

        A step of up to 0.15 costs nothing, one of 0.6 everything; taking back 0.3 of what was offered, or opening at
        twice the target, costs everything too. Without an offer there is nothing to be firm about: a middling 0.5.
        """
        if self.position is None:
            return 0.5
        if self.conceded is None:
            return min(_ramp(self.position, 0.1, 0.7), _ramp(-self.position, -2.0, -1.1))
        return min(_ramp(-self.conceded, -0.6, -0.15), _ramp(self.conceded, -0.3, -_HELD))

    @property
    def surrender(self) -> float:
        """0 to 1: how far it gives the case away, in numbers: from 0.3 of position given up at once, fully at 0.6.

        An opening counts from 0.7: one that begins at the counterparty's number has surrendered before it started.
        """
        if self.position is None:
            return 0.0
        return _ramp(0.7 - self.position if self.conceded is None else self.conceded, 0.3, 0.6)


def bargaining(request: JudgeRequest) -> Bargaining:
    """Read what an utterance does from its words and the offers before it."""
    own, theirs = _standing(request, FOCAL), _standing(request, COUNTERPARTY)
    offer = parse_offer(request.utterance, request.scenario.domain)
    said = request.utterance.lower().replace("\u2019", "'")
    accepts = theirs is not None and offer in (None, theirs) and _accepts(said)
    value = theirs if accepts else offer
    position = None if value is None else request.scenario.position(value)
    conceded = None if position is None or own is None else request.scenario.position(own) - position
    rubric = request.scenario.rules.rubric
    asks = bool(_ASKS.search(said)) or says(said, rubric.get("deal_words", ())) > 0
    on_topic = "terms" not in rubric or says(said, rubric["terms"]) > 0  # no list, no demand
    return Bargaining(position, conceded, accepts, asks, on_topic)


def _standing(request: JudgeRequest, speaker: Speaker) -> float | None:
    offers = [turn.offer for turn in request.history if turn.speaker == speaker and turn.offer is not None]
    return offers[-1] if offers else None


def _accepts(said: str) -> bool:
    """Whether some clause says yes without a condition or a no in the same clause."""
    for match in _ACCEPTS.finditer(said):
        clause = re.split(r"[.,;:!?]|\b(?:but|so|and)\b", said[: match.start()])[-1]
        if not _RESERVES.search(clause):
            return True
    return False


def _ramp(value: float, low: float, high: float) -> float:
    """0 up to `low`, 1 from `high`, straight in between."""
    return min(max((value - low) / (high - low), 0.0), 1.0)
