"""OpenAI's protocol, as its own client, LiteLLM and curl speak it."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys

import openai
import pytest

from emodistill import Negotiator
from emodistill.negotiation.protocol import COUNTERPARTY
from emodistill.serving.protocol import Talk

ARM = "phrasebook_iql"
EXTRA = {
    *("emotion", "probabilities", "q_values", "perceived", "heard", "act", "offer", "guard", "role_violations"),
    *("offer_appended", "round", "end", "deal_value", "utility", "fault", "emotions", "disclosure"),
}


@pytest.fixture(scope="module")
def client(served):
    with openai.OpenAI(base_url=f"{served.base_url}/v1", api_key="none") as client:
        yield client


def user(words):
    return {"role": "user", "content": words}


def assistant(words, emotion=None):
    return {"role": "assistant", "content": words, "emotion": emotion}


@pytest.fixture(scope="module")
def agent(run):
    return Negotiator.load(run, ARM)


def test_the_models_are_the_arms_and_the_counterparty(client, served):
    names = [model.id for model in client.models.list()]
    assert names == ["phrasebook_iql", "phrasebook_random", "phrasebook_vanilla", "counterparty"]
    assert client.models.retrieve("counterparty").owned_by == "emodistill"
    with pytest.raises(openai.NotFoundError, match="no model 'gpt-4o' here"):
        client.chat.completions.create(model="gpt-4o", messages=[])


def test_a_whole_negotiation_is_what_the_negotiator_says(client, served, agent):
    metadata = {"scenario": served.scenario, "seed": "3"}
    talk = agent.open(served.service.run.scenarios[served.scenario], seed=3)
    messages, words, round_ = [], None, 0
    while True:
        expected = talk.reply(words)
        completion = client.chat.completions.create(model=ARM, messages=messages, metadata=metadata)
        (choice,) = completion.choices
        extra = completion.emodistill
        assert set(extra) == EXTRA and completion.model == ARM and choice.finish_reason == "stop"
        assert (choice.message.content, extra["emotion"]) == (expected.words, expected.emotion)
        assert (extra["act"], extra["offer"], extra["round"]) == (expected.act, expected.offer, expected.round)
        assert (extra["end"], extra["deal_value"], extra["utility"]) == (
            expected.end,
            expected.deal_value,
            expected.utility,
        )
        assert (extra["disclosure"] is None) == (round_ > 0)
        assert extra["emotions"] == [m["emotion"] for m in talk.messages if m["role"] == "assistant"]
        assert extra["probabilities"] == pytest.approx(expected.probabilities)
        assert extra["q_values"] == pytest.approx(expected.q_values)
        if extra["end"]:
            break
        words, round_ = ("I need 100 days." if round_ < 4 else "I accept your offer."), round_ + 1
        messages += [{"role": "assistant", "content": choice.message.content}, user(words)]
    assert round_ == 5 and extra["end"] == "deal" and choice.message.content == "" and extra["heard"]["act"] == "accept"


def test_streaming_says_the_same_in_pieces(client, served):
    asked = {"model": ARM, "messages": [], "metadata": {"scenario": served.scenario, "seed": "5"}}
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert deltas[0].role == "assistant" and len(deltas) > 4
    assert "".join(delta.content or "" for delta in deltas) == whole.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == "stop" and chunks[-2].emodistill == whole.emodistill
    assert chunks[-1].usage == whole.usage and chunks[-1].emodistill == whole.emodistill
    assert len({chunk.id for chunk in chunks}) == 1
    plain = list(client.chat.completions.create(**asked, stream=True))
    assert plain[-1].emodistill == whole.emodistill and plain[-1].usage is None


def test_usage_counts(served):
    first = served.chat()
    assert first["usage"] == {
        "prompt_tokens": 0,
        "completion_tokens": len(first["choices"][0]["message"]["content"].split()),
        "total_tokens": first["usage"]["completion_tokens"],
    }
    opening = first["choices"][0]["message"]
    second = served.chat([opening, user("I need 100 days.")])
    assert second["usage"]["prompt_tokens"] == first["usage"]["completion_tokens"] + 4


def test_a_system_block_says_what_metadata_says(served):
    block = {"role": "system", "content": f"Be brief.\nScenario: {served.scenario}\nseed: 9\nother: 3"}
    said = served.chat([block], metadata=None)
    told = served.chat(metadata={"scenario": served.scenario, "seed": "9"})
    assert said["choices"] == told["choices"]
    assert said["choices"] != served.chat([block], metadata={"seed": 10})["choices"]  # metadata counts first
    prompt = {"role": "system", "content": "Domain: debt\nTarget: a good deal\nseed: 9"}
    assert said["choices"] == served.chat([prompt])["choices"]  # whose scenario stands in metadata


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        ("\n" * 500_000, {}),  # read in one pass: a search that goes back would take minutes
        (" " * 500_000 + "seed: 4", {"seed": "4"}),
        ("domain:\nTarget: 30", {"target": "30"}),
        ("I say: 3\r\n DOMAIN : debt \u2028target: 9:30 PM\ntarget", {"domain": "debt", "target": "9:30 PM"}),
    ],
    ids=["newlines", "blanks", "an empty value", "lines of every kind"],
)
def test_lines_of_a_system_message(words, settings):
    asked = Talk(model=ARM, messages=[{"role": "system", "content": words}])
    assert asked.settings == settings


def test_a_domain_and_a_target_are_enough(served):
    metadata = {"domain": "debt", "target": "two weeks", "their_target": "90"}
    said = served.chat(metadata=metadata)
    parts = [{"type": "text", "text": "domain: debt\ntarget: 14"}, {"type": "text", "text": "their_target: 3 months"}]
    assert said["emodistill"]["offer"] == 14
    again = served.chat([{"role": "developer", "content": parts}], metadata=None)
    assert again["choices"] == said["choices"]


def test_null_is_as_good_as_nothing_and_other_metadata_is_ignored(served):
    metadata = {"scenario": served.scenario, "seed": None, "user": None, "tags": ["a"], "trace": {"id": 1}}
    said = served.chat(metadata=metadata, stream=None, stream_options=None, n=None)
    assert said["choices"] == served.chat()["choices"]
    told = {
        "model": ARM,
        "messages": [],
        "metadata": metadata,
        "stream": True,
        "stream_options": {"include_usage": None},
    }
    assert "data: [DONE]" in served.client.post("/v1/chat/completions", json=told).text


def test_a_greeting_asks_for_the_opening(served):
    opening = served.chat()
    greeted = served.chat([user("Hello!")])
    assert greeted["choices"] == opening["choices"] and greeted["emodistill"]["heard"] is None
    words = opening["choices"][0]["message"]
    assert (
        served.chat([user("Hello!"), words, user("90 days")])["choices"]
        == served.chat([words, user("90 days")])["choices"]
    )


def test_the_empty_answer_to_last_words_may_be_sent_back(served):
    over = [assistant("My offer is 30 days."), user("I accept your offer.")]
    ended = served.chat(over)
    assert ended["emodistill"]["end"] == "deal" and ended["choices"][0]["message"]["content"] == ""
    assert served.chat([*over, assistant("")])["emodistill"] == ended["emodistill"]


def test_an_emotion_that_is_sent_back_counts(served):
    opening = served.chat()["choices"][0]["message"]["content"]
    sent = served.chat([assistant(opening, "curiosity"), user("I need 100 days.")])
    assert sent["emodistill"]["emotions"][0] == "curiosity"
    found = served.chat([assistant(opening), user("I need 100 days.")])
    assert found["emodistill"]["emotions"][0] == served.chat()["emodistill"]["emotion"]


def test_the_counterparty_answers(served, run):
    there = Negotiator.load(run, side=COUNTERPARTY)
    talk = there.open(served.service.run.scenarios[served.scenario], seed=4)
    metadata = {"scenario": served.scenario, "seed": "4"}
    said = served.chat([user("I want it in 20 days.")], "counterparty", metadata=metadata)
    assert said["choices"][0]["message"]["content"] == talk.reply("I want it in 20 days.").words
    assert said["emodistill"]["disclosure"]


BAD = {
    "no scenario": ({"metadata": None}, "which negotiation is it"),
    "unknown scenario": ({"metadata": {"scenario": "debt-999"}}, "scenario=debt-999: there is none"),
    "scenario and target": ({"metadata": {"scenario": "SCENARIO", "target": "3"}}, "or domain and target without one"),
    "unknown domain": ({"metadata": {"domain": "debts", "target": "3"}}, "no domain 'debts'"),
    "a list of seeds": ({"metadata": {"domain": "debt", "target": "30", "seed": [1]}}, "metadata.seed"),
    "no target": ({"metadata": {"domain": "debt"}}, "needs a target"),
    "no number": ({"metadata": {"domain": "debt", "target": "soon"}}, "target=soon is no time"),
    "long seed": ({"metadata": {"scenario": "SCENARIO", "seed": "9" * 5000}}, "seed=9999"),
    "bad seed": ({"metadata": {"scenario": "SCENARIO", "seed": "-1"}}, "seed=-1: give a whole number"),
    "two replies": ({"n": 2}, "n=2: there is one reply"),
    "unknown role": ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role: Input should be"),
    "no content": ({"messages": [{"role": "user"}]}, "messages.0.content"),
    "an image": ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content"),
    "no messages": ({"messages": "hi"}, "messages: Input should be a valid array, and not 'hi'"),
    "unknown emotion": (
        {"messages": [assistant("30 days.", "spite"), user("no")]},
        "spite",
    ),
    "out of turn": (
        {"messages": [assistant("30 days."), user("no"), user("no")]},
        "message 3 must be words of the role 'assistant'",
    ),
    "its own turn": ({"messages": [assistant("30 days.")]}, "it is the other side's turn"),
    "empty words": ({"messages": [assistant("30 days."), user(" \u200b")]}, "the words are empty"),
    "long words": ({"messages": [assistant("30 days."), user("a" * 2001)]}, "2,001 characters"),
    "long own words": ({"messages": [assistant("a" * 2001), user("no")]}, "at most 2,000 characters"),
    "no own words": (
        {"messages": [assistant("30 days."), user("90 days."), assistant(""), user("no")]},
        "message 3 is empty, where the agent's words must stand",
    ),
    "over, with the empty answer": (
        {"messages": [assistant("My offer is 30 days."), user("I accept."), assistant(""), user("Wait!")]},
        "this negotiation is over (deal)",
    ),
    "over": (
        {"messages": [assistant("My offer is 30 days."), user("I accept."), assistant("Thanks."), user("Wait!")]},
        "this negotiation is over (deal)",
    ),
}


@pytest.mark.parametrize(("change", "named"), BAD.values(), ids=BAD)
def test_a_mistake_of_the_client_is_one_sentence(served, change, named):
    body = {"model": ARM, "messages": [], "metadata": {"scenario": served.scenario}} | change
    body = json.loads(json.dumps(body).replace("SCENARIO", served.scenario))
    answer = served.client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400 and named in answer.json()["error"]["message"]
    assert answer.json()["error"]["type"] == "invalid_request_error" and len(answer.text) < 600


def test_other_paths_and_methods(served):
    assert "Not Found" in served.refused(404, "not_found", url="/v1/completions", json={})
    assert served.refused(405, "http", method="GET", url="/v1/chat/completions")


LITELLM = """
import json, sys
import litellm
asked = json.loads(sys.argv[1])
whole = litellm.completion(**asked)
pieces = [chunk.choices[0].delta.content or "" for chunk in litellm.completion(**asked, stream=True)]
try:
    litellm.completion(**asked | {"model": "openai/nobody"})
except litellm.exceptions.NotFoundError as error:
    refused = str(error)
print(json.dumps([whole.choices[0].message.content, "".join(pieces), whole.usage.completion_tokens, refused]))
"""


def test_litellm_speaks_to_it(served):
    """LiteLLM brings 22 packages, one of them older than ours, so it has an environment of its own."""
    python = os.environ.get("LITELLM_PYTHON", sys.executable)
    if python == sys.executable and importlib.util.find_spec("litellm") is None:
        pytest.skip("LiteLLM is not here; LITELLM_PYTHON=PATH names a Python that has it")
    block = {"role": "system", "content": f"scenario: {served.scenario}"}
    asked = {"model": f"openai/{ARM}", "api_base": f"{served.base_url}/v1", "api_key": "none", "messages": [block]}
    environment = {"PATH": os.environ["PATH"], "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    command = [python, "-c", LITELLM, json.dumps(asked)]
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    whole, streamed, tokens, refused = json.loads(shown.splitlines()[-1])
    expected = served.chat()
    assert whole == streamed == expected["choices"][0]["message"]["content"]
    assert tokens == expected["usage"]["completion_tokens"] and "no model 'nobody' here" in refused


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
@pytest.mark.parametrize("stream", [False, True])
def test_curl_speaks_to_it(served, stream):
    body = {"model": ARM, "messages": [], "metadata": {"scenario": served.scenario}, "stream": stream}
    command = ["curl", "-sS", "--noproxy", "*", "-d", json.dumps(body), f"{served.base_url}/v1/chat/completions"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    expected = served.chat()["choices"][0]["message"]["content"]
    if not stream:
        assert json.loads(shown)["choices"][0]["message"]["content"] == expected
        return
    events = shown.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == expected
