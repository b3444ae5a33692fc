"""The project in its own seat: a run is evaluated against a counterparty behind this server."""

from emodistill.data.schema import read_episodes
from emodistill.negotiation.protocol import COUNTERPARTY, FOCAL

ARM = "phrasebook_random"


def test_a_run_meets_its_own_counterparty_over_the_server(place, served):
    address = [f"endpoint.base_url={served.base_url}/v1", "endpoint.model=counterparty"]
    more = ["episodes_per_scenario=3", "study.expression=false", "name=opposite"]
    place.evaluate("run", "counterparty=endpoint", *address, f"arms=[{ARM}]", *more)
    episodes = read_episodes(place.folder / "run" / "opposite" / "episodes" / f"{ARM}.parquet")
    assert len(episodes) == 3 and all(episode.fault is None for episode in episodes)
    said = [[turn.text for turn in episode.turns if turn.speaker == COUNTERPARTY] for episode in episodes]
    assert len({tuple(words) for words in said}) > 1
    for episode, answers in zip(episodes, said, strict=True):
        messages = [
            {"role": "user" if turn.speaker == FOCAL else "assistant", "content": turn.text} for turn in episode.turns
        ]
        system = served.service.run.about_scenarios("debt")
        (view,) = [one["counterparty"]["view"] for one in system if one["id"] == episode.scenario.id]
        for place_, words in enumerate(answers):
            asked = [{"role": "system", "content": view}, *messages[: 2 * place_ + 1]]
            reply = served.chat(asked, "counterparty", metadata=None)
            assert reply["choices"][0]["message"]["content"] == words


def test_a_prompt_of_this_project_names_its_scenario(served):
    for scenario in served.service.run.about_scenarios("debt"):
        system = {"role": "system", "content": f"{scenario['focal']['view']} Answer in one or two sentences."}
        said = served.chat([system], ARM, metadata={"seed": "1"})
        assert said["choices"] == served.chat([], ARM, metadata={"scenario": scenario["id"], "seed": "1"})["choices"]
