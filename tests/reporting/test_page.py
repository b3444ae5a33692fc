"""The page in a browser, from a file and without a network."""

from contextlib import contextmanager

import pytest
from browsers import chromium, needs_browser
from reporting_cases import HOSTILE, write_some_report

from emodistill.reporting.results import AnalysisResult
from emodistill.reporting.tables import Column, Table

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install -e .[test])")
pytestmark = needs_browser


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    return write_some_report(tmp_path_factory.mktemp("report")).as_uri()


@pytest.fixture(scope="module")
def browser():
    with chromium(sync_api) as launched:
        yield launched


@contextmanager
def opened(browser, address, **more):
    context = browser.new_context(offline=True, reduced_motion="reduce", **more)
    page, asked, complaints = context.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(address)
    yield page
    context.close()
    file = address.split("#")[0]
    assert [url for url in asked if url.split("#")[0] != file and not url.startswith("data:")] == []
    assert complaints == []


@pytest.fixture
def page(browser, address):
    with opened(browser, address) as page:
        yield page


def texts(page, selector):
    return page.locator(selector).all_inner_texts()


def test_it_opens_with_the_answer_then_a_figure_of_all_arms_then_a_pair(page):
    headings = texts(page, "h1, h2")
    assert headings[0] == "EmoDistill: main of run tiny" and headings[1].startswith(
        "One pair of dialogues: emodistill and"
    )
    assert headings[2:] == ["Verdicts", "Figures", "Tables", "What was played", "What was left out", "Transcripts"]
    assert texts(page, ".answer") == ["emodistill is above vanilla."]
    top = "[...document.querySelectorAll('.answer, #figure-utility, #pair, #verdicts')].map(e => e.id || e.className)"
    assert page.evaluate(top) == ["answer", "figure-utility", "pair", "verdicts"]
    assert "vanilla: 0.00 [0.00, 0.71]" in page.locator("#figure-utility img").get_attribute("alt")
    assert "x beats y." in page.locator("#verdicts .rule").inner_text()
    assert texts(page, ".verdicts li") == [f"debt: {HOSTILE}"]
    assert page.locator("#found").inner_text() == "18 of 18 episodes"
    assert page.locator("#figure-line img").get_attribute("alt").startswith("Falls from 1 to 0")


def test_the_pair_shows_both_arms_round_by_round_and_opens_in_the_reader(page):
    assert texts(page, ".pair thead th")[1:] == [
        "emodistill\ndeadline, utility 0.00",
        'evil"><b>\ndeal at 30 days, utility 0.86',
    ]
    first = page.locator(".pair tbody tr").first
    assert first.locator("th").inner_text() == "1, creditor"
    assert first.locator("td").nth(0).inner_text().split("\n\n") == ["shows anger", "Round 0: I want 20 days."]
    assert first.locator("td").nth(1).locator("p").inner_text() == HOSTILE
    last = page.locator(".pair tbody tr").last  # the rival's deal was over by then
    assert (
        last.locator("td").nth(0).inner_text() == "Reply 1: give me 90 days."
        and last.locator("td").nth(1).inner_text() == ""
    )
    page.get_by_role("link", name="Open it in the reader").click()
    page.locator(".transcript").nth(1).wait_for()
    assert texts(page, ".transcript h3") == ["emodistill: debt-001, seed 0", 'evil"><b>: debt-001, seed 0']


def test_rows_of_single_domains_are_folded_and_can_be_opened_and_sorted(browser, tmp_path):
    rows = [{"domain": domain, "arm": arm} for domain in ("all", "debt", "student") for arm in ("b", "a")]
    columns = [Column("domain", "domain", "text"), Column("arm", "arm", "text")]
    long = Table("long", "Long", columns[1:], [{"arm": str(i)} for i in range(13)])
    result = AnalysisResult([Table("arms", "Arms", columns, rows), long])
    with opened(browser, write_some_report(tmp_path, result=result).as_uri()) as page:
        assert texts(page, "table[data-table=arms] tbody td") == ["b", "a"]
        assert texts(page, "details summary") == ["Arms, by domain (4 rows)", "Long (13 rows)"]
        assert not page.locator("table[data-table=long]").is_visible()
        page.locator("details summary").first.focus()
        page.keyboard.press("Enter")
        page.locator("table[data-table=arms-by-domain] th button").nth(1).click()
        assert texts(page, "table[data-table=arms-by-domain] tbody td") == ["a", "a", "b", "b"]


def test_a_header_sorts_its_column_and_what_is_missing_comes_last(page):
    header, first = page.locator("table[data-table=arms] th button").nth(3), "table[data-table=arms] tbody th"
    header.click()
    assert [text[0] for text in texts(page, first)] == ["f", "z", "a"]
    header.focus()
    page.keyboard.press("Enter")
    assert [text[0] for text in texts(page, first)] == ["z", "f", "a"]
    assert page.locator("th[aria-sort]").get_attribute("aria-sort") == "descending"


def test_filters_count_and_narrow(page):
    page.select_option("#filter-arm", "emodistill")
    page.select_option("#filter-seed", "1")
    assert page.locator("#found").inner_text() == "3 of 18 episodes"
    assert texts(page, "#filter-scenario option") == ["all (3)", *(f"debt-00{i} (1)" for i in range(3))]
    others = ["all (9)", "emodistill (3)", 'evil"><b> (3)', "vanilla (3)"]
    assert texts(page, "#filter-arm option") == others  # what another choice would leave
    page.fill("#filter-words", "no such words")
    assert page.locator("#found").inner_text() == "0 of 18 episodes"
    page.click("#clear")
    assert page.locator("#found").inner_text() == "18 of 18 episodes"


def test_words_are_found_and_marked(page):
    page.fill("#filter-words", "i WANT 21")
    assert page.locator("#found").inner_text() == "12 of 18 episodes"
    page.locator("#results a").first.click()
    page.locator("mark.hit").first.wait_for()
    assert "I want 21" in texts(page, "mark.hit")


def test_a_transcript_has_words_emotions_offers_and_its_address(page):
    page.locator("#results a", has_text="emodistill").nth(1).click()
    assert page.locator(".transcript h3").inner_text() == "emodistill: debt-000, seed 1"
    assert "arm=emodistill" in page.url and page.evaluate("document.activeElement.tagName") == "H3"
    turns = page.locator(".turn")
    assert turns.count() == 6 and "shows joy" in turns.first.inner_text()
    assert "Round 0: I want 21 days." in turns.first.inner_text() and "position" in turns.first.inner_text()
    assert "read as" in turns.nth(1).inner_text()
    assert "focal side ends at" in page.locator("svg.chart").get_attribute("aria-label")
    page.locator(".transcript summary").click()
    assert "Tight until the harvest" in page.locator(".transcript details").inner_text()


def test_two_arms_stand_side_by_side_on_one_scenario_and_seed(page):
    page.locator("#results a", has_text="emodistill").first.click()
    page.locator("#beside").wait_for()
    partners = ["nobody", "vanilla (deadline, utility 0.00)", 'evil"><b> (deal at 30 days, utility 0.86)']
    assert texts(page, "#beside option") == partners  # each arm once: no other seed is a partner
    page.select_option("#beside", "vanilla")
    page.locator(".transcript").nth(1).wait_for()
    assert texts(page, ".transcript h3") == ["emodistill: debt-000, seed 0", "vanilla: debt-000, seed 0"]
    place = "[...document.querySelectorAll('.transcript')].map(e => [e.getBoundingClientRect().x, e.offsetTop])"
    (left, top), (right, other_top) = page.evaluate(place)
    assert top == other_top and left < right
    page.get_by_role("button", name="Close this one").click()
    page.locator(".transcript").nth(1).wait_for(state="detached")


def test_an_address_opens_the_same_two(browser, address):
    where = f"{address}#arm=emodistill&scenario=debt-001&seed=1&with=vanilla"
    with opened(browser, where) as page:
        assert texts(page, ".transcript h3") == ["emodistill: debt-001, seed 1", "vanilla: debt-001, seed 1"]


def test_an_address_of_nothing_says_so(browser, address):
    with opened(browser, f"{address}#arm=nobody&scenario=x&seed=1") as page:
        assert "not in this report" in page.locator("#transcripts").inner_text()


def test_the_keyboard_is_enough(page):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    for _ in range(7):
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "filter-words"
    page.keyboard.type("I want 22")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.locator(".transcript h3").wait_for()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "beside"


def test_hostile_words_stay_words(page):
    page.locator("#results a", has_text="evil").first.click()
    assert page.locator(".words").first.inner_text() == HOSTILE
    assert page.locator(".transcript img, .transcript script, .transcript b").count() == 0
    assert page.locator(".words").first.get_attribute("dir") == "auto"
    assert page.evaluate("window.broken") is None
    assert "the sentence with the offer was added; attempts out of role" in page.locator(".turn").first.inner_text()


def test_every_field_has_a_name_and_headings_come_in_order(page):
    page.locator("#results a").first.click()
    page.locator(".transcript").wait_for()
    assert page.evaluate("[...document.querySelectorAll('select, input')].filter(e => !e.labels.length).length") == 0
    levels = [
        int(name[1]) for name in page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map(e => e.tagName)")
    ]
    assert levels[0] == 1 and all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))
    assert page.locator("#found").get_attribute("aria-live") == "polite"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling(browser, address, scheme):
    with opened(browser, address, viewport={"width": 360, "height": 700}, color_scheme=scheme) as page:
        page.locator("#results a", has_text="emodistill").first.click()
        page.locator(".transcript").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


def contrast(one, two):
    def light(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((light(one), light(two)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_can_be_read_on_every_ground(browser, address, scheme):
    pairs = [(i, g) for i in ("ink", "soft", "link") for g in ("paper", "card")]
    pairs += [(i, g) for i in ("ink", "soft") for g in ("focal-card", "other-card")] + [
        ("ink", "mark"),
        ("ink", "flag"),
    ]
    with opened(browser, address, color_scheme=scheme) as page:
        style = "(name) => getComputedStyle(document.documentElement).getPropertyValue('--' + name).trim()"
        weak = {pair: ratio for pair in pairs if (ratio := contrast(*(page.evaluate(style, n) for n in pair))) < 4.5}
    assert weak == {}
