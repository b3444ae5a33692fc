"""What the page is told, and what it may have stored."""

import json
import threading

import pyarrow.parquet as pq
import pytest
from serving_cases import serving

from emodistill import Negotiator
from emodistill.data.corpus import CorpusFile
from emodistill.data.schema import read_episodes, read_ratings
from emodistill.files import updating
from emodistill.negotiation.protocol import COUNTERPARTY, FOCAL

ARM = "phrasebook_iql"


def test_what_the_page_shows_before_anybody_has_chosen(served):
    about = served.client.get("/api/run").json()
    assert (about["run"], about["guard"], about["record"]) == ("run", "strict", True)
    assert [one["name"] for one in about["domains"]] == ["debt"]
    assert about["domains"][0]["roles"] == {"focal": "creditor", "counterparty": "debtor"}
    assert about["arms"][0] == {"id": ARM, "line": "emotions of the trained selector, words of the phrasebook"}
    assert len(about["emotions"]) == 28 and about["limits"] == {"characters": 2000, "rounds": 15, "messages": 30}
    assert "machine" in about["disclosure"]


def test_each_side_of_a_scenario_sees_its_own(served):
    shown = served.client.get("/api/scenarios?domain=debt").json()
    assert shown == served.client.get("/api/scenarios").json() and len(shown) > 0
    for one in shown:
        scenario = served.service.run.scenarios[one["id"]]
        mine, theirs = one["focal"], one["counterparty"]
        assert (mine["target"], theirs["target"]) == (scenario.focal_target, scenario.counterparty_target)
        assert mine["target_words"] in mine["view"] and theirs["target_words"] not in mine["view"]
        assert "You are the creditor." in mine["view"] and "You are the debtor." in theirs["view"]
        assert one["title"]
    message = served.refused(400, "invalid_request", method="GET", url="/api/scenarios?domain=student")
    assert "the run has no scenario of it" in message


def talk(served, model, first, metadata):
    """A whole conversation over the server: the last message is the one that ended it."""
    messages = []
    for words in (first, "I need 100 days.", "I accept your offer."):
        messages += [{"role": "user", "content": words}] if words else []
        reply = served.chat(messages, model, metadata=metadata)
        extra, said = reply["emodistill"], reply["choices"][0]["message"]["content"]
        messages += [{"role": "assistant", "content": said, "emotion": extra["emotion"]}] if said else []
        if extra["end"]:
            break
    return messages, extra


def store(served, model, messages, metadata, **more):
    body = {"model": model, "messages": messages, "metadata": metadata, "consent": True, **more}
    answer = served.client.post("/api/record", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["stored"]


def test_what_people_agreed_to_is_a_corpus(served, run):
    file = served.service.records.file
    seen, rating = {"scenario": served.scenario, "seed": "2"}, {"satisfaction": 4, "liking": 2, "preferred": 0.5}
    messages, last = talk(served, ARM, None, seen)
    first = store(served, ARM, messages, seen, rating=rating, blind=True)
    own = {"domain": "debt", "target": "20", "their_target": "120", "seed": "2"}
    theirs, _ = talk(served, "counterparty", "I want it in 30 days.", own)
    second = store(served, "counterparty", theirs, own)
    assert first != store(served, ARM, messages, seen)
    episodes = read_episodes(file)
    assert [episode.episode_id for episode in episodes][:2] == [first, second]
    assert [episode.focal_agent for episode in episodes] == [ARM, "human", ARM]
    assert episodes[0].counterparty == "human" and episodes[1].counterparty.startswith("behavioural")
    assert (episodes[0].end, episodes[0].deal_value) == ("deal", last["deal_value"])
    assert [turn.text for turn in episodes[0].turns] == [message["content"] for message in messages]
    agent = Negotiator.load(run, ARM).open(served.service.run.scenarios[served.scenario], seed=2)
    replies = [agent.reply(words) for words in (None, "I need 100 days.")]
    said = [(turn.text, turn.emotion, turn.offer, turn.act) for turn in episodes[0].focal_turns]
    assert said == [(reply.words, reply.emotion, reply.offer, reply.act) for reply in replies]
    assert episodes[1].scenario.id == "debt-own-20-120" and episodes[1].turns[0].speaker == FOCAL
    assert read_ratings(file)[:2] == [
        {"side": COUNTERPARTY, "blind": True, **rating},
        {"side": FOCAL, "blind": False},
    ]
    assert "ratings" in pq.read_schema(file).names
    assert len(CorpusFile(str(file), ["debt"]).episodes()) == 3


def test_two_servers_that_store_in_one_file_wait_for_each_other(served):
    file = served.service.records.file
    seen = {"scenario": served.scenario, "seed": "2"}
    messages, _ = talk(served, ARM, None, seen)
    storing = threading.Thread(target=store, args=(served, ARM, messages, seen))
    before = pq.read_table(file).num_rows if file.is_file() else 0
    with updating(file):
        storing.start()
        storing.join(1.0)
        assert storing.is_alive() and (pq.read_table(file).num_rows if file.is_file() else 0) == before
    storing.join()
    assert pq.read_table(file).num_rows == before + 1


def test_nothing_is_stored_that_should_not_be(served):
    before = served.service.records.file.read_bytes() if served.service.records.file.is_file() else None
    seen = {"scenario": served.scenario, "seed": "3"}
    messages, _ = talk(served, ARM, None, seen)
    whole = {"model": ARM, "messages": messages, "metadata": seen, "consent": True}
    refused = {
        "without the person's consent": (403, whole | {"consent": False}),
        "only a negotiation that is over": (400, whole | {"messages": messages[:2]}),
        "rating": (400, whole | {"rating": {"satisfaction": [1]}}),
        "rating: satisfaction must be a number from 1 to 5": (400, whole | {"rating": {"satisfaction": "very"}}),
        "rating: liking must be a number from 1 to 5": (400, whole | {"rating": {"satisfaction": 5, "liking": 5.5}}),
        "Dictionary should have at most 20": (400, whole | {"rating": {str(i): i for i in range(21)}}),
        "must be words of the role": (400, whole | {"messages": messages[::2]}),
    }
    for named, (status, body) in refused.items():
        answer = served.client.post("/api/record", json=body)
        assert answer.status_code == status and named in answer.json()["error"]["message"], answer.text
    assert (served.service.records.file.read_bytes() if served.service.records.file.is_file() else None) == before


def test_a_rating_replaces_nothing_that_the_server_knows(run, tmp_path):
    with serving(run, "record=true", f"record_file={tmp_path / 'people.parquet'}") as served:
        seen = {"scenario": served.scenario, "seed": "4"}
        messages, _ = talk(served, ARM, None, seen)
        store(served, ARM, messages, seen, rating={"side": FOCAL, "blind": "no", "liking": 1}, blind=True)
        assert read_ratings(tmp_path / "people.parquet") == [{"side": COUNTERPARTY, "blind": True, "liking": 1}]


def test_a_server_that_stores_nothing_says_so(run):
    with serving(run) as served:
        assert served.client.get("/api/run").json()["record"] is False
        body = {"model": ARM, "messages": [], "consent": True}
        message = served.refused(403, "no_record", url="/api/record", content=json.dumps(body))
        assert "record=true" in message
        assert not (run / "people").exists()


def test_a_rating_is_no_place_for_an_essay(served):
    body = {"model": ARM, "messages": [], "consent": True, "rating": {"words": "a" * 3000}}
    assert served.client.post("/api/record", json=body).status_code == 400


@pytest.mark.parametrize("number", ["1e999", "NaN"])
def test_a_rating_is_finite(served, number):
    content = json.dumps({"model": ARM, "messages": [], "consent": True, "rating": {"liking": 0}}).replace(
        "0}", f"{number}}}"
    )
    assert served.client.post("/api/record", content=content).status_code == 400
