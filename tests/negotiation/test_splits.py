"""Splits by scenario: sizes, repeatability, and no scenario on both sides."""

import dataclasses
import json

import pytest

from emodistill.errors import UserError
from emodistill.negotiation.generator import generate_scenarios
from emodistill.negotiation.scenarios import Scenario
from emodistill.negotiation.splits import SPLITS, Manifest, check_no_leak, split_of

DOMAINS = ("debt", "disaster", "hospital", "student")


@pytest.fixture(scope="module")
def scenarios():
    return [scenario for domain in DOMAINS for scenario in generate_scenarios(domain)]


def test_every_domain_is_split_70_10_20_and_nothing_is_lost(scenarios):
    manifest = split_of(scenarios, seed=0)
    for domain in DOMAINS:
        ids = [[name for name in manifest.ids(split) if name.startswith(domain)] for split in SPLITS]
        assert [len(names) for names in ids] == [70, 10, 20]
    assert sorted(name for split in SPLITS for name in manifest.ids(split)) == sorted(s.id for s in scenarios)


def test_a_split_depends_on_the_seed_and_not_on_order_or_other_domains(scenarios):
    manifest = split_of(scenarios, seed=0)
    assert split_of(scenarios[::-1], seed=0).hash == manifest.hash != split_of(scenarios, seed=1).hash
    alone = split_of([s for s in scenarios if s.domain == "debt"], seed=0)
    assert all(manifest.entries[name] == entry for name, entry in alone.entries.items())
    assert alone.ids("test") != split_of([s for s in scenarios if s.domain == "debt"], seed=1).ids("test")


@pytest.mark.parametrize("count", [3, 5, 11, 97])
def test_odd_numbers_leave_no_split_empty(scenarios, count):
    manifest = split_of(scenarios[:count], seed=2)
    sizes = [len(manifest.ids(split)) for split in SPLITS]
    assert sum(sizes) == count and min(sizes) >= 1 and abs(sizes[0] - 0.7 * count) <= 1.5


def test_a_written_manifest_reads_back_the_same(scenarios, tmp_path):
    manifest = split_of(scenarios, seed=5)
    manifest.write(tmp_path / "manifest.json")
    again = Manifest.read(tmp_path / "manifest.json")
    assert again == manifest and again.hash == manifest.hash
    assert {again.split(s) for s in scenarios} == set(SPLITS)
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def _edit(path, change):
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))


def test_an_id_in_two_splits_is_named(scenarios, tmp_path):
    path = tmp_path / "manifest.json"
    split_of(scenarios, 0).write(path)
    moved = split_of(scenarios, 0).ids("train")[0]
    _edit(path, lambda raw: raw["splits"]["test"].update({moved: raw["splits"]["train"][moved]}))
    with pytest.raises(UserError, match=rf"manifest.json: scenario {moved} .*'test'.*'train'"):
        Manifest.read(path)
    with pytest.raises(UserError, match="debt-000.*'val'.*'train'"):
        check_no_leak({"train": scenarios[:1], "val": scenarios[:1]})


def test_the_same_context_under_two_ids_is_named(scenarios):
    context = {**scenarios[0].context, "Debtor Name": scenarios[0].context["Debtor Name"].upper() + " "}
    twin = dataclasses.replace(scenarios[0], id="debt-twin", context=context)
    with pytest.raises(UserError, match="debt-twin.*same context as debt-000"):
        check_no_leak({"train": scenarios[:1], "test": [twin]})
    check_no_leak({"train": [scenarios[0], twin], "test": scenarios[1:]})  # within one split it leaks nothing
    with pytest.raises(UserError, match="same context"):  # some seed parts the twins
        for seed in range(20):
            split_of([*scenarios[:20], twin], seed)


def test_the_id_column_does_not_hide_a_twin():
    scenario = generate_scenarios("student", 1)[0]
    twin = dataclasses.replace(scenario, id="student-twin", context={**scenario.context, "Case_ID": "77"})
    with pytest.raises(UserError, match="same context"):
        check_no_leak({"train": [scenario], "test": [twin]})


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw.update(seed=9),
        lambda raw: raw["splits"]["test"].popitem(),
        lambda raw: raw["splits"]["val"].update(raw["splits"]["train"]) or raw["splits"]["train"].clear(),
        lambda raw: raw.update(hash="0" * 64),
    ],
)
def test_a_changed_manifest_is_refused(scenarios, tmp_path, change):
    path = tmp_path / "manifest.json"
    split_of(scenarios, 0).write(path)
    _edit(path, change)
    with pytest.raises(UserError, match="hash differs"):
        Manifest.read(path)


@pytest.mark.parametrize(
    "text",
    [
        *("", "[1, 2", "[]", '{"schema": 1}', '{"schema":1,"seed":0,"splits":[],"hash":""}'),
        '{"schema":1,"seed":0,"splits":{"train":{"debt-000":["a"]}},"hash":""}',
    ],
)
def test_what_is_no_manifest_is_refused_by_name(tmp_path, text):
    path = tmp_path / "manifest.json"
    path.write_text(text)
    with pytest.raises(UserError, match="manifest.json.* is not"):
        Manifest.read(path)
    with pytest.raises(UserError, match="absent.json cannot be read"):
        Manifest.read(tmp_path / "absent.json")


def test_a_scenario_the_manifest_does_not_know_is_refused(scenarios):
    manifest = split_of(scenarios[:10], 0)
    with pytest.raises(UserError, match="debt-010 is not in the split manifest"):
        manifest.split(scenarios[10])
    other = dataclasses.replace(generate_scenarios("debt", 1, seed=9)[0], id="debt-000")
    with pytest.raises(UserError, match="debt-000 is not the one"):
        manifest.split(other)


def test_scenarios_that_cannot_be_split_are_refused(scenarios):
    with pytest.raises(UserError, match="debt-001 occurs twice"):
        split_of([*scenarios[:5], scenarios[1]], 0)
    with pytest.raises(UserError, match="debt has 2 scenarios"):
        split_of(scenarios[:2], 0)
    bare = [Scenario(f"x-{i}", "debt", 1.0, 50.0) for i in range(5)]
    assert len(split_of(bare, 0).entries) == 5  # without a context there is nothing to be identical
