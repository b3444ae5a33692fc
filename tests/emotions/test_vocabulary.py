"""The vocabularies as data: order, uniform directives, and what a user's own file may get wrong."""

import re

import pytest

from emodistill.emotions.vocabulary import available, load_vocabulary
from emodistill.errors import UserError

ORDER = """admiration amusement anger annoyance approval caring confusion curiosity desire disappointment
disapproval disgust embarrassment excitement fear gratitude grief joy love nervousness optimism pride realization
relief remorse sadness surprise neutral"""
GOEMOTIONS = ORDER.split()
SHIPPED = ["ekman7", "goemotions28", "izard10"]


def test_the_three_vocabularies_ship():
    assert available() == SHIPPED
    assert [len(load_vocabulary(name)) for name in SHIPPED] == [7, 28, 10]


def test_goemotions28_has_the_published_order_and_perceives_each_label_as_itself():
    vocabulary = load_vocabulary()
    assert list(vocabulary.labels) == GOEMOTIONS
    assert vocabulary.perceived_as == tuple((label,) for label in GOEMOTIONS)


def test_goemotions28_is_in_the_order_of_the_corpus(shared_data):
    labels = (shared_data / "goemotions" / "labels.txt").read_text(encoding="utf-8").split()
    assert list(load_vocabulary().labels) == labels


@pytest.mark.parametrize("name", SHIPPED)
def test_directives_have_one_form_and_one_length_so_that_only_the_emotion_differs(name):
    vocabulary = load_vocabulary(name)
    for label, directive in zip(vocabulary.labels, vocabulary.directives, strict=True):
        assert re.fullmatch(rf"Let your words show {label}: [^.:]+\.", directive), directive
        assert len(directive.split()) == 12, directive
    assert len(set(vocabulary.directives)) == len(vocabulary)


@pytest.mark.parametrize("name", ["ekman7", "izard10"])
def test_groupings_share_out_goemotions_without_overlap(name):
    members = [member for group in load_vocabulary(name).perceived_as for member in group]
    assert len(members) == len(set(members))
    left = set(GOEMOTIONS) - set(members)
    assert left == (set() if name == "ekman7" else {"neutral", "pride"})


def test_ekman7_is_the_grouping_published_with_goemotions():
    vocabulary = load_vocabulary("ekman7")
    assert set(vocabulary.perceived("anger")) == {"anger", "annoyance", "disapproval"}
    assert set(vocabulary.perceived("sadness")) == {"sadness", "disappointment", "embarrassment", "grief", "remorse"}
    assert set(vocabulary.perceived("fear")) == {"fear", "nervousness"}
    assert set(vocabulary.perceived("surprise")) == {"surprise", "realization", "confusion", "curiosity"}
    assert vocabulary.perceived("disgust") == ("disgust",) and vocabulary.perceived("neutral") == ("neutral",)


@pytest.mark.parametrize("ask", ["index", "directive", "perceived"])
def test_an_unknown_label_is_an_error_that_lists_the_known_ones_never_neutral(ask):
    with pytest.raises(UserError, match="unknown emotion 'smugness'.*admiration.*neutral"):
        getattr(load_vocabulary(), ask)("smugness")


def test_a_file_of_ones_own_works_by_its_path_and_need_not_name_emotions(tmp_path):
    path = tmp_path / "tactics.yaml"
    path.write_text("name: tactics\nlabels:\n  anchor: {directive: Name a bold figure first.}\n", encoding="utf-8")
    vocabulary = load_vocabulary(str(path))
    assert (vocabulary.name, vocabulary.labels, vocabulary.perceived("anchor")) == ("tactics", ("anchor",), ())
    assert vocabulary.fingerprint != load_vocabulary().fingerprint


def test_the_fingerprint_changes_with_a_label_and_with_a_directive(tmp_path):
    prints = set()
    for text in ("a: {directive: x}", "b: {directive: x}", "a: {directive: y}"):
        path = tmp_path / "v.yaml"
        path.write_text(f"name: v\nlabels: {{{text}}}\n", encoding="utf-8")
        prints.add(load_vocabulary(str(path)).fingerprint)
    assert len(prints) == 3


@pytest.mark.parametrize(
    "text, says",
    [
        ("name: v\nlabels: {a: {directive: [}}", "not valid YAML"),
        ("- a\n- b\n", "not a vocabulary"),
        ("name: v\nlabels: {}\n", "not a vocabulary"),
        ("labels: {a: {directive: x}}\n", "not a vocabulary"),
        ("name: v\nlabels: {a: {perceived_as: [joy]}}\n", "label 'a' has no directive"),
        ("", "not a vocabulary"),
        ("name: v\nlabels: {a: {directive: x, perceived_as: 5}}\n", "label 'a' is not a list of words"),
        ("name: v\nlabels: {a: {directive: x, percieved_as: [joy]}}\n", "unknown keys .*percieved_as"),
        ("name: v\nlabels: {a: {directive: ' '}}\n", "label 'a' has an empty directive"),
        ("name: v\nlabels: {a: {directive: x}, b: {directive: y}, a: {directive: z}}\n", "'a' is given twice"),
        ("name: v\nlabels: {be.calm: {directive: x}}\n", "'be.calm' has a dot, as import paths have; leave it out"),
    ],
)
def test_a_malformed_file_is_explained(tmp_path, text, says):
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=says) as caught:
        load_vocabulary(str(path))
    assert "mine.yaml" in str(caught.value) and "a vocabulary file has" in str(caught.value)


@pytest.mark.parametrize("label", ["no", "1", "2026-12-01", "null"])
def test_a_label_that_yaml_reads_as_no_word_is_named(tmp_path, label):
    path = tmp_path / "mine.yaml"
    path.write_text(f"name: v\nlabels: {{{label}: {{directive: x}}}}\n", encoding="utf-8")
    with pytest.raises(UserError, match="read by YAML as no word; put it in quotes"):
        load_vocabulary(str(path))


def test_a_label_without_emotions_may_say_so(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("name: v\nlabels: {a: {directive: x, perceived_as: }}\n", encoding="utf-8")
    assert load_vocabulary(str(path)).perceived_as == ((),)


def test_a_file_in_another_encoding_is_named(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_bytes("name: v\nlabels: {müde: {directive: x}}\n".encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8 at byte 18"):
        load_vocabulary(str(path))


@pytest.mark.parametrize("name", ["plutchik8", "missing.yaml"])
def test_a_vocabulary_that_does_not_exist_is_named_with_those_that_do(name):
    with pytest.raises(UserError, match=f"no vocabulary '{name}'.*ekman7, goemotions28, izard10"):
        load_vocabulary(name)
