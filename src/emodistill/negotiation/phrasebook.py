"""The phrasebook: what the focal side of the bundled corpus says, and so what the small model learns to say.

An utterance is a line that shows the emotion, followed by a short sentence that states the offer or seals the deal. The
line differs by emotion, dialogue act and, where one wording would sound wrong, by domain; the sentence differs by tone,
act and domain. Keeping them apart is what lets every emotion meet every offer, and it keeps the number in one place:
no line ever holds one, so the offer parser reads exactly the offer that was decided.

The texts are in `assets/phrasebook`. A file for each GoEmotions label holds its tone and, for each dialogue act, its
lines. A line is one text for all domains, or a mapping of domains to texts (with `any` for the domains it does not
name). `offers.yaml` holds the sentences that state an offer or seal a deal, by tone and act, and how each domain words
an offer. All of it is checked on loading, so that a gap is not found in the middle of a corpus.
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any, get_args

import numpy as np
import yaml

from emodistill.emotions.vocabulary import Vocabulary, load_vocabulary
from emodistill.errors import UserError
from emodistill.negotiation.agents import Decision, DialogueAct, dialogue_act
from emodistill.negotiation.domains import domain_names, imported_domain_names, load_domain
from emodistill.negotiation.protocol import FOCAL, Act, Negotiation, Turn
from emodistill.negotiation.scenarios import Scenario

ACTS: tuple[DialogueAct, ...] = get_args(DialogueAct)
ANY = "any"
LINES_AN_ACT = 4  # lines every emotion has for every act, over all domains together
LINES_A_DOMAIN = 3  # and those that are left in each domain
OFFERS = "offers.yaml"
SLOT = re.compile(r"\{(\w*)\}")
BUSINESSLIKE = "neutral"  # the lines spoken where no emotion is asked for
_SENTENCE_START = re.compile(r"(?:^|(?<=[.!?] ))[a-z]")

Line = Mapping[str, str]  # domain, or `any`, to text
Wordings = Mapping[str, Mapping[str, Sequence[str]]]  # domain, or `any`, to slot (`deal`, `ask`) to wordings
Sentences = Mapping[str, Mapping[str, Sequence[str]]]  # tone to act to sentences


@dataclass(frozen=True)
class EmotionLines:
    """What one emotion says: its tone, and for every act its lines."""

    tone: str
    lines: Mapping[DialogueAct, tuple[Line, ...]]


class Phrasebook:
    """Lines and offer sentences of all GoEmotions labels, checked for gaps on loading.

    Args:
        folder: where the YAML files lie; the ones that ship with the package by default.

    Raises:
        UserError: if a file or a key is missing or a slot unknown.
    """

    def __init__(self, folder: Traversable | None = None) -> None:
        folder = folder or default_folder()
        self._wordings, self._sentences, self._farewells = _read_offers(folder)
        self._emotions = _read_emotions(folder, tuple(self._sentences))

    @property
    def emotions(self) -> tuple[str, ...]:
        """The GoEmotions labels, in their order."""
        return tuple(self._emotions)

    def lines(self, emotion: str, act: DialogueAct, domain: str) -> list[str]:
        """The lines of an emotion and act that serve a domain, slots unfilled."""
        texts = (line.get(domain, line.get(ANY)) for line in self._emotions[emotion].lines[act])
        return [text for text in texts if text is not None]

    def sentences(self, emotion: str, act: DialogueAct, domain: str) -> list[str]:
        """The sentences that may follow: with `{offer}` where the act states one, without where it seals a deal."""
        wordings = self._wordings.get(domain, self._wordings[ANY])
        sentences = self._sentences[self._emotions[emotion].tone][act]
        return [text for sentence in sentences for text in fillings(sentence, wordings)]

    def farewells(self) -> Sequence[str]:
        """The sentences that follow where the focal side ends the talks."""
        return self._farewells


def default_folder() -> Traversable:
    """The phrasebook that ships with the package."""
    return files("emodistill") / "assets" / "phrasebook"


@cache
def bundled() -> Phrasebook:
    """The phrasebook that ships with the package, read once."""
    return Phrasebook()


class PhrasebookSpeaker:
    """Speaks every decision from the phrasebook, drawing with the negotiation's focal generator.

    A line that the focal side has used in this negotiation is left aside until all of them are used.

    Args:
        vocabulary: the emotions it is asked for; each must be perceived as at least one GoEmotions label.

    Raises:
        UserError: if a label maps to no GoEmotions label.
    """

    name = "phrasebook"

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._book = bundled()
        self._labels = {label: vocabulary.perceived(label) for label in vocabulary.labels}
        for label, perceived in self._labels.items():
            if not perceived or not set(perceived) <= set(self._book.emotions):
                raise UserError(
                    f"the phrasebook cannot speak '{label}' of vocabulary '{vocabulary.name}': list GoEmotions labels"
                    " under its 'perceived_as', or use another speaker"
                )
        self._vocabulary = vocabulary

    def begin(self, negotiations: Sequence[Negotiation]) -> None:
        """Nothing to prepare: what was said before is read from the negotiation's own turns.

        Raises:
            UserError: if a negotiation is of a domain of imported dialogues, for which no lines were written.
        """
        strange = sorted({negotiation.scenario.domain for negotiation in negotiations} & set(imported_domain_names()))
        if strange:
            raise UserError(
                f"the phrasebook has no lines for the domain '{strange[0]}'; choose arms with a language model"
            )

    def speak(
        self, negotiations: Sequence[Negotiation], decisions: Sequence[Decision], emotions: Sequence[str | None]
    ) -> list[str]:
        """One utterance for each negotiation.

        Raises:
            UserError: if an emotion is not in the vocabulary.
        """
        return [self._utterance(*parts) for parts in zip(negotiations, decisions, emotions, strict=True)]

    def line_after(
        self,
        scenario: Scenario,
        history: Sequence[Turn],
        act: Act,
        offer: float | None,
        emotion: str | None,
        seed: int,
    ) -> str:
        """One utterance after these turns, with this act and offer; the seed chooses among the lines.

        Raises:
            UserError: as `begin` and `speak`.
        """
        negotiation = Negotiation(scenario, seed, turns=list(history))
        self.begin([negotiation])
        decision = Decision(act, offer, dialogue_act(negotiation, act, offer))
        return self._utterance(negotiation, decision, emotion)

    def _utterance(self, negotiation: Negotiation, decision: Decision, emotion: str | None) -> str:
        rng, domain = negotiation.rng[FOCAL], negotiation.scenario.rules
        shown = BUSINESSLIKE if emotion is None else self._shown(emotion, rng)
        act: DialogueAct = "close" if decision.act == "accept" else decision.dialogue_act
        unused = [line for line in self._book.lines(shown, act, domain.name) if not _used(line, negotiation)]
        line = _draw(rng, unused or self._book.lines(shown, act, domain.name))
        line = SLOT.sub(lambda match: _draw(rng, domain.slots[match[1]]), line)
        return utterance(line, self._sentence(negotiation, decision, shown, act))

    def _shown(self, emotion: str, rng: np.random.Generator) -> str:
        self._vocabulary.index(emotion)
        return _draw(rng, self._labels[emotion])

    def _sentence(self, negotiation: Negotiation, decision: Decision, shown: str, act: DialogueAct) -> str:
        rng, domain = negotiation.rng[FOCAL], negotiation.scenario.rules
        if decision.act == "walk_away":
            return _draw(rng, self._book.farewells())
        if decision.act == "propose" and decision.offer is None:
            return ""  # the number is the speaker's to choose, and the phrasebook chooses none
        sentence = _draw(rng, self._book.sentences(shown, act, domain.name))
        return sentence if decision.offer is None else sentence.replace("{offer}", domain.say(decision.offer))


def _draw(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]


def _used(line: str, negotiation: Negotiation) -> bool:
    """Whether the focal side has said this line already, however its slots were filled."""
    pattern = _pattern(line)
    return any(turn.speaker == FOCAL and pattern.match(turn.text) for turn in negotiation.turns)


@cache
def _pattern(line: str) -> re.Pattern[str]:
    return re.compile(".+".join(re.escape(part) for part in re.split(r"\{\w+\}", line)), re.IGNORECASE)


def utterance(line: str, sentence: str) -> str:
    """A line and a sentence as one utterance, every sentence of it beginning with a capital letter."""
    return _SENTENCE_START.sub(lambda match: match[0].upper(), f"{line} {sentence}".strip())


def fillings(text: str, slots: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Every way to fill the slots of a text, in a fixed order."""
    names = list(dict.fromkeys(SLOT.findall(text)))
    for values in itertools.product(*(slots[name] for name in names)):
        chosen = dict(zip(names, values, strict=True))
        yield SLOT.sub(lambda match, chosen=chosen: chosen[match[1]], text)  # type: ignore[misc]  # default argument


def renderings(
    book: Phrasebook, emotion: str, act: DialogueAct, domain: str, offer: float, line: int | None = None
) -> Iterator[str]:
    """All that may be said for an emotion, act and domain: every line with every filling, the offer sentences in turn.

    Args:
        line: only the line at this place, if given.
    """
    rules = load_domain(domain)
    sentences = book.sentences(emotion, act, domain)
    lines = book.lines(emotion, act, domain)
    for place, text in enumerate(lines):
        if line in (None, place):
            for turn, filled in enumerate(fillings(text, rules.slots)):
                sentence = sentences[(place * 5 + turn) % len(sentences)]
                yield utterance(filled, sentence.replace("{offer}", rules.say(offer)))


def _read_offers(folder: Traversable) -> tuple[Wordings, Sentences, Sequence[str]]:
    """Read `offers.yaml`: wordings by domain, sentences by tone and act, and sentences that end the talks.

    Raises:
        UserError: if a key is missing, a list is empty or a slot is unknown; the message names file and key.
    """
    raw = _read(folder, OFFERS)
    for key in ("wordings", "tones", "walk_away"):
        if not raw.get(key):
            raise UserError(f"phrasebook/{OFFERS} has no '{key}'; add it")
    if ANY not in raw["wordings"]:
        raise UserError(f"phrasebook/{OFFERS}: wordings has no '{ANY}', which serves the domains it does not name")
    for domain, slots in raw["wordings"].items():
        for slot in ("deal", "ask"):
            _check_texts(slots.get(slot), 1, {"offer"}, f"{OFFERS}: wordings.{domain}.{slot}")
    for tone, acts in raw["tones"].items():
        for act in ACTS:
            _check_texts(acts.get(act), 3, {"deal", "ask"}, f"{OFFERS}: tones.{tone}.{act}")
    _check_texts(raw["walk_away"], 1, set(), f"{OFFERS}: walk_away")
    return raw["wordings"], raw["tones"], raw["walk_away"]


def _read_emotions(folder: Traversable, tones: Sequence[str]) -> dict[str, EmotionLines]:
    """Read the file of every GoEmotions label.

    Args:
        tones: the tones that `offers.yaml` knows.

    Raises:
        UserError: if a file, an act or a line is missing, or a slot or tone is unknown; it names file and key.
    """
    return {label: _emotion(folder, label, tones) for label in load_vocabulary().labels}


def _emotion(folder: Traversable, label: str, tones: Sequence[str]) -> EmotionLines:
    name = f"{label}.yaml"
    raw = _read(folder, name)
    if set(raw) != {"tone", *ACTS}:
        raise UserError(f"phrasebook/{name} must have exactly the keys tone, {', '.join(ACTS)}; it has {list(raw)}")
    if raw["tone"] not in tones:
        raise UserError(f"phrasebook/{name}: tone '{raw['tone']}' is unknown; {OFFERS} has: {', '.join(tones)}")
    lines = {act: tuple(_line(entry, f"{name}: {act}") for entry in raw[act] or ()) for act in ACTS}
    for act in ACTS:
        _check_coverage(lines[act], f"{name}: {act}")
    return EmotionLines(raw["tone"], lines)


def _line(entry: Any, place: str) -> Line:
    texts = {ANY: entry} if isinstance(entry, str) else entry
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise UserError(f"phrasebook/{place}: a line is a text or a mapping of domains to texts, not {entry!r}")
    for domain, text in texts.items():
        if domain not in (ANY, *domain_names()):
            raise UserError(f"phrasebook/{place}: no domain '{domain}'; there are: {ANY}, {', '.join(domain_names())}")
        for served in domain_names() if domain == ANY else [domain]:
            _check_texts([text], 1, set(load_domain(served).slots), f"{place} ({served})")
    return texts


def _check_coverage(lines: Sequence[Line], place: str) -> None:
    if len(lines) < LINES_AN_ACT:
        raise UserError(f"phrasebook/{place} has {len(lines)} lines; write at least {LINES_AN_ACT}")
    for domain in domain_names():
        there = sum(domain in line or ANY in line for line in lines)
        if there < LINES_A_DOMAIN:
            raise UserError(f"phrasebook/{place} has {there} lines for '{domain}'; write at least {LINES_A_DOMAIN}")


def _check_texts(texts: Any, least: int, slots: set[str], place: str) -> None:
    if not isinstance(texts, list) or len(texts) < least or not all(isinstance(text, str) and text for text in texts):
        raise UserError(f"phrasebook/{place} must be a list of at least {least} texts")
    for text in texts:
        unknown = sorted(set(SLOT.findall(text)) - slots)
        if unknown or text.count("{") != text.count("}"):
            raise UserError(f"phrasebook/{place}: unknown slot {unknown} in '{text}'; known: {sorted(slots)}")


def _read(folder: Traversable, name: str) -> dict[str, Any]:
    entry = folder / name
    if not entry.is_file():
        raise UserError(f"phrasebook/{name} is missing from {folder}; every GoEmotions label has its file")
    try:
        raw = yaml.safe_load(entry.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"phrasebook/{name} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise UserError(f"phrasebook/{name} must be a mapping of keys to texts")
    return raw
