"""The guard: emotions that are not shown to whom, and flagged words that are not said (docs/safety.md, docs/ethics.md).

It wraps the selector and the speaker of an arm. What it costs is measured, not assumed: `studies/safety.py`.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import yaml

from emodistill.emotions.vocabulary import Vocabulary
from emodistill.errors import UserError
from emodistill.language_models.completion import Usage
from emodistill.negotiation.agents import (
    Choice,
    Decision,
    Fault,
    Selector,
    Speaker,
    Spoken,
    UniformEmotion,
    Utterance,
    offer_sentence,
)
from emodistill.negotiation.prompts import take_apart, with_name
from emodistill.negotiation.protocol import FOCAL, Negotiation
from emodistill.negotiation.role_checks import first_paragraph
from emodistill.policy.agents import ChatSpeaker
from emodistill.policy.chat_backends import ChatBackend, Dialogue
from emodistill.safety.detector import KINDS, detect

# ---- refusals ----
# Speakers whose flagged words are refused: asked for again with new draws within a bound, then a neutral sentence.
#
# Every refusal stays with the turn, among its role violations, as `guarded:<kind>`; `guarded:fallback` says that the
# neutral sentence was said. A language model is asked again with seeds derived from the turn's own, so that later turns
# draw as they would have; the phrasebook draws on.

MARK = "guarded:"
_STREAM = 0x6A  # keeps the seeds of redraws apart from those of replies out of role


@dataclass(frozen=True)
class Refusal:
    """What is refused.

    Attributes:
        kinds: of the detector.
        redraws: how often words are asked for again.
        barred: the emotions that a model must not name in a domain.
    """

    kinds: Sequence[str]
    redraws: int
    barred: Callable[[str], Collection[str]]

    def reasons(self, text: str) -> list[str]:
        """Why a text is refused, in the form of role violations; empty where it may be said."""
        (flags,) = detect([first_paragraph(text)])
        return [MARK + kind for kind in self.kinds if kind in flags.kinds]


def neutral_sentence(negotiation: Negotiation, decision: Decision) -> str:
    """What is said where nothing else may be: the decision, and no more."""
    if decision.act == "accept":
        return "I accept your offer."
    if decision.act == "walk_away":
        return "I see no agreement, so I end the talks here."
    own = negotiation.offers(FOCAL)
    offer = decision.offer if decision.offer is not None else own[-1] if own else negotiation.scenario.focal_target
    return offer_sentence(negotiation, offer)


class GuardedSpeaker:
    """Any speaker without a memory of its own, such as the phrasebook: it is simply asked again."""

    def __init__(self, speaker: Speaker, refusal: Refusal) -> None:
        self.inner, self.refusal, self.name = speaker, refusal, speaker.name

    def begin(self, negotiations: Sequence[Negotiation]) -> None:
        self.inner.begin(negotiations)

    def speak(
        self, negotiations: Sequence[Negotiation], decisions: Sequence[Decision], emotions: Sequence[str | None]
    ) -> list[Spoken]:
        said: list[Spoken] = [""] * len(negotiations)
        refusals: list[list[str]] = [[] for _ in negotiations]
        pending = list(range(len(negotiations)))
        for _ in range(1 + self.refusal.redraws):
            asked = [negotiations[i] for i in pending], [decisions[i] for i in pending], [emotions[i] for i in pending]
            replies = self.inner.speak(*asked)
            refused = []
            for i, reply in zip(pending, replies, strict=True):
                said[i] = reply
                reasons = [] if isinstance(reply, Fault) else self.refusal.reasons(_text(reply))
                refusals[i] += reasons
                refused += [i] if reasons else []
            pending = refused
            if not pending:
                break
        for i in pending:
            said[i] = neutral_sentence(negotiations[i], decisions[i])
            refusals[i].append(f"{MARK}fallback")
        return [_with_violations(spoken, marks) for spoken, marks in zip(said, refusals, strict=True)]


class GuardedChatBackend:
    """A backend that keeps flagged replies to itself.

    Attributes:
        plain: for each negotiation, by id, what is said where nothing else may be.
        refusals: for each negotiation, by id, why replies of this turn were refused.
    """

    def __init__(self, speaker: ChatSpeaker, refusal: Refusal) -> None:
        self.inner: ChatBackend = speaker.backend
        self.refusal, self.name = refusal, self.inner.name
        self._names = speaker.vocabulary if speaker.emotions == "self_selected" else None
        self.plain, self.refusals = dict[int, str](), dict[int, list[str]]()

    @property
    def usage(self) -> Usage:
        return self.inner.usage

    @property
    def repeats(self) -> bool:
        return self.inner.repeats

    def reply(self, dialogues: Sequence[Dialogue], prompts: Sequence[str], seeds: Sequence[int]) -> list[str | Fault]:
        said: list[str | Fault] = [""] * len(dialogues)
        pending = list(range(len(dialogues)))
        for attempt in range(1 if self.repeats else 1 + self.refusal.redraws):
            tries = [_seed(seeds[i], attempt) for i in pending]
            replies = self.inner.reply([dialogues[i] for i in pending], [prompts[i] for i in pending], tries)
            for i, reply in zip(pending, replies, strict=True):
                said[i] = reply
            pending = [i for i in pending if self._refused(dialogues[i], said[i])]
            if not pending:
                break
        for i in pending:
            said[i] = self._fallback(dialogues[i])
        return said

    def _refused(self, dialogue: Dialogue, reply: str | Fault) -> bool:
        if isinstance(reply, Fault):
            return False
        named = None if self._names is None else take_apart(reply, self._names)
        reasons = self.refusal.reasons(reply if named is None else named.words)
        if named is not None and named.emotion in self.refusal.barred(dialogue.negotiation.scenario.domain):
            reasons.append(f"{MARK}emotion")
        self.refusals.setdefault(id(dialogue.negotiation), []).extend(reasons)
        return bool(reasons)

    def _fallback(self, dialogue: Dialogue) -> str:
        key = id(dialogue.negotiation)
        self.refusals[key].append(f"{MARK}fallback")
        if self._names is None:
            return self.plain[key]
        allowed = [x for x in self._names.labels if x not in self.refusal.barred(dialogue.negotiation.scenario.domain)]
        return with_name("neutral" if "neutral" in allowed else allowed[0], self.plain[key])


class GuardedChatSpeaker(ChatSpeaker):
    """A language model as speaker whose backend is guarded."""

    def __init__(self, speaker: ChatSpeaker, refusal: Refusal) -> None:
        self.guarded, self.refusal = GuardedChatBackend(speaker, refusal), refusal
        self._unguarded = speaker
        kept = (speaker.vocabulary, speaker.name, speaker.retries, speaker.side, speaker.emotions)
        super().__init__(self.guarded, *kept)

    def naming(self) -> "GuardedChatSpeaker":
        return GuardedChatSpeaker(self._unguarded.naming(), self.refusal)

    def speak(
        self, negotiations: Sequence[Negotiation], decisions: Sequence[Decision], emotions: Sequence[str | None]
    ) -> list[Utterance | Fault]:
        pairs = zip(negotiations, decisions, strict=True)
        self.guarded.plain = {id(table): neutral_sentence(table, decision) for table, decision in pairs}
        self.guarded.refusals = {}
        spoken = super().speak(negotiations, decisions, emotions)
        marks = [self.guarded.refusals.get(id(negotiation), []) for negotiation in negotiations]
        return [
            words if isinstance(words, Fault) else replace(words, role_violations=(*words.role_violations, *refusals))
            for words, refusals in zip(spoken, marks, strict=True)
        ]


def _text(spoken: str | Utterance) -> str:
    return spoken if isinstance(spoken, str) else spoken.text


def _with_violations(spoken: Spoken, violations: Sequence[str]) -> Spoken:
    if isinstance(spoken, Fault) or not violations:
        return spoken
    words = Utterance(spoken) if isinstance(spoken, str) else spoken
    return replace(words, role_violations=(*words.role_violations, *violations))


def _seed(seed: int, attempt: int) -> int:
    """The seed of a redraw; the first attempt has the seed that it would have had without a guard."""
    return int(np.random.default_rng((seed, _STREAM, attempt)).integers(2**63)) if attempt else seed


REDRAWS = 2


@runtime_checkable
class Maskable(Protocol):
    """A selector that can choose among some of its labels."""

    def select_among(self, negotiations: Sequence[Negotiation], allowed: Sequence[Sequence[str]]) -> list[Choice]:
        """Choose in each negotiation among its allowed labels alone."""


class Guard:
    """One level of the guard.

    Args:
        level: its name.
        kinds: of flagged words that are refused; see `detector.KINDS`.
        forbidden: for each domain the emotions that the focal side must not show; a domain that is not listed has none.
        redraws: how often refused words are asked for again before a neutral sentence takes their place.

    Raises:
        UserError: on a kind that the detector does not know.
    """

    def __init__(
        self, level: str, kinds: Sequence[str], forbidden: Mapping[str, Sequence[str]], redraws: int = REDRAWS
    ) -> None:
        if unknown := set(kinds) - set(KINDS):
            raise UserError(f"guard {level}: unknown kind '{min(unknown)}'; kinds are {', '.join(KINDS)}")
        self.level, self.kinds, self.redraws = level, tuple(kinds), redraws
        self.forbidden = {domain: frozenset(labels) for domain, labels in forbidden.items()}

    def barred(self, vocabulary: Vocabulary, domain: str) -> frozenset[str]:
        """The labels of a vocabulary that may not be shown in a domain: by name, or by all that they are perceived as.

        Raises:
            UserError: if no label would be left.
        """
        barred = self.forbidden.get(domain, frozenset())
        found = {x for x in vocabulary.labels if x in barred or _all_in(vocabulary.perceived(x), barred)}
        if len(found) == len(vocabulary.labels):
            raise UserError(
                f"guard={self.level} leaves no emotion of '{vocabulary.name}' in '{domain}'; use a milder guard="
            )
        return frozenset(found)

    def check(self, emotion: str, domains: Sequence[str], vocabulary: Vocabulary) -> None:
        """Refuse an arm of one constant emotion before anything is played; other sources of emotions pass.

        Raises:
            UserError: if the emotion is barred in one of the domains.
        """
        for domain in domains:
            if emotion in vocabulary.labels and emotion in self.barred(vocabulary, domain):
                raise UserError(
                    f"guard={self.level} bars '{emotion}' in '{domain}'; leave the arm of this constant emotion out, "
                    "restrict domains=[...], or use a milder guard="
                )

    def selector(self, selector: Selector, vocabulary: Vocabulary) -> Selector:
        """A selector that never chooses a barred emotion; the same one where nothing is barred."""
        return GuardedSelector(selector, self, vocabulary) if any(self.forbidden.values()) else selector

    def speaker(self, speaker: Speaker, vocabulary: Vocabulary) -> Speaker:
        """A speaker whose flagged words are refused; the same one where no kind is refused."""
        if not self.kinds:
            return speaker
        refusal = Refusal(self.kinds, self.redraws, lambda domain: self.barred(vocabulary, domain))
        if isinstance(speaker, ChatSpeaker):
            return GuardedChatSpeaker(speaker, refusal)
        return GuardedSpeaker(speaker, refusal)


class GuardedSelector:
    """A selector with barred emotions.

    A trained selector takes the best label, or draws one, among those that are left; a uniform one draws among them.
    Where a selector can do neither, a barred choice is a UserError: a constant emotion has no sensible stand-in.
    """

    def __init__(self, selector: Selector, guard: Guard, vocabulary: Vocabulary) -> None:
        self.inner, self.guard, self.vocabulary = selector, guard, vocabulary
        self.name = selector.name

    def select(self, negotiations: Sequence[Negotiation]) -> list[Choice]:
        barred = [self.guard.barred(self.vocabulary, negotiation.scenario.domain) for negotiation in negotiations]
        allowed = [[label for label in self.vocabulary.labels if label not in bars] for bars in barred]
        if isinstance(self.inner, Maskable):
            return self.inner.select_among(negotiations, allowed)
        if isinstance(self.inner, UniformEmotion):
            return [_uniform(*parts) for parts in zip(negotiations, allowed, strict=True)]
        choices = self.inner.select(negotiations)
        for negotiation, choice in zip(negotiations, choices, strict=True):
            self.guard.check(choice.emotion or "", [negotiation.scenario.domain], self.vocabulary)
        return choices


def _uniform(negotiation: Negotiation, allowed: Sequence[str]) -> Choice:
    return Choice(allowed[int(negotiation.rng[FOCAL].integers(len(allowed)))], 1.0 / len(allowed))


def _all_in(labels: Sequence[str], barred: frozenset[str]) -> bool:
    return bool(labels) and set(labels) <= barred


def load_guard(level: str, redraws: int = REDRAWS) -> Guard:
    """A level that ships with the package: `off`, `words`, `mild` or `strict`.

    Raises:
        UserError: if there is no such level.
    """
    if level == "off":
        return Guard("off", (), {}, redraws)
    if level not in _levels():
        raise UserError(f"guard={level}: levels are off, {', '.join(_levels())}")
    return Guard(level, **_levels()[level], redraws=redraws)


def guarded(selector: Selector, level: str, vocabulary: Vocabulary) -> Selector:
    """A selector under a level that ships with the package."""
    return load_guard(level).selector(selector, vocabulary)


@cache
def _levels() -> dict[str, Any]:
    file = resources.files("emodistill") / "assets" / "safety" / "guard.yaml"
    return cast(dict[str, Any], yaml.safe_load(file.read_text(encoding="utf-8")))
