"""The offer parser against a table of phrases by people and by sloppy models, and its properties."""

import csv
import re
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emodistill.errors import UserError
from emodistill.negotiation.domains import domain_names, load_domain
from emodistill.negotiation.offers import OfferReader, parse_offer

DOMAINS = ["debt", "disaster", "hospital", "student"]
FORMS = ["{}", "My offer is {}.", "I can do {}", "Could we agree on {}?", "Please, {} and we are done!"]
NEUTRAL = [
    "I hear you.",
    "This has been a hard week for everyone!",
    "Case 20917 is on my desk.",
    "We both want this settled, don't we?",
    "The balance is $15,700.",
    "You are not alone in this.",
    "There are 3 people with me.",
]


class Phrase(NamedTuple):
    category: str
    domain: str
    offer: float | None
    text: str


def phrases() -> list[Phrase]:
    path = Path(__file__).parents[1] / "data" / "offer_phrases.tsv"
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [
        Phrase(row["category"], row["domain"], None if row["offer"] == "-" else float(row["offer"]), row["text"])
        for row in rows
    ]


def grid(domain: str) -> list[float]:
    rules = load_domain(domain)
    low, high = rules.bounds
    return sorted({rules.snap(low + i * rules.grid) for i in range(int((high - low) / rules.grid) + 1)})


@st.composite
def offers(draw: st.DrawFn) -> tuple[str, float]:
    domain = draw(st.sampled_from(DOMAINS))
    return domain, draw(st.sampled_from(grid(domain)))


@pytest.mark.parametrize("phrase", phrases(), ids=lambda phrase: f"{phrase.domain}: {phrase.text}"[:80])
def test_phrase(phrase: Phrase) -> None:
    assert parse_offer(phrase.text, phrase.domain) == phrase.offer


def test_the_table_covers_every_domain_and_category() -> None:
    table = phrases()
    assert len(table) >= 160
    assert min(Counter(phrase.domain for phrase in table)[domain] for domain in DOMAINS) >= 30
    assert min(Counter(phrase.category for phrase in table).values()) >= 7
    assert sum(phrase.offer is None for phrase in table) >= 60


@pytest.mark.parametrize("phrase", [p for p in phrases() if "p.m." not in p.text], ids=lambda phrase: phrase.text[:60])
def test_case_does_not_matter(phrase: Phrase) -> None:
    readings = {parse_offer(text, phrase.domain) for text in (phrase.text.upper(), phrase.text.lower())}
    assert readings == {phrase.offer}


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("form", FORMS)
def test_what_a_domain_says_is_read_back_exactly(domain: str, form: str) -> None:
    say = load_domain(domain).say
    assert {value: parse_offer(form.format(say(value)), domain) for value in grid(domain)} == {
        value: value for value in grid(domain)
    }


@given(offers(), st.sampled_from(FORMS), st.lists(st.sampled_from(NEUTRAL)), st.lists(st.sampled_from(NEUTRAL)))
def test_neutral_sentences_around_an_offer_change_nothing(
    offer: tuple[str, float], form: str, before: list[str], after: list[str]
) -> None:
    domain, value = offer
    stated = form.format(load_domain(domain).say(value)).rstrip(".!?") + "."
    assert parse_offer(" ".join([*before, stated, *after]), domain) == value


@given(st.sampled_from(DOMAINS), st.lists(st.sampled_from(NEUTRAL)))
def test_neutral_sentences_alone_are_no_offer(domain: str, sentences: list[str]) -> None:
    assert parse_offer(" ".join(sentences), domain) is None


@given(offers(), offers())
def test_the_speakers_last_offer_counts_and_the_other_sides_never(
    first: tuple[str, float], second: tuple[str, float]
) -> None:
    domain, value = first
    earlier = load_domain(domain).say(grid(domain)[int(second[1]) % len(grid(domain))])
    say = load_domain(domain).say
    assert parse_offer(f"I can do {earlier}. No, I can do {say(value)}.", domain) == value
    assert parse_offer(f"You asked for {earlier}. I can do {say(value)}.", domain) == value
    assert parse_offer(f"I can do {say(value)}. You said {earlier}.", domain) == value
    assert parse_offer(f"You want {earlier}.", domain) is None
    assert parse_offer(f"I can't accept {earlier}.", domain) is None


WORDS = re.findall(
    r"\S+", "a an half past to not 2 10 :30 am pm days week hour $ % , . ? - midnight you your I can't at ½ ' ten"
)


@given(st.one_of(st.text(), st.lists(st.sampled_from(WORDS), max_size=30).map(" ".join)), st.sampled_from(DOMAINS))
@settings(max_examples=400)
def test_any_text_is_read_without_an_error(text: str, domain: str) -> None:
    value = parse_offer(text, domain)
    low, high = load_domain(domain).bounds
    assert value is None or low <= value <= high


@pytest.mark.parametrize(
    "piece",
    ["10 ", "a ", "not 3 days, ", "1" * 50, f"{'1' * 400}½ ", "half past ", "you want 9 ", "(" * 20, "\n", "I can "],
)
@pytest.mark.parametrize("domain", ["debt", "student"])
def test_a_runaway_text_is_read_quickly(piece: str, domain: str) -> None:
    start = time.process_time()  # other work on the machine does not count
    parse_offer(piece * (200_000 // len(piece)), domain)
    assert time.process_time() - start < 2.0  # typically 0.02 s; quadratic would be minutes


@pytest.mark.parametrize("text", ["I need 900 days.", "0 days.", "I need 3 years.", "Give me 5 minutes."])
def test_what_lies_outside_the_bounds_is_no_offer(text: str) -> None:
    assert parse_offer(text, "debt") is None


def test_a_unit_of_ones_own_is_read_by_its_name() -> None:
    reader = OfferReader("duration", "points", (0, 100))
    assert reader.read("You want 60 points, I can give you 40 points.") == 40
    assert reader.read("I need 2 days.") is None
    assert OfferReader("duration", "euros", (1, 5000)).read("I can pay 1,500 euros.") == 1500


def test_a_clock_of_another_origin() -> None:
    reader = OfferReader("clock", "minutes after 08:00", (0, 600), clock_origin=8)
    assert [reader.read(text) for text in ("9:15", "half past two", "17:00", "10 PM")] == [75, 390, 540, None]


def test_an_unknown_domain_is_a_user_error() -> None:
    assert set(DOMAINS) <= set(domain_names())
    with pytest.raises(UserError, match="no domain 'divorce'"):
        parse_offer("45 days", "divorce")


def test_only_the_quantity_just_before_is_joined():
    assert parse_offer("I can do ten days or two weeks and three days.", "debt") == 17


def test_noon_is_no_bedtime_and_midnight_is():
    assert parse_offer("Lights out at 12 PM.", "student") is None
    assert parse_offer("Lights out at 12 AM.", "student") == 180
