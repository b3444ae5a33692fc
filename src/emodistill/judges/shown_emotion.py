"""The emotion in a reply as a score of its own: a part of JPO's reward that no stated offer can outweigh."""

from collections.abc import Sequence

from emodistill.emotions.perceiver import Perceiver, as_vocabulary
from emodistill.emotions.vocabulary import Vocabulary
from emodistill.judges.request import JudgeRequest


class ShownEmotion:
    """Share of the intended emotion in what a perceiver reads in the words, 0 to 1.

    Args:
        perceiver: not the counterparty's: a policy must not be able to win by fooling what scores it.
    """

    def __init__(self, vocabulary: Vocabulary, perceiver: Perceiver) -> None:
        self.vocabulary, self.perceiver = vocabulary, perceiver

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
            round(float(row[label]), 4) if there and label is not None else None  # so that batching cannot change it
            for row, label, there in zip(shares, labels, known, strict=True)
        ]
