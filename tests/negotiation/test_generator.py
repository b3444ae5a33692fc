"""Generated scenarios: repeatable, different from each other, and each consistent in itself."""

import dataclasses
import datetime

import numpy as np
import pytest
import yaml

from emodistill.errors import UserError
from emodistill.negotiation import domains
from emodistill.negotiation.domains import load_domain
from emodistill.negotiation.generator import _drawn, generate_scenarios
from emodistill.negotiation.offers import parse_offer
from emodistill.negotiation.targets import read_clock, targets_of

DOMAINS = ("debt", "disaster", "hospital", "student")
GAPS = {"debt": (30, 150), "disaster": (30, 400), "hospital": (7, 200), "student": (60, 210)}


@pytest.mark.parametrize("domain", DOMAINS)
def test_the_same_seed_gives_the_same_scenarios_and_more_of_them_start_alike(domain):
    scenarios = generate_scenarios(domain, 100, seed=3)
    assert scenarios == generate_scenarios(domain, 100, seed=3)
    assert scenarios[:40] == generate_scenarios(domain, 40, seed=3)
    assert scenarios != generate_scenarios(domain, 100, seed=4)
    assert [s.id for s in scenarios] == [f"{domain}-{i:03d}" for i in range(100)]


def test_a_generator_whose_targets_nobody_could_offer_is_refused(monkeypatch):
    narrow = dataclasses.replace(load_domain("debt"), bounds=(1, 5))
    monkeypatch.setattr("emodistill.negotiation.generator.load_domain", lambda name: narrow)
    with pytest.raises(
        UserError, match=r"domains/debt.yaml: the generator gives the targets .*outside `bounds` 1 to 5"
    ):
        generate_scenarios("debt", 3)


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("seed", [0, 1])
def test_no_two_of_a_hundred_read_the_same(domain, seed):
    rules = load_domain(domain)
    assert len({tuple(s.context[c] for c in rules.fields) for s in generate_scenarios(domain, 100, seed)}) == 100


@pytest.mark.parametrize("domain", DOMAINS)
def test_contexts_have_the_columns_of_the_published_file_without_its_outcome(domain):
    rules = load_domain(domain)
    expected = [column for column in rules.csv["columns"] if column not in rules.csv["outcome"]]
    for scenario in generate_scenarios(domain, 30):
        assert list(scenario.context) == expected
        assert all(text and text == text.strip() and "{" not in text for text in scenario.context.values())
    assert "Decision_Point" not in expected


@pytest.mark.parametrize("domain", DOMAINS)
def test_targets_come_from_the_context_can_be_said_and_lie_apart(domain):
    rules, (low, high) = load_domain(domain), GAPS[domain]
    for scenario in generate_scenarios(domain, 100):
        targets = (scenario.focal_target, scenario.counterparty_target)
        assert targets == targets_of(rules, scenario.context)
        assert low <= abs(targets[0] - targets[1]) <= high
        assert [parse_offer(f"I want {rules.say(v)}.", domain) for v in targets] == [*targets]


def test_debt_contexts_agree_with_themselves():
    for s in generate_scenarios("debt"):
        number = {column: float(text) for column, text in s.context.items() if text.replace(".", "").isdigit()}
        overdue, balance = number["Days Overdue"], number["Outstanding Balance (USD)"]
        paid = datetime.date.fromisoformat(s.context["Last Payment Date"])
        assert datetime.date(2025, 6, 30) - paid == datetime.timedelta(days=overdue)
        assert number["Original Amount (USD)"] > balance
        assert number["Interest Accrued (USD)"] == pytest.approx(balance * 0.12 * overdue / 365, abs=0.02)
        assert number["Recovery Probability (%)"] == pytest.approx(max(5, 100 - overdue / 3), abs=0.06)
        assert (overdue > 150) == (s.context["Recovery Stage"] in {"Pre-Legal", "Legal"})


def test_children_have_the_lives_of_children():
    grown = {"College_Bound", "Part-time_Worker", "Art_Student", "Procrastinator", "Carer_for_Sibling"}
    for s in generate_scenarios("student", 300):
        age, bedtime = int(s.context["Student_Age"]), read_clock(s.context["Robots_Requested_Bedtime"], 21)
        assert age >= 14 or s.context["Student_Background"] not in grown
        assert age > 11 or bedtime <= 0 and read_clock(s.context["Student_Wanted_Bedtime"], 21) <= 120
        assert age < 16 or bedtime >= 45


def test_surgery_urgency_wait_and_age_agree():
    for s in generate_scenarios("hospital", 200):
        wait, age = int(s.context["Days_On_Waitlist"]), int(s.context["Patient_Age"])
        assert s.context["Urgency_Level"] != "High" or wait <= 50
        assert (age < 7) == (s.context["Patient_Condition"] in {"Congenital Strabismus", "Cleft Palate"})
        assert 0 < int(s.context["Estimated_Time_Reduction_If_Accept_Junior_Surgeon(days)"]) < wait


def test_needs_fit_the_survivor():
    needs = {"Trapped_in_cellar_diabetic": "Insulin", "Clinging_to_tree": "Rope", "Blind_trapped_in_office": "Guide"}
    met = {s.context["Survivor_Condition"]: s.context["Critical_Needs"] for s in generate_scenarios("disaster", 150)}
    assert len(met) == 56  # every case is dealt before any comes again
    assert all(need in met[condition] for condition, need in needs.items())


def _changed(tmp_path, monkeypatch, change):
    raw = yaml.safe_load((domains.files("emodistill.negotiation.domains") / "debt.yaml").read_text("utf-8"))
    raw["name"] = name = f"own_{tmp_path.name}"
    change(raw["generator"])
    (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    monkeypatch.setattr(domains, "_FOLDER", tmp_path)
    return name


MISTAKES = {
    "leaves out the columns.*Collateral": lambda g: [case.pop("Collateral") for case in g["axes"]["credit"]],
    "unknown ones.*Mood": lambda g: g["common"].update(Mood="calm"),
    "cannot draw 'Creditor Target Days'": lambda g: g["common"].update({"Creditor Target Days": {"span": [1, 2]}}),
    "slot '_nobody'": lambda g: g["common"].update({"Creditor Name": "{_nobody}"}),
    "`common` and `axes`": lambda g: g.pop("axes"),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_a_faulty_generator_section_is_named(tmp_path, monkeypatch, message):
    name = _changed(tmp_path, monkeypatch, MISTAKES[message])
    with pytest.raises(UserError, match=rf"domains/{name}.yaml.*{message}"):
        generate_scenarios(name, 30)


def test_lists_that_are_too_short_say_so(tmp_path, monkeypatch):
    def fixed(generator):
        generator["axes"] = {"only": [case[0] for case in generator["axes"].values()]}
        merged = {key: value for case in generator["axes"]["only"] for key, value in case.items()}
        generator["axes"]["only"] = [merged | {"Days Overdue": 20, "Collateral": "None"}]
        generator["common"]["Outstanding Balance (USD)"] = 100

    with pytest.raises(UserError, match="fewer than 9 different scenarios"):
        generate_scenarios(_changed(tmp_path, monkeypatch, fixed), 9)


@pytest.mark.parametrize("given", [{"range": [0, 0.3], "step": 0.1, "digits": 1}, {"range": [1, 8], "step": 3}])
def test_both_ends_of_a_range_are_drawn_and_nothing_beyond(given):
    rng = np.random.default_rng(0)
    drawn = {_drawn(load_domain("debt"), "range", given, {}, rng) for _ in range(100)}
    assert drawn == ({"0.0", "0.1", "0.2", "0.3"} if "digits" in given else {"1", "4", "7"})
