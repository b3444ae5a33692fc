"""Training the perceivers from a folder of GoEmotions (Demszky et al. 2020, arXiv 2005.00547; CC BY 4.0).

Two disjoint halves of the training comments, told apart by a checksum of the comment's id, so that the split depends
on nothing else. Of all n-grams of a half only the 20,000 that say most about some label are kept (chi-squared, scaled
within each label so that the rare ones keep theirs): smaller files, and a better development score than with all.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.feature_selection import chi2
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from emodistill.emotions.perceiver import FEATURES, GOEMOTIONS, FloatArray, Perceiver
from emodistill.errors import UserError

Flags = npt.NDArray[np.bool_]
HALVES = {"counterparty": ("words", 0, 2), "judge": ("characters", 1, 3)}  # features, half, least documents a term
MAX_FEATURES = 20_000
INVERSE_REGULARISATION = 1.0
FOLDS = 3
_LABEL_IDS = {str(i): i for i in range(len(GOEMOTIONS))}


@dataclass(frozen=True)
class Comments:
    """Labelled comments; `labels` is (N, 28), several labels may hold for one comment."""

    texts: tuple[str, ...]
    labels: Flags
    ids: tuple[str, ...]

    def half(self, which: int) -> "Comments":
        """Half 0 or half 1, by a checksum of the id."""
        return self.take([i for i, name in enumerate(self.ids) if zlib.crc32(name.encode()) % 2 == which])

    def take(self, rows: Sequence[int]) -> "Comments":
        return Comments(tuple(self.texts[i] for i in rows), self.labels[list(rows)], tuple(self.ids[i] for i in rows))


def read_goemotions(path: Path) -> Comments:
    """Read `train.tsv` or `dev.tsv` as GoEmotions publishes them: text, label ids, comment id.

    Raises:
        UserError: if the file is missing or a line of it is of another form.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist; give the folder with GoEmotions' train.tsv and dev.tsv")
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").rstrip("\n").split("\n")]
    labels = np.zeros((len(rows), len(GOEMOTIONS)), dtype=np.bool_)
    for number, row in enumerate(rows, start=1):
        try:
            _, ids, _ = row
            labels[number - 1, [_LABEL_IDS[label] for label in ids.split(",")]] = True
        except (ValueError, KeyError) as error:
            raise UserError(f"{path}, line {number}: not 'text, tab, label ids 0 to 27, tab, comment id'") from error
    return Comments(tuple(row[0] for row in rows), labels, tuple(row[2] for row in rows))


def train(name: str, comments: Comments, max_features: int = MAX_FEATURES) -> Perceiver:
    """Fit the perceiver `counterparty` or `judge` on its half of the comments; deterministic."""
    features, which, least = HALVES[name]
    half = comments.half(which)
    terms = _telling_terms(features, half, least, max_features)
    reader = vectoriser(features, vocabulary={term: i for i, term in enumerate(terms)})
    counts = reader.fit_transform(half.texts)
    weights, bias = _fit(counts, half.labels)
    about = {"half": which, "comments": len(half.texts), "source": "GoEmotions train, Google, CC BY 4.0"}
    idf = np.asarray(reader.idf_, dtype=np.float32)
    return Perceiver(
        name, features, terms, idf, _half_precision(weights), bias, _thresholds(counts, half.labels), about
    )


def dev_scores(perceiver: Perceiver, comments: Comments) -> dict[str, float]:
    """How well a perceiver reads comments it has not seen.

    Returns:
        `macro_f1`: mean F1 over the 28 labels of `detects`; `top1_macro_f1`: the same when the one label of the largest
        share counts as detected; `top1`: how often that label is one of the comment's; `balanced_top1`: the same,
        averaged over labels, on comments with one label.
    """
    first = perceiver.probabilities(comments.texts).argmax(axis=1)
    one = np.eye(len(GOEMOTIONS), dtype=np.bool_)[first]
    hits = (one & comments.labels).any(axis=1)
    single = comments.labels.sum(axis=1) == 1
    by_label = [hits[single & comments.labels[:, k]] for k in range(len(GOEMOTIONS))]
    scores = {
        "macro_f1": f1_score(comments.labels, perceiver.detects(comments.texts), average="macro", zero_division=0.0),
        "top1_macro_f1": f1_score(comments.labels, one, average="macro", zero_division=0.0),
        "top1": hits.mean(),
        "balanced_top1": np.mean([rows.mean() for rows in by_label if len(rows)]),
    }
    return {key: round(float(value), 4) for key, value in scores.items()}


def vectoriser(features: str, **more: Any) -> TfidfVectorizer:
    """The TF-IDF vectoriser of one kind of features: `words` or `characters`."""
    return TfidfVectorizer(analyzer=FEATURES[features], sublinear_tf=True, dtype=np.float32, **more)


def _telling_terms(features: str, half: Comments, least: int, count: int) -> tuple[str, ...]:
    reader = vectoriser(features, min_df=least)
    counts = reader.fit_transform(half.texts)
    best = np.zeros(counts.shape[1])
    for label in half.labels.T:
        if label.any():
            scores = np.nan_to_num(chi2(counts, label)[0])
            best = np.maximum(best, scores / np.sort(scores)[-2000:].mean())
    kept = np.sort(np.argsort(-best, kind="stable")[:count])
    return tuple(reader.get_feature_names_out()[kept])


def _fit(counts: csr_matrix, labels: Flags) -> tuple[FloatArray, FloatArray]:
    weights = np.zeros((counts.shape[1], len(GOEMOTIONS)), dtype=np.float32)
    bias = np.full(len(GOEMOTIONS), -30.0, dtype=np.float32)  # a label that no comment has is never seen
    for k, label in enumerate(labels.T):
        if label.any():
            model: Any = LogisticRegression(
                C=INVERSE_REGULARISATION, solver="liblinear", class_weight="balanced", random_state=0
            ).fit(counts, label)
            weights[:, k], bias[k] = model.coef_[0], model.intercept_[0]
    return weights, bias


def _half_precision(weights: FloatArray) -> FloatArray:
    """Rounded as they are stored, so that a trained perceiver and the same one loaded agree to the bit."""
    return weights.astype(np.float16).astype(np.float32)


def _thresholds(counts: csr_matrix, labels: Flags) -> FloatArray:
    """For each label the logit above which its F1 is best, on folds that the fit has not seen."""
    fold = np.arange(len(labels)) % FOLDS
    logits = np.zeros(labels.shape, dtype=np.float32)
    for held_out in range(FOLDS):
        weights, bias = _fit(counts[fold != held_out], labels[fold != held_out])
        logits[fold == held_out] = counts[fold == held_out] @ weights + bias
    grid = np.linspace(-2.0, 3.0, 51, dtype=np.float32)
    scores = [
        [f1_score(labels[:, k], logits[:, k] > t, zero_division=0.0) for t in grid] for k in range(len(GOEMOTIONS))
    ]
    return np.asarray(grid[np.argmax(scores, axis=1)], dtype=np.float32)
