"""What is flagged and what is not: the definitions' own examples, negations, spans, and speed."""

import copy
import time
from importlib import resources

import pytest
import yaml

from emodistill.errors import UserError
from emodistill.safety.detector import KINDS, Detector, PlainText, default_detector, detect

CONTENT = yaml.safe_load(
    (resources.files("emodistill") / "assets" / "safety" / "patterns.yaml").read_text(encoding="utf-8")
)


def kinds(text: str) -> frozenset[str]:
    return detect([text])[0].kinds


@pytest.mark.parametrize("kind", KINDS)
def test_the_examples_of_a_definition(kind):
    for text in CONTENT["kinds"][kind]["counts"]:
        assert kinds(text) == {kind}, text
    for text in CONTENT["kinds"][kind]["harmless_examples"]:
        assert not kinds(text), text


@pytest.mark.parametrize(
    ("flagged", "lifted"),
    [
        ("You are lazy.", "Nobody says that you are lazy."),
        ("It is your fault.", "I never said it is your fault."),
        ("We will leave you there.", "We will not leave you there."),
        ("This is your last chance.", "This is not your last chance."),
        ("You're an idiot.", "I'm an idiot, sorry."),
        ("Have some wine.", "Have no wine, please."),
        ("I could kill somebody.", "The gas could kill somebody."),
        ("You are a disgrace.", "This list is a disgrace."),
        ("Decide right now.", "You do not have to decide right now."),
        ("Just get lost.", "One could get lost in the night."),
        ("Pay or I will sue you.", "Pay or I will lose my credit line."),
    ],
)
def test_what_takes_a_flag_away(flagged, lifted):
    assert kinds(flagged) and not kinds(lifted)


def test_a_condition_or_an_outburst_is_not_lifted_by_a_negation_before_it():
    assert kinds("Do not argue or else I will sue you.") == {"threat"}
    assert kinds("I will not take this crap.") == {"unfit_for_minors"}
    assert kinds("Don't be stupid.") == {"insult"}


def test_a_negation_reaches_four_words_and_no_further():
    assert not kinds("I do not say that you are lazy.") and not kinds("It is not as if you are lazy.")
    assert kinds("I will not sit here all day while you are lazy.") == {"insult"}
    assert kinds("I did not say that. You are lazy.") == {"insult"}


def test_a_match_shows_the_words_and_the_pattern():
    text = "Well: you’re  a COMPLETE idiot, so pay now or else."
    matches = detect([text])[0].matches
    assert [(m.kind, text[m.start : m.end]) for m in matches] == [("insult", "idiot"), ("threat", "or else")]
    assert matches[1].pattern == "or else $"
    assert [m.start for m in matches] == sorted(m.start for m in matches)


@pytest.mark.parametrize("text", ["", " ", "...", "♥", "\n\n", "My offer is 45 days.", "(" * 500])
def test_nothing_is_found_where_nothing_is(text):
    flags = detect([text])[0]
    assert not flags and flags.kinds == frozenset()


def test_the_order_of_texts_is_kept_and_the_answer_repeats():
    texts = ["You idiot.", "Fine.", "Or else!"]
    assert detect(texts) == detect(texts) and [bool(flags) for flags in detect(texts)] == [True, False, True]


def test_definitions_are_whole_sentences():
    assert all(default_detector().definition(kind).endswith(".") for kind in KINDS)


def test_a_kind_too_few_or_too_many_is_refused():
    for change in ("remove", "add"):
        content = copy.deepcopy(CONTENT)
        content["kinds"].pop("threat") if change == "remove" else content["kinds"].update(
            boasting={"definition": "Big words."}
        )
        with pytest.raises(UserError, match="kinds must be threat"):
            Detector(content)


def test_most_patterns_are_never_tried():
    """Beside bringing the text into its plain form, finding costs little, however fast or busy the machine is."""
    texts = ["I understand your situation, but if we cannot agree I will have to ask you for 30 days, please."] * 1000

    def seconds(work):
        start = time.process_time()
        work()
        return time.process_time() - start

    normalising = min(seconds(lambda: [PlainText.of(text) for text in texts]) for _ in range(4))
    assert min(seconds(lambda: detect(texts)) for _ in range(4)) < 6 * normalising  # without the index: far more


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        (("kinds", "threat", "paterns"), [], "^my.yaml: there is no key kinds.threat.paterns"),
        (("kinds", "threat", "patterns"), ["or else $", False], "^my.yaml: kinds.threat.patterns.1=False should be"),
        (("lists", "very"), "so", "^my.yaml: lists.very=so should be"),
    ],
)
def test_a_mistake_in_the_file_is_named_with_its_key(where, value, message):
    content = copy.deepcopy(CONTENT)
    inner = content
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = value
    with pytest.raises(UserError, match=message):
        Detector(content, "my.yaml")
