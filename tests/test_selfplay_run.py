"""The tiny model on both sides: a corpus of its own making, every stage on it, and it again as the one opposite."""

import json

import pytest
import torch
from schedules import concession_schedule
from tiny_runs import Workplace, composed

from emodistill.counterparties.specs import LanguageModelCounterpartySpec
from emodistill.data.agent_specs import ChatAgentSpec
from emodistill.data.schema import read_episodes
from emodistill.errors import UserError
from emodistill.negotiation.agents import FocalAgent
from emodistill.negotiation.engine import play
from emodistill.negotiation.generator import generate_scenarios
from emodistill.negotiation.protocol import Negotiation
from emodistill.negotiation.schedule import CounterpartySchedule, OpenOffers
from emodistill.policy.chat_backends import LocalModel
from play import play as build

TINY = (
    "data=selfplay",
    "data.corpus.batch=6",
    "speaker.max_new_tokens=12",
    "counterparty.agent.backend.max_new_tokens=12",
    "speaker.dtype=float32",
    "counterparty.agent.backend.dtype=float32",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = Workplace(tmp_path_factory.mktemp("selfplay"))
    for stage in ("iql", "sft", "jpo"):
        place.train(stage, "run", *TINY)
    return place


def corpus_file(place):
    (file,) = place.folder.glob("corpora/selfplay-*/episodes.parquet")
    return file


def test_all_stages_learn_from_one_corpus_that_the_models_played(place):
    episodes = read_episodes(corpus_file(place))
    assert len(episodes) == 8 * 2 and {e.counterparty.split(":")[0] for e in episodes} == {"lm"}
    assert {e.counterparty.split(":")[-1] for e in episodes} == {"plain", "pressed"}  # two seeds
    for stage in ("iql", "sft", "jpo"):
        assert (place.folder / "run" / stage / "finished.json").is_file()
        kept = json.loads((place.folder / "run" / stage / "corpus.json").read_text(encoding="utf-8"))
        assert kept["episodes"] == str(corpus_file(place))
        assert set(kept["scenarios"].values()) == {episode.scenario.id for episode in episodes}


def test_a_language_model_may_sit_opposite_in_the_evaluation(place):
    changes = ["counterparty=lm", "counterparty.agent.backend.max_new_tokens=8", "arms=[vanilla,iql]", "name=opposite"]
    before = corpus_file(place).stat().st_mtime_ns
    report = place.evaluate("run", *changes)  # data=bundled: its scenarios are the same, and nothing has to be built
    assert len(list(place.folder.glob("corpora/*"))) == 1 and corpus_file(place).stat().st_mtime_ns == before
    assert report["about"]["counterparty"].startswith("the language model")
    played = read_episodes(place.folder / "run" / "opposite" / "episodes" / "vanilla.parquet")
    assert {episode.counterparty.split(":")[0] for episode in played} == {"lm"}
    assert all(cell["role_violations"].keys() <= {"empty", "label", "other_side", "copied"} for cell in report["cells"])


def test_no_scenario_that_was_trained_on_is_tested(place):
    with pytest.raises(UserError, match="was trained on"):
        place.evaluate("run", "data.corpus.split_seed=5", "name=leaky")


def test_an_endpoint_arm_without_an_endpoint_is_named(place):
    with pytest.raises(Exception, match="endpoint") as raised:
        place.evaluate("run", "arms=[endpoint_vanilla]", "name=nowhere")
    assert "base_url" in str(raised.value)


def test_the_selector_of_a_run_plays_the_next_corpus(place, capsys):
    changes = [*TINY, "data.corpus.focal.emotions=selector", "data.corpus.episodes_per_scenario=1"]
    wanted = [change for change in place.overrides("run") if not change.startswith(("size.", "data.corpus.episodes"))]
    build(composed("play", *wanted, *changes))
    episodes = read_episodes(place.folder / capsys.readouterr().out.strip().splitlines()[-1])
    shown = [turn.emotion_prob for episode in episodes for turn in episode.focal_turns]
    assert {episode.behaviour for episode in episodes} == {"iql"} and len(set(shown)) > 10


def games(count=4):
    return [Negotiation(scenario, seed) for seed, scenario in enumerate(generate_scenarios("debt", 10)[:count])]


def test_both_seats_share_one_copy_of_the_weights_and_their_caches_change_no_word(place):
    def played(forget):
        source = LocalModel(place.model, "float32", temperature=1.0, max_new_tokens=12)
        focal = ChatAgentSpec(source, "random", "goemotions28", OpenOffers(concession_schedule())).open()
        schedule = CounterpartySchedule(concession_schedule(), noise=0.03)
        counterparty = LanguageModelCounterpartySpec(
            source, "schedule", schedule, ["calm"], {"calm": "You are calm."}, retries=2
        ).open()
        backends = [focal.speaker.backend, counterparty.backend]
        assert isinstance(focal, FocalAgent) and len({id(v.generator._decoder.model) for v in backends}) == 1
        for backend in backends:
            extend = backend.generator.extend_and_sample

            def without_cache(sessions, prompts, seeds, extend=extend):
                for session in sessions:
                    session.cached, session.keys_values = [], None
                return extend(sessions, prompts, seeds)

            if forget:
                backend.generator.extend_and_sample = without_cache
        return [[turn.text for turn in game.turns] for game in play(games(), focal, counterparty)]

    torch.manual_seed(0)
    assert played(forget=False) == played(forget=True)


def test_an_adapter_that_is_not_there_is_named(place):
    with pytest.raises(UserError, match="speaker.adapter=nowhere: there is no such folder"):
        LocalModel(place.model, adapter="nowhere").recipe()


def test_a_trained_adapter_speaks(place):
    adapter = str(place.folder / "run" / "sft" / "adapter")
    with_it = LocalModel(place.model, "float32", adapter=adapter, max_new_tokens=12)
    plain = LocalModel(place.model, "float32", max_new_tokens=12)
    assert with_it.recipe() != plain.recipe() and with_it.open().name == plain.open().name
    one, other = (source.open().generator._decoder.model for source in (with_it, plain))
    ids = torch.arange(3, 30).unsqueeze(0)
    assert not torch.equal(one(ids).logits, other(ids).logits)
