"""The guard: emotions that are not shown to whom, and flagged words that are not said (docs/safety.md, docs/ethics.md).

It wraps the selector and the speaker of an arm. What it costs is measured, not assumed: `studies/safety.py`.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any, Protocol, cast, runtime_checkable

import yaml

from emodistill.emotions.vocabulary import Vocabulary
from emodistill.errors import UserError
from emodistill.negotiation.agents import Choice, Selector, Speaker
from emodistill.negotiation.protocol import FOCAL, Negotiation
from emodistill.negotiation.selectors import UniformEmotion
from emodistill.policy.speaker import VoiceSpeaker
from emodistill.safety.detector import KINDS
from emodistill.safety.refusals import GuardedSpeaker, GuardedVoiceSpeaker, Refusal

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
        if isinstance(speaker, VoiceSpeaker):
            return GuardedVoiceSpeaker(speaker, refusal)
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
