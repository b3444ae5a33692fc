"""Arms that speak with a language model: many at once say what each says alone, and tokens are the model's."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from serving_cases import serving
from tiny_runs import begun

from emodistill import Negotiator
from emodistill.language_models.local import load_tokenizer

WORDS = ["I need 100 days.", "You ask too much! 95?"]


@pytest.fixture(scope="module")
def speaking(tmp_path_factory):
    """A workplace whose run has a model that speaks."""
    return begun(tmp_path_factory, "speaking", "iql", "sft")


@pytest.mark.slow
def test_many_at_once_say_what_each_says_alone(speaking):
    run, tokenizer = speaking.folder / "run", load_tokenizer(str(speaking.model))
    with serving(run, "batch=4") as served, ThreadPoolExecutor(6) as clients:
        assert served.service.run.arms[:3] == ["sft", "iql", "vanilla"]
        talks = [[] for _ in range(6)]
        for words in (None, *WORDS):
            for talk in talks:
                talk += [{"role": "user", "content": words}] if words else []
            with served.busy():
                asked = [clients.submit(ask, served, seed, talk) for seed, talk in enumerate(talks)]
                served.wait_until(6)
            for talk, reply in zip(talks, asked, strict=True):
                answer = reply.result()
                counted = [len(tokenizer.encode(m["content"], add_special_tokens=False)) for m in talk]
                talk.append(answer["choices"][0]["message"])
                said = len(tokenizer.encode(talk[-1]["content"], add_special_tokens=False))
                assert (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]) == (sum(counted), said)
        assert served.metrics()['emodistill_batch_size_bucket{le="2"}'] == 3  # 4 and 2 of 6, three times
        scenario = served.service.run.scenarios[served.scenario]
    agent = Negotiator.load(run, "sft")
    for seed, talk in enumerate(talks):
        alone = agent.open(scenario, seed=seed)
        replies = [alone.reply(words).words for words in (None, *WORDS)]
        assert replies == [message["content"] for message in talk if message["role"] == "assistant"]


def ask(served, seed, talk):
    return served.chat(talk, "sft", metadata={"scenario": served.scenario, "seed": str(seed)})
