"""Quantities and acts as people write them, the examples of the rewrites, and what may be added without a change.

The phrases stand in `phrases.yaml` and `acts.yaml`.
"""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from emodistill.negotiation import acts, plain_text
from emodistill.negotiation.domains import load_domain
from emodistill.negotiation.offers import parse_act, parse_offer
from emodistill.negotiation.phrasebook import bundled

HERE = Path(__file__).parent


def table(name: str) -> Any:
    return yaml.safe_load((HERE / name).read_text(encoding="utf-8"))


OFFERS = [
    (kind, domain, offer, text)
    for kind, domains in table("phrases.yaml").items()
    for domain, rows in domains.items()
    for offer, text in rows
]
ACTS = [(act, text) for act, texts in table("acts.yaml").items() for text in texts]


@pytest.mark.parametrize(("kind", "domain", "offer", "text"), OFFERS, ids=lambda value: str(value)[:60])
def test_an_offer_as_people_write_it(kind: str, domain: str, offer: float | None, text: str) -> None:
    assert parse_offer(text, domain) == offer, kind


@pytest.mark.parametrize(("act", "text"), ACTS, ids=lambda value: value[:60])
def test_an_act_as_people_put_it(act: str, text: str) -> None:
    assert parse_act(text, "debt", 90.0) == act
    assert parse_act(text, "debt", None) == ("propose" if act == "accept" else act)  # nothing stands


def test_the_tables_are_large_and_hold_no_phrase_twice() -> None:
    assert len(OFFERS) >= 300 and len({(domain, text) for _, domain, _, text in OFFERS}) == len(OFFERS)
    assert len(ACTS) >= 80 and len({text for _, text in ACTS}) == len(ACTS)


def reported(path: Path) -> list[list[str]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.split("\t") for line in lines if line and not line.startswith("#")]


def test_reported_offers_are_read_right(shared_data: Path) -> None:
    for domain, offer, text in reported(shared_data / "reports" / "offers.tsv"):
        assert parse_offer(text, domain) == (None if offer == "None" else float(offer)), text


def test_reported_acts_are_read_right(shared_data: Path) -> None:
    for standing, act, text in reported(shared_data / "reports" / "acts.tsv"):
        assert parse_act(text, "debt", float(standing)) == act, text


REWRITES = {id(row): row for rows in (plain_text.NUMBERS, *plain_text.TABLES.values()) for row in rows}.values()


@pytest.mark.parametrize("row", REWRITES, ids=lambda row: row.written)
def test_a_rewrite_does_what_its_example_says(row: plain_text.Rewrite) -> None:
    assert row.apply(row.written) == row.read


@pytest.mark.parametrize("kind", ["ACCEPTS", "KIND", "WALKS_AWAY", "PARTING"])
def test_a_phrase_that_is_a_whole_clause_matches_its_example(kind: str) -> None:
    phrases = getattr(acts, kind)
    for example in phrases.rows:
        assert phrases.pattern.fullmatch(example), example


@pytest.mark.parametrize("kind", ["REFUSES", "CONDITIONS", "COUNTERS"])
def test_a_phrase_within_a_sentence_matches_its_example(kind: str) -> None:
    phrases = getattr(acts, kind)
    for example in phrases.rows:
        assert phrases.pattern.search(example), example


# What changes nothing: whatever a quantity is inserted into, the value stays.

NAMES = {1: "minute", 60: "hour", 1440: "day", 10080: "week"}
DURATIONS = {"debt": 1440, "hospital": 1440, "disaster": 1}
POLITE = ["please", "with all due respect", "if I may", "thank you for listening", "honestly", "if you don't mind"]
INVISIBLE = ["\u200b", "\u200c", "\u200d", "\u2060", "\ufeff", "\u00ad", "\u200e", "\ufe0f"]
FORMS = ["I can do {}.", "My offer is {}.", "{} is what I need.", "How about {}?", "I need {}, and that is final."]


def said(value: float, size: int) -> str:
    return f"{value:g} {NAMES[size]}{'' if value == 1 else 's'}"


@st.composite
def durations(draw: st.DrawFn) -> tuple[str, float, str]:
    """A domain, a duration on its grid, and the duration in the domain's own unit."""
    domain = draw(st.sampled_from(sorted(DURATIONS)))
    rules = load_domain(domain)
    value = rules.snap(draw(st.integers(*map(int, rules.bounds))))
    return domain, value, said(value, DURATIONS[domain])


@given(durations(), st.sampled_from(FORMS), st.sampled_from(sorted(NAMES)))
def test_another_unit_of_the_same_duration_is_the_same_offer(
    duration: tuple[str, float, str], form: str, size: int
) -> None:
    domain, value, _ = duration
    other = value * DURATIONS[domain] / size
    assume(other < 100_000 and round(other, 3) == other)
    assert parse_offer(form.format(said(other, size)), domain) == value


@given(
    durations(),
    st.sampled_from(FORMS),
    st.sampled_from(["{} ({})", "{} [{}]", "{}, i.e. {}", "{}, that is {}", "{} = {}", "{}/{}", "{} (not {})"]),
    durations(),
)
def test_a_restatement_changes_nothing_whether_equal_or_not(
    first: tuple[str, float, str], form: str, joined: str, second: tuple[str, float, str]
) -> None:
    domain, value, words = first
    assert parse_offer(form.format(joined.format(words, second[2])), domain) == value


@given(durations(), st.sampled_from(["{} - {}", "{} — {} —", "{} – {}"]), st.sampled_from([60, 1]))
def test_a_smaller_unit_behind_a_dash_says_it_again(duration: tuple[str, float, str], joined: str, size: int) -> None:
    domain, value, words = duration
    assume(DURATIONS[domain] > size and value * DURATIONS[domain] / size < 100_000)
    again = said(value * DURATIONS[domain] / size, size)
    assert parse_offer(f"I can do {joined.format(words, again)}.", domain) == value


@given(durations(), st.sampled_from(FORMS), st.sampled_from(INVISIBLE), st.data())
def test_an_invisible_character_anywhere_changes_nothing(
    duration: tuple[str, float, str], form: str, character: str, data: st.DataObject
) -> None:
    domain, value, words = duration
    text = form.format(words)
    for place in data.draw(st.lists(st.integers(0, len(text)), max_size=4)):
        text = text[:place] + character + text[place:]
    assert parse_offer(text, domain) == value


@given(durations(), st.sampled_from(FORMS), st.sampled_from("\u00a0\u202f\u2009\u2007\u3000"))
def test_any_kind_of_space_is_a_space(duration: tuple[str, float, str], form: str, space: str) -> None:
    domain, value, words = duration
    assert parse_offer(form.format(words).replace(" ", space), domain) == value


@given(durations(), st.sampled_from(POLITE), st.booleans())
def test_a_politeness_changes_nothing(duration: tuple[str, float, str], polite: str, first: bool) -> None:
    domain, value, words = duration
    text = f"{polite.capitalize()}, I can do {words}." if first else f"I can do {words}, {polite}."
    assert parse_offer(text, domain) == value


ABOUT = ["about", "around", "roughly", "approximately", "~", "≈", "ca.", "some", "close to"]


@given(durations(), st.sampled_from(ABOUT))
def test_an_approximation_is_read_as_its_number(duration: tuple[str, float, str], about: str) -> None:
    domain, value, words = duration
    assert parse_offer(f"I can do {about} {words}.", domain) == value
    assert parse_offer(f"I can do {words}, give or take.", domain) == value


@given(durations(), durations(), st.sampled_from(["down from", "up from", "instead of", "rather than", "not"]))
def test_a_correction_keeps_the_first_number(
    first: tuple[str, float, str], second: tuple[str, float, str], way: str
) -> None:
    domain, value, words = first
    bare = second[2].split()[0]
    for other in (second[2], bare):
        assert parse_offer(f"I can do {words}, {way} {other}.", domain) == value


@given(durations(), st.sampled_from("-−"))
def test_a_negative_number_is_no_offer(duration: tuple[str, float, str], sign: str) -> None:
    domain, _, words = duration
    assert parse_offer(f"I can do {sign}{words}.", domain) is None


@given(durations(), st.sampled_from("-–—"), durations())
def test_of_a_range_the_last_bound_counts_with_any_dash(
    first: tuple[str, float, str], dash: str, second: tuple[str, float, str]
) -> None:
    domain, low, _ = first
    high = low + 5 if low + 5 <= load_domain(domain).bounds[1] else low - 5
    unit = NAMES[DURATIONS[domain]]
    assert parse_offer(f"I can do {low:g}{dash}{high:g} {unit}s.", domain) == high
    assert second[1] >= load_domain(second[0]).bounds[0]


@st.composite
def times(draw: st.DrawFn) -> tuple[float, int, int]:
    """Minutes after 21:00 on the grid of the bedtime, the hour of the day (24 hours) and the minute."""
    rules = load_domain("student")
    value = rules.snap(draw(st.integers(*map(int, rules.bounds))))
    hour, minute = divmod(int(value) + rules.clock_origin * 60, 60)
    return value, hour % 24, minute


@given(times(), st.sampled_from(["Lights out at {}.", "I can do {}.", "In bed by {}, please.", "{} works."]))
@settings(max_examples=200)
def test_every_way_to_write_a_time_is_the_same_offer(time: tuple[float, int, int], form: str) -> None:
    value, hour, minute = time
    half, twelve = "am" if hour < 12 else "pm", (hour - 1) % 12 + 1
    written = [f"{hour:02d}:{minute:02d}", f"{hour:02d}h{minute:02d}", f"{hour:02d}{minute:02d} hrs"]
    written += [f"{hour:02d}{minute:02d}h", f"{hour:02d}:{minute:02d}:00", f"{twelve}:{minute:02d}{half}"]
    written += [f"{twelve}{minute:02d}{half}", f"{twelve}.{minute:02d} {half}", f"{twelve}:{minute:02d} {half.upper()}"]
    written += [f"{twelve}:{minute:02d} {half} ({hour:02d}:{minute:02d})", f"{twelve}:{minute:02d} {half[0]}.m."]
    if minute:
        written += [f"{minute} past {twelve} {half}", f"{minute} minutes past {twelve} {half}"]
    if minute > 30 and twelve not in {11, 12}:
        written += [f"{60 - minute} to {twelve + 1} {half}", f"{60 - minute} minutes to {twelve + 1} {half}"]
    assert {text: parse_offer(form.format(text), "student") for text in written} == dict.fromkeys(written, value)


@given(st.dates())
def test_a_date_is_never_an_offer(date: Any) -> None:
    for text in (f"I can pay on {date.isoformat()}.", f"By {date:%A}.", f"I can do {date.day} {date:%B}."):
        assert parse_offer(text, "debt") is None, text
        assert parse_offer(text, "student") is None, text


def test_every_closing_of_the_phrasebook_accepts_and_every_farewell_leaves() -> None:
    for text in bundled().sentences("joy", "close", "debt"):
        assert parse_act(f"We are nearly there. {text}", "debt", 45.0) == "accept", text
    for text in bundled().farewells():
        assert parse_act(text, "debt", 45.0) == "walk_away", text


REFUSALS = ["My answer is still no.", "But I need more time.", "Unless you pay the fee, no.", "You have to do better."]
NEUTRAL = ["We both want a quick solution.", "I hear you.", "It was a long day.", "The papers are on my desk."]


@given(
    st.sampled_from(
        [text for act, text in ACTS if act == "accept" and not acts.ACCEPTS_ALONE.fullmatch(plain_text.words(text))]
    ),
    st.lists(st.sampled_from(NEUTRAL), max_size=3),
    st.sampled_from(REFUSALS),
)
def test_the_last_word_on_the_matter_holds(accepting: str, between: list[str], refusal: str) -> None:
    accepting = accepting if accepting[-1] in ".!?" else f"{accepting}."
    assert parse_act(" ".join([refusal, accepting, *between]), "debt", 90.0) == "accept"
    assert parse_act(" ".join([accepting, *between, refusal]), "debt", 90.0) == "propose"
