"""A domain is data: complete, discreet, and right in sign; a faulty file is named with its key."""

import re

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from emodistill.errors import UserError
from emodistill.negotiation import domains
from emodistill.negotiation.domains import domain_names, load_domain
from emodistill.negotiation.generator import generate_scenarios
from emodistill.negotiation.protocol import COUNTERPARTY, FOCAL, Negotiation, Turn
from emodistill.negotiation.scenarios import Scenario

DOMAINS = ("debt", "disaster", "hospital", "student")
SLOTS = {"matter", "goal", "stakes", "reason", "help", "next_step", "other_side_worry", "shared_interest"}
SLOTS |= {"thanks_for", "step_word"}
WANTS_MORE = {"debt": False, "disaster": True, "hospital": True, "student": False}
UNFIT = re.compile(r"\b(kill|beat|hit|drug|alcohol|beer|sex|suicid|weapon|blood|punish|hurt)\w*", re.IGNORECASE)


@pytest.fixture
def own_domain(tmp_path, monkeypatch):
    """Writes a changed copy of the debt domain into a folder of its own and gives its name."""
    monkeypatch.setattr(domains, "_FOLDER", tmp_path)

    def write(change):
        raw = yaml.safe_load((domains.files("emodistill.negotiation.domains") / "debt.yaml").read_text("utf-8"))
        name = f"own_{tmp_path.name}"
        raw["name"] = name
        changed = change(raw)
        text = changed if isinstance(changed, str) else yaml.safe_dump(raw)
        (tmp_path / f"{name}.yaml").write_text(text, encoding="utf-8")
        load_domain.cache_clear()
        return name

    yield write
    load_domain.cache_clear()


def test_the_four_domains_are_there_and_nothing_else():
    assert domain_names() == sorted(DOMAINS)
    with pytest.raises(UserError, match=r"'chess'.*debt, disaster, hospital, student"):
        load_domain("chess")


@pytest.mark.parametrize("name", DOMAINS)
def test_slots_are_those_of_the_phrasebook_and_fit_mid_sentence(name):
    slots = load_domain(name).slots
    assert set(slots) == SLOTS
    for slot, phrases in slots.items():
        assert 3 <= len(phrases) == len(set(phrases)), slot
        assert all(p[0].islower() and p[-1].isalnum() and not re.search(r"\d", p) for p in phrases), slot


@pytest.mark.parametrize("name", DOMAINS)
def test_rubric_lists_hold_no_words_of_the_domains_own_slots(name):
    domain = load_domain(name)
    spoken = " | ".join(phrase.casefold() for phrases in domain.slots.values() for phrase in phrases)
    for wrong in ("empty_threats", "capitulation"):
        assert not [words for words in domain.rubric[wrong] if words in spoken], wrong
    assert len(domain.rubric["text"].split()) > 40 and domain.rubric["terms"] and domain.rubric["deal_words"]


def test_nothing_a_student_reads_is_unfit_for_minors():
    domain = load_domain("student")
    words = yaml.safe_dump([domain.slots, domain.prompt, domain.generator])
    assert not UNFIT.findall(words)


@pytest.mark.parametrize("name", DOMAINS)
def test_prompts_show_no_target_column_and_no_outcome(name):
    domain = load_domain(name)
    rules = domain.csv["targets"].values()
    targets = {rule[key] for rule in rules for key in ("column", "minus") if key in rule}
    assert not set(domain.fields) & (targets | set(domain.csv["outcome"]))
    assert "{counterparty_target}" not in domain.prompt["situation"] + domain.prompt["focal_goal"]
    assert "{focal_target}" not in domain.prompt["situation"] + domain.prompt["counterparty_goal"]


@pytest.mark.parametrize("name", DOMAINS)
def test_position_has_the_right_sign_in_every_domain(name):
    for scenario in generate_scenarios(name, 20):
        assert (scenario.focal_target > scenario.counterparty_target) is WANTS_MORE[name]
        assert scenario.position(scenario.focal_target) == 1 and scenario.position(scenario.counterparty_target) == 0
        step = 1 if WANTS_MORE[name] else -1
        assert (
            scenario.position(scenario.counterparty_target + step) > 0
        )  # a concession to the focal side counts for it


def test_a_survivor_who_concedes_helps_the_coordinator():
    scenario = Scenario("disaster-000", "disaster", 120.0, 90.0, {})
    assert scenario.position(100.0) - scenario.position(90.0) == pytest.approx(1 / 3)


def test_no_student_scenario_is_a_deal_at_once():
    for scenario in generate_scenarios("student"):
        negotiation = Negotiation(scenario, seed=0)
        negotiation.play(Turn(1, FOCAL, "", "propose", scenario.focal_target))
        negotiation.play(Turn(1, COUNTERPARTY, "", "propose", scenario.counterparty_target))
        assert negotiation.end is None


@given(st.sampled_from(DOMAINS), st.floats(-2000, 3000))
def test_a_snapped_offer_is_on_the_grid_within_bounds_and_stays(name, value):
    domain = load_domain(name)
    offer = domain.snap(value)
    assert domain.bounds[0] <= offer <= domain.bounds[1]
    assert offer % domain.grid == 0 and domain.snap(offer) == offer


def test_a_domain_of_ones_own_is_one_file(own_domain):
    name = own_domain(lambda raw: raw["roles"].update(focal="landlord", counterparty="tenant"))
    assert domain_names() == [name]
    scenarios = generate_scenarios(name, 12)
    assert len(scenarios) == 12 and scenarios[0].rules.roles["focal"] == "landlord"


def _show_outcome(raw):
    raw["csv"]["columns"].append("Result")
    raw["csv"]["outcome"] = ["Result"]
    raw["fields"]["Result"] = {"label": "Result", "seen_by": "both"}


MISTAKES = {
    "not valid YAML": lambda raw: "name: [debt\nunit: days",
    "missing keys.*name": lambda raw: "just a text",
    "missing keys.*'grid'": lambda raw: raw.pop("grid") and None,
    "unknown keys.*'colour'": lambda raw: raw.update(colour="red"),
    "`style` is 'weeks'": lambda raw: raw.update(style="weeks"),
    "`grid` must be above 0": lambda raw: raw.update(grid=0),
    "`bounds` must be a list": lambda raw: raw.update(bounds="all"),
    "`name` must be own_": lambda raw: raw.update(name="other"),
    "bounds.*numbers": lambda raw: raw.update(bounds=[1, "many"]),
    "largest": lambda raw: raw.update(bounds=[9, 1]),
    "within 0 and 99,999": lambda raw: raw.update(unit="euros", bounds=[0, 200_000]),
    "nobody would hear": lambda raw: raw.update(bounds=[-5, 9]),
    "`roles` must name": lambda raw: raw["roles"].pop("focal") and None,
    "`prompt` must hold": lambda raw: raw["prompt"].pop("situation") and None,
    "list of phrases for": lambda raw: raw["slots"].update(goal=[]),
    "`rubric` has unknown keys.*'capitulations'": lambda raw: raw["rubric"].update(capitulations=["whatever"]),
    "`rubric.empty_threats` must be a list": lambda raw: raw["rubric"].update(empty_threats="eviction, or else"),
    "`rubric.terms` must be a list": lambda raw: raw["rubric"].update(terms=None),
    "something under `csv` or `fields` is not": lambda raw: raw["csv"].update(outcome=None),
    "'Debtor Target Days'.*give a target": lambda raw: raw["fields"].update(
        {"Debtor Target Days": {"label": "Wish", "seen_by": "both"}}
    ),
    "'Result'.*outcome away": _show_outcome,
    "not among `csv.columns`": lambda raw: raw["fields"].update({"Mood": {"label": "Mood", "seen_by": "both"}}),
    "seen_by": lambda raw: raw["fields"]["Credit Type"].update(seen_by="judge"),
    "`csv` has missing keys": lambda raw: raw["csv"].pop("types") and None,
    "`csv.targets` must name": lambda raw: raw["csv"]["targets"].pop("focal") and None,
}


@pytest.mark.parametrize("message", MISTAKES)
def test_a_faulty_domain_file_is_named_with_its_key(own_domain, message):
    name = own_domain(MISTAKES[message])
    with pytest.raises(UserError, match=rf"domains/{name}.yaml.*{message}"):
        load_domain(name)
