"""A language model on this machine as the judge: scored examples, then the expected score over the digit tokens.

A small model does not follow a rubric, but it does continue a list. So the rubric stands on top, the domain's examples
follow, each with its score, and then comes the utterance with its score left open. A score is one digit, 1 to 9, so
that one distribution over the next token says all: nothing is sampled and nothing is parsed, the score is the mean of
that distribution. What was said before the utterance is not shown: that costs the embedded model more than it gives
(docs/judges.md).

A small model uses a narrow part of the scale, and another one in each domain. So its scale is set once per domain by
anchors, utterances of other domains whose scores are known: what it gives to the low ones becomes 2.5, what it gives to
the high ones 8.5, with a logistic curve through both, so that nothing is cut off at the ends. A model that cannot tell
the two apart is refused.

Rubric and examples go through the model once per domain; their attention cache serves every judgement.
"""

import hashlib
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from emodistill.checks import check_whole
from emodistill.errors import UserError
from emodistill.judges.examples import Example, example_domains, examples
from emodistill.judges.injection_filter import FILTER_LOGIC, LONGEST, capped, sanitize, says_nothing
from emodistill.judges.request import HIGHEST, LOWEST, Judgement, JudgeRequest, OnJudgement, announced, settled
from emodistill.language_models.local import device_of, fingerprint, load_tokenizer, shared_model
from emodistill.language_models.prefix_scoring import Prefix, next_logits, read_prefix
from emodistill.negotiation.domains import Domain, domain_names, load_domain
from emodistill.negotiation.protocol import FOCAL

logger = logging.getLogger(__name__)

LOGIC = 2  # raise it when what a model is shown changes: part of the judge's version
NOISE = 0.005  # upper bound of what the batch changes in a score, in float32
DIGITS = "123456789"
_EDGE = 1.5  # low anchors come to lie this much above the lowest score on average, high ones below the highest
_LEAST_PAIRS = 0.75  # share of pairs of a high and a low anchor that a model must put in order
Values = NDArray[np.float64]


class LocalModelJudge:
    """Scores by a local causal language model; see docs/judges.md for what the embedded one is worth.

    Args:
        model: a folder, a hub id, or `embedded`.
        dtype: with bfloat16 a score depends by up to 2.5 points on what else is in the batch; with float32 it does not.
        num_examples: scored examples of the domain that it sees, 1 to 24.
        scaled: set its scale by anchors; without, the digits 1 to 9 are stretched to 1 to 10.
        defended: sanitize, screen and cap what speakers said (docs/judges.md). Off only to measure what it does.
        device: where it computes, see `device_of`; not part of its version, as in float32 no score depends on it.

    Raises:
        UserError: if the model is not to be had, has no token for each digit, or a setting has no meaning.
    """

    name = "local"

    @property
    def by_itself(self) -> str | None:
        """See `Judge`; in bfloat16 a score hangs on the batch."""
        return "model" if self.dtype == "float32" else None

    def __getstate__(self) -> dict[str, Any]:
        """Sent to another process, it loads its model there."""
        return {**vars(self), "_loaded": None, "_prefixes": {}}

    def __init__(
        self,
        model: str = "embedded",
        dtype: str = "float32",
        batch_size: int = 16,
        num_examples: int = 24,
        scaled: bool = True,
        defended: bool = True,
        device: str = "auto",
    ) -> None:
        check_whole("judge: batch_size", batch_size)
        check_whole("judge: num_examples", num_examples)
        self.model_name, self.dtype, self.batch_size, self.device = model, dtype, batch_size, device_of(device)
        self.num_examples, self.scaled, self.defended = num_examples, scaled, defended
        self._tokenizer, self._loaded = load_tokenizer(model), None
        self._cue, self._digits = cue_and_digits(self._tokenizer, model)
        self._prefixes: dict[tuple[str, bool], Prefix] = {}
        self._scales: dict[tuple[str, bool], tuple[float, float]] = {}
        of_domains = [examples(name) for name in domain_names()]
        texts = [repr(of_domains)] if scaled else [repr(listed[:num_examples]) for listed in of_domains]
        recipe = [LOGIC, NOISE, FILTER_LOGIC, LONGEST, texts, dtype, num_examples, scaled, defended]
        self.version = f"{fingerprint(model)} {hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:12]}"

    def judge(self, requests: Sequence[JudgeRequest], on_judgement: OnJudgement | None = None) -> list[Judgement]:
        """One score per request, in order, in tenths that no batch changes (in float32)."""
        judged: dict[int, Judgement] = {}
        for place, request in enumerate(requests):
            if self.defended and says_nothing(request.utterance):
                judged[place] = announced([Judgement(LOWEST)], on_judgement, place)[0]
        for batch in self._batches(requests, [place for place in range(len(requests)) if place not in judged]):
            scores = self._scores([requests[place] for place in batch])
            for place, score in zip(batch, scores, strict=True):
                judged[place] = announced([Judgement(score)], on_judgement, place)[0]
        return [judged[place] for place in range(len(requests))]

    def expected_digits(self, requests: Sequence[JudgeRequest]) -> Values:
        """(N,) means of the distribution over the digits 1 to 9.

        Args:
            requests: of one domain, all with an emotion or all without.
        """
        first = requests[0]
        prefix = self._prefix(first.scenario.domain, first.emotion is not None)
        texts = [case(request, self._cue, self.defended) for request in requests]
        ids = [self._tokenizer.encode(text, add_special_tokens=False) for text in texts]
        shares = next_logits(self._model(), prefix, ids, self._digits).softmax(dim=1)
        values: Values = (shares.double() @ torch.arange(1.0, 10.0, dtype=torch.float64)).numpy()
        return values

    def _batches(self, requests: Sequence[JudgeRequest], places: list[int]) -> list[list[int]]:
        """Indices of requests with one prefix and similar lengths; a function of the requests alone."""
        groups: dict[tuple[str, bool], list[int]] = {}
        for place in places:
            request = requests[place]
            groups.setdefault((request.scenario.domain, request.emotion is not None), []).append(place)
        batches = []
        for members in groups.values():
            members.sort(key=lambda place: len(requests[place].utterance))
            batches += [members[i : i + self.batch_size] for i in range(0, len(members), self.batch_size)]
        return batches

    def _scores(self, requests: Sequence[JudgeRequest]) -> list[float]:
        raw = self._raw_scores(requests)
        scores = settled(raw, 1, NOISE, lambda place: self._raw_scores([requests[place]])[0])
        if self.defended:
            scores = [capped(request.utterance, score) for request, score in zip(requests, scores, strict=True)]
        return scores

    def _raw_scores(self, requests: Sequence[JudgeRequest]) -> list[float]:
        values, span = self.expected_digits(requests), HIGHEST - LOWEST
        if self.scaled:
            low, high = self._scale(requests[0])
            steepness = 2 * math.log(span / _EDGE - 1)
            curve = 1 / (1 + np.exp(-steepness * ((values - low) / (high - low) - 0.5)))
        else:
            curve = (values - 1) / (len(DIGITS) - 1)
        return [LOWEST + span * float(share) for share in curve]

    def _scale(self, request: JudgeRequest) -> tuple[float, float]:
        """The mean expected digit of the low and of the high anchors in the request's domain.

        Anchors are shown with an emotion if the request has one, and without if it has none.
        """
        domain, shown = request.scenario.domain, request.emotion is not None
        if (domain, shown) not in self._scales:
            known = anchors(domain, self.num_examples)
            asked = [
                replace(request, emotion=anchor.emotion if shown else None, utterance=anchor.text)
                for _, anchor in known
            ]
            values = np.concatenate(
                [self.expected_digits(asked[i : i + self.batch_size]) for i in range(0, len(asked), self.batch_size)]
            )
            scores = np.array([anchor.score for _, anchor in known])
            high, low = values[scores >= 8], values[scores <= 2]
            ordered = float((high[:, None] > low).mean())
            if ordered < _LEAST_PAIRS:
                raise UserError(
                    f"model={self.model_name}: in {domain} it scores a good example above a bad one in {ordered:.0%} "
                    "of the pairs, so it cannot judge; choose another model, or set scaled=false to use its scores"
                )
            logger.info("%s tells good from bad in %s in %.0f %% of the pairs", self.model_name, domain, 100 * ordered)
            self._scales[domain, shown] = float(low.mean()), float(high.mean())
        return self._scales[domain, shown]

    def _prefix(self, domain: str, with_emotion: bool) -> Prefix:
        if (domain, with_emotion) not in self._prefixes:
            text = prefix(load_domain(domain), self._cue, with_emotion, self.num_examples)
            self._prefixes[domain, with_emotion] = read_prefix(self._model(), self._tokenizer.encode(text))
        return self._prefixes[domain, with_emotion]

    def _model(self) -> Any:
        if self._loaded is None:
            self._loaded = shared_model(self.model_name, self.dtype, self.device)
        return self._loaded


_CUES = ("Score: ", "Score:")


def cue_and_digits(tokenizer: Any, model: str) -> tuple[str, list[int]]:
    """The words after which every digit is one token, and those nine tokens.

    Raises:
        UserError: if the tokenizer does not read digits one by one.
    """
    for cue in _CUES:
        before = tokenizer.encode(cue, add_special_tokens=False)
        after = [tokenizer.encode(cue + digit, add_special_tokens=False) for digit in DIGITS]
        tokens = {ids[-1] for ids in after}
        if all(ids[:-1] == before for ids in after) and len(tokens) == len(DIGITS):
            return cue, [ids[-1] for ids in after]
    raise UserError(
        f"model={model}: its tokenizer has no token of its own for each digit, so it gives no scores; choose another"
    )


def prefix(domain: Domain, cue: str, with_emotion: bool, num_examples: int) -> str:
    """The rubric and the scored examples of a domain."""
    head = f"{domain.rubric.get('text', '')}\n\nUtterances of a {domain.roles[FOCAL]} in a negotiation, scored "
    listed = [
        f"{_entry(domain, example.text, example.emotion if with_emotion else None)}{cue}{example.score}\n\n"
        for example in examples(domain.name)[:num_examples]
    ]
    return f"{head}from 1 (bad) to 9 (excellent).\n\n{''.join(listed)}"


def case(request: JudgeRequest, cue: str, defended: bool) -> str:
    """The utterance to judge, with its score left open."""
    text = sanitize(request.utterance) if defended else request.utterance[: 2 * LONGEST]
    if defended:
        text = text.replace('"', "'")  # it stands in these
    return _entry(request.scenario.rules, text, request.emotion) + cue


def anchors(domain: str, num_examples: int) -> list[tuple[str, Example]]:
    """(domain, example) of other domains that are not among the examples shown: they set a model's scale."""
    mine = {example.text for example in examples(domain)[:num_examples]}
    others = [(name, example) for name in example_domains() if name != domain for example in examples(name)]
    return [pair for pair in others if pair[1].text not in mine][::3]


def _entry(domain: Domain, text: str, emotion: str | None) -> str:
    asked = "" if emotion is None else f", to show {emotion}"
    return f'{domain.roles[FOCAL].capitalize()}{asked}: "{text}"\n'
