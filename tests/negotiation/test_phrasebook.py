"""The teacher says the right number in clean words, fit for its hearers, and the emotion can be told from them."""

import itertools
import re
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from emodistill.emotions.perceiver import load_perceiver
from emodistill.emotions.vocabulary import Vocabulary, load_vocabulary
from emodistill.errors import UserError
from emodistill.negotiation.agents import Decision
from emodistill.negotiation.domains import domain_names, load_domain
from emodistill.negotiation.offers import parse_offer
from emodistill.negotiation.phrasebook import (
    Phrasebook,
    PhrasebookSpeaker,
    bundled,
    fillings,
    renderings,
    utterance,
)
from emodistill.negotiation.phrasebook_files import ACTS, default_folder
from emodistill.negotiation.protocol import Negotiation, Turn
from emodistill.negotiation.scenarios import Scenario

EMOTIONS = load_vocabulary().labels
DOMAINS = ("debt", "disaster", "hospital", "student")
CELLS = list(itertools.product(EMOTIONS, ACTS, DOMAINS))
VIOLENT = """kill murder shoot stab strangle beat punch hit smash gun knife bomb weapon idiot stupid moron dumb fool liar
    loser scum trash pathetic worthless bastard bitch shit fuck ass bloody slut jail prison threaten revenge"""
UNFIT_FOR_MINORS = """damn hell god alcohol beer wine drunk drug drugs pills cigarette sex sexy naked suicide furious lazy
    fat lawyer court"""


def offers_of(domain: str, count: int) -> list[float]:
    rules = load_domain(domain)
    low, high = rules.bounds
    return [rules.snap(low + (high - low) * i / (count - 1)) for i in range(count)]


@cache
def texts_of(domain: str) -> list[tuple[str, str, float, str]]:
    """(emotion, act, offer, utterance): all lines with all fillings, at offers spread over the domain's bounds."""
    offers = itertools.cycle(offers_of(domain, 97))
    found = []
    for emotion, act in itertools.product(EMOTIONS, ACTS):
        offer = next(offers)
        found += [(emotion, act, offer, text) for text in renderings(bundled(), emotion, act, domain, offer)]
    return found


def negotiation(domain: str = "debt", seed: int = 0) -> Negotiation:
    low, high = load_domain(domain).bounds
    return Negotiation(Scenario(f"{domain}-1", domain, low + 60, low + 180), seed)


def speak(table: Negotiation, emotion: str | None, act: str = "hold", offer: float | None = 90.0) -> str:
    decision = Decision("accept" if act == "close" else "propose", None if act == "close" else offer, act)
    return PhrasebookSpeaker(load_vocabulary()).speak([table], [decision], [emotion])[0]


def test_covers_the_whole_vocabulary_and_every_bundled_domain() -> None:
    assert bundled().emotions == EMOTIONS
    assert set(domain_names()) >= set(DOMAINS)


@pytest.mark.parametrize("domain", DOMAINS)
def test_at_least_three_distinct_utterances_beside_the_offer(domain: str) -> None:
    for emotion, act in itertools.product(EMOTIONS, ACTS):
        lines = set(bundled().lines(emotion, act, domain))
        assert len(lines) >= 3, (emotion, act)


@pytest.mark.parametrize("domain", DOMAINS)
def test_the_parser_reads_exactly_the_offer_and_none_in_an_acceptance(domain: str) -> None:
    for _, act, offer, text in texts_of(domain):
        assert parse_offer(text, domain) == (None if act == "close" else offer), text


@pytest.mark.parametrize("domain", DOMAINS)
def test_every_offer_sentence_states_every_offer(domain: str) -> None:
    rules = load_domain(domain)
    emotion_of_tone = {tuple(bundled().sentences(emotion, "open", domain)): emotion for emotion in EMOTIONS}
    assert len(emotion_of_tone) >= 5
    for emotion, act, offer in itertools.product(emotion_of_tone.values(), ACTS, offers_of(domain, 41)):
        for sentence in bundled().sentences(emotion, act, domain):
            text = utterance("I hear you.", sentence.replace("{offer}", rules.say(offer)))
            assert parse_offer(text, domain) == (None if act == "close" else offer), text


@pytest.mark.parametrize("domain", DOMAINS)
def test_well_formed(domain: str) -> None:
    for _, _, _, text in texts_of(domain):
        assert not re.search(r"[{}\[\]<>*_#\"]|  | [,.!?]|[.,!?]{2}|[^\x20-\x7e]", text), text
        assert text[0].isupper() and text[-1] in ".!?", text
        assert not re.search(r"[.!?] [a-z]", text), text
        assert not re.search(r"\b(\w+) \1\b", text.lower()), text
        assert not re.search(r"\ba [aeio]\w|\ban [b-df-gj-np-tv-z]\w", text.lower()), text
        assert not re.search(r"\b(a|an|the|my|your) (a|an|the|my|your|our|this|these)\b", text.lower()), text


@pytest.mark.parametrize("domain", DOMAINS)
def test_short_enough_for_a_small_model(domain: str) -> None:
    lengths = [len(text.split()) for _, _, _, text in texts_of(domain)]
    assert min(lengths) >= 7 and max(lengths) <= 36
    assert 14 <= np.mean(lengths) <= 26


@pytest.mark.parametrize("domain", DOMAINS)
def test_nobody_is_threatened_or_insulted_and_minors_hear_nothing_unfit(domain: str) -> None:
    banned = {*VIOLENT.split(), *(UNFIT_FOR_MINORS.split() if domain == "student" else ())}
    for emotion, _, _, text in texts_of(domain):
        found = banned & set(re.findall(r"[a-z]+", text.lower()))
        assert not found, (emotion, text)


@pytest.mark.parametrize("domain", DOMAINS)
def test_no_label_as_a_tag_and_no_directive_repeated(domain: str) -> None:
    directives = [directive.lower() for directive in load_vocabulary().directives]
    for emotion, _, _, text in texts_of(domain):
        assert not re.match(rf"\W*{emotion}\W*[:.!-]", text.lower()), text
        assert not re.search(rf"\bi (feel|show|express) {emotion}\b", text.lower()), text
        assert not any(directive in text.lower() for directive in directives), text


def test_a_line_belongs_to_one_emotion_act_and_domain() -> None:
    owners = Counter()
    for emotion, act, domain in CELLS:
        owners.update({(emotion, line, domain) for line in bundled().lines(emotion, act, domain)})
    assert all(count == 1 for count in owners.values()), [line for line, count in owners.items() if count > 1]
    assert len({line for _, line, _ in owners}) == len({(emotion, line) for emotion, line, _ in owners})


def test_same_state_another_emotion_other_words() -> None:
    for domain, act in itertools.product(DOMAINS, ACTS):
        texts = {speak(negotiation(domain, seed=3), emotion, act) for emotion in EMOTIONS}
        assert len(texts) == len(EMOTIONS)


def test_no_emotion_sounds_businesslike() -> None:
    said = {speak(negotiation(seed=seed), None) for seed in range(20)}
    assert len(said) >= 3
    neutral = bundled().lines("neutral", "hold", "debt")
    starts = tuple(filled for line in neutral for filled in fillings(line, load_domain("debt").slots))
    assert all(text.startswith(starts) for text in said)


def test_the_same_seed_says_the_same_and_another_seed_something_else() -> None:
    once = [speak(negotiation(seed=seed), "joy") for seed in range(12)]
    assert once == [speak(negotiation(seed=seed), "joy") for seed in range(12)]
    assert len(set(once)) >= 6


def test_draws_only_from_the_focal_generator() -> None:
    table, untouched = negotiation(seed=4), negotiation(seed=4)
    np.random.seed(1)
    state = np.random.get_state()[1].tolist()
    speak(table, "joy")
    assert table.rng["counterparty"].random() == untouched.rng["counterparty"].random()
    assert table.rng["focal"].random() != untouched.rng["focal"].random()
    assert np.random.get_state()[1].tolist() == state


@pytest.mark.parametrize("domain", DOMAINS)
def test_lines_are_not_repeated_before_all_are_used(domain: str) -> None:
    lines = bundled().lines("anger", "hold", domain)
    for seed in range(10):
        table = negotiation(domain, seed)
        for round_number in range(1, len(lines) + 1):
            text = speak(table, "anger")
            table.turns.append(Turn(round_number, "focal", text))
            table.turns.append(Turn(round_number, "counterparty", text))  # an echo uses nothing up
        said = [turn.text for turn in table.turns if turn.speaker == "focal"]
        starts = [tuple(fillings(line, load_domain(domain).slots)) for line in lines]
        assert sorted(next(i for i, start in enumerate(starts) if text.startswith(start)) for text in said) == list(
            range(len(lines))
        )
        assert speak(table, "anger")  # and then it starts over


@pytest.mark.parametrize("name", ["ekman7", "izard10"])
def test_other_vocabularies_speak_through_what_they_are_perceived_as(name: str) -> None:
    vocabulary = load_vocabulary(name)
    speaker, decision = PhrasebookSpeaker(vocabulary), Decision("propose", 90.0, "open")
    for label in vocabulary.labels:
        lines = [line for emotion in vocabulary.perceived(label) for line in bundled().lines(emotion, "open", "debt")]
        starts = tuple(filled for line in lines for filled in fillings(line, load_domain("debt").slots))
        for seed in range(5):
            assert speaker.speak([negotiation(seed=seed)], [decision], [label])[0].startswith(starts)


def test_unspeakable_vocabularies_and_unknown_emotions_are_refused() -> None:
    for perceived in ((), ("bluff",)):
        with pytest.raises(UserError, match="cannot speak 'stall' of vocabulary 'tactics'"):
            PhrasebookSpeaker(Vocabulary("tactics", ("stall",), ("Stall.",), (perceived,)))
    with pytest.raises(UserError, match="unknown emotion 'rage'"):
        speak(negotiation(), "rage")


def test_without_a_number_to_say_it_says_none_and_walking_away_says_so() -> None:
    assert parse_offer(speak(negotiation(), "joy", offer=None), "debt") is None
    speaker = PhrasebookSpeaker(load_vocabulary())
    leaving = speaker.speak([negotiation()], [Decision("walk_away", None, "hold")], ["anger"])[0]
    assert leaving.endswith(tuple(bundled().farewells())) and parse_offer(leaving, "debt") is None


def test_the_emotion_can_be_told_from_the_words() -> None:
    """Measured (docs/teacher.md): 0.92 and 0.91 named first over all emotions, the weakest 0.56; floors below that."""
    for name in ("counterparty", "judge"):
        named = {emotion: [] for emotion in EMOTIONS}
        for domain in DOMAINS:
            emotions, _, _, texts = zip(*texts_of(domain), strict=True)
            tops = load_perceiver(name).probabilities(texts).argmax(1)
            for emotion, top in zip(emotions, tops, strict=True):
                named[emotion].append(EMOTIONS[top] == emotion)
        shares = {emotion: float(np.mean(hits)) for emotion, hits in named.items()}
        assert np.mean(list(shares.values())) >= 0.85, name
        assert min(shares.values()) >= 0.45, (name, min(shares, key=shares.__getitem__))


def copied(folder: Path, name: str, old: str, new: str) -> Path:
    for entry in default_folder().iterdir():
        text = entry.read_text(encoding="utf-8")
        (folder / entry.name).write_text(text.replace(old, new, 1) if entry.name == name else text, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("anger.yaml", "tone: firm", "tone: shrill", r"anger\.yaml: tone 'shrill' is unknown"),
        ("anger.yaml", "press:", "pressing:", r"anger\.yaml must have exactly the keys"),
        ("anger.yaml", "{matter}", "{weather}", r"anger\.yaml: open .*unknown slot \['weather'\]"),
        ("anger.yaml", "  - debt:", "  - farm:", r"anger\.yaml: open: no domain 'farm'"),
        ("anger.yaml", "  - debt:", "  - 3\n  - debt:", r"anger\.yaml: open: a line is a text or a mapping"),
        ("anger.yaml", "tone: firm", "- tone", r"anger\.yaml (must be a mapping|is not valid YAML)"),
        (
            "offers.yaml",
            "Please {ask}.",
            "Please {asked}.",
            r"offers\.yaml: tones\.plain\.open: unknown slot \['asked'\]",
        ),
        ("offers.yaml", "  any:", "  every:", r"offers\.yaml: wordings has no 'any'"),
        ("offers.yaml", "walk_away:", "leave:", r"offers\.yaml has no 'walk_away'"),
        (
            "offers.yaml",
            "  plain:\n    open:",
            "  plain:\n    begin:",
            r"offers\.yaml: tones\.plain\.open must be a list",
        ),
    ],
)
def test_a_flawed_file_is_named_with_its_key(tmp_path: Path, name: str, old: str, new: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Phrasebook(copied(tmp_path, name, old, new))


def test_a_missing_file_and_missing_lines_are_named(tmp_path: Path) -> None:
    book = copied(tmp_path, "", "", "")
    assert Phrasebook(book).emotions == EMOTIONS
    kept = (book / "joy.yaml").read_text(encoding="utf-8").splitlines()
    thinned = [line for i, line in enumerate(kept) if i != 2]
    (book / "joy.yaml").write_text("\n".join(thinned), encoding="utf-8")
    with pytest.raises(UserError, match=r"joy\.yaml: open has 3 lines"):
        Phrasebook(book)
    (book / "joy.yaml").unlink()
    with pytest.raises(UserError, match=r"joy\.yaml is missing"):
        Phrasebook(book)
