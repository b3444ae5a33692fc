"""The neutral offer parser: what number, if any, does an utterance put on the table?

It decides success for every arm alike, so it is deterministic, knows nothing of who speaks or what would suit them, and
no model under test has a part in it. The way is: plain text and clauses (`offer_text`), candidate quantities
(`offer_quantities`, `offer_clock`), whose they are (`offer_grammar`), and then the last of those that the speaker puts
forward most clearly. Of a range it is the last bound ("2-3 weeks" is three weeks), as that is what the speaker can be
held to; a month is 30 days and a year 365; a limit is an offer ("no later than 11 PM"); a quantity outside the domain's
bounds is none. Numbers are not moved to the domain's grid: what was said is what counts.
"""

from functools import cache
from itertools import zip_longest

from emodistill.negotiation.domains import load_domain
from emodistill.negotiation.offer_clock import Clock
from emodistill.negotiation.offer_grammar import Rank, rank
from emodistill.negotiation.offer_quantities import Durations
from emodistill.negotiation.offer_text import clauses, plain


def parse_offer(text: str, domain: str) -> float | None:
    """The offer an utterance makes, in the domain's unit, or None; the exact inverse of `Domain.say` on its grid.

    Never raises on any text.

    Raises:
        UserError: if there is no such domain.
    """
    return _reader(domain).read(text)


class OfferReader:
    """Reads offers in one style and unit; see `Domain` for the arguments."""

    def __init__(self, style: str, unit: str, bounds: tuple[float, float], clock_origin: int = 0) -> None:
        self._bounds, self._is_clock = bounds, style == "clock"
        self._quantities = Clock(clock_origin, bounds) if self._is_clock else Durations(unit)

    def read(self, text: str) -> float | None:
        """The last quantity that is most clearly put forward by the speaker, or None."""
        whole = plain(text, self._is_clock)
        parts = clauses(whole)
        best, offer = Rank.NONE, None
        for part, following in zip_longest(parts, parts[1:]):
            for quantity in self._quantities.find(part.text, whole):
                if not self._bounds[0] <= quantity.value <= self._bounds[1]:
                    continue
                standing = rank(quantity, part, following)
                if standing is not Rank.NONE and standing >= best:
                    best, offer = standing, quantity.value
        return offer


@cache
def _reader(domain: str) -> OfferReader:
    rules = load_domain(domain)
    return OfferReader(rules.style, rules.unit, rules.bounds, rules.clock_origin)
