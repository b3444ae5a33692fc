"""The speaker: the same seed, the same words; no line twice; any vocabulary that is perceived as emotions."""

import itertools

import numpy as np
import pytest

from emodistill.emotions.vocabulary import Vocabulary, load_vocabulary
from emodistill.errors import UserError
from emodistill.negotiation.agents import Decision
from emodistill.negotiation.domains import load_domain
from emodistill.negotiation.offers import parse_offer
from emodistill.negotiation.phrasebook import ACTS, PhrasebookSpeaker, bundled, fillings
from emodistill.negotiation.protocol import Negotiation, Turn
from emodistill.negotiation.scenarios import Scenario

EMOTIONS = load_vocabulary().labels
DOMAINS = ("debt", "disaster", "hospital", "student")


def negotiation(domain: str = "debt", seed: int = 0) -> Negotiation:
    low, high = load_domain(domain).bounds
    return Negotiation(Scenario(f"{domain}-1", domain, low + 60, low + 180), seed)


def speak(table: Negotiation, emotion: str | None, act: str = "hold", offer: float | None = 90.0) -> str:
    decision = Decision("accept" if act == "close" else "propose", None if act == "close" else offer, act)
    return PhrasebookSpeaker(load_vocabulary()).speak([table], [decision], [emotion])[0]


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
            for line in lines:  # what the other side says uses nothing up
                table.turns.append(Turn(round_number, "counterparty", next(fillings(line, load_domain(domain).slots))))
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
    silent = speak(negotiation(), "joy", offer=None)
    assert parse_offer(silent, "debt") is None and "{" not in silent
    speaker = PhrasebookSpeaker(load_vocabulary())
    leaving = speaker.speak([negotiation()], [Decision("walk_away", None, "hold")], ["anger"])[0]
    assert leaving.endswith(tuple(bundled().farewells())) and parse_offer(leaving, "debt") is None
