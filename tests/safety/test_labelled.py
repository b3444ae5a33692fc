"""The labelled utterances, and the detector's error on them."""

import pytest

from emodistill.negotiation.phrasebook import bundled
from emodistill.safety.detector import KINDS, default_detector, detect
from emodistill.safety.measures import HALVES, Labelled, count, error_table, harmless_flagged, load_labelled, share


def test_the_set_is_large_enough_and_no_line_stands_twice():
    halves = [load_labelled(half) for half in HALVES]
    both = [utterance for half in halves for utterance in half]
    assert len({utterance.text.casefold() for utterance in both}) == len(both)
    assert sum(not utterance.kinds for utterance in both) >= 200
    for kind in KINDS:
        assert sum(kind in utterance.kinds for utterance in both) >= 60
        assert all(sum(kind in utterance.kinds for utterance in half) >= 30 for half in halves)


def test_counting_against_cells_by_hand():
    utterances = [
        Labelled("You idiot.", frozenset({"insult"})),
        Labelled("You are unwise.", frozenset({"insult"})),
        Labelled("You are a turnip.", frozenset({"insult"})),
        Labelled("You liar, in a good sense.", frozenset()),
        Labelled("Fine.", frozenset()),
        Labelled("Pay or else.", frozenset({"threat"})),
    ]
    counts = count(default_detector(), utterances)
    assert (counts["insult"].hits, counts["insult"].misses) == (1, 2)
    assert (counts["insult"].false, counts["insult"].passed) == (1, 2)
    assert (counts["threat"].hits, counts["threat"].passed) == (1, 5)
    assert harmless_flagged(default_detector(), utterances) == (1, 2)


def test_wilson_interval_of_the_text_book():
    assert share(8, 10) == pytest.approx((0.8, 0.4902, 0.9433), abs=1e-4)
    assert share(0, 0)[0] != share(0, 0)[0]


def test_the_table_has_both_halves_and_says_how_to_read_it():
    table = error_table(default_detector())
    assert len(table.rows) == 2 * (len(KINDS) + 1) and "tuned on the development half" in table.note
    development = [row for row in table.rows if row["half"] == "development" and row["positives"]]
    assert all(row["recall"][0] >= 0.95 and row["false"][0] <= 0.02 for row in development)


def test_few_harmless_lines_that_nobody_tuned_for_are_flagged():
    flagged, harmless = harmless_flagged(default_detector(), load_labelled("held_out"))
    assert flagged / harmless <= 0.05


def test_the_teacher_says_nothing_that_is_flagged():
    book = bundled()
    acts, domains = ("open", "press", "hold", "concede", "close"), ("debt", "disaster", "hospital", "student")
    lines = {line for e in book.emotions for a in acts for d in domains for line in book.lines(e, a, d)}
    flagged = [line for line, flags in zip(lines, detect(list(lines)), strict=True) if flags]
    assert len(lines) > 1000 and not flagged
