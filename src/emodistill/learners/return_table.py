"""A plain baseline for the selector: a table of mean returns, which knows the domain and nothing of the dialogue.

For a focal turn i of n in a valid episode of the training split, with the episode's utility u, the return is

    G = discount^(n - 1 - i) * u

and the value of an emotion in a domain is the mean, over all turns that showed it there, of G less the mean G of all
turns of that domain. A cell of fewer than `least` turns takes the mean over all domains instead; taking the domain's
mean off first lets the two be compared. The emotion of the highest value is shown in every turn; of two with the same,
the one that stands first in the vocabulary. An emotion that the corpus never shows is never chosen.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from statistics import fmean

from emodistill.data.schema import Episode
from emodistill.emotions.vocabulary import Vocabulary
from emodistill.errors import UserError
from emodistill.negotiation.agents import Choice
from emodistill.negotiation.protocol import Negotiation

DISCOUNT = 0.99
LEAST = 20
_Turn = tuple[str, str, float]  # domain, emotion, return


class ReturnTable:
    """Chooses emotions by mean return.

    Attributes:
        values: domain -> emotion -> value; only what the corpus shows.
        pooled: emotion -> value over all domains; used as it is in a domain that the corpus does not have.
    """

    name = "table"

    def __init__(
        self, episodes: Sequence[Episode], vocabulary: Vocabulary, discount: float = DISCOUNT, least: int = LEAST
    ) -> None:
        """
        Args:
            episodes: of any split; those of `train` are used.
            least: turns that a cell needs to stand for itself.

        Raises:
            UserError: if no turn of the training split shows an emotion, or one is not in the vocabulary.
        """
        turns = _centred(list(_returns(episodes, discount)))
        if not turns:
            raise UserError(
                "the table of mean returns needs episodes of the train split that show emotions; here are none"
            )
        self.pooled = _means([(emotion, value) for _, emotion, value in turns], vocabulary, 1)
        self.values = {
            domain: self.pooled | _means([(e, value) for d, e, value in turns if d == domain], vocabulary, least)
            for domain in sorted({domain for domain, _, _ in turns})
        }
        best = {domain: _best(values, vocabulary) for domain, values in self.values.items()}
        self._best, self._elsewhere = best, _best(self.pooled, vocabulary)

    def choice(self, domain: str) -> str:
        """The emotion that is shown in a domain."""
        return self._best.get(domain, self._elsewhere)

    def select(self, negotiations: Sequence[Negotiation]) -> list[Choice]:
        return [Choice(self.choice(negotiation.scenario.domain), 1.0) for negotiation in negotiations]

    def select_among(self, negotiations: Sequence[Negotiation], allowed: Sequence[Sequence[str]]) -> list[Choice]:
        """The best emotion among those that are allowed; one that the corpus never shows only where nothing else is."""
        found = []
        for negotiation, labels in zip(negotiations, allowed, strict=True):
            values = self.values.get(negotiation.scenario.domain, self.pooled)
            found.append(Choice(max(labels, key=lambda label: values.get(label, float("-inf"))), 1.0))
        return found


def _returns(episodes: Sequence[Episode], discount: float) -> Iterator[_Turn]:
    for episode in episodes:
        if episode.split == "train" and episode.end != "invalid":
            last = len(episode.focal_turns) - 1
            for i, turn in enumerate(episode.focal_turns):
                if turn.emotion is not None:
                    yield episode.scenario.domain, turn.emotion, discount ** (last - i) * episode.utility


def _centred(turns: list[_Turn]) -> list[_Turn]:
    """Returns less the mean of their domain."""
    by_domain: dict[str, list[float]] = defaultdict(list)
    for domain, _, value in turns:
        by_domain[domain].append(value)
    means = {domain: fmean(values) for domain, values in by_domain.items()}
    return [(domain, emotion, value - means[domain]) for domain, emotion, value in turns]


def _means(shown: list[tuple[str, float]], vocabulary: Vocabulary, least: int) -> dict[str, float]:
    """Emotion -> mean value, of those shown at least so often."""
    found: dict[str, list[float]] = defaultdict(list)
    for emotion, value in shown:
        vocabulary.index(emotion)
        found[emotion].append(value)
    return {emotion: fmean(values) for emotion, values in found.items() if len(values) >= least}


def _best(values: dict[str, float], vocabulary: Vocabulary) -> str:
    return max(values, key=lambda emotion: (values[emotion], -vocabulary.index(emotion)))
