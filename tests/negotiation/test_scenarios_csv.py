"""The published files: every row read, no value in a column that is not its own, nothing repaired by a guess."""

import re

import pytest

from emodistill.negotiation.domains import load_domain
from emodistill.negotiation.scenarios import load_csv, read_csv
from emodistill.negotiation.targets import read_clock, targets_of

FILES = {
    "debt": "credit_recovery_scenarios.csv",
    "disaster": "disaster_survivor_scenarios.csv",
    "hospital": "hospital_surgery_scenarios.csv",
    "student": "education_sleep_scenarios.csv",
}
EXCLUDED = {"debt": [], "disaster": [54, 100], "hospital": [65], "student": [32, 48, 78]}
REPAIRED = {"debt": 0, "disaster": 100, "hospital": 98, "student": 27}  # counted from the files once, row by row
PATTERNS = {
    "Case_ID": r"\d+",
    "Days Overdue": r"\d+",
    "Outstanding Balance (USD)": r"15700",
    "Last Payment Date": r"2025-\d\d-\d\d [\d:.]+",
    "Cash Flow Situation": r"Temporary Disruption|Chronic Shortage|Complete Breakdown",
    "Interest Accrued (USD)": r"\d+\.\d+",
    "Disaster_Type": r"[^, ]+",
    "Survivor_Condition": r"[^, ]+",
    "Estimated_Survivor_Endurance(minutes)": r"\d+",
    "Rescue_Team_ETA(minutes)": r"\d+",
    "Critical_Needs": r"[\w-]+(, [\w-]+){1,2}",
    "Key_Negotiation_Argument_By_RoboDog": r"“[^“”]+”",
    "Patient_Age": r"\d{1,2}",
    "Urgency_Level": r"High|Medium|Low",
    "Days_On_Waitlist": r"\d+",
    "Preferred_Surgeon_Available": r"Yes|No",
    "Recommended_Surgeon_Experience_Level": r"Senior \(.+\)",
    "Estimated_Time_Reduction_If_Accept_Junior_Surgeon(days)": r"\d+",
    "Student_Age": r"1[1-8]",
    "Robots_Requested_Bedtime": r"\d+:\d\d PM",
    "Student_Wanted_Bedtime": r"\d+:\d\d [AP]M",
    "Primary_Annoyance_Reason": r"[A-Z].*\.",
}


@pytest.fixture
def published(shared_data):
    return {domain: shared_data / "scenarios" / name for domain, name in FILES.items()}


@pytest.mark.parametrize("domain", FILES)
def test_a_hundred_rows_are_read_or_excluded_by_name(published, domain):
    scenarios, audit = read_csv(published[domain], domain)
    assert audit.rows == 100 and len(scenarios) == 100 - len(EXCLUDED[domain])
    assert [item.row for item in audit.exclusions] == EXCLUDED[domain]
    assert all(re.search(r"'(Variable|N/A .*)', not a", item.reason) for item in audit.exclusions)
    assert len({repair.row for repair in audit.repairs}) == REPAIRED[domain]
    expected = [f"{domain}-csv-{row - 1:03d}" for row in range(1, 101) if row not in EXCLUDED[domain]]
    assert [scenario.id for scenario in scenarios] == expected
    assert load_csv(published[domain], domain) == scenarios


@pytest.mark.parametrize("domain", FILES)
def test_no_value_stands_in_a_column_that_is_not_its_own(published, domain):
    rules = load_domain(domain)
    columns = [column for column in rules.csv["columns"] if column not in rules.csv["outcome"]]
    for scenario in load_csv(published[domain], domain):
        assert list(scenario.context) == columns
        for column, text in scenario.context.items():
            assert re.fullmatch(PATTERNS.get(column, r".*"), text), (scenario.id, column, text)
            assert text == text.strip() and (text or column == "Surgeon_Availability_Reason")
        assert scenario.context.get("Case_ID", "") in ("", str(int(scenario.id[-3:]) + 1))


@pytest.mark.parametrize("domain", FILES)
def test_nothing_of_the_file_is_lost_or_added(published, domain):
    outcome = load_domain(domain).csv["outcome"]
    lines = published[domain].read_text(encoding="utf-8").splitlines()[1:]
    for scenario in load_csv(published[domain], domain):
        letters = re.sub(r"[\",\s]", "", lines[int(scenario.id[-3:])])
        kept = re.sub(r"[\",\s]", "", "".join(scenario.context.values()))
        assert letters.startswith(kept) and (letters == kept or outcome)


def test_the_outcome_of_a_hospital_case_is_nowhere(published):
    for scenario in load_csv(published["hospital"], "hospital"):
        assert "Decision_Point" not in scenario.context
        assert not any("Accepted expedited option" in text for text in scenario.context.values())


def test_rows_read_by_eye(published):
    read = {d: {s.id: s for s in load_csv(path, d)} for d, path in published.items()}
    debt = read["debt"]["debt-csv-000"]
    assert debt.context["Creditor Name"] == "Hughes, Ortiz and Hudson"
    assert (debt.focal_target, debt.counterparty_target) == (12, 159)
    hiker = read["disaster"]["disaster-csv-036"]
    assert (hiker.context["Disaster_Type"], hiker.context["Survivor_Condition"]) == (
        "Forest",
        "Lost_hiker_sepsis_from_wound",
    )
    assert (hiker.focal_target, hiker.counterparty_target) == (300, 200)
    knee = read["hospital"]["hospital-csv-034"].context
    assert knee["Surgeon_Availability_Reason"] == "" and knee["Risk_If_Delayed"] == "Locked knee, cannot extend"
    assert knee["Hospital_Suggestion"] == "Junior sports medicine surgeon can perform in 1 week"
    nerve = read["hospital"]["hospital-csv-044"].context
    assert nerve["Surgeon_Availability_Reason"] == "One of few who perform this"
    assert nerve["Risk_If_Delayed"] == "severe pain debilitating"
    good = read["student"]["student-csv-044"]
    assert good.context["Situation_Faced"] == "Got a good grade feels unearned"
    assert (good.focal_target, good.counterparty_target) == (120, 360)
    noise = read["student"]["student-csv-036"]
    assert (noise.focal_target, noise.counterparty_target) == (-15, 60)


def test_three_columns_of_the_debt_file_are_arithmetic_and_no_outcome(published):
    for scenario in load_csv(published["debt"], "debt"):
        overdue = int(scenario.context["Days Overdue"])
        assert float(scenario.context["Recovery Probability (%)"]) == pytest.approx(max(5, 100 - overdue / 3))
        assert float(scenario.context["Interest Accrued (USD)"]) == pytest.approx(15700 * 0.12 * overdue / 365)


TARGETS = [
    ("disaster", {"Rescue_Team_ETA(minutes)": "100", "Estimated_Survivor_Endurance(minutes)": "90"}, (120, 90)),
    ("disaster", {"Rescue_Team_ETA(minutes)": "20", "Estimated_Survivor_Endurance(minutes)": "5"}, (40, 10)),
    ("hospital", ("Low", "100", "60"), (130, 40)),
    ("hospital", ("High", "30", "30"), (30, 1)),
    ("hospital", ("Medium", "30", "0"), (37, 30)),
    ("hospital", ("Low", "30", "0"), (60, 30)),
    ("student", ("10:30 PM", "2:00 AM"), (90, 300)),
    ("student", ("10:30 PM", "11:00 PM"), (90, 150)),
    ("student", ("8:45 PM", "12:00 AM"), (-15, 180)),
]


@pytest.mark.parametrize("domain, cells, expected", TARGETS)
def test_targets_follow_the_rules_of_the_method(domain, cells, expected):
    reduction = "Estimated_Time_Reduction_If_Accept_Junior_Surgeon(days)"
    names = {
        "hospital": ("Urgency_Level", "Days_On_Waitlist", reduction),
        "student": ("Robots_Requested_Bedtime", "Student_Wanted_Bedtime"),
    }
    context = cells if isinstance(cells, dict) else dict(zip(names[domain], cells, strict=True))
    assert targets_of(load_domain(domain), context) == expected


@pytest.mark.parametrize("text", ["25:00 PM", "0:30 AM", "13:00 PM", "10:60 PM", "22:30", "noon", ""])
def test_what_is_no_clock_time_is_none(text):
    assert read_clock(text, 21) is None
