"""A server of an exported folder: its arm and what needs no training, and no counterparty."""

import json
import shutil

import pytest
from browsers import chromium, needs_browser
from serving_cases import serving
from tiny_runs import composed

from emodistill import Negotiator
from emodistill.errors import UserError
from emodistill.export.agent import write_sums
from serve import service_of


def served_names(served):
    return [model["id"] for model in served.client.get("/v1/models").json()["data"]]


def test_its_arm_comes_first_and_says_what_the_folder_says(exported):
    scenario = Negotiator.load(exported("peft")).scenarios()[0]
    with serving(exported("peft")) as served:
        assert served_names(served) == [
            *("sft", "iql", "vanilla", "random", "phrasebook_iql", "phrasebook_random", "phrasebook_vanilla")
        ]
        reply = served.chat(model="sft", metadata={"scenario": scenario.id, "seed": "3"})
        assert "no model 'counterparty'" in served.chat(model="counterparty", status=404)["error"]["message"]
    alone = Negotiator.load(exported("peft")).open(scenario, seed=3).reply()
    assert reply["choices"][0]["message"]["content"] == alone.words != ""
    assert reply["emodistill"]["emotion"] == alone.emotion


def test_of_a_merged_folder_no_untrained_base_is_served(exported):
    with serving(exported("merged")) as served:
        assert served_names(served) == ["sft", "phrasebook_iql", "phrasebook_random", "phrasebook_vanilla"]


@pytest.fixture
def without_scenarios(exported, tmp_path):
    """As it is written by a run whose scenarios come from a file of one's own."""
    folder = tmp_path / "agent"
    shutil.copytree(exported("peft"), folder)
    about = json.loads((folder / "agent.json").read_text(encoding="utf-8"))
    del about["scenarios"]
    (folder / "agent.json").write_text(json.dumps(about), encoding="utf-8")
    write_sums(folder)
    return folder


def test_without_scenarios_a_program_gives_domain_and_target(without_scenarios):
    with serving(without_scenarios, "arms=[phrasebook_iql]") as served:
        reply = served.chat(metadata={"domain": "debt", "target": "30"})
        assert reply["choices"][0]["message"]["content"]
        refused = served.chat(metadata={"scenario": "debt-017"}, status=400)
        assert refused["error"]["message"] == "scenario=debt-017: there is none; give domain and target"


def test_what_people_say_is_stored_outside_of_it(exported, tmp_path):
    folder = exported("peft")
    with pytest.raises(UserError, match="say where to store them, such as record_file=people.parquet"):
        service_of(composed("serve", f"run_dir={folder}", "record=true"), None)
    elsewhere = tmp_path / "people.parquet"
    service = service_of(composed("serve", f"run_dir={folder}", "record=true", f"record_file={elsewhere}"), None)
    assert service.records.file == elsewhere


@needs_browser
def test_the_page_offers_what_there_is(exported, without_scenarios):
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with chromium(sync_api) as browser:
        page = browser.new_page()
        with serving(exported("peft"), "arms=[phrasebook_iql]") as served:
            page.goto(served.base_url)
            page.wait_for_selector("#brief:not(:empty)")
            assert page.locator("[name=side]").count() == 1
            page.click("#begin")
            page.wait_for_selector("#talk:not([hidden]) #words:not([readonly])", state="attached")
            assert page.locator("#rows").inner_text()
        with serving(without_scenarios, "arms=[phrasebook_iql]") as served:
            page.goto(served.base_url)
            page.wait_for_selector("#problem:not([hidden])")
            assert "no scenarios here" in page.locator("#problem").inner_text()
            assert not page.locator("#setup").is_visible()
