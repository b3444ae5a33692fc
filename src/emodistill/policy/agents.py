"""A language model on one side of many negotiations: it puts decisions into words and stays in its role.

One rule holds for every side and every kind of model. A reply without a role violation (see
`negotiation.role_checks`) is said. A reply with one is asked for again with a new seed, at most `retries` times. If the
last attempt has a violation too, it is cut out and the rest is said; where nothing is left the turn is a fault, and the
episode is invalid. Every violation is kept with its turn.

A model that selects its emotion itself names it before its words ("joy: We are nearly there."). A reply without a name
has the violation `unnamed`, but its words are said if no attempt names an emotion. The name never reaches the other
side; it stays in the model's own chat.

Where several replies are drafted, each by the rule above, the best is said: one without a role violation before one
with, then one that states the offer as it was decided, then the one in which a perceiver reads most of the emotion.

That chat holds what was really said: where an offer was appended or a reply was cut, the words of the turn as it stands
in the negotiation replace the sampled ones, exactly as in training.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from emodistill.emotions.perceiver import Perceiver, as_vocabulary
from emodistill.emotions.vocabulary import Vocabulary
from emodistill.language_models.completion import Usage
from emodistill.negotiation.agents import Decision, Fault, Utterance
from emodistill.negotiation.offers import parse_offer
from emodistill.negotiation.prompts import (
    Emotions,
    Named,
    directive_words,
    opening_words,
    round_words,
    take_apart,
    with_name,
)
from emodistill.negotiation.protocol import FOCAL, Negotiation, Side
from emodistill.negotiation.role_checks import (
    find_role_violation,
    first_paragraph,
    violates_role_behind,
    without_role_violations,
)
from emodistill.policy.chat_backends import ChatBackend, Dialogue

RETRIES = 2
Said = Utterance | Fault
Chooser = Callable[[Sequence[Sequence[Said]]], list[Said]]  # drafts of each line -> what is said to it


@dataclass(frozen=True)
class Line:
    """What one negotiation needs said next: the prompt, and the directive in it, which a reply must not repeat."""

    prompt: str
    directive: str = ""


class RolePlay:
    """One side of many negotiations, spoken by one chat backend.

    Args:
        backend: where the words come from.
        side: which side it speaks for.
        retries: how often a reply that breaks the role is asked for again.
        names: the emotions of which every reply names one before its words; None where replies are words alone.
    """

    def __init__(
        self, backend: ChatBackend, side: Side, retries: int = RETRIES, names: Vocabulary | None = None
    ) -> None:
        self.backend, self.side, self.retries, self.names = backend, side, retries, names
        self._dialogues: dict[int, Dialogue] = {}  # by id of the negotiation

    def begin(self, negotiations: Sequence[Negotiation], systems: Sequence[str]) -> None:
        """Open the dialogues of these negotiations with their system messages."""
        self._forget_ended()
        for negotiation, system in zip(negotiations, systems, strict=True):
            if negotiation.end is None:
                self._dialogues[id(negotiation)] = Dialogue(negotiation, self.side, system)

    def speak(
        self, negotiations: Sequence[Negotiation], lines: Sequence[Line], drafts: int = 1, choose: Chooser | None = None
    ) -> list[Said]:
        """What is said to each line: one call of the backend an attempt, one draw from each negotiation's generator.

        Args:
            choose: takes one of the `drafts` of each line; without it the first is said.
        """
        dialogues, seeds = self.ask(negotiations, lines)
        drafted = [
            self._in_role(dialogues, lines, [_seed_of_draft(s, draft) for s in seeds]) for draft in range(drafts)
        ]
        return choose(list(zip(*drafted, strict=True))) if choose else drafted[0]

    def ask(self, negotiations: Sequence[Negotiation], lines: Sequence[Line]) -> tuple[list[Dialogue], list[int]]:
        """Put a line into each dialogue: the dialogues, and the seeds of what is said to them.

        Where the words are known already, this is all that their turn leaves behind.
        """
        self._forget_ended()
        dialogues = [self._up_to_date(negotiation) for negotiation in negotiations]
        seeds = [int(negotiation.rng[self.side].integers(2**63)) for negotiation in negotiations]
        for dialogue, line in zip(dialogues, lines, strict=True):
            dialogue.asked = line.prompt
        return dialogues, seeds

    def _up_to_date(self, negotiation: Negotiation) -> Dialogue:
        """The dialogue with the last round added: what was asked then, and what was said in the end."""
        dialogue = self._dialogues[id(negotiation)]
        if dialogue.asked is not None:
            turn = next(turn for turn in reversed(negotiation.turns) if turn.speaker == self.side)
            said = turn.text if self.names is None else with_name(turn.emotion, turn.text)
            dialogue.exchanges.append((dialogue.asked, said))
            dialogue.asked = None
        return dialogue

    def _in_role(self, dialogues: list[Dialogue], lines: Sequence[Line], seeds: list[int]) -> list[Said]:
        said: dict[int, Said] = {}
        violations: list[list[str]] = [[] for _ in lines]
        pending = list(range(len(lines)))
        for attempt in range(1 if self.backend.repeats else 1 + self.retries):
            tries = [_seed_of_attempt(seeds[i], attempt) for i in pending]
            replies = self.backend.reply([dialogues[i] for i in pending], [lines[i].prompt for i in pending], tries)
            before = {i: len(violations[i]) for i in pending}
            for i, reply in zip(pending, replies, strict=True):
                if attempt and isinstance(reply, Fault):
                    continue  # the attempt before it will have to do
                earlier = said.get(i)
                checked = self._checked(dialogues[i], lines[i].directive, reply, violations[i])
                if isinstance(checked, Fault) and isinstance(earlier, Utterance) and "unnamed" in violations[i]:
                    # the earlier attempt was in role, and lacked only the emotion's name
                    checked = replace(earlier, role_violations=tuple(violations[i]))
                said[i] = checked
            pending = [i for i in pending if len(violations[i]) > before[i]]
            if not pending:
                break
        return [said[i] for i in range(len(lines))]

    def _checked(self, dialogue: Dialogue, directive: str, reply: str | Fault, violations: list[str]) -> Said:
        """What would be said of a reply; a role violation in it is added to `violations`."""
        if isinstance(reply, Fault):
            return reply
        domain = dialogue.negotiation.scenario.domain
        emotion, words = Named(None, reply) if self.names is None else take_apart(reply, self.names)
        violation = find_role_violation(words, domain, self.side, directive)
        if violation is None:
            if self.names is not None and emotion is None:
                violations.append("unnamed")
            behind = ["other_side"] if violates_role_behind(words, domain, self.side) else []
            return Utterance(first_paragraph(words), (*violations, *behind), emotion)
        violations.append(violation)
        if rest := without_role_violations(words, domain, self.side, directive):
            return Utterance(rest, tuple(violations), emotion)
        return Fault(f"the {self.side} had nothing to say in role ({', '.join(violations)})")

    def _forget_ended(self) -> None:
        self._dialogues = {key: d for key, d in self._dialogues.items() if d.negotiation.end is None}


def _seed_of_attempt(seed: int, attempt: int) -> int:
    """The first attempt has the seed itself; further seeds come from it alone, so the negotiation's draws stay."""
    return int(np.random.default_rng((seed, attempt)).integers(2**63)) if attempt else seed


def _seed_of_draft(seed: int, draft: int) -> int:
    """The first draft has the seed itself, so that an arm with drafts has the reply of the arm without among them."""
    return int(np.random.default_rng((seed, 0, draft)).integers(2**63)) if draft else seed


class ChatSpeaker:
    """Puts the decisions of an agent into words, in role, with any chat backend.

    Args:
        backend: where the words come from.
        vocabulary: the emotions that it may be asked for.
        name: what reports call it; by default the backend's name.
        retries: how often a reply that breaks the role is asked for again.
        side: whose part it speaks.
        emotions: how emotions enter the chat; with `self_selected` the model names one before its words.
        drafts: replies that are drafted for each turn; the best is said.
        perceiver: compares drafts; not the counterparty's.
    """

    def __init__(
        self,
        backend: ChatBackend,
        vocabulary: Vocabulary,
        name: str | None = None,
        retries: int = RETRIES,
        side: Side = FOCAL,
        emotions: Emotions = "prompted",
        drafts: int = 1,
        perceiver: Perceiver | None = None,
    ) -> None:
        self.backend, self.vocabulary, self.name, self.side = backend, vocabulary, name or backend.name, side
        self.retries, self.emotions, self.drafts, self.perceiver = retries, emotions, drafts, perceiver
        self._play = RolePlay(backend, side, retries, vocabulary if emotions == "self_selected" else None)

    def naming(self) -> "ChatSpeaker":
        """The same speaker, but it selects and names its emotions itself."""
        settings = (self.backend, self.vocabulary, self.name, self.retries, self.side)
        return ChatSpeaker(*settings, "self_selected", self.drafts, self.perceiver)

    def drafting(self, drafts: int, perceiver: Perceiver) -> "ChatSpeaker":
        """The same speaker, but it drafts several replies a turn and says the best."""
        settings = (self.backend, self.vocabulary, self.name, self.retries, self.side, self.emotions)
        return ChatSpeaker(*settings, drafts, perceiver)

    @property
    def usage(self) -> Usage:
        """What its backend used so far."""
        return self.backend.usage

    def begin(self, negotiations: Sequence[Negotiation]) -> None:
        systems = [opening_words(n.scenario, self.vocabulary, self.emotions, self.side) for n in negotiations]
        self._play.begin(negotiations, systems)

    def speak(
        self, negotiations: Sequence[Negotiation], decisions: Sequence[Decision], emotions: Sequence[str | None]
    ) -> list[Said]:
        """One utterance for each negotiation, all of them asked for at once."""
        lines = [self._line(*parts) for parts in zip(negotiations, decisions, emotions, strict=True)]
        if self.drafts == 1:
            return self._play.speak(negotiations, lines)

        def choose(drafted: Sequence[Sequence[Said]]) -> list[Said]:
            return [self._best(*turn) for turn in zip(negotiations, decisions, emotions, drafted, strict=True)]

        return self._play.speak(negotiations, lines, self.drafts, choose)

    def recall(
        self, negotiations: Sequence[Negotiation], decisions: Sequence[Decision], emotions: Sequence[str | None]
    ) -> None:
        """A turn that was spoken before: chats and draws go on as after `speak`, and no model is asked."""
        self._play.ask(
            negotiations, [self._line(*parts) for parts in zip(negotiations, decisions, emotions, strict=True)]
        )

    def _best(self, negotiation: Negotiation, decision: Decision, asked: str | None, drafts: Sequence[Said]) -> Said:
        assert self.perceiver is not None  # `drafting` gives one
        texts = [draft.text if isinstance(draft, Utterance) else "" for draft in drafts]
        shares = as_vocabulary(self.perceiver.probabilities(texts), self.vocabulary)

        def merits(place: int) -> tuple[bool, bool, bool, float]:
            draft = drafts[place]
            if isinstance(draft, Fault):
                return (False, False, False, 0.0)
            stated = decision.offer is None or parse_offer(draft.text, negotiation.scenario.domain) == decision.offer
            emotion = asked or draft.emotion
            share = float(shares[place][self.vocabulary.index(emotion)]) if emotion else 0.0
            return (True, not draft.role_violations, stated, round(share, 4))

        return drafts[max(range(len(drafts)), key=merits)]

    def _line(self, negotiation: Negotiation, decision: Decision, emotion: str | None) -> Line:
        heard = negotiation.turns[-1].text if negotiation.turns else None
        offer = None if decision.offer is None else negotiation.scenario.rules.say(decision.offer)
        directive = directive_words(self.vocabulary, emotion, decision.act, offer, self.emotions)
        return Line(round_words(heard, directive), directive)
