"""Does a reply make sense? The part of the rubric judge that arithmetic over keywords cannot give.

    sense = min over four signs of min(1, exp(sign))

A sign is 0 or more where all is well, and the score falls by a factor of e with each unit below 0.

- *fluent*: the log-probability of the words' tokens under a frozen language model, without any context: their mean, and
  the tenth percentile. Both are on the model's own scale: 0 is what it gives to good examples with their words shuffled
  (mean) or to the examples as they are (percentile), and the distance of the two means is 1. Against them counts
  the rarity of the words (mean logarithm of a token's place in the vocabulary, which byte pairs order by frequency;
  0 is that of the examples). A heap of keywords is unlikely; grammatical nonsense is so too, and made of rare words.
- *relevant*: the share of words that the case or the dialogue explain against those that nothing explains, the rarity,
  and how much likelier the model finds the reply once it has read what is bargained over and what was said last (the
  mean over the tokens that gain most, in nats). That is a second pass of the model, made only for replies whose words
  alone leave a doubt.
- *unrepeated*: word pairs that the reply says again.
- *own*: the share of word 4-grams that one earlier turn of either side had already.

The model sees each reply by itself, but its last digits differ with the rest of the batch. So a sense next to a
rounding boundary is measured again by itself, and no score depends on its batch. docs/judges.md has the constants,
where they come from and what the signs catch.
"""

import hashlib
import json
import logging
import math
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache, cached_property
from typing import Any, NamedTuple, get_args

import numpy as np
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from emodistill.checks import is_number
from emodistill.errors import UserError
from emodistill.judges.examples import example_domains, examples
from emodistill.judges.request import JudgeRequest, settled
from emodistill.judges.rubric import grams, words
from emodistill.language_models.likelihood import Values, token_logprobs
from emodistill.language_models.local import device_of, fingerprint, load_tokenizer, shared_model
from emodistill.negotiation.agents import DialogueAct
from emodistill.negotiation.domains import Domain, domain_names, load_domain
from emodistill.negotiation.phrasebook import bundled
from emodistill.negotiation.protocol import FOCAL

logger = logging.getLogger(__name__)

LOGIC = 2  # raise it when what a sign is made of changes: part of the judge's version
DIGITS = 2  # of a sense, after the point
NOISE = 0.001  # upper bound of what the batch changes in a sense; docs/judges.md has what was measured
LOW = 0.1  # of a reply's tokens, the quantile that stands for its worst
LONGEST = 256  # tokens of a reply that the model reads
FIRST_PLACES = 20  # tokens this far up in the vocabulary are about equally common
GAINING = 8  # tokens of a reply that gain most by the context
_GOOD, _ANCHORS = 7, 4  # examples of at least this score set the model's scale, so many a domain
_LEAST_SPREAD = 0.5  # nats per token that shuffling must cost, or the model does not know English
_SLOT = re.compile(r"\{.*?\}")
_ENDINGS = ("ing", "ed", "es", "s", "ly", "e", "y")
_UNITS = ("day", "days", "minute", "minutes", "hour", "hours", "week", "weeks", "pm", "am", "o'clock")


@dataclass(frozen=True)
class Signs:
    """The constants of the four signs (configs/judge/member/rubric.yaml); docs/judges.md says how they were found.

    Attributes:
        fluent: the constant, then the weights of mean log-probability, tenth percentile and rarity.
        relevant: the constant, then the weights of gain, share of known words, share of foreign words and rarity.
        repeats: share of repeated word pairs that is free; beyond it the sign falls by `repeat_cost` times the share.
        copies: share of 4-grams of one earlier turn that is free; the same with `copy_cost`.
    """

    fluent: tuple[float, ...] = (30.0, 19.0, 38.5, -34.0)
    relevant: tuple[float, ...] = (-18.0, 15.0, 77.0, -13.0, -50.0)
    repeats: float = 0.15
    repeat_cost: float = 12.0
    copies: float = 0.6
    copy_cost: float = 6.0

    def __post_init__(self) -> None:
        for name, count in (("fluent", 4), ("relevant", 5)):
            given = getattr(self, name)
            if not isinstance(given, Sequence) or len(given) != count or not all(map(is_number, given)):
                raise UserError(f"sense: {name} takes {count} numbers, not {given}")
        shares, costs = (self.repeats, self.copies), (self.repeat_cost, self.copy_cost)
        if not all([*(is_number(one, 0, 1) for one in shares), *(is_number(one, 0) for one in costs)]):
            raise UserError("sense: repeats and copies must lie in [0, 1], their costs must be 0 or more")


class Statistics(NamedTuple):
    """Of a reply's tokens that are no numbers: mean and tenth percentile of log-probability, mean rarity."""

    mean: float
    low: float
    rarity: float


class Scale(NamedTuple):
    """A model's own scale: mean of shuffled and of plain examples, percentile and rarity of the plain ones."""

    shuffled: float
    plain: float
    plain_low: float
    plain_rarity: float

    def placed(self, found: Statistics) -> dict[str, float]:
        """Statistics on this scale; a reply of numbers alone is like shuffled words."""
        unit = self.plain - self.shuffled
        mean, low = max(found.mean, self.shuffled - 2 * unit), max(found.low, self.plain_low - 9 * unit)
        return {
            "mean": (mean - self.shuffled) / unit,
            "low": (low - self.plain_low) / unit,
            "rarity": found.rarity - self.plain_rarity,
        }


class Sense:
    """Says from 0 to 1 how much sense replies make.

    Args:
        model: a folder, a hub id, or `embedded`; frozen, and loaded once in a process.
        device: where it computes, see `language_models.local.device_of`; not part of the version.
        dtype: float32, or what `dtype_of` takes; in bfloat16 a score can depend on what else is in the batch.
        signs: the constants.

    Nothing is loaded before it is asked. Then a UserError says so where the model is not to be had, or cannot tell
    shuffled words from sentences.
    """

    def __init__(
        self, model: str = "embedded", device: str = "auto", dtype: str = "float32", signs: Signs | None = None
    ) -> None:
        self.model_name, self.device, self.dtype, self.signs = model, device_of(device), dtype, signs or Signs()
        self._loaded: Any = None
        self._scale: Scale | None = None
        self._numbers: dict[int, bool] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Sent to another process, it loads its model there."""
        return {**vars(self), "_loaded": None}

    @cached_property
    def version(self) -> str:
        """Twelve hex digits of all that decides the sense: model, constants, examples, word lists."""
        signs = [getattr(self.signs, one.name) for one in fields(self.signs)]
        shown = [[example.text for example in chosen] for chosen in _anchors().values()]
        which = self._of_model(fingerprint)
        rounding = [DIGITS, NOISE]
        recipe = [LOGIC, rounding, GAINING, LOW, which, self.dtype, signs, shown, sorted(generic_words())]
        return hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:12]

    @cached_property
    def _tokenizer(self) -> Any:
        return self._of_model(load_tokenizer)

    def _of_model(self, load: Callable[[str], Any]) -> Any:
        try:
            return load(self.model_name)
        except UserError as error:
            way_out = "the rubric judge asks it for sense; judge.judge.sense=null judges without"
            raise UserError(f"{error} ({way_out})") from error

    def of(self, requests: Sequence[JudgeRequest]) -> list[float]:
        """The sense of each reply, 0 to 1 in hundredths, in order; 0 for one without words."""
        return settled(self._measured(requests), DIGITS, NOISE, lambda place: self._measured([requests[place]])[0])

    def _measured(self, requests: Sequence[JudgeRequest]) -> list[float]:
        return [
            min(1.0, math.exp(min(signs.values()))) if words(request.utterance) else 0.0
            for request, signs in zip(requests, self.signs_of(requests), strict=True)
        ]

    def signs_of(self, requests: Sequence[JudgeRequest]) -> list[dict[str, float]]:
        """The four signs of each reply; where the words leave no doubt of relevance, that one is without the gain."""
        weights = self.signs
        return [
            {
                "fluent": _weighted(weights.fluent, one["mean"], one["low"], one["rarity"]),
                "relevant": self._relevant(one),
                "unrepeated": weights.repeat_cost * min(0.0, weights.repeats - one["repeated"]),
                "own": weights.copy_cost * min(0.0, weights.copies - one["copied"]),
            }
            for one in self.features(requests)
        ]

    def features(self, requests: Sequence[JudgeRequest], all_gains: bool = False) -> list[dict[str, float]]:
        """What the signs are made of.

        Args:
            all_gains: measure the gain of every reply, not only where it can matter.
        """
        scale = self._model_scale()
        alone = self._read([(f"{_role(request.scenario.domain)}:", request.utterance) for request in requests])
        found = [
            lexical_features(request) | scale.placed(self._statistics(*read))
            for request, read in zip(requests, alone, strict=True)
        ]
        doubted = [place for place, one in enumerate(found) if all_gains or self._relevant(one) < 0]
        after = self._read([(_context(requests[place]), requests[place].utterance) for place in doubted])
        for place, (logprobs, _) in zip(doubted, after, strict=True):
            gains = np.sort(logprobs - alone[place][0])[-GAINING:]
            found[place]["gain"] = float(gains.mean()) if len(gains) else 0.0
        return found

    def _relevant(self, one: Mapping[str, float]) -> float:
        return _weighted(self.signs.relevant, one.get("gain", 0.0), one["known"], one["foreign"], one["rarity"])

    def _read(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[Values, list[int]]]:
        """Log-probability of every token of the texts after their contexts, and the tokens."""
        encoded = [[self._tokenizer.encode(part, add_special_tokens=False) for part in (a, f" {b}")] for a, b in pairs]
        cut = [(before, text[:LONGEST]) for before, text in encoded]
        return list(zip(token_logprobs(self._model(), cut), (text for _, text in cut), strict=True))

    def _statistics(self, logprobs: Values, ids: Sequence[int]) -> "Statistics":
        """Numbers take no part: how likely one is says nothing of sense."""
        chosen = [place for place, token in enumerate(ids) if not self._is_number(token)]
        if not chosen:
            return Statistics(-math.inf, -math.inf, 0.0)
        values, places = logprobs[chosen], np.log(np.asarray(ids)[chosen] + FIRST_PLACES)
        return Statistics(float(values.mean()), float(np.quantile(values, LOW)), float(places.mean()))

    def _is_number(self, token: int) -> bool:
        if token not in self._numbers:
            self._numbers[token] = self._tokenizer.decode([token]).strip().isdigit()
        return self._numbers[token]

    def _model_scale(self) -> "Scale":
        """What the model gives to examples as they are and with their words shuffled."""
        if self._scale is None:
            good = [(f"{_role(name)}:", one.text) for name, chosen in _anchors().items() for one in chosen]
            read = self._read([*good, *((before, _shuffled(text)) for before, text in good)])
            found = [self._statistics(*one) for one in read]
            plain, mixed = ((np.mean(part, axis=0)) for part in (found[: len(good)], found[len(good) :]))
            if plain[0] - mixed[0] < _LEAST_SPREAD:
                raise UserError(
                    f"model={self.model_name}: to it, shuffled words are as likely as sentences, so it cannot tell "
                    "sense; choose another model, or set judge.judge.sense=null to judge without"
                )
            self._scale = Scale(*(float(value) for value in (mixed[0], plain[0], plain[1], plain[2])))
        return self._scale

    def _model(self) -> Any:
        if self._loaded is None:
            self._loaded = shared_model(self.model_name, self.dtype, self.device, compact=True)
        return self._loaded


def _weighted(weights: Sequence[float], *values: float) -> float:
    return weights[0] + sum(weight * value for weight, value in zip(weights[1:], values, strict=True))


def _role(domain: str) -> str:
    return load_domain(domain).roles[FOCAL].capitalize()


def _context(request: JudgeRequest) -> str:
    """The quantity that is bargained over, the last words of both sides, and who speaks now."""
    rules = request.scenario.rules
    said = [f"{rules.roles[turn.speaker].capitalize()}: {turn.text}" for turn in request.history[-2:]]
    about = f"A {rules.roles['focal']} and a {rules.roles['counterparty']} negotiate the {rules.quantity}."
    return "\n".join([about, *said, f"{_role(rules.name)}:"])


@cache
def _anchors() -> dict[str, list[Any]]:
    return {name: [one for one in examples(name) if one.score >= _GOOD][:_ANCHORS] for name in example_domains()}


def _shuffled(text: str) -> str:
    tokens = text.split()
    random.Random(0).shuffle(tokens)
    return " ".join(tokens)


# What words alone say of relevance, repetition and copying.


def lexical_features(request: JudgeRequest) -> dict[str, float]:
    """Shares of known and of foreign words, of repeated word pairs, and of what one earlier turn said already."""
    said = words(request.utterance)
    distinct = {stem(word) for word in said} - function_words()
    dialogue = {stem(word) for turn in request.history for word in words(turn.text)}
    facts = {stem(word) for value in request.scenario.context.values() for word in words(value)}
    known = (domain_words(request.scenario.domain) | dialogue | facts) - generic_words()
    hits, foreign = len(distinct & known), len(distinct - known - generic_words())
    return {
        "known": hits / (hits + foreign + 1),
        "foreign": foreign / max(len(distinct), 1),
        "repeated": repeated(said),
        "copied": copied(request),
    }


def repeated(said: Sequence[str]) -> float:
    """Share of word pairs that occurred before in the same text, all numbers alike."""
    pairs = list(zip(said, said[1:], strict=False))
    return 1 - len(set(pairs)) / len(pairs) if pairs else 0.0


def copied(request: JudgeRequest) -> float:
    """Largest share of the reply's word 4-grams that one earlier turn has."""
    own = grams(request.utterance)
    earlier = [set(grams(turn.text)) for turn in request.history]
    return max((sum(gram in turn for gram in own) for turn in earlier), default=0) / max(len(own), 1)


def stem(word: str) -> str:
    """A word without its ending, so that `pay` and `paying` are one; crude, and the same for all sides."""
    word = word.split("'")[0]
    ending = next((one for one in _ENDINGS if word.endswith(one) and len(word) - len(one) >= 3), "")
    return word.removesuffix(ending)


@cache
def function_words() -> frozenset[str]:
    """Stems that say nothing about any case: function words, numbers, units."""
    return frozenset(stem(word) for word in (*ENGLISH_STOP_WORDS, *_UNITS, "0", "please"))


@cache
def generic_words() -> frozenset[str]:
    """Function words, and the words that the phrasebook says in every domain: those of feeling and of bargaining."""
    book, acts = bundled(), get_args(DialogueAct)
    by_domain = [
        {
            stem(word)
            for emotion in book.emotions
            for act in acts
            for line in (*book.lines(emotion, act, domain), *book.sentences(emotion, act, domain))
            for word in _words(line)
        }
        for domain in domain_names()
    ]
    return function_words() | frozenset(set.intersection(*by_domain))


@cache
def domain_words(domain: str) -> frozenset[str]:
    """Stems of all that the domain's file says of its cases."""
    return frozenset(stem(word) for text in _texts(_described(load_domain(domain))) for word in _words(text))


def _described(domain: Domain) -> list[Any]:
    labels = [field["label"] for field in domain.fields.values()]
    rubric = [domain.rubric.get(key, "") for key in ("text", "terms")]
    return [domain.slots, domain.prompt, domain.quantity, domain.roles, domain.generator, labels, rubric]


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, Mapping):
        for value in node.values():
            yield from _texts(value)
    elif isinstance(node, Sequence):
        for value in node:
            yield from _texts(value)


def _words(text: str) -> list[str]:
    return words(_SLOT.sub(" ", text))
