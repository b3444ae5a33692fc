"""The guard: emotions that are not shown to whom, and flagged words that are not said (docs/safety.md, docs/ethics.md).

It wraps the selector and the speaker of an arm. What it costs is measured: `study=guard`.

A reply with flagged words is asked for again with new draws, a few times; then a neutral sentence takes its place. Each
refusal stays with the turn, among its role violations, as `guarded:<kind>`; `guarded:fallback` says that the neutral
sentence was said, and not in a draft that another was preferred to. A language model is asked again with seeds derived
from the turn's own, so that later turns draw as they would have without a guard; the phrasebook draws on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib import resources
from typing import Protocol, runtime_checkable

import numpy as np
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from emodistill.checks import check_whole
from emodistill.emotions.vocabulary import Vocabulary
from emodistill.errors import UserError
from emodistill.files import load_yaml
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
    acceptance_sentence,
    offer_sentence,
)
from emodistill.negotiation.prompts import take_apart, with_name
from emodistill.negotiation.protocol import FOCAL, Negotiation
from emodistill.negotiation.role_checks import first_paragraph
from emodistill.policy.agents import ChatSpeaker
from emodistill.policy.chat_backends import ChatBackend, Dialogue
from emodistill.safety.detector import KINDS, detect

LEVELS = "assets/safety/guard.yaml"
REDRAWS = 2
MARK = "guarded:"
_STREAM = 0x6A  # keeps the seeds of redraws apart from those of replies that broke the role


class Guard:
    """One level of the guard.

    Args:
        level: its name.
        kinds: of flagged words that are refused; see `detector.KINDS`.
        forbidden: for each domain the emotions that the focal side must not show; a domain that is not listed has none.
        redraws: how often refused words are asked for again before a neutral sentence takes their place.

    Raises:
        UserError: if the detector does not know a kind, or redraws is not a whole number of at least 0.
    """

    def __init__(
        self, level: str, kinds: Sequence[str], forbidden: Mapping[str, Sequence[str]], redraws: int = REDRAWS
    ) -> None:
        if unknown := set(kinds) - set(KINDS):
            raise UserError(f"guard {level}: unknown kind '{min(unknown)}'; kinds are {', '.join(KINDS)}")
        check_whole("guard.redraws", redraws, 0)
        self.level, self.kinds, self.redraws = level, tuple(kinds), redraws
        self.forbidden = {domain: frozenset(labels) for domain, labels in forbidden.items()}

    def barred(self, vocabulary: Vocabulary, domain: str) -> frozenset[str]:
        """The labels of a vocabulary that may not be shown in a domain: by name, or by all that they are perceived as.

        Raises:
            UserError: if no label would be left.
        """
        forbidden = self.forbidden.get(domain, frozenset())
        barred = set()
        for label in vocabulary.labels:
            perceived = vocabulary.perceived(label)
            if label in forbidden or (perceived and set(perceived) <= forbidden):
                barred.add(label)
        if len(barred) == len(vocabulary.labels):
            raise UserError(
                f"guard={self.level} leaves no emotion of '{vocabulary.name}' in '{domain}'; use a milder guard="
            )
        return frozenset(barred)

    def allowed(self, vocabulary: Vocabulary, domain: str) -> list[str]:
        """The labels that may be shown in a domain, in the order of the vocabulary."""
        barred = self.barred(vocabulary, domain)
        return [label for label in vocabulary.labels if label not in barred]

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

    def reasons(self, text: str) -> list[str]:
        """Why a text is refused, in the form of role violations; empty where it may be said."""
        (flags,) = detect([first_paragraph(text)])
        return [MARK + kind for kind in self.kinds if kind in flags.kinds]

    def selector(self, selector: Selector, vocabulary: Vocabulary) -> Selector:
        """A selector that never chooses a barred emotion; the same one where nothing is barred."""
        return GuardedSelector(selector, self, vocabulary) if any(self.forbidden.values()) else selector

    def speaker(self, speaker: Speaker) -> Speaker:
        """A speaker whose flagged words are refused; the same one where no kind is refused."""
        if not self.kinds:
            return speaker
        return GuardedChatSpeaker(speaker, self) if isinstance(speaker, ChatSpeaker) else GuardedSpeaker(speaker, self)


class _Level(BaseModel):
    """One level in the file."""

    model_config = ConfigDict(extra="forbid")
    kinds: list[str]
    forbidden: dict[str, list[str]]


@cache
def _levels() -> dict[str, _Level]:
    file = resources.files("emodistill") / LEVELS
    try:
        return TypeAdapter(dict[str, _Level]).validate_python(load_yaml(file.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise UserError.from_validation(LEVELS, error) from error


def load_guard(level: str, redraws: int = REDRAWS) -> Guard:
    """A level that ships with the package: `off`, `words`, `mild` or `strict`.

    Raises:
        UserError: if there is no such level, or redraws is not a whole number of at least 0.
    """
    if level == "off":
        return Guard("off", (), {}, redraws)
    if level not in _levels():
        raise UserError(f"guard={level}: levels are off, {', '.join(_levels())}")
    found = _levels()[level]
    return Guard(level, found.kinds, found.forbidden, redraws)


@runtime_checkable
class Maskable(Protocol):
    """A selector that can choose among some of its labels."""

    def select_among(self, negotiations: Sequence[Negotiation], allowed: Sequence[Sequence[str]]) -> list[Choice]:
        """Choose in each negotiation among its allowed labels alone."""


class GuardedSelector:
    """A selector with barred emotions.

    A trained selector takes the best label, or draws one, among those that are left; a uniform one draws among them.
    Where a selector can do neither, a barred choice is a UserError: a constant emotion has no sensible stand-in.
    """

    def __init__(self, selector: Selector, guard: Guard, vocabulary: Vocabulary) -> None:
        self.inner, self.guard, self.vocabulary = selector, guard, vocabulary
        self.name = selector.name

    def select(self, negotiations: Sequence[Negotiation]) -> list[Choice]:
        allowed = [self.guard.allowed(self.vocabulary, negotiation.scenario.domain) for negotiation in negotiations]
        if isinstance(self.inner, Maskable):
            return self.inner.select_among(negotiations, allowed)
        if isinstance(self.inner, UniformEmotion):
            return [_uniform(*parts) for parts in zip(negotiations, allowed, strict=True)]
        choices = self.inner.select(negotiations)
        for choice, labels, negotiation in zip(choices, allowed, negotiations, strict=True):
            if choice.emotion is not None and choice.emotion not in labels:
                raise UserError(
                    f"guard={self.guard.level} bars '{choice.emotion}' in '{negotiation.scenario.domain}', and "
                    f"{self.name} chose it; leave its arm out, or give its class select_among(negotiations, allowed)"
                )
        return choices


def _uniform(negotiation: Negotiation, allowed: Sequence[str]) -> Choice:
    return Choice(allowed[int(negotiation.rng[FOCAL].integers(len(allowed)))], 1.0 / len(allowed))


class GuardedSpeaker:
    """Any speaker without a memory of its own, such as the phrasebook: it is simply asked again."""

    def __init__(self, speaker: Speaker, guard: Guard) -> None:
        self.inner, self.guard, self.name = speaker, guard, speaker.name

    def begin(self, negotiations: Sequence[Negotiation]) -> None:
        self.inner.begin(negotiations)

    def speak(
        self, negotiations: Sequence[Negotiation], decisions: Sequence[Decision], emotions: Sequence[str | None]
    ) -> list[Spoken]:
        said: list[Spoken] = [""] * len(negotiations)
        refusals: list[list[str]] = [[] for _ in negotiations]
        pending = list(range(len(negotiations)))
        for _ in range(1 + self.guard.redraws):
            asked = [negotiations[i] for i in pending], [decisions[i] for i in pending], [emotions[i] for i in pending]
            replies = self.inner.speak(*asked)
            refused = []
            for i, reply in zip(pending, replies, strict=True):
                said[i] = reply
                if isinstance(reply, Fault):
                    continue
                if reasons := self.guard.reasons(reply if isinstance(reply, str) else reply.text):
                    refusals[i] += reasons
                    refused.append(i)
            pending = refused
            if not pending:
                break
        for i in pending:
            said[i] = neutral_sentence(negotiations[i], decisions[i])
            refusals[i].append(f"{MARK}fallback")
        return [_with_refusals(spoken, reasons) for spoken, reasons in zip(said, refusals, strict=True)]


class GuardedChatSpeaker(ChatSpeaker):
    """A language model as speaker whose replies are guarded."""

    def __init__(self, speaker: ChatSpeaker, guard: Guard) -> None:
        self.guarded, self.guard = GuardedChatBackend(speaker, guard), guard
        self._unguarded = speaker
        settings = (speaker.vocabulary, speaker.name, speaker.retries, speaker.side, speaker.emotions)
        super().__init__(self.guarded, *settings, speaker.drafts, speaker.perceiver)

    def naming(self) -> "GuardedChatSpeaker":
        return GuardedChatSpeaker(self._unguarded.naming(), self.guard)

    def speak(
        self, negotiations: Sequence[Negotiation], decisions: Sequence[Decision], emotions: Sequence[str | None]
    ) -> list[Utterance | Fault]:
        pairs = zip(negotiations, decisions, strict=True)
        self.guarded.neutral = {
            id(negotiation): neutral_sentence(negotiation, decision) for negotiation, decision in pairs
        }
        self.guarded.refusals, self.guarded.fallen_back = {}, set()
        spoken = super().speak(negotiations, decisions, emotions)
        return [self._marked(*turn) for turn in zip(negotiations, spoken, strict=True)]

    def _marked(self, negotiation: Negotiation, spoken: Utterance | Fault) -> Utterance | Fault:
        """What is said, with why replies of this turn were refused."""
        key, fallback = id(negotiation), [f"{MARK}fallback"]
        reasons = self.guarded.refusals.get(key, [])
        if isinstance(spoken, Fault) or not reasons:
            return spoken
        said = key in self.guarded.fallen_back and spoken.text == self.guarded.neutral[key]
        return replace(spoken, role_violations=(*spoken.role_violations, *reasons, *(fallback if said else [])))


class GuardedChatBackend:
    """A chat backend that keeps flagged replies to itself.

    Attributes:
        neutral: for each negotiation, by id, what is said where nothing else may be.
        refusals: for each negotiation, by id, why replies of this turn were refused.
        fallen_back: of these negotiations, by id, those in which the neutral sentence took the place of a reply.
    """

    def __init__(self, speaker: ChatSpeaker, guard: Guard) -> None:
        self.inner: ChatBackend = speaker.backend
        self.guard, self.vocabulary, self.name = guard, speaker.vocabulary, self.inner.name
        self.names_emotions = speaker.emotions == "self_selected"
        self.neutral, self.refusals, self.fallen_back = dict[int, str](), dict[int, list[str]](), set[int]()

    @property
    def usage(self) -> Usage:
        return self.inner.usage

    @property
    def repeats(self) -> bool:
        return self.inner.repeats

    def reply(self, dialogues: Sequence[Dialogue], prompts: Sequence[str], seeds: Sequence[int]) -> list[str | Fault]:
        said: list[str | Fault] = [""] * len(dialogues)
        pending = list(range(len(dialogues)))
        for attempt in range(1 if self.repeats else 1 + self.guard.redraws):
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
        if self.names_emotions:
            named = take_apart(reply, self.vocabulary)
            reasons = self.guard.reasons(named.words)
            if named.emotion in self.guard.barred(self.vocabulary, dialogue.negotiation.scenario.domain):
                reasons.append(f"{MARK}emotion")
        else:
            reasons = self.guard.reasons(reply)
        self.refusals.setdefault(id(dialogue.negotiation), []).extend(reasons)
        return bool(reasons)

    def _fallback(self, dialogue: Dialogue) -> str:
        key = id(dialogue.negotiation)
        self.fallen_back.add(key)
        if not self.names_emotions:
            return self.neutral[key]
        allowed = self.guard.allowed(self.vocabulary, dialogue.negotiation.scenario.domain)
        return with_name("neutral" if "neutral" in allowed else allowed[0], self.neutral[key])


def neutral_sentence(negotiation: Negotiation, decision: Decision) -> str:
    """What is said where nothing else may be: the decision, and no more."""
    if decision.act == "accept":
        return acceptance_sentence(negotiation)
    if decision.act == "walk_away":
        return "I see no agreement, so I end the talks here."
    own = negotiation.offers(FOCAL)
    offer = decision.offer if decision.offer is not None else own[-1] if own else negotiation.scenario.focal_target
    return offer_sentence(negotiation, offer)


def _with_refusals(spoken: Spoken, reasons: Sequence[str]) -> Spoken:
    if isinstance(spoken, Fault) or not reasons:
        return spoken
    words = Utterance(spoken) if isinstance(spoken, str) else spoken
    return replace(words, role_violations=(*words.role_violations, *reasons))


def _seed(seed: int, attempt: int) -> int:
    """The seed of a redraw; the first attempt has the seed that it would have had without a guard."""
    return int(np.random.default_rng((seed, _STREAM, attempt)).integers(2**63)) if attempt else seed
