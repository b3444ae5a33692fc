"""Perceivers: which of the 28 GoEmotions labels a reader sees in a text.

There are two, trained on disjoint halves of GoEmotions with different features: `counterparty` (words) moves the
simulated counterparty, `judge` (characters) serves the judge, the report and the selector's view of the other side.
A policy cannot win by fooling the reader that scores it, for the one that it plays against has other weaknesses.

Both are one-vs-rest logistic regressions over TF-IDF features, with classes weighted inversely to their frequency.
That weighting matters: a third of GoEmotions is `neutral` and grief has 77 comments, so plain regressions call nearly
every line of a negotiation neutral. The shares are the softmax of the 28 balanced logits.

They are trained with scikit-learn (`perceiver_training`) and read without it: its import takes longer than to read a
negotiation. The numbers are the same.
"""

import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from emodistill.emotions.vocabulary import Vocabulary, load_vocabulary
from emodistill.errors import UserError

FloatArray = npt.NDArray[np.float32]
GOEMOTIONS = load_vocabulary("goemotions28").labels
NEUTRAL = GOEMOTIONS.index("neutral")
_FOLDER = files("emodistill") / "assets" / "perceivers"
_PLACEHOLDER = re.compile(r"\[(?:name|religion)\]")
_NUMBERS = ("idf", "weights", "bias", "thresholds")
_DIGITS = re.compile(r"\d+")
_WORD = re.compile(r"\b\w[\w']*\b|[!?]")
_LONGEST = 5  # characters of a feature


def normalise(text: str) -> str:
    """What both perceivers read: lower case, without GoEmotions' placeholders, and every number alike.

    An offer is a number; 30 and 40 days must not differ in the emotion that is seen in them.
    """
    text = text.lower().replace("\u2019", "'")
    return _DIGITS.sub("0", _PLACEHOLDER.sub(" ", text))


def words(text: str) -> list[str]:
    """Every word of a text, and every two neighbours; `!` and `?` are words."""
    found: list[str] = _WORD.findall(normalise(text))
    return found + [f"{first} {second}" for first, second in pairwise(found)]


def characters(text: str) -> list[str]:
    """Every two to five neighbouring characters of each word, with a space before and behind it."""
    padded = [f" {word} " for word in normalise(text).split()]
    return [
        word[start : start + length]
        for word in padded
        for length in range(2, min(_LONGEST, len(word)) + 1)
        for start in range(len(word) - length + 1)
    ]


FEATURES: dict[str, Callable[[str], list[str]]] = {"words": words, "characters": characters}


@dataclass(frozen=True)
class Perceiver:
    """One classifier of the 28 labels. F features.

    Attributes:
        name: `counterparty`, `judge`, or what a perceiver of your own is called.
        features: the kind of features, a key of `FEATURES`.
        terms: (F,) the n-grams, sorted.
        idf: (F,) their inverse document frequencies.
        weights: (F, 28) of the logistic regressions.
        bias: (28,)
        thresholds: (28,) logits above which a label counts as present; only `detects` uses them.
        measured: development scores and the origin of the training half.
        version: twelve hex digits of all that decides the shares.
    """

    name: str
    features: str
    terms: tuple[str, ...]
    idf: FloatArray
    weights: FloatArray
    bias: FloatArray
    thresholds: FloatArray
    measured: dict[str, Any] = field(default_factory=dict)
    version: str = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha256("\n".join((self.features, *self.terms)).encode())
        for array in (self.idf, self.weights, self.bias):
            digest.update(array.tobytes())
        object.__setattr__(self, "version", digest.hexdigest()[:12])
        object.__setattr__(self, "_places", {term: place for place, term in enumerate(self.terms)})

    def logits(self, texts: Sequence[str]) -> FloatArray:
        """(N, 28) balanced log-odds; a text without one known feature is neutral beyond doubt.

        The arithmetic is that of scikit-learn's TfidfVectorizer and SciPy's sparse product, in their order: frequencies
        1 + ln(count) times idf, brought to unit length, times the weights.
        """
        logits = np.full((len(texts), len(GOEMOTIONS)), -30.0, dtype=np.float32)
        logits[:, NEUTRAL] = 0.0
        of, features = self._places, FEATURES[self.features]  # type: ignore[attr-defined]  # set in __post_init__
        for row, text in enumerate(texts):
            counts = Counter(of[term] for term in features(text) if term in of)
            if counts:
                places = sorted(counts)
                values = np.log(np.array([counts[place] for place in places], dtype=np.float32)) + np.float32(1)
                values *= self.idf[places]
                length = np.sqrt(np.square(values).cumsum(dtype=np.float64)[-1])  # added one by one, not in pairs
                values = (values / length).astype(np.float32)
                logits[row] = (values[:, None] * self.weights[places]).sum(axis=0) + self.bias
        return logits

    def probabilities(self, texts: Sequence[str]) -> FloatArray:
        """(N, 28) share of each label in each text, in GoEmotions order; rows sum to 1."""
        if not len(texts):
            return np.zeros((0, len(GOEMOTIONS)), dtype=np.float32)
        logits = self.logits(texts)
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(shares / shares.sum(axis=1, keepdims=True), dtype=np.float32)

    def detects(self, texts: Sequence[str]) -> npt.NDArray[np.bool_]:
        """(N, 28) whether each label is present: several or none may be, as in GoEmotions itself."""
        return np.asarray(self.logits(texts) > self.thresholds, dtype=np.bool_)

    def save(self, path: Path) -> None:
        """Write one compressed .npz of plain arrays (weights in half precision), readable without pickle."""
        about = {"name": self.name, "features": self.features, **self.measured}
        np.savez_compressed(
            path,
            about=np.frombuffer(json.dumps(about).encode(), dtype=np.uint8),
            terms=np.frombuffer("\n".join(self.terms).encode(), dtype=np.uint8),
            idf=self.idf,
            weights=self.weights.astype(np.float16),
            bias=self.bias,
            thresholds=self.thresholds,
        )


@cache
def load_perceiver(name: Literal["counterparty", "judge"] | str) -> Perceiver:
    """One of the two that ship, by name, or your own by the path of its .npz (`scripts/train_perceivers.py`).

    Raises:
        UserError: if there is no such perceiver, or the file is none.
    """
    if name in ("counterparty", "judge"):
        return _read((_FOLDER / f"{name}.npz").read_bytes(), f"{name}.npz")
    path = Path(name)
    if path.suffix != ".npz" or not path.is_file():
        raise UserError(f"no perceiver '{name}'; use counterparty, judge, or the path of an .npz file")
    return _read(path.read_bytes(), name)


def _read(content: bytes, source: str) -> Perceiver:
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
        about = json.loads(arrays["about"].tobytes())
        terms = tuple(arrays["terms"].tobytes().decode().split("\n"))
        idf, weights, bias, thresholds = (arrays[key].astype(np.float32) for key in _NUMBERS)
        wide = weights.shape == (len(terms), len(GOEMOTIONS)) and idf.shape == weights.shape[:1]
        if not wide or not bias.shape == thresholds.shape == weights.shape[1:] or about["features"] not in FEATURES:
            raise ValueError("arrays of the wrong shape, or features of an unknown kind")
        return Perceiver(about.pop("name"), about.pop("features"), terms, idf, weights, bias, thresholds, about)
    except (ValueError, KeyError, OSError, EOFError, BadZipFile) as error:
        raise UserError(f"{source} is not a perceiver; write it again with scripts/train_perceivers.py") from error


def as_vocabulary(probabilities: FloatArray, vocabulary: Vocabulary) -> FloatArray:
    """The (N, 28) shares summed to the labels of a vocabulary: (N, len(vocabulary)).

    Rows sum to 1 only where each GoEmotions label belongs to exactly one label; izard10 has none for neutral.

    Raises:
        UserError: if the vocabulary names a GoEmotions label that does not exist.
    """
    grouping = np.zeros((len(GOEMOTIONS), len(vocabulary)), dtype=np.float32)
    for column, (label, parts) in enumerate(zip(vocabulary.labels, vocabulary.perceived_as, strict=True)):
        for part in parts:
            if part not in GOEMOTIONS:
                raise UserError(
                    f"vocabulary '{vocabulary.name}': '{label}' is perceived_as '{part}', which is no label of "
                    f"GoEmotions; use some of {', '.join(GOEMOTIONS)}"
                )
            grouping[GOEMOTIONS.index(part), column] = 1.0
    return np.asarray(probabilities @ grouping, dtype=np.float32)
