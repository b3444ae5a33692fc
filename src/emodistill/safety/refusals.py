"""Speakers whose flagged words are refused: asked for again with new draws within a bound, then a neutral sentence.

Every refusal stays with the turn, among its slips, as `guarded:<kind>`; `guarded:fallback` says that the neutral
sentence was said. A language model is asked again with seeds derived from the turn's own, so that later turns draw as
they would have; the phrasebook draws on.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from emodistill.language_models.completion import Usage
from emodistill.negotiation.agents import Decision, Fault, Speaker, Spoken, Utterance, offer_sentence
from emodistill.negotiation.named_emotions import take_apart, with_name
from emodistill.negotiation.protocol import FOCAL, Negotiation
from emodistill.negotiation.role_slips import first_paragraph
from emodistill.policy.speaker import VoiceSpeaker
from emodistill.policy.voices import Dialogue, Voice
from emodistill.safety.detector import detect

MARK = "guarded:"
_STREAM = 0x6A  # keeps the seeds of redraws apart from those of replies that slipped


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
        """Why a text is refused, as slips; empty where it may be said."""
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
        slips: list[list[str]] = [[] for _ in negotiations]
        pending = list(range(len(negotiations)))
        for _ in range(1 + self.refusal.redraws):
            asked = [negotiations[i] for i in pending], [decisions[i] for i in pending], [emotions[i] for i in pending]
            replies = self.inner.speak(*asked)
            refused = []
            for i, reply in zip(pending, replies, strict=True):
                said[i] = reply
                reasons = [] if isinstance(reply, Fault) else self.refusal.reasons(_text(reply))
                slips[i] += reasons
                refused += [i] if reasons else []
            pending = refused
            if not pending:
                break
        for i in pending:
            said[i] = neutral_sentence(negotiations[i], decisions[i])
            slips[i].append(f"{MARK}fallback")
        return [_with_slips(spoken, marks) for spoken, marks in zip(said, slips, strict=True)]


class GuardedVoice:
    """A voice that keeps flagged replies to itself.

    Attributes:
        plain: for each negotiation, by id, what is said where nothing else may be.
        slips: for each negotiation, by id, why replies of this turn were refused.
    """

    def __init__(self, speaker: VoiceSpeaker, refusal: Refusal) -> None:
        self.inner: Voice = speaker.voice
        self.refusal, self.name = refusal, self.inner.name
        self._names = speaker.vocabulary if speaker.emotions == "named" else None
        self.plain, self.slips = dict[int, str](), dict[int, list[str]]()

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
        self.slips.setdefault(id(dialogue.negotiation), []).extend(reasons)
        return bool(reasons)

    def _fallback(self, dialogue: Dialogue) -> str:
        key = id(dialogue.negotiation)
        self.slips[key].append(f"{MARK}fallback")
        if self._names is None:
            return self.plain[key]
        allowed = [x for x in self._names.labels if x not in self.refusal.barred(dialogue.negotiation.scenario.domain)]
        return with_name("neutral" if "neutral" in allowed else allowed[0], self.plain[key])


class GuardedVoiceSpeaker(VoiceSpeaker):
    """A language model as speaker whose voice is guarded."""

    def __init__(self, speaker: VoiceSpeaker, refusal: Refusal) -> None:
        self.guarded, self.refusal = GuardedVoice(speaker, refusal), refusal
        self._unguarded = speaker
        kept = (speaker.vocabulary, speaker.name, speaker.retries, speaker.side, speaker.emotions)
        super().__init__(self.guarded, *kept)

    def naming(self) -> "GuardedVoiceSpeaker":
        return GuardedVoiceSpeaker(self._unguarded.naming(), self.refusal)

    def speak(
        self, negotiations: Sequence[Negotiation], decisions: Sequence[Decision], emotions: Sequence[str | None]
    ) -> list[Utterance | Fault]:
        pairs = zip(negotiations, decisions, strict=True)
        self.guarded.plain = {id(table): neutral_sentence(table, decision) for table, decision in pairs}
        self.guarded.slips = {}
        spoken = super().speak(negotiations, decisions, emotions)
        marks = [self.guarded.slips.get(id(negotiation), []) for negotiation in negotiations]
        return [
            words if isinstance(words, Fault) else replace(words, slips=(*words.slips, *slips))
            for words, slips in zip(spoken, marks, strict=True)
        ]


def _text(spoken: str | Utterance) -> str:
    return spoken if isinstance(spoken, str) else spoken.text


def _with_slips(spoken: Spoken, slips: Sequence[str]) -> Spoken:
    if isinstance(spoken, Fault) or not slips:
        return spoken
    words = Utterance(spoken) if isinstance(spoken, str) else spoken
    return replace(words, slips=(*words.slips, *slips))


def _seed(seed: int, attempt: int) -> int:
    """The seed of a redraw; the first attempt has the seed that it would have had without a guard."""
    return int(np.random.default_rng((seed, _STREAM, attempt)).integers(2**63)) if attempt else seed
