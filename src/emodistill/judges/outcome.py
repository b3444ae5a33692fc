"""A judge learnt from what followed: the expected effect of words in this state, estimated from a corpus.

    score = 1 + 9 * Phi(z) * sense
    z = (effect - mean effect of others here - doubt * error) / sqrt(spread of others here^2 + error^2)
        - doubt * 3 * unseen

The effect of a focal turn is how far the counterparty then moved towards the focal side, in position: from its standing
offer (0 before its first) to its next one; to the deal, where it accepts; to 0, the utility of no deal, where it walks
away. A ridge regression explains it, on the training split alone, by

    state s  round, gap, both positions, the moves so far, what is read in its last words and in the own ones, and what
             it did after own words in which each group of emotions was read;
    words w  the 28 shares that a perceiver reads in them, and what the rubric's arithmetic finds in them;
    s x w    every part of the state times each group of emotions.

The others here are what was said in the corpus when each emotion was read first, mean by mean, in the same state; the
effect of the state itself drops out of the difference. The error is the standard error of that difference. Nothing can
be learnt about what the corpus hardly varies, such as words without an offer. How far a reply departs from the corpus
in such numbers is `unseen`; one unit of it costs three standard deviations. This pessimism is that of Jin et al. 2021, https://arxiv.org/abs/2012.15085.

No simulation is asked, and the perceiver is not the counterparty's. docs/judges.md has what was measured.

Shapes: N requests, S = 36 numbers of the state, W = 38 of the words, G = 7 groups of emotions, E others,
F = W + G (1 + S) numbers that words have in a state.
"""

import hashlib
import io
import json
import logging
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr
from sklearn.linear_model import Ridge

from emodistill.checks import check_number
from emodistill.emotions.perceiver import GOEMOTIONS, Perceiver, as_vocabulary, normalise
from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.errors import UserError
from emodistill.files import atomic_write, cache_dir, updating
from emodistill.judges.request import (
    HIGHEST,
    LOWEST,
    Judgement,
    JudgeRequest,
    OnJudgement,
    announced,
    rubric_version,
)
from emodistill.judges.rubric import (
    SenseOfReplies,
    count_phrases,
    count_role_violations,
    freshness,
    length,
    offer_features,
)
from emodistill.negotiation.domains import domain_names, load_domain
from emodistill.negotiation.protocol import FOCAL, End, Turn
from emodistill.negotiation.scenarios import Scenario

logger = logging.getLogger(__name__)

Values = NDArray[np.float64]
LOGIC = 1  # raise it when what is fitted or scored in this file changes: part of the judge's version
GROUPS = load_vocabulary("ekman7")  # not the families of the simulation: whoever learns must not know those
GROUPING = as_vocabulary(np.eye(len(GOEMOTIONS), dtype=np.float32), GROUPS).astype(np.float64)  # (28, G)
STRENGTH = 100.0  # of the ridge; 30 or 10,000 were the same on validation play
VARIED = 0.1  # standard deviation from which something can be learnt of what the rubric's arithmetic finds
UNSEEN = 3.0  # z that one unit of what hardly varies costs
BEYOND = 3.0  # a number of the state counts up to so many standard deviations: beyond what was seen, nothing is guessed
FEWEST = 5  # turns in which an emotion is read first, for it to be among the others
STILL = 0.01  # a move smaller than this, in position, is standing still
_FIRST = 0.5  # added to the turns seen of a group of emotions, so that a single one counts for less
_AT_ONCE = 1024
_REMEMBERED = 100_000  # texts


class Played(Protocol):
    """The parts of an episode that are learnt from; see `data.schema.Episode`."""

    @property
    def scenario(self) -> Scenario: ...
    @property
    def split(self) -> str: ...
    @property
    def turns(self) -> tuple[Turn, ...]: ...
    @property
    def end(self) -> End: ...
    @property
    def deal_value(self) -> float | None: ...


class Corpus(Protocol):
    """Where the episodes come from; see `data.corpus`."""

    def build(self) -> Path: ...
    def episodes(self) -> Sequence[Played]: ...


@dataclass(frozen=True)
class Fit:
    """The regression, as plain arrays.

    Attributes:
        state: (2, S) mean and standard deviation of the state.
        scale: (F,) what the numbers of words in a state are divided by; infinite for what hardly varies.
        effects: (F,) position gained by one unit of each of them.
        errors: (F, F) the covariance of `effects`.
        others: (E, W) the words to compare with.
        known: share of the variance of effects that the regression explains on the turns it was fitted on, and those.
    """

    state: Values
    scale: Values
    effects: Values
    errors: Values
    others: Values
    known: Values

    @cached_property
    def version(self) -> str:
        """Twelve hex digits of all arrays."""
        digest = hashlib.sha256()
        for name in self.__dataclass_fields__:
            digest.update(getattr(self, name).tobytes())
        return digest.hexdigest()[:12]

    def save(self, path: Path) -> None:
        """Write one .npz of plain arrays, whole or not at all."""
        content = io.BytesIO()
        np.savez_compressed(content, **{name: getattr(self, name) for name in self.__dataclass_fields__})
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, content.getvalue())

    @classmethod
    def read(cls, path: Path) -> "Fit":
        """The inverse of `save`.

        Raises:
            UserError: if the file is missing or no fit.
        """
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
                return cls(**{name: arrays[name] for name in cls.__dataclass_fields__})
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"{path} is no fit of judge=outcome; delete it to have it made again") from error


class OutcomeJudge:
    """Scores by what such words have brought in such a state; see the formulas above.

    Args:
        perceiver: reads the emotion in the words of both sides; not the counterparty's.
        corpus: whose training split is learnt from; built if it is not there yet. The fit is kept in the cache.
        fit: the file of a fit that was made before, in place of a corpus.
        doubt: standard errors that are taken off.
        sense: says from 0 to 1 whether a reply makes sense; None leaves that factor out.

    Raises:
        UserError: if there is neither corpus nor fit, or doubt is negative.
    """

    name = "outcome"

    def __init__(
        self,
        perceiver: Perceiver,
        corpus: Corpus | None = None,
        fit: str | Path | None = None,
        doubt: float = 1.0,
        sense: SenseOfReplies | None = None,
    ) -> None:
        if corpus is None and fit is None:
            raise UserError(
                "judge=outcome learns from a corpus, and there is none; give data=..., or the file of a fit (--fit)"
            )
        check_number("judge=outcome: doubt", doubt, 0)
        self.reader, self.corpus, self.given = Reader(perceiver), corpus, fit
        self.doubt, self.sense = doubt, sense

    @cached_property
    def version(self) -> str:
        """Twelve hex digits of all that decides a score, the fit included."""
        recipe = [self.recipe, self.fit.version, self.doubt, None if self.sense is None else self.sense.version]
        return hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:12]

    @cached_property
    def recipe(self) -> str:
        """Twelve hex digits of all that decides a fit beside the corpus."""
        rubrics = [rubric_version(load_domain(name)) for name in domain_names()]
        content = json.dumps([LOGIC, self.reader.perceiver.version, rubrics, GROUPS.perceived_as])
        return hashlib.sha256(content.encode()).hexdigest()[:12]

    @cached_property
    def fit(self) -> Fit:
        """What is known of the effects of words."""
        found = Fit.read(self.file)
        share, turns = found.known
        logger.info("judge=outcome: %d turns, %.0f %% of what followed explained; %s", turns, 100 * share, self.file)
        return found

    @cached_property
    def file(self) -> Path:
        """Where the fit is: as it was given, or that of the corpus in the cache, which is made now if it is not there.

        Raises:
            UserError: if the corpus is not there, or too small.
        """
        if self.corpus is None:
            return Path(str(self.given))
        digest = hashlib.sha256(self.corpus.build().read_bytes()).hexdigest()[:12]
        path = cache_dir() / "outcome" / f"{digest}-{self.recipe}.npz"
        with updating(path):  # one of several processes that start together fits it, and the others read it
            if not path.is_file():
                fitted(self.corpus.episodes(), self.reader).save(path)
        return path

    def judge(self, requests: Sequence[JudgeRequest], on_judgement: OnJudgement | None = None) -> list[Judgement]:
        """One score per request, in order, rounded to hundredths (so that batching cannot change it)."""
        judgements: list[Judgement] = []
        for start in range(0, len(requests), _AT_ONCE):
            batch = requests[start : start + _AT_ONCE]
            shares = ndtr(self.advantages(batch)) * (1.0 if self.sense is None else np.array(self.sense.of(batch)))
            judged = [
                Judgement(round(LOWEST + (HIGHEST - LOWEST) * share, 2), parts={"effect": round(share, 4)})
                for share in shares.tolist()
            ]
            judgements += announced(judged, on_judgement, start)
        return judgements

    def advantages(self, requests: Sequence[JudgeRequest]) -> Values:
        """(N,) z of the formula above."""
        fit = self.fit
        states, words = described(requests, self.reader)
        usual = fit.others.mean(0)
        beyond = in_state(states, words, fit.state) - in_state(states, np.tile(usual, (len(words), 1)), fit.state)
        beyond /= fit.scale
        error = np.sqrt(np.einsum("nf,fg,ng->n", beyond, fit.errors, beyond, optimize=True))
        weights = fit.effects / fit.scale
        of_words, of_groups = weights[: len(usual)], weights[len(usual) :].reshape(GROUPING.shape[1], -1)
        apart = fit.others - usual
        here = apart @ of_words + standardised(states, fit.state) @ of_groups.T @ groups_of(apart).T  # (N, E)
        unseen = np.abs(words - usual) @ np.isinf(fit.scale[: len(usual)])
        gained = (beyond @ fit.effects - self.doubt * error) / np.sqrt(here.var(axis=1) + error**2)
        result: Values = gained - self.doubt * UNSEEN * unseen
        return result


class Reader:
    """The 28 shares that a perceiver reads in texts, each read once; rounded, so that no batch can change them."""

    def __init__(self, perceiver: Perceiver) -> None:
        self.perceiver = perceiver
        self._known: dict[str, Values] = {}

    def __call__(self, texts: Sequence[str]) -> Values:
        """(N, 28)"""
        keys = [normalise(text) for text in texts]
        if len(self._known) > _REMEMBERED:
            self._known.clear()
        new = [key for key in dict.fromkeys(keys) if key not in self._known]
        for start in range(0, len(new), _AT_ONCE):
            batch = new[start : start + _AT_ONCE]
            shares = np.round(self.perceiver.probabilities(batch).astype(np.float64), 4)
            self._known.update(zip(batch, shares, strict=True))
        return np.array([self._known[key] for key in keys]).reshape(-1, len(GOEMOTIONS))


def fitted(episodes: Sequence[Played], reader: Reader) -> Fit:
    """The regression on the answered focal turns of the training split.

    Raises:
        UserError: if there are too few of them to compare one emotion with another.
    """
    requests, effects = answered(episodes)
    if not requests:
        raise UserError("judge=outcome: the corpus has no answered focal turn in its training split; give another one")
    states, words = described(requests, reader)
    first = words[:, : len(GOEMOTIONS)].argmax(1)
    members = [first == label for label in range(len(GOEMOTIONS)) if (first == label).sum() >= FEWEST]
    if len(members) < 2:
        raise UserError(
            f"judge=outcome: fewer than two emotions are read first in {FEWEST} of the corpus's {len(requests)} "
            "turns, so there is nothing to compare; give a larger corpus"
        )
    state = np.stack([states.mean(0), np.maximum(states.std(0), STILL)])
    said = in_state(states, words, state)
    scale, style = np.maximum(said.std(0), STILL), slice(len(GOEMOTIONS), words.shape[1])
    scale[style] = np.where(said[:, style].std(0) < VARIED, np.inf, scale[style])
    explaining = np.concatenate([standardised(states, state)[:, 1:], (said - said.mean(0)) / scale], axis=1)
    model = Ridge(alpha=STRENGTH, fit_intercept=False, solver="cholesky").fit(explaining, effects - effects.mean())
    left = effects - effects.mean() - explaining @ model.coef_
    precision = explaining.T @ explaining + STRENGTH * np.eye(explaining.shape[1])
    covariance = np.linalg.inv(precision) * left.var()
    known = np.array([1 - left.var() / max(effects.var(), np.finfo(float).tiny), len(effects)])
    others = np.stack([words[rows].mean(0) for rows in members])
    of_words = slice(states.shape[1], None)
    return Fit(state, scale, model.coef_[of_words], covariance[of_words, of_words], others, known)


def answered(episodes: Sequence[Played]) -> tuple[list[JudgeRequest], Values]:
    """The focal turns of the training split that were answered, and their effects, (N,)."""
    requests, effects = [], []
    for episode in episodes:
        if episode.split != "train" or episode.end == "invalid":
            continue
        for place, turn in enumerate(episode.turns[:-1]):
            if turn.speaker == FOCAL and episode.turns[place + 1].speaker != FOCAL:
                requests.append(JudgeRequest(episode.scenario, episode.turns[:place], turn.emotion, turn.text))
                effects.append(effect(episode, place + 1))
    return requests, np.array(effects)


def effect(episode: Played, place: int) -> float:
    """Position that the counterparty's turn at `place` gives beyond its standing offer."""
    answer, position = episode.turns[place], episode.scenario.position
    stated = [t.offer for t in episode.turns[:place] if t.speaker != FOCAL and t.offer is not None]
    before = position(stated[-1]) if stated else 0.0
    if place + 1 == len(episode.turns) and episode.end in ("deal", "walk_away"):
        return episode.scenario.utility(episode.deal_value) - before
    return 0.0 if answer.offer is None else position(answer.offer) - before


def described(requests: Sequence[JudgeRequest], reader: Reader) -> tuple[Values, Values]:
    """(N, S) states and (N, W) words of requests, from the words on the table and the offers in them alone."""
    rows = list(_described(requests, reader))
    return np.array([state for state, _ in rows]), np.array([words for _, words in rows])


def _described(requests: Sequence[JudgeRequest], reader: Reader) -> Iterator[tuple[Values, Values]]:
    for start in range(0, len(requests), _AT_ONCE):
        batch = requests[start : start + _AT_ONCE]
        texts = [text for one in batch for text in (*(turn.text for turn in one.history), one.utterance)]
        shares, place = reader(texts), 0
        for request in batch:
            now = place + len(request.history)
            state = state_of(request, groups_of(shares[place:now]))
            yield state, np.array([*shares[now], *style_of(request)])
            place = now + 1


def state_of(request: JudgeRequest, read: Values) -> Values:
    """(S,) the state before an utterance.

    Args:
        read: (turns, G) what is read in the history.
    """
    theirs, own, opened, moves = 0.0, 1.0, False, list[float]()
    heard, last, earlier, gained, seen = np.zeros((5, GROUPING.shape[1]))
    for turn, groups in zip(request.history, read, strict=True):
        position = None if turn.offer is None else request.scenario.position(turn.offer)
        if turn.speaker == FOCAL:
            own = own if position is None else position
            earlier, last = earlier + last, groups
            continue
        heard, move = groups, 0.0 if position is None else position - theirs
        theirs += move
        if opened:
            gained, seen = gained + last * (move - _mean(moves)), seen + last
            moves.append(move)
        opened = opened or position is not None
    stood = next((i for i, move in enumerate(reversed(moves)) if abs(move) >= STILL), len(moves))
    played = request.history[-1].round if request.history else 0
    numbers = [played, own - theirs, theirs, own, opened, moves[-1] if moves else 0.0, stood, _mean(moves)]
    return np.array([*numbers, *heard, *last, *earlier, *(gained / (seen + _FIRST))], dtype=np.float64)


def _mean(moves: Sequence[float]) -> float:
    return sum(moves) / len(moves) if moves else 0.0


def style_of(request: JudgeRequest) -> list[float]:
    """What the rubric's arithmetic finds in the words, but for the emotion and for whom the number favours.

    A corpus played to a schedule never varies the number, so that its effect cannot be learnt from it.
    """
    text, rubric, offer = request.utterance, request.scenario.rules.rubric, offer_features(request)
    return [
        float(offer.position is None),
        1 - offer.firmness,
        offer.surrender,
        float(offer.asks),
        float(offer.on_topic),
        1 - length(text),
        1 - freshness(text, [turn.text for turn in request.history]),
        float(count_phrases(text, rubric.get("empty_threats", ()))),
        float(count_phrases(text, rubric.get("capitulation", ()))),
        float(count_role_violations(text, request.scenario.rules, GOEMOTIONS)),
    ]


def groups_of(words: Values) -> Values:
    """(..., G) of words or shares, whose first 28 numbers are the shares."""
    result: Values = words[..., : len(GOEMOTIONS)] @ GROUPING
    return result


def standardised(states: Values, state: Values) -> Values:
    """(N, 1 + S): a 1, and the states in standard deviations from their mean."""
    numbers = np.clip((states - state[0]) / state[1], -BEYOND, BEYOND)
    return np.concatenate([np.ones((len(states), 1)), numbers], axis=1)


def in_state(states: Values, words: Values, state: Values) -> Values:
    """(N, F): the words, and each group of emotions in them times 1 and times every number of the state."""
    crossed = groups_of(words)[:, :, None] * standardised(states, state)[:, None, :]
    return np.concatenate([words, crossed.reshape(len(words), -1)], axis=1)
