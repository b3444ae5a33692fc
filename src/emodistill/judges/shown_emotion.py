"""The emotion in a reply as a score of its own: a part of JPO's reward that no stated offer can outweigh."""

from collections.abc import Sequence

from emodistill.emotions.perceiver import Perceiver, as_vocabulary
from emodistill.emotions.vocabulary import Vocabulary
from emodistill.errors import UserError
from emodistill.judges.request import JudgeRequest


class ShownEmotion:
    """How plainly the intended emotion shows: the share that a perceiver reads of it over `plain_sight`, at most 1.

    Args:
        perceiver: not the counterparty's: a policy must not be able to win by fooling what scores it.
        plain_sight: the share from which an emotion counts as fully shown. Without that bound each further word of the
            emotion would gain something, and a policy learns to name it two and three times in a reply.
    """

    def __init__(self, vocabulary: Vocabulary, perceiver: Perceiver, plain_sight: float = 0.5) -> None:
        if not 0 < plain_sight <= 1:
            raise UserError(f"shown emotion: plain_sight must lie in (0, 1], not {plain_sight}")
        self.vocabulary, self.perceiver, self.plain_sight = vocabulary, perceiver, plain_sight

    def scores(self, requests: Sequence[JudgeRequest]) -> list[float | None]:
        """One a request; None where no emotion was asked for, or one that the perceiver does not know.

        Raises:
            UserError: if an emotion is not in the vocabulary.
        """
        labels = [None if request.emotion is None else self.vocabulary.index(request.emotion) for request in requests]
        known = [label is not None and bool(self.vocabulary.perceived_as[label]) for label in labels]
        if not any(known):
            return [None] * len(requests)
        shares = as_vocabulary(self.perceiver.probabilities([r.utterance for r in requests]), self.vocabulary)
        return [
            # rounded, so that batching cannot change it
            round(min(float(row[label]) / self.plain_sight, 1.0), 4) if there and label is not None else None
            for row, label, there in zip(shares, labels, known, strict=True)
        ]
