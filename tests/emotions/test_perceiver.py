"""The perceivers: what they read in negotiation lines, that they are two, and that their files are safe and honest."""

import platform
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from emodistill.emotions.perceiver import GOEMOTIONS, NEUTRAL, as_vocabulary, load_perceiver, normalise
from emodistill.emotions.perceiver_training import HALVES, dev_scores, read_goemotions, train
from emodistill.emotions.vocabulary import Vocabulary, load_vocabulary
from emodistill.errors import UserError

NAMES = ["counterparty", "judge"]
ASSETS = Path(__file__).resolve().parents[2] / "src" / "emodistill" / "assets" / "perceivers"
LINES = Path(__file__).resolve().parents[1] / "data" / "negotiation_lines.tsv"


@pytest.fixture(scope="module")
def lines():
    """One line an emotion, in the voice of a negotiator: {label: line}."""
    rows = dict(row.split("\t") for row in LINES.read_text(encoding="utf-8").splitlines())
    assert tuple(rows) == GOEMOTIONS
    return rows


@pytest.fixture(params=NAMES)
def perceiver(request):
    return load_perceiver(request.param)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("counterparty", {"ngram_range": (1, 2), "token_pattern": r"(?u)\b\w[\w']*\b|[!?]"}),
        ("judge", {"analyzer": "char_wb", "ngram_range": (2, 5)}),
    ],
)
def test_the_numbers_are_those_of_scikit_learn(name, settings, lines):
    perceiver = load_perceiver(name)
    places = {term: place for place, term in enumerate(perceiver.terms)}
    theirs = TfidfVectorizer(vocabulary=places, preprocessor=normalise, sublinear_tf=True, dtype=np.float32, **settings)
    theirs.idf_ = perceiver.idf
    odd = ["", "a", "!?", " \t I  don\u2019t\u00a0know\n!!", "\u4e16\u754c", "30 30 30 days, no no no no", "[NAME] x"]
    texts = [*lines.values(), *odd, " ".join(lines.values())]
    counts = theirs.transform(texts)
    expected, unread = counts @ perceiver.weights + perceiver.bias, np.diff(counts.indptr) == 0
    expected[unread] = np.where(np.arange(28) == NEUTRAL, 0.0, -30.0)
    assert unread.any()
    if platform.machine() == "x86_64":  # elsewhere SciPy may multiply and add in one operation
        np.testing.assert_array_equal(perceiver.logits(texts), expected)
    np.testing.assert_allclose(perceiver.logits(texts), expected, rtol=1e-4, atol=1e-5)


def test_shares_are_a_distribution_in_float32(perceiver, lines):
    shares = perceiver.probabilities(list(lines.values()))
    assert shares.shape == (28, 28) and shares.dtype == np.float32
    np.testing.assert_allclose(shares.sum(axis=1), 1.0, atol=1e-5)
    assert (shares >= 0).all()


def test_the_intended_emotion_ranks_first_on_at_least_24_of_28_negotiation_lines(perceiver, lines):
    shares = perceiver.probabilities(list(lines.values()))
    assert (shares.argmax(axis=1) == np.arange(28)).sum() >= 24


def test_rare_emotions_are_not_drowned_by_neutral(perceiver, lines):
    shares = perceiver.probabilities([lines[label] for label in ("pride", "relief", "remorse", "nervousness")])
    assert (shares[:, GOEMOTIONS.index("neutral")] < 0.05).all()


def test_a_plain_offer_reads_as_neutral_more_than_anything_else(perceiver):
    shares = perceiver.probabilities(["My offer is 30 days.", "I can do 45 days."])
    assert (shares.argmax(axis=1) == GOEMOTIONS.index("neutral")).all()


@pytest.mark.parametrize("name", NAMES)
def test_numbers_and_case_and_apostrophes_carry_no_emotion(name):
    perceiver = load_perceiver(name)
    first, *others = perceiver.probabilities(
        ["I don't like 30 days.", "I don't like 7 days.", "I DON'T LIKE 365 DAYS.", "I don\u2019t like 30 days."]
    )
    for other in others:
        np.testing.assert_allclose(other, first, atol=1e-6)


def test_a_text_without_anything_known_is_neutral_and_no_text_gives_no_rows(perceiver):
    shares = perceiver.probabilities(["", "   ", "\u4f60\u597d"])
    assert (shares[:, GOEMOTIONS.index("neutral")] > 0.999).all()
    assert perceiver.probabilities([]).shape == (0, 28)


def test_a_line_reads_the_same_alone_and_in_a_batch(perceiver, lines):
    batch = perceiver.probabilities(list(lines.values()))
    alone = np.concatenate([perceiver.probabilities([line]) for line in lines.values()])
    np.testing.assert_allclose(alone, batch, atol=1e-6)


def test_the_two_differ_in_features_half_and_verdicts(lines):
    first, second = (load_perceiver(name) for name in NAMES)
    assert {first.features, second.features} == {"words", "characters"}
    assert {first.measured["half"], second.measured["half"]} == {0, 1}
    texts = list(lines.values())
    assert np.abs(first.probabilities(texts) - second.probabilities(texts)).max() > 0.2
    assert first.version != second.version


def test_loading_is_cached():
    assert load_perceiver("judge") is load_perceiver("judge")


@pytest.mark.parametrize("name", NAMES)
def test_the_shipped_file_is_small_and_needs_no_pickle(name):
    path = ASSETS / f"{name}.npz"
    assert path.stat().st_size < 1900 * 1024
    with np.load(path, allow_pickle=False) as archive:
        assert all(archive[key].dtype != object for key in archive.files)


@pytest.mark.parametrize("name", NAMES)
def test_the_stored_dev_scores_are_what_the_stored_weights_reach(name, shared_data):
    perceiver = load_perceiver(name)
    measured = dev_scores(perceiver, read_goemotions(shared_data / "goemotions" / "dev.tsv"))
    assert measured == pytest.approx(perceiver.measured["dev"], abs=0.002)
    assert measured["macro_f1"] > 0.44


def test_training_uses_one_half_only_is_repeatable_and_survives_saving(shared_data, tmp_path, lines):
    comments = read_goemotions(shared_data / "goemotions" / "train.tsv").take(range(3000))
    mine = comments.half(HALVES["counterparty"][1])
    perceiver, again = (train("counterparty", part, max_features=1500) for part in (comments, mine))
    assert perceiver.version == again.version
    perceiver.save(tmp_path / "mine.npz")
    loaded = load_perceiver(str(tmp_path / "mine.npz"))
    assert loaded.version == perceiver.version and loaded.measured == perceiver.measured
    texts = list(lines.values())
    assert (loaded.detects(texts) == perceiver.detects(texts)).all()
    assert loaded.probabilities(texts)[:-1, GOEMOTIONS.index("neutral")].mean() < 0.2  # balanced: no flood of neutral
    thanks = loaded.probabilities(["Thank you so much!"])[0]
    assert GOEMOTIONS[thanks.argmax()] == "gratitude"


def test_the_halves_are_disjoint_and_whole(shared_data):
    comments = read_goemotions(shared_data / "goemotions" / "train.tsv")
    first, second = (set(comments.half(which).ids) for which in (0, 1))
    assert not first & second and len(first) + len(second) == len(comments.ids)
    assert 0.48 < len(first) / len(comments.ids) < 0.52


@pytest.mark.parametrize("line", ["no tabs", "text\t28\tid", "text\tjoy\tid", "text\t1\tid\tmore", "text\t-1\tid"])
def test_a_malformed_line_of_goemotions_is_named(tmp_path, line):
    path = tmp_path / "train.tsv"
    path.write_text(f"fine\t3,5\tabc\n{line}\n", encoding="utf-8")
    with pytest.raises(UserError, match="train.tsv, line 2"):
        read_goemotions(path)


def test_a_missing_goemotions_folder_is_explained(tmp_path):
    with pytest.raises(UserError, match="does not exist; give the folder"):
        read_goemotions(tmp_path / "train.tsv")


def test_unknown_and_broken_perceivers_are_user_errors(tmp_path):
    with pytest.raises(UserError, match="no perceiver 'referee'; use counterparty, judge"):
        load_perceiver("referee")
    whole = (ASSETS / "judge.npz").read_bytes()
    for name, content in {"cut": whole[:5000], "text": b"hello", "empty": b""}.items():
        (tmp_path / f"{name}.npz").write_bytes(content)
        with pytest.raises(UserError, match=f"{name}.npz is not a perceiver"):
            load_perceiver(str(tmp_path / f"{name}.npz"))
    np.savez(tmp_path / "other.npz", numbers=np.arange(3))
    with pytest.raises(UserError, match="other.npz is not a perceiver"):
        load_perceiver(str(tmp_path / "other.npz"))


@pytest.mark.parametrize("change", [{"features": "smells"}, {"bias": np.zeros(5, dtype=np.float32)}])
def test_a_perceiver_that_could_read_nothing_is_refused_when_it_is_loaded(tmp_path, change):
    replace(load_perceiver("judge"), **change).save(tmp_path / "odd.npz")
    with pytest.raises(UserError, match="odd.npz is not a perceiver"):
        load_perceiver(str(tmp_path / "odd.npz"))


def test_grouping_adds_up_the_shares_of_its_members():
    shares = np.full((2, 28), 1 / 28, dtype=np.float32)
    ekman = as_vocabulary(shares, load_vocabulary("ekman7"))
    np.testing.assert_allclose(ekman[0] * 28, [3, 1, 2, 12, 5, 4, 1], rtol=1e-5)
    np.testing.assert_allclose(as_vocabulary(shares, load_vocabulary()), shares)
    assert as_vocabulary(shares, load_vocabulary("izard10")).sum() < 2.0  # pride and neutral belong to none


def test_a_grouping_into_something_goemotions_lacks_is_an_error():
    vocabulary = Vocabulary("mine", ("bliss",), ("Show bliss.",), (("ecstasy",),))
    with pytest.raises(UserError, match="'bliss' is perceived_as 'ecstasy'"):
        as_vocabulary(np.ones((1, 28), dtype=np.float32), vocabulary)
