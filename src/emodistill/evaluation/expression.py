"""How well a policy expresses itself: what it says in fixed contexts, and what can be measured of that.

The same contexts serve every policy, so base model, SFT and JPO are compared on equal terms.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from emodistill.data.chats import ChatContext
from emodistill.emotions.perceiver import Perceiver
from emodistill.emotions.vocabulary import Vocabulary
from emodistill.evaluation.metrics import recognised
from emodistill.files import atomic_write
from emodistill.judges.request import Scorer
from emodistill.negotiation.offers import parse_offer
from emodistill.negotiation.prompts import Emotions, Named


class Sampler(Protocol):
    def refresh(self, policy: Any) -> None: ...

    def sample(self, contexts: list[list[int]], count: int, seed: int) -> list[list[list[int]]]: ...

    def text(self, reply: list[int]) -> str: ...


@dataclass(frozen=True)
class Spoken:
    """One reply in one context, as it came; `score` is None where the judge gave none."""

    context: ChatContext
    text: str
    score: float | None

    @property
    def taken(self) -> Named:
        """The emotion that it should show, asked for or named by itself, and its words."""
        return self.context.taken(self.text)


def speak(sampler: Sampler, contexts: Sequence[ChatContext], judge: Scorer, seed: int) -> list[Spoken]:
    """One judged reply in every context; one that has to name an emotion and names none is not judged."""
    return judged(contexts, replies_of(sampler, contexts, seed), judge)


def replies_of(sampler: Sampler, contexts: Sequence[ChatContext], seed: int) -> list[str]:
    """The words of one reply in every context."""
    replies = sampler.sample([context.input_ids for context in contexts], 1, seed)
    return [sampler.text(reply[0]) for reply in replies]


def judged(contexts: Sequence[ChatContext], texts: Sequence[str], judge: Scorer) -> list[Spoken]:
    """Replies with their scores; one that has to name an emotion and names none is not judged."""
    requests = [context.request(text) for context, text in zip(contexts, texts, strict=True)]
    given = iter(judge.scores([request for request in requests if request is not None]))
    scores = [None if request is None else next(given) for request in requests]
    return [Spoken(*row) for row in zip(contexts, texts, scores, strict=True)]


def expression_metrics(spoken: Sequence[Spoken], perceiver: Perceiver, vocabulary: Vocabulary) -> dict[str, float]:
    """Faithfulness (share named first by `perceiver`), share of stated offers, mean judge score, reply length (words).

    An offer counts as stated where the neutral parser reads the offer of the directive in the words. Scores that are
    missing are left out of their mean. A policy that names its emotions is faithful to those, and `named` is the share
    of its replies that name one; where no emotion is asked for or named, there is nothing to be faithful to (nan).
    """
    taken = [row.taken for row in spoken]
    faithful = recognised([(words, emotion) for emotion, words in taken], perceiver, vocabulary)
    asked = [row for row in spoken if row.context.offer is not None]
    stated = [parse_offer(row.taken.words, row.context.scenario.domain) == row.context.offer for row in asked]
    scores = [row.score for row in spoken if row.score is not None]
    naming = any(row.context.names is not None for row in spoken)
    named = {"named": mean([float(emotion is not None) for emotion, _ in taken])} if naming else {}
    return named | {
        "faithfulness": mean([float(yes) for yes in faithful]),
        "stated_offers": mean([float(yes) for yes in stated]),
        "judge_score": mean(scores),
        "words": mean([float(len(words.split())) for _, words in taken]),
    }


class ExpressionTest:
    """Measures generators one by one and keeps what was found, so that each is measured once.

    Args:
        contexts: of the validation split, written as a policy was trained to read them: with emotions
            prompted, none at all, or self-selected. A plain list is for policies that are prompted.
        folder: results go to `<folder>/<source>.json`, samples included.
    """

    def __init__(
        self,
        contexts: Sequence[ChatContext] | Callable[[Emotions], Sequence[ChatContext]],
        judge: Scorer,
        perceiver: Perceiver,
        vocabulary: Vocabulary,
        folder: Path,
    ) -> None:
        self.contexts = contexts if callable(contexts) else lambda emotions: contexts if emotions == "prompted" else []
        self.judge, self.folder = judge, folder
        self.perceiver, self.vocabulary = perceiver, vocabulary

    def file(self, source: str) -> Path:
        return self.folder / f"{source}.json"

    def measure(self, source: str, sampler: Sampler, emotions: Emotions = "prompted") -> None:
        """Let the sampler's policy speak in all contexts, unless that was done before.

        Args:
            emotions: how the policy was trained to meet them; see `Speakers.emotions`.
        """
        contexts = [] if self.file(source).is_file() else self.contexts(emotions)
        if not contexts:
            return
        spoken = speak(sampler, contexts, self.judge, seed=0)
        found = expression_metrics(spoken, self.perceiver, self.vocabulary)
        samples = [
            {"they": row.context.words, "emotion": emotion, "reply": words, "judge": row.score}
            for row, (emotion, words) in ((row, row.taken) for row in spoken)
        ]
        self.folder.mkdir(parents=True, exist_ok=True)
        known = {name: None if math.isnan(value) else value for name, value in found.items()}
        content = {"source": source, "contexts": len(spoken), **known, "samples": samples}
        atomic_write(self.file(source), json.dumps(content, indent=1, ensure_ascii=False))

    def rows(self, sources: Sequence[str]) -> list[dict[str, Any]]:
        """What was measured of these sources, without the samples."""
        found = [json.loads(file.read_text(encoding="utf-8")) for file in map(self.file, sources) if file.is_file()]
        return [{key: value for key, value in row.items() if key != "samples"} for row in found]


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")
