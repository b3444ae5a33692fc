"""From one human dialogue to two episodes, one from each side.

What is bargained over becomes one number, the focal side's own points: a submitted deal is worth so many to the focal
side, whoever submitted it, and that is its offer. The targets are 36 and 0, so a position is points / 36. The game
itself is not zero-sum: the other side's points do not follow from this number, and are in the other episode.

Messages of one side in a row are one turn. Before the focal side first speaks no round has begun: the words with which
the other side opened the talk are in round 0. A turn made of clicks alone shows no emotion, so it is no transition.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from emodistill.data.casino.reading import MOST, POINTS, Dialogue, Message, Share
from emodistill.data.schema import HUMAN, Episode
from emodistill.emotions.vocabulary import Vocabulary
from emodistill.errors import UserError
from emodistill.negotiation.protocol import COUNTERPARTY, FOCAL, Act, Turn
from emodistill.negotiation.scenarios import Scenario

DOMAIN = "campsite"
EMOTICONS = {"\U0001f642": "joy", "\u2639": "sadness", "\U0001f62e": "surprise", "\U0001f621": "anger"}  # 🙂 ☹ 😮 😡
UNMARKED = "neutral"
_CLICKED = {"accept": "I accept the deal.", "reject": "I reject the deal.", "walk_away": "I walk away."}


@dataclass(frozen=True)
class EmotionLabels:
    """Which label of a vocabulary stands for each emoticon, and for a turn without one.

    Attributes:
        of: `joy`, `sadness`, `surprise`, `anger` -> label.
        unmarked: label of a turn with words but no emoticon; None where such a turn counts as showing nothing.
    """

    of: Mapping[str, str]
    unmarked: str | None

    @classmethod
    def choose(cls, vocabulary: Vocabulary, unmarked: Literal["neutral", "none"]) -> "EmotionLabels":
        """The label of the same name, or else the first label that is perceived as that emotion.

        Raises:
            UserError: if the vocabulary has no such label, or `unmarked` is something else.
        """
        if unmarked not in (UNMARKED, "none"):
            raise UserError(f"data.corpus.unmarked={unmarked}: use neutral or none")
        of = {name: _label(vocabulary, name) for name in EMOTICONS.values()}
        return cls(of, _label(vocabulary, UNMARKED) if unmarked == UNMARKED else None)


def _label(vocabulary: Vocabulary, name: str) -> str:
    if name in vocabulary:
        return name
    for label, perceived in zip(vocabulary.labels, vocabulary.perceived_as, strict=True):
        if name in perceived:
            return label
    way_out = "or data.corpus.unmarked=none" if name == UNMARKED else "such as ekman7"
    raise UserError(f"the vocabulary '{vocabulary.name}' has no label for {name}; use another vocabulary, {way_out}")


def episodes_of(dialogue: Dialogue, labels: EmotionLabels, split: str) -> list[Episode]:
    """The dialogue as each of its participants lived it."""
    return [_episode(dialogue, name, labels, split) for name in sorted(dialogue.participants)]


def _episode(dialogue: Dialogue, focal: str, labels: EmotionLabels, split: str) -> Episode:
    scenario, deal = scenario_of(dialogue, focal), dialogue.deal
    turns: list[Turn] = []
    for name, messages in turns_of(dialogue):
        number = turns[-1].round if turns else 0
        turns.append(_turn(number + 1 if name == focal else number, messages, dialogue, focal, labels))
    value = None if deal is None else float(dialogue.participants[focal].worth(deal[focal]))
    name = f"{DOMAIN}/{scenario.id}/{HUMAN}/0"
    who = (HUMAN, HUMAN, HUMAN, 0)
    return Episode(name, split, scenario, *who, tuple(turns), "walk_away" if deal is None else "deal", value)


def scenario_of(dialogue: Dialogue, focal: str) -> Scenario:
    """The scenario of one side: what the packages are worth to it and to the other one, and why."""
    context = {}
    for prefix, name in (("", focal), ("Neighbour ", dialogue.other(focal))):
        person = dialogue.participants[name]
        for priority in POINTS:
            context[f"{prefix}{priority}"] = person.items[priority]
            context[f"{prefix}{priority} Reason"] = person.reasons[priority]
    side = sorted(dialogue.participants).index(focal) + 1
    return Scenario(f"casino-{dialogue.id:04}-{side}", DOMAIN, float(MOST), 0.0, context)


def turns_of(dialogue: Dialogue) -> list[tuple[str, list[Message]]]:
    """Who had the word, and all they wrote and clicked until the other one had it."""
    return [(name, list(messages)) for name, messages in groupby(dialogue.messages, lambda message: message.speaker)]


def _turn(number: int, messages: Sequence[Message], dialogue: Dialogue, focal: str, labels: EmotionLabels) -> Turn:
    is_focal = messages[0].speaker == focal
    submitted = [message.shares for message in messages if message.shares]
    offer = float(dialogue.participants[focal].worth(submitted[-1][focal])) if submitted else None
    last = messages[-1].move
    act: Act = last if last in ("accept", "walk_away") else "propose"
    spoken = [message for message in messages if message.move == "say"]
    name = shown_emotion(spoken)
    label = labels.unmarked if name is None else labels.of[name]
    emotion = label if is_focal and spoken else None
    words = " ".join(_words(message) for message in messages)
    return Turn(number, FOCAL if is_focal else COUNTERPARTY, words, act, offer, emotion)


def shown_emotion(messages: Sequence[Message]) -> str | None:
    """The emotion that a turn shows: its most frequent emoticon, the first of equals; None without one."""
    seen = Counter(EMOTICONS[sign] for message in messages for sign in message.text if sign in EMOTICONS)
    return seen.most_common(1)[0][0] if seen else None


def _words(message: Message) -> str:
    """What was written, or a plain sentence for what was clicked."""
    if message.shares:
        own = message.shares[message.speaker]
        other = next(share for name, share in message.shares.items() if name != message.speaker)
        return f"I submit this deal: I get {_packages(own)}, and you get {_packages(other)}."
    return _CLICKED.get(message.move, message.text)


def _packages(share: Share) -> str:
    return ", ".join(f"{count} {item.lower()}" for item, count in share.items() if count) or "nothing"
