"""The page in a real browser, against a real server of a tiny run whose agents speak with the phrasebook."""

import re
from contextlib import contextmanager
from pathlib import Path

import pytest
from browsers import chromium, needs_browser
from faulty_server import FaultyServer
from serving_cases import serving

from emodistill.data.schema import read_episodes, read_ratings

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install -e .[test])")
pytestmark = needs_browser
AXE = Path(__file__).parents[2] / "node_modules" / "axe-core" / "axe.min.js"
HOSTILE = '<img src=x onerror="window.broken=1"><script>window.broken=1</script> 90 days'
ARMS = "arms=[phrasebook_iql,phrasebook_random,phrasebook_vanilla]"
SIDEWAYS = "document.documentElement.scrollWidth - innerWidth"
FAINT = """() => {
  const light = (c) => c.map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const colour = (text) => text.match(/[\\d.]+/g).map(Number);
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const found = colour(getComputedStyle(e).backgroundColor);
      if (found.length === 3) return found;
    }
    return [255, 255, 255];
  };
  const own = (e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
  const seen = (e) => e.checkVisibility() && !e.disabled && own(e);
  return [...document.querySelectorAll('body *')].filter(seen).map((e) => {
    const style = getComputedStyle(e), ink = e.namespaceURI.includes('svg') ? style.fill : style.color;
    const [a, b] = [light(colour(ink).slice(0, 3)), light(behind(e))].sort((x, y) => y - x);
    return [(a + 0.05) / (b + 0.05), e.textContent.slice(0, 40)];
  }).filter(([ratio]) => ratio < 4.5);
}"""
NAMELESS = """() => [...document.querySelectorAll('input, select, textarea, button')].filter((e) =>
  !(e.labels?.length || e.textContent.trim() || e.ariaLabel)).map((e) => e.outerHTML)"""


@pytest.fixture(scope="module")
def browser():
    with chromium(sync_api) as launched:
        yield launched


@pytest.fixture(scope="module")
def server(run):
    with serving(run, ARMS) as served:
        yield served


@contextmanager
def opened(browser, served, complains=False, **more):
    """The page with its choices; at the end nothing was asked of others, and nothing was complained of."""
    context = browser.new_context(reduced_motion="reduce", **more)
    page, asked, complaints = context.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(served.base_url)
    yield page
    context.close()
    assert [url for url in asked if not url.startswith((f"{served.base_url}/", "data:"))] == []
    assert complains or complaints == []


def chosen(page, *ticked, seed=7):
    """Choose, and begin."""
    page.wait_for_selector("#brief:not(:empty)")
    for selector in ticked:
        page.check(selector)
    page.fill("#seed", str(seed))
    page.click("#begin")
    settled(page)


def settled(page):
    """Wait until nobody is to answer any more."""
    page.wait_for_selector("#talk:not([hidden]) #words:not([readonly])", state="attached")


def say(page, words):
    page.fill("#words", words)
    page.keyboard.press("Enter")
    settled(page)


def tab_to(page, selector):
    """Press Tab until something that fits has the focus."""
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"{selector} was never reached")


def texts(page, selector):
    return page.locator(selector).all_inner_texts()


def test_a_whole_negotiation_with_the_keyboard_alone(browser, server):
    with opened(browser, server) as page:
        page.wait_for_selector("#brief:not(:empty)")
        assert "machine" in page.locator("#disclosure").inner_text()
        assert page.locator("#storage").inner_text() == "Nothing that you say is stored."
        for selector in ("#domain", "#scenario", "#seed", "[name=side]", "[name=seats]", "#blind", "#arm-0", "#begin"):
            tab_to(page, selector)
        page.keyboard.press("Enter")
        page.wait_for_selector(".theirs-turn")
        page.wait_for_selector("#words:focus")
        for words in ("I am so worried, I need 130 days.", "110"):
            page.keyboard.type(words)
            page.keyboard.press("Enter")
            settled(page)
        assert page.evaluate("document.activeElement.id") == "words"
        assert page.locator("#target").inner_text().startswith("Round 3 of ")
        assert page.input_value("#words") == ""
        assert texts(page, ".mine-turn .words") == ["I am so worried, I need 130 days.", "110 days"]
        first = texts(page, ".mine-turn .soft")[:2]
        assert first[0] == "Understood as an offer of 130 days." and first[1].startswith("Emotion read in it: ")
        assert page.locator(".theirs-turn .emotion").count() == 3
        spoken = texts(page, "#log p")
        assert len(spoken) == 3 and spoken[0].startswith("creditor (phrasebook_iql): ") and "Shows " in spoken[0]
        chart = page.locator(".chart text")
        assert {"your target", "round"} <= {*chart.all_text_contents()}
        assert "target of the creditor" not in chart.all_text_contents()
        tab_to(page, "#quick button")
        offer = page.evaluate("document.activeElement.textContent").removeprefix("Accept ")
        page.keyboard.press("Enter")
        page.wait_for_selector("#end-heading:focus")
        assert texts(page, "#result tbody td")[0] == f"A deal at {offer}, in round 3."
        mine, theirs = (int(share.removesuffix("%")) for share in texts(page, "#result tbody td")[1:])
        own, opposite = map(int, re.findall(r"\d+", page.locator("#result p").first.inner_text()))
        assert mine == pytest.approx(100 * (int(offer.split()[0]) - opposite) / (own - opposite), abs=0.51)
        assert mine + theirs == 100 and 0 < mine < 100
        assert "target of the creditor" in chart.all_text_contents()
        tab_to(page, "[name=satisfaction-0]")
        page.keyboard.press("Space")
        tab_to(page, "#rate")
        page.keyboard.press("Enter")
        page.wait_for_selector("#again:focus")
        assert page.locator("#after").inner_text() == "Nothing was stored."
        assert texts(page, "#tally tbody td") == ["1", "1", f"{mine}%", "1.0", "unrated"]
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "setup-heading"


def test_what_the_agent_valued_is_a_list_of_all_emotions(browser, server):
    with opened(browser, server) as page:
        chosen(page)
        page.locator("summary").focus()
        page.keyboard.press("Enter")
        rows = page.locator(".values tbody tr")
        assert rows.count() == 28
        shares = [float(text.rstrip("%")) for text in texts(page, ".values td.n:nth-child(3)")]
        assert shares == sorted(shares, reverse=True) and 90 < sum(shares) < 110
        shown = page.locator(".emotion").inner_text().removeprefix("shows ")
        assert page.locator(".picked th").inner_text() == f"{shown} (shown)"
        page.fill("#words", "100 days")
        page.keyboard.press("Enter")
        page.locator("summary").first.focus()  # while the agent answers
        settled(page)
        assert page.locator(".theirs-turn").count() == 2 and page.locator("details[open]").count() == 1
        assert page.evaluate("document.activeElement.parentElement.dataset.turn") == "0-0"


def test_blind_names_nobody_before_the_rating(browser, server):
    with opened(browser, server) as page:
        chosen(page, "[name=seats][value='2']", "#blind")
        say(page, "You ask too much! I need 120 days.")
        assert page.locator(".theirs-turn").count() == 4
        page.click("#walk")
        page.wait_for_selector("#end:not([hidden])")
        hidden = page.evaluate("document.querySelector('#talk').innerHTML + document.querySelector('#end').innerHTML")
        hidden += page.locator("#log").inner_text()
        assert not any(word in hidden for word in ("phrasebook", "shows ", "Shows ", "valued", "Emotion read"))
        assert texts(page, "#result tbody th") == ["creditor (Agent A)", "creditor (Agent B)"]
        page.click("#rate")
        revealed = page.locator("#after strong").inner_text()
        arms = [part.split(" was ")[1] for part in revealed.strip().rstrip(".").split(", ")]
        assert len({*arms}) == 2 and {*arms} <= {"phrasebook_iql", "phrasebook_random", "phrasebook_vanilla"}
        assert texts(page, "#result tbody th") == [f"creditor (Agent {'AB'[i]}, {arm})" for i, arm in enumerate(arms)]
        emotions = [page.locator(f".seat-{seat} .emotion").count() for seat in (0, 1)]
        assert emotions == [0 if arm == "phrasebook_vanilla" else 2 for arm in arms]


def test_blind_draws_each_arm_now_and_then_and_needs_two(browser, server):
    with opened(browser, server) as page:
        page.wait_for_selector("#brief:not(:empty)")
        page.check("#blind")
        for box in page.locator("#pool input").all()[1:]:
            box.uncheck()
        page.click("#begin")
        assert page.locator("#problem").inner_text() == (
            "Blind needs at least two arms to draw from; tick another one."
        )
        page.locator("#pool input").nth(1).check()
        seen = set()
        for _ in range(12):  # all of one arm: once in 2,048 times
            page.click("#begin")
            settled(page)
            page.click("#walk")
            page.click("#skip-rating")
            seen.add(page.locator("#after strong").inner_text().strip())
            page.click("#again")
        assert seen == {"It was phrasebook_iql.", "It was phrasebook_random."}


def test_two_agents_hear_the_same_words_and_go_their_own_ways(browser, server):
    with opened(browser, server) as page:
        chosen(page, "[name=seats][value='2']")
        page.click("#leave")
        page.select_option("#arm-0", "phrasebook_vanilla")
        page.select_option("#arm-1", "phrasebook_iql")
        chosen(page)
        say(page, "I need 120 days.")
        assert page.locator(".mine-turn").count() == 1 and page.locator(".theirs-turn").count() == 4
        tops = page.evaluate("[...document.querySelectorAll('.theirs-turn')].map(e => e.getBoundingClientRect().top)")
        assert tops[0] == tops[1] < tops[2] == tops[3]
        page.locator("#quick button", has_text="of A").click()
        settled(page)
        assert texts(page, ".mine-turn h3")[-1] == "debtor (you, to Agent A)"
        assert page.locator("#end").is_hidden() and page.locator("#quick button").count() == 1
        say(page, "I need 115 days.")
        assert texts(page, ".mine-turn h3")[-1] == "debtor (you, to Agent B)"
        page.click("#walk")
        page.wait_for_selector("#end:not([hidden])")
        results = texts(page, "#result tbody td:nth-child(2)")
        assert results[0].startswith("A deal at ") and results[1] == "No deal: you walked away."
        assert texts(page, "#result tbody tr:nth-child(2) td")[1:] == ["none", "none"]


def test_a_person_can_be_the_focal_side(browser, server):
    with opened(browser, server) as page:
        chosen(page, "[name=side][value=focal]")
        assert page.locator(".turn").count() == 0 and page.locator("#talk-heading").inner_text().endswith("creditor")
        say(page, "Pay within 30 days, please.")
        assert texts(page, ".turn h3") == ["creditor (you)", "debtor"]
        page.click("#walk")
        page.wait_for_selector("#end:not([hidden])")
        assert texts(page, "#result tbody td")[0] == "No deal: you walked away."


@pytest.mark.parametrize("agrees", [False, True])
def test_only_what_a_person_agrees_to_is_stored(browser, run, tmp_path, agrees):
    file = tmp_path / "people.parquet"
    with serving(run, ARMS, "record=true", f"record_file={file}") as served, opened(browser, served) as page:
        chosen(page, "[name=seats][value='2']")
        assert "unless you agree" in page.locator("#storage").inner_text()
        say(page, "110 days, or I am lost.")
        page.click("#walk")
        page.check("[name=satisfaction-0][value='2']")
        page.check("[name=liking-1][value='5']")
        page.check("[name=preferred][value='1']")
        if agrees:
            page.check("#agree")
        page.click("#rate")
        page.wait_for_selector("#after p")
        assert page.locator("#after").inner_text() == ("Stored. Thank you." if agrees else "Nothing was stored.")
        said = texts(page, ".turn .words")
    assert file.is_file() == agrees
    if agrees:
        first, second = read_episodes(file)
        assert [first.focal_agent, second.focal_agent] == ["phrasebook_iql", "phrasebook_random"]
        assert [turn.text for turn in first.turns] == [said[0], said[2], said[3], said[5]]
        assert (first.end, first.seed) == ("walk_away", 7)
        about = {"side": "counterparty", "blind": False}
        assert read_ratings(file) == [
            {**about, "satisfaction": 2, "preferred": 0, "beside": "phrasebook_random"},
            {**about, "liking": 5, "preferred": 1, "beside": "phrasebook_iql"},
        ]


@pytest.mark.parametrize(("then", "stored"), [("#rate", 2), ("#agree, #rate", 1), ("#skip-rating", 1)])
def test_what_was_stored_before_a_failure_is_stored_once_and_said(browser, run, tmp_path, then, stored):
    file, asked = tmp_path / "people.parquet", []

    def second_fails(route):
        asked.append(route.request)
        route.abort() if len(asked) == 2 else route.continue_()

    more = ["record=true", f"record_file={file}"]
    with serving(run, ARMS, *more) as served, opened(browser, served, complains=True) as page:
        page.route("**/api/record", second_fails)
        chosen(page, "[name=seats][value='2']")
        page.click("#walk")
        page.check("#agree")
        page.click("#rate")
        page.get_by_text("does not answer").wait_for()
        for selector in then.split(", "):
            page.click(selector)
        page.wait_for_selector("#after p")
        said = "Stored. Thank you." if stored == 2 else "Only the talk with Agent A was stored. Thank you."
        assert page.locator("#after").inner_text() == said
    assert [episode.focal_agent for episode in read_episodes(file)] == ["phrasebook_iql", "phrasebook_random"][:stored]


def test_talks_that_broke_off_are_not_sent_to_be_stored(browser, run, tmp_path):
    with FaultyServer(lambda body: "Pay in full within 30 days.", script=[None, "400"]) as model:
        endpoint = [f"endpoint.base_url={model.base_url}", "endpoint.model=failing", "arms=[endpoint_vanilla]"]
        more = ["record=true", f"record_file={tmp_path / 'people.parquet'}"]
        with serving(run, *endpoint, *more) as served, opened(browser, served) as page:
            chosen(page)
            say(page, "I need 100 days.")
            page.wait_for_selector("#end:not([hidden])")
            assert texts(page, "#result tbody td")[0].startswith("The talks broke off")
            assert texts(page, "#consent p") == ["Talks that broke off are not stored."]
            page.check("[name=satisfaction-0][value='2']")
            page.click("#rate")
            page.wait_for_selector("#after p")
            assert page.locator("#after").inner_text() == "Nothing was stored."


def test_hostile_words_stay_words(browser, server):
    with opened(browser, server) as page:
        chosen(page)
        say(page, HOSTILE)
        assert texts(page, ".mine-turn .words") == [HOSTILE]
        assert page.locator("main img, main script").count() == 0 and page.evaluate("window.broken") is None
        assert page.locator(".mine-turn .words").get_attribute("dir") == "auto"


def test_a_mistake_is_one_sentence_and_keeps_the_words(browser, run):
    with serving(run, ARMS) as served, opened(browser, served, complains=True) as page:
        chosen(page)
        page.evaluate("document.querySelector('#words').removeAttribute('maxlength')")
        say(page, "x" * 2001)
        assert page.locator("#problem").inner_text() == (
            "The words are 2,001 characters long; say it in at most 2,000."
        )
        assert len(page.input_value("#words")) == 2001 and page.locator(".mine-turn").count() == 0
        page.context.set_offline(True)
        say(page, "100 days")
        assert "does not answer" in page.locator("#problem").inner_text()
        page.context.set_offline(False)
        page.keyboard.press("Enter")
        settled(page)
        assert page.locator("#problem").is_hidden() and texts(page, ".mine-turn .words") == ["100 days"]


def test_the_page_asks_for_a_token_and_says_when_it_is_wrong(browser, run):
    with serving(run, ARMS, token="secret") as served, opened(browser, served, complains=True) as page:
        for token, named in (("se\u0441ret", "wrong character"), ("guess", "does not take this token"), ("secret", "")):
            page.wait_for_selector("#token-value:focus")
            page.fill("#token-value", token)  # the first has a Cyrillic letter, which no header can have
            page.keyboard.press("Enter")
            if named:
                page.get_by_text(named).wait_for()
        chosen(page)
        assert page.locator(".theirs-turn").count() == 1 and page.locator("#token").is_hidden()


def test_the_page_waits_where_the_server_is_busy(browser, run):
    with serving(run, ARMS, "per_minute=15") as served, opened(browser, served, complains=True) as page:
        page.wait_for_selector("#brief:not(:empty)")
        while served.client.post("/v1/chat/completions", content=b"").status_code != 429:
            pass  # what a minute allows is used up; one more is allowed every four seconds
        page.click("#begin")
        page.get_by_text(re.compile(r"asks again in \d+ s")).wait_for()
        page.wait_for_selector(".theirs-turn")


@pytest.mark.skipif(not AXE.is_file(), reason="axe-core is not here (npm install --no-save axe-core)")
@pytest.mark.parametrize("width", [360, 1200])
def test_axe_finds_nothing(browser, server, width):
    with opened(browser, server, viewport={"width": width, "height": 740}) as page:
        page.evaluate(AXE.read_text(encoding="utf-8"))

        def look():
            found = page.evaluate("axe.run(document).then(found => found.violations.map(v => [v.id, v.help]))")
            assert found == []

        page.wait_for_selector("#brief:not(:empty)")
        look()
        chosen(page, "[name=seats][value='2']")
        say(page, "I need 120 days.")
        page.locator("summary").first.click()
        look()
        page.click("#walk")
        page.wait_for_selector("#end:not([hidden])")
        look()


@pytest.mark.parametrize(("scheme", "width"), [("light", 360), ("dark", 360), ("light", 1200), ("dark", 1200)])
def test_everything_is_seen_named_and_readable(browser, server, scheme, width):
    with opened(browser, server, viewport={"width": width, "height": 740}, color_scheme=scheme) as page:

        def look():
            assert page.evaluate(SIDEWAYS) <= 0
            assert page.evaluate(NAMELESS) == [] and page.evaluate(FAINT) == []
            levels = page.evaluate(
                "[...document.querySelectorAll('h1,h2,h3')].filter(e => e.checkVisibility())"
                ".map(e => Number(e.tagName[1]))"
            )
            assert levels[0] == 1 and all(b <= a + 1 for a, b in zip(levels, levels[1:], strict=False))

        page.wait_for_selector("#brief:not(:empty)")
        page.check("#blind")
        look()
        page.uncheck("#blind")
        chosen(page, "[name=seats][value='2']")
        say(page, "I need 120 days. " + "averylongword" * 20)
        page.locator("summary").first.click()
        look()
        for _ in range(2):
            page.locator("#quick button").first.click()
            settled(page)
        look()
        page.click("#rate")
        look()
        assert page.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == "auto"
        assert page.locator("main, header").count() == 2 and page.locator("#log").get_attribute("role") == "log"
