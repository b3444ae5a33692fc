"""A language model as the focal side's speaker: one chat a negotiation, its attention cache kept between rounds.

The chat holds what was really said: where the agent appended an offer, or a reply was trimmed, the tokens of the turn
as it stands in the negotiation replace those sampled, just as training sees them. A chat that outgrows the context
loses whole early rounds, again as in training; its opening stays.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from emodistill.errors import UserError
from emodistill.negotiation.agents import Decision
from emodistill.negotiation.protocol import FOCAL, Negotiation
from emodistill.policy.chat import ChatFormat
from emodistill.policy.generation import ChatGenerator, Session


@dataclass
class _Talk:
    """The chat of one negotiation.

    Attributes:
        rounds: for each past round its prompt and what was said; the last lacks the latter until it is known.
    """

    negotiation: Negotiation  # also keeps its id from being reused
    opening: list[int]
    rounds: list[list[int]] = field(default_factory=list)
    session: Session = field(default_factory=Session)


class LanguageModelSpeaker:
    """Puts decisions into a language model's words.

    Attributes:
        name: what reports call it.
        dropped_rounds: early rounds left out so far because a chat outgrew the context.
    """

    def __init__(self, generator: ChatGenerator, chat: ChatFormat, name: str | None = None) -> None:
        """
        Args:
            generator: one whose `stop_ids` hold the chat's end of turn.
            name: default is the model's.

        Raises:
            ValueError: if the generator would not stop where the chat's turns end.
        """
        if chat.end_of_turn[0] not in generator.sampling.stop_ids:
            raise ValueError(
                "the generator does not stop at the chat's end of turn: give it stop_ids=chat.end_of_turn[:1]"
            )
        self.generator, self.chat = generator, chat
        self.name = name or generator.name.rstrip("/").rsplit("/", 1)[-1]
        self.dropped_rounds = 0
        self._talks: dict[int, _Talk] = {}

    def begin(self, negotiations: Sequence[Negotiation]) -> None:
        self._forget_ended()
        for negotiation in (negotiation for negotiation in negotiations if negotiation.end is None):
            self._talks[id(negotiation)] = _Talk(negotiation, self.chat.opening(negotiation.scenario))

    def speak(
        self, negotiations: Sequence[Negotiation], decisions: Sequence[Decision], emotions: Sequence[str | None]
    ) -> list[str]:
        """One utterance for each negotiation, all of them sampled in one batch."""
        self._forget_ended()
        talks = [self._talks[id(negotiation)] for negotiation in negotiations]
        prompts = [self._prompt(*parts) for parts in zip(negotiations, decisions, emotions, strict=True)]
        for talk, prompt in zip(talks, prompts, strict=True):
            self._recall(talk, len(prompt))
        seeds = [int(negotiation.rng[FOCAL].integers(2**63)) for negotiation in negotiations]
        replies = self.generator.extend_and_sample([talk.session for talk in talks], prompts, seeds)
        for talk, prompt in zip(talks, prompts, strict=True):
            talk.rounds.append(prompt)
        return [first_paragraph(self.chat.text(reply)) for reply in replies]

    def _prompt(self, negotiation: Negotiation, decision: Decision, emotion: str | None) -> list[int]:
        heard = negotiation.turns[-1].text if negotiation.turns else None
        words = None if decision.offer is None else negotiation.scenario.rules.say(decision.offer)
        return self.chat.prompt(heard, emotion, decision.act, words)

    def _recall(self, talk: _Talk, upcoming: int) -> None:
        """Set the session to the chat so far, as said, less the early rounds that do not fit beside what comes."""
        if talk.rounds:
            said = next(turn.text for turn in reversed(talk.negotiation.turns) if turn.speaker == FOCAL)
            talk.rounds[-1] = talk.rounds[-1] + self.chat.reply(said)
        room = self.generator.context - self.generator.sampling.max_new_tokens - len(talk.opening) - upcoming
        if room < 0:
            raise UserError(
                f"model={self.generator.name}: a context of {self.generator.context} tokens is too short for the "
                f"situation of scenario {talk.negotiation.scenario.id} and one round; choose a model with a longer one"
            )
        while sum(map(len, talk.rounds)) > room:
            del talk.rounds[0]
            self.dropped_rounds += 1
        talk.session.tokens = [*talk.opening, *(token for tokens in talk.rounds for token in tokens)]

    def _forget_ended(self) -> None:
        """Free the caches of chats that are over."""
        self._talks = {key: talk for key, talk in self._talks.items() if talk.negotiation.end is None}


def first_paragraph(text: str) -> str:
    """The words up to the first blank line, on one line."""
    return " ".join(text.strip().split("\n\n", 1)[0].split())
