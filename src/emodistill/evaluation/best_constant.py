"""The best constant emotion of each domain, found in play on validation scenarios: a strong rival of the selector.

Every emotion is played as a constant, in the phrasebook's words, against personas and on scenarios that are in no test.
The one with the highest mean utility in a domain is shown there. This takes thousands of episodes with the
counterparty, so it is only for one that is simulated; nothing of it is learnt offline.
"""

from collections.abc import Sequence
from statistics import fmean

from emodistill.checks import check_whole
from emodistill.emotions.vocabulary import Vocabulary
from emodistill.errors import UserError
from emodistill.negotiation.agents import Agent, Choice, FixedEmotion, FocalAgent, OfferPolicy
from emodistill.negotiation.engine import play
from emodistill.negotiation.phrasebook import PhrasebookSpeaker
from emodistill.negotiation.protocol import Negotiation
from emodistill.negotiation.scenarios import Scenario


class BestConstant:
    """Shows one emotion in each domain.

    Attributes:
        values: domain -> emotion -> mean utility in play.
    """

    name = "best_constant"

    def __init__(self, values: dict[str, dict[str, float]]) -> None:
        self.values = values

    def select(self, negotiations: Sequence[Negotiation]) -> list[Choice]:
        return self.select_among(negotiations, [list(self._of(n)) for n in negotiations])

    def select_among(self, negotiations: Sequence[Negotiation], allowed: Sequence[Sequence[str]]) -> list[Choice]:
        """The best emotion among those that are allowed; the first of the vocabulary where several are.

        Raises:
            UserError: if nothing is known of a domain.
        """
        found = []
        for negotiation, labels in zip(negotiations, allowed, strict=True):
            values = self._of(negotiation)
            found.append(Choice(max(labels, key=lambda label, values=values: values[label]), 1.0))  # type: ignore[misc]
        return found

    def _of(self, negotiation: Negotiation) -> dict[str, float]:
        domain = negotiation.scenario.domain
        if domain not in self.values:
            raise UserError(
                f"best_constant: the corpus has no validation scenario of the domain '{domain}', in which it would be "
                "chosen; leave the arm out, or give data=... with some"
            )
        return self.values[domain]


def best_constant(
    scenarios: Sequence[Scenario], repeats: int, counterparty: Agent, offers: OfferPolicy, vocabulary: Vocabulary
) -> BestConstant:
    """Play every emotion as a constant on the scenarios, `repeats` times each with other personas and draws.

    Raises:
        UserError: if `repeats` is below 1.
    """
    check_whole("constant_repeats", repeats)
    values: dict[str, dict[str, float]] = {scenario.domain: {} for scenario in scenarios}
    for label in vocabulary.labels:
        negotiations = [Negotiation(s, i + repeat) for i, s in enumerate(scenarios) for repeat in range(repeats)]
        focal = FocalAgent(FixedEmotion(vocabulary, label), offers, PhrasebookSpeaker(vocabulary))
        played = play(negotiations, focal, counterparty)
        for domain in values:
            values[domain][label] = fmean(one.utility for one in played if one.scenario.domain == domain)
    return BestConstant(values)
