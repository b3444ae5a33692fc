"""Agents: what either side of a negotiation is, and the focal agent, which is put together from three parts.

An agent answers many negotiations in one call, so a language model can batch and an endpoint can run concurrently. The
parts of the focal agent vary independently: a selector chooses the emotion, an offer policy the number, a speaker the
words. The selectors here need no training: none, one constant emotion, a random one, or the speaker's own choice.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from emodistill.emotions.vocabulary import Vocabulary
from emodistill.errors import UserError
from emodistill.negotiation.offers import parse_act, parse_offer
from emodistill.negotiation.plain_text import SENTENCE_END
from emodistill.negotiation.protocol import COUNTERPARTY, FOCAL, Act, Negotiation, Side, other

DialogueAct = Literal["open", "press", "hold", "concede", "close"]
CONCEDES = 0.02  # smallest change of position that reads as a concession


@dataclass(frozen=True, slots=True)
class Move:
    """What an agent does with its turn; see `Turn` for the fields."""

    text: str
    act: Act = "propose"
    offer: float | None = None
    emotion: str | None = None
    emotion_prob: float | None = None
    offer_appended: bool = False
    role_violations: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Fault:
    """An agent could not move; the episode becomes invalid, never a breakdown of the negotiation."""

    reason: str


class NoRoom(UserError):
    """Words do not fit into a model's context; nothing was said yet in any negotiation of the call.

    Attributes:
        negotiations: those whose words do not fit; the others of the call can be answered without them.
    """

    def __init__(self, message: str, negotiations: Sequence[Negotiation]) -> None:
        super().__init__(message)
        self.negotiations = negotiations


class Agent(Protocol):
    """Plays one side of many negotiations at once."""

    name: str

    def begin(self, negotiations: Sequence[Negotiation]) -> None:
        """Called once before the first turn of these negotiations."""

    def act(self, negotiations: Sequence[Negotiation]) -> Sequence[Move | Fault]:
        """One move for each negotiation, in order; all of them are this agent's turn."""


@dataclass(frozen=True, slots=True)
class Choice:
    """An emotion and the probability with which it was chosen; both None where no emotion is shown."""

    emotion: str | None
    probability: float | None


class Selector(Protocol):
    """Chooses the emotion of the next focal turn."""

    name: str

    def select(self, negotiations: Sequence[Negotiation]) -> list[Choice]: ...


@dataclass(frozen=True, slots=True)
class Decision:
    """What the next focal turn does, before anybody has put it into words."""

    act: Act
    offer: float | None
    dialogue_act: DialogueAct


class OfferPolicy(Protocol):
    """Decides act and offer of the next focal turn; `offer=None` with `propose` leaves the number to the speaker."""

    def decide(self, negotiation: Negotiation) -> Decision: ...


@dataclass(frozen=True, slots=True)
class Utterance:
    """Words of a language model, and what was wrong with the attempts before them; see `role_checks`.

    Attributes:
        emotion: the one that the model named itself; None where it was not asked to, or did not.
    """

    text: str
    role_violations: tuple[str, ...] = ()
    emotion: str | None = None


Spoken = str | Utterance | Fault


class Speaker(Protocol):
    """Puts decisions into words; may keep state (a cache) between the rounds of a negotiation."""

    name: str

    def begin(self, negotiations: Sequence[Negotiation]) -> None: ...

    def speak(
        self, negotiations: Sequence[Negotiation], decisions: Sequence[Decision], emotions: Sequence[str | None]
    ) -> Sequence[Spoken]:
        """One utterance for each negotiation, in order, or why there is none."""


@runtime_checkable
class Recalling(Protocol):
    """A speaker that can take in what it said before; any other simply speaks again."""

    def recall(
        self, negotiations: Sequence[Negotiation], decisions: Sequence[Decision], emotions: Sequence[str | None]
    ) -> None: ...


class FocalAgent:
    """Emotion, offer and words from three parts, checked by the neutral offer parser.

    Where a decided offer or acceptance is not what the parsers read in the speaker's words, a sentence that states it
    is appended, and the move says so: `evaluate.py` reports how often. Before an acceptance is appended, sentences
    that offer a number are left out, or the other side would hear two numbers.
    """

    def __init__(self, selector: Selector, offers: OfferPolicy, speaker: Speaker) -> None:
        self.selector, self.offers, self.speaker = selector, offers, speaker
        self.name = f"{selector.name}/{speaker.name}"

    def begin(self, negotiations: Sequence[Negotiation]) -> None:
        self.speaker.begin(negotiations)

    def act(self, negotiations: Sequence[Negotiation]) -> list[Move | Fault]:
        choices = self.selector.select(negotiations)
        decisions = [self.offers.decide(negotiation) for negotiation in negotiations]
        spoken = self.speaker.speak(negotiations, decisions, [choice.emotion for choice in choices])
        return [move_of(*parts) for parts in zip(negotiations, decisions, choices, spoken, strict=True)]

    def recall(self, negotiations: Sequence[Negotiation], said: Sequence[Utterance]) -> list[Move]:
        """Turns whose words are known: draws and chats go on as they do after `act`, and no language model is asked.

        Args:
            said: with its emotion; None stands for the one that the selector chooses.
        """
        choices = self.selector.select(negotiations)
        decisions = [self.offers.decide(negotiation) for negotiation in negotiations]
        emotions = [words.emotion or choice.emotion for words, choice in zip(said, choices, strict=True)]
        recall = self.speaker.recall if isinstance(self.speaker, Recalling) else self.speaker.speak
        recall(negotiations, decisions, emotions)
        return [
            recalled_move(negotiation, decision, words.text, emotion)
            for negotiation, decision, words, emotion in zip(negotiations, decisions, said, emotions, strict=True)
        ]


def move_of(negotiation: Negotiation, decision: Decision, choice: Choice, spoken: Spoken) -> Move | Fault:
    """The turn that a decision and its words amount to."""
    if isinstance(spoken, Fault):
        return spoken
    if isinstance(spoken, str):
        spoken = Utterance(spoken)
    text, domain = spoken.text, negotiation.scenario.domain
    missing, offer = "", None
    if decision.act == "propose":
        offer = parse_offer(text, domain)
        if decision.offer is not None and offer != decision.offer:
            missing, offer = offer_sentence(negotiation, decision.offer), decision.offer
    elif decision.act == "accept" and not _takes(text, domain, _offered(negotiation)):
        text, missing = _without_offers(text, domain), acceptance_sentence(negotiation)
    appended = bool(missing)
    text = f"{_finished(text)} {missing}".strip() if appended else text
    emotion = choice.emotion if spoken.emotion is None else spoken.emotion
    return Move(text, decision.act, offer, emotion, choice.probability, appended, spoken.role_violations)


def recalled_move(negotiation: Negotiation, decision: Decision, text: str, emotion: str | None = None) -> Move:
    """What `move_of` made of these words, which may end with the sentence that it appended."""
    offer = None
    if decision.act == "propose":
        stated = decision.offer is not None and text.endswith(offer_sentence(negotiation, decision.offer))
        offer = decision.offer if stated else parse_offer(text, negotiation.scenario.domain)
    return Move(text, decision.act, offer, emotion)


def move_in_words(negotiation: Negotiation, side: Side, text: str) -> Move:
    """The turn that a side's own words amount to, by the neutral parsers."""
    domain = negotiation.scenario.domain
    act = parse_act(text, domain, negotiation.standing[other(side)])
    return Move(text, act, parse_offer(text, domain) if act == "propose" else None)


def _takes(text: str, domain: str, standing: float | None) -> bool:
    """Whether the words take the standing offer: they accept it, or offer the same number outside of questions."""
    if parse_act(text, domain, standing) == "accept":
        return True
    told = " ".join(sentence for sentence in SENTENCE_END.split(text) if not sentence.endswith("?"))
    return standing is not None and parse_offer(text, domain) == parse_offer(told, domain) == standing


def _without_offers(text: str, domain: str) -> str:
    """The sentences that put no number on the table."""
    return " ".join(sentence for sentence in SENTENCE_END.split(text) if parse_offer(sentence, domain) is None)


def _finished(text: str) -> str:
    """The text as a whole sentence, or else a "not" in words cut short would reach into the sentence that follows."""
    text = text.rstrip(" \t\n,;:-")
    return text if not text or text[-1] in ".!?…\"'" else f"{text}."


def offer_sentence(negotiation: Negotiation, offer: float) -> str:
    """A neutral sentence that states an offer, e.g. "My offer is 45 days."."""
    return f"My offer is {negotiation.scenario.rules.say(offer)}."


def acceptance_sentence(negotiation: Negotiation) -> str:
    """A neutral sentence that takes the standing offer, e.g. "I accept 45 days."."""
    offered = _offered(negotiation)
    return f"I accept {'your offer' if offered is None else negotiation.scenario.rules.say(offered)}."


def _offered(negotiation: Negotiation) -> float | None:
    """What lies on the table for the side whose turn it is."""
    return negotiation.standing[other(negotiation.next_speaker)]


def dialogue_act(negotiation: Negotiation, act: Act, offer: float | None) -> DialogueAct:
    """Which of the five dialogue acts a focal decision amounts to, seen from the positions on the table."""
    if act == "accept":
        return "close"
    own, theirs = negotiation.offers(FOCAL), negotiation.offers(COUNTERPARTY)
    if not own:
        return "open"
    position = negotiation.scenario.position
    if offer is not None and position(own[-1]) - position(offer) >= CONCEDES:
        return "concede"
    stalled = len(theirs) >= 2 and position(theirs[-1]) - position(theirs[-2]) < CONCEDES
    return "press" if stalled else "hold"


class NoEmotion:
    """Shows no emotion: the speaker's directive then has no emotion sentence at all."""

    name = "none"

    def select(self, negotiations: Sequence[Negotiation]) -> list[Choice]:
        return [Choice(None, None)] * len(negotiations)


class LeftToSpeaker(NoEmotion):
    """Chooses nothing: the language model names the emotion of its words itself, and the turn has that one."""

    name = "self_selected"


class FixedEmotion:
    """Always the same emotion; a label that is not in the vocabulary is a UserError."""

    def __init__(self, vocabulary: Vocabulary, label: str) -> None:
        vocabulary.index(label)
        self.label = label
        self.name = f"fixed:{label}"

    def select(self, negotiations: Sequence[Negotiation]) -> list[Choice]:
        return [Choice(self.label, 1.0)] * len(negotiations)


class UniformEmotion:
    """Each emotion with the same probability, drawn from the negotiation's own generator."""

    name = "uniform"

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary

    def select(self, negotiations: Sequence[Negotiation]) -> list[Choice]:
        labels = self.vocabulary.labels
        draws = [int(negotiation.rng[FOCAL].integers(len(labels))) for negotiation in negotiations]
        return [Choice(labels[draw], 1.0 / len(labels)) for draw in draws]
