"""A language model as the focal side's speaker: it is given the emotion and, where a schedule decides it, the offer.

The chat holds what was really said: where the agent appended an offer, or a reply was mended, the words of the turn as
it stands in the negotiation replace those sampled, just as training sees them. A chat that outgrows the context loses
whole early rounds, again as in training; its opening stays.
"""

from collections.abc import Sequence

from emodistill.emotions.vocabulary import Vocabulary
from emodistill.language_models.completion import Completer, Usage
from emodistill.negotiation.agents import Decision, Fault, Utterance
from emodistill.negotiation.prompts import Emotions, directive_words, opening_words, round_words
from emodistill.negotiation.protocol import FOCAL, Negotiation, Speaker
from emodistill.policy.chat import ChatFormat
from emodistill.policy.generation import ChatGenerator
from emodistill.policy.role_play import RETRIES, Line, RolePlay
from emodistill.policy.voices import EndpointVoice, LocalVoice, Voice


class VoiceSpeaker:
    """Puts decisions into the words of any voice, in role (see `role_play`).

    Args:
        voice: where the words come from.
        vocabulary: the emotions that it may be asked for.
        name: what reports call it; the voice's by default.
        retries: how often a reply that slipped out of role is asked for again.
        side: whose part it speaks.
        emotions: how emotions enter the chat; with `named` the model chooses one and names it before it speaks.
    """

    def __init__(
        self,
        voice: Voice,
        vocabulary: Vocabulary,
        name: str | None = None,
        retries: int = RETRIES,
        side: Speaker = FOCAL,
        emotions: Emotions = "told",
    ) -> None:
        self.voice, self.vocabulary, self.name, self.side = voice, vocabulary, name or voice.name, side
        self.retries, self.emotions = retries, emotions
        self._play = RolePlay(voice, side, retries, vocabulary if emotions == "named" else None)

    def naming(self) -> "VoiceSpeaker":
        """The same voice, which names its emotions itself."""
        return VoiceSpeaker(self.voice, self.vocabulary, self.name, self.retries, self.side, "named")

    @property
    def usage(self) -> Usage:
        """What its voice took so far."""
        return self.voice.usage

    def begin(self, negotiations: Sequence[Negotiation]) -> None:
        systems = [opening_words(n.scenario, self.vocabulary, self.emotions, self.side) for n in negotiations]
        self._play.begin(negotiations, systems)

    def speak(
        self, negotiations: Sequence[Negotiation], decisions: Sequence[Decision], emotions: Sequence[str | None]
    ) -> list[Utterance | Fault]:
        """One utterance for each negotiation, all of them asked for at once."""
        lines = [self._line(*parts) for parts in zip(negotiations, decisions, emotions, strict=True)]
        return self._play.speak(negotiations, lines)

    def _line(self, negotiation: Negotiation, decision: Decision, emotion: str | None) -> Line:
        heard = negotiation.turns[-1].text if negotiation.turns else None
        words = None if decision.offer is None else negotiation.scenario.rules.say(decision.offer)
        directive = directive_words(self.vocabulary, emotion, decision.act, words, self.emotions)
        return Line(round_words(heard, directive), directive)


class LanguageModelSpeaker(VoiceSpeaker):
    """A model on this machine as speaker; see `LocalVoice` for generator and chat."""

    def __init__(
        self,
        generator: ChatGenerator,
        chat: ChatFormat,
        name: str | None = None,
        retries: int = RETRIES,
        side: Speaker = FOCAL,
    ) -> None:
        self.local = LocalVoice(generator, chat)
        super().__init__(self.local, chat.vocabulary, name, retries, side, chat.emotions)


class EndpointSpeaker(VoiceSpeaker):
    """A model behind an endpoint as speaker; see `EndpointVoice` for the settings."""

    def __init__(
        self,
        completer: Completer,
        vocabulary: Vocabulary,
        max_tokens: int = 96,
        temperature: float = 0.7,
        name: str | None = None,
        retries: int = RETRIES,
    ) -> None:
        super().__init__(EndpointVoice(completer, max_tokens, temperature, name), vocabulary, name, retries)
