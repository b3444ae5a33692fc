"""`transformers serve` with tiny models of three families, which apply their own templates, opposite and as the judge.

Qwen3 thinks unless it is told not to, Gemma 3 puts the system message into the first user message and has windows, and
Gemma 2 refuses a system message. Some models have random weights and speak nonsense. The others say one line whatever
they are asked, by weights that make every token follow from the one before.
"""

import json
from contextlib import contextmanager

import pytest
import torch
from families.models import save_model
from families.speaking import ENDS, prompt_ids, save_speaking
from hydra.utils import instantiate
from schedules import concession_schedule
from tiny_runs import composed
from transformers import AutoModelForCausalLM

from emodistill.data.agent_specs import TeacherSpec
from emodistill.judges.request import JudgeRequest
from emodistill.language_models.client import Endpoint, Traffic
from emodistill.language_models.completion import CompletionRequest, Message, Reply
from emodistill.language_models.local import load_tokenizer
from emodistill.language_models.thoughts import has_words, without_thoughts
from emodistill.negotiation.engine import play
from emodistill.negotiation.generator import generate_scenarios
from emodistill.negotiation.offers import parse_offer
from emodistill.negotiation.protocol import COUNTERPARTY, FOCAL, Negotiation

pytestmark = pytest.mark.slow

LINE, VERDICT = "I can pay in 120 days, no sooner.", '{"score": 7}'
SYSTEM = "You owe money and bargain over the days to pay it."
QUIET = "endpoint.dialect.extra={chat_template_kwargs:{enable_thinking:false}}"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of the models, by family and by what they say; None is nonsense."""
    folder, made = tmp_path_factory.mktemp("families"), {}
    for family in ENDS:
        for line in (None, LINE, VERDICT):
            place = folder / f"{family}-{len(made)}"
            tokenizer = save_speaking(family, place, line) if line else save_random(family, place)
            ends = tokenizer.convert_tokens_to_ids(ENDS[family])
            sampling = {"do_sample": True, "eos_token_id": ends, "pad_token_id": tokenizer.pad_token_id}
            (place / "generation_config.json").write_text(json.dumps(sampling), encoding="utf-8")
            made[family, line] = str(place)
    return made


def save_random(family, folder):
    save_model(family, folder)
    return load_tokenizer(str(folder))


@pytest.fixture
def seats(models, server_of_any_model, tmp_path):
    """Opens counterparty and judge as `counterparty=endpoint judge=lm` has them, with a model behind the server."""

    @contextmanager
    def opened(family, line, *changes):
        config = composed(
            "play",
            *("counterparty=endpoint", "judge=lm", f"run_dir={tmp_path}", f"judge.ledger.path={tmp_path}/ledger"),
            *(f"endpoint.base_url={server_of_any_model}", f"endpoint.model={models[family, line]}"),
            *("endpoint.traffic.concurrency=1", "endpoint.retries.base_s=0.01"),
            *("counterparty.agent.backend.max_tokens=12", "judge.judge.judge.num_examples=1"),
            *changes,
        )
        counterparty = instantiate(config.counterparty.agent, _convert_="all").open()
        judge = instantiate(config.judge.judge, _convert_="all")
        with counterparty.backend.completer, judge.judge_behind.completer:
            yield counterparty, judge

    return opened


def negotiated(counterparty, rounds=2):
    """Two negotiations; the phrasebook is the focal side."""
    games = [Negotiation(scenario, 0, max_rounds=rounds) for scenario in generate_scenarios("debt", 10)[:2]]
    return play(games, TeacherSpec("goemotions28", concession_schedule()).open(), counterparty)


def theirs(games):
    return [turn for game in games for turn in game.turns if turn.speaker == COUNTERPARTY]


def to_judge(games):
    return [
        JudgeRequest(game.scenario, tuple(game.turns[:place]), turn.emotion, turn.text)
        for game in games
        for place, turn in enumerate(game.turns)
        if turn.speaker == FOCAL
    ]


@pytest.mark.parametrize("family", ["qwen3", "gemma3", "gemma2"])
def test_the_words_are_those_of_the_model_after_its_own_template(family, models, server_of_any_model):
    """Greedy, against `generate` on what the template makes of the chat; the system's words are in it."""
    folder, questions = models[family, None], ("Will you pay in 20 days?", "Why so late?", "That is not good enough!")
    requests = [CompletionRequest((Message("system", SYSTEM), Message("user", each)), 10) for each in questions]
    with Endpoint(server_of_any_model, folder, traffic=Traffic(concurrency=1)) as endpoint:
        answers = endpoint.complete(requests)
    tokenizer, model = load_tokenizer(folder), AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for question, answer in zip(questions, answers, strict=True):
        heard = (f"{SYSTEM}\n\n{question}", None) if family == "gemma2" else (question, SYSTEM)
        prompt = prompt_ids(tokenizer, *heard)
        written = model.generate(torch.tensor([prompt]), max_new_tokens=10, do_sample=False)[0, len(prompt) :]
        words = without_thoughts(tokenizer.decode(written, skip_special_tokens=True))
        assert SYSTEM in tokenizer.decode(prompt)
        assert (answer.text if isinstance(answer, Reply) else "") == (words if has_words(words) else "")
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(prompt), len(written))
    assert any(isinstance(answer, Reply) for answer in answers)


@pytest.mark.parametrize("family", ["qwen3", "gemma3"])
def test_nonsense_is_heard_and_judged_as_what_it_is(family, seats):
    """Every turn has the server's words or ends its negotiation with a reason; no offer and no score is made up."""
    with seats(family, None) as (counterparty, judge):
        games = negotiated(counterparty)
        requests = to_judge(games)
        judged = judge.judge(requests)
    for game in games:
        said = theirs([game])
        assert game.end == "invalid" and game.fault or len(said) == 2 and game.fault is None
        for turn in said:
            assert turn.text and not turn.offer_appended and turn.offer == parse_offer(turn.text, "debt")
    assert counterparty.usage.completion_tokens >= len(theirs(games)) > 0 and counterparty.usage.prompt_tokens > 0
    assert len(judged) == len(requests) > 0 and all(judgement.usage.attempts for judgement in judged)
    for judgement in judged:
        assert judgement.score is None and judgement.reason.split(":")[0] in ("malformed", "wordless", "status")
        assert judgement.usage.prompt_tokens > 0 or judgement.reason.startswith("status")


@pytest.mark.parametrize("family", ["qwen3", "gemma3", "gemma2"])
def test_a_family_sits_opposite(family, seats):
    """Its line alone is heard: no thought, no mark of a template."""
    with seats(family, LINE) as (counterparty, _):
        games = negotiated(counterparty)
    assert [turn.text for turn in theirs(games)] == [LINE] * 4
    assert {(turn.act, turn.offer, turn.role_violations) for turn in theirs(games)} == {("propose", 120.0, ())}
    assert [game.end for game in games] == ["deadline"] * 2
    thought = 4 if family == "qwen3" else 0  # the thought, its two marks, and the line ends behind it
    assert counterparty.usage.completion_tokens == 4 * (2 + thought)
    assert counterparty.usage.attempts == 4 * (2 if family == "gemma2" else 1)


@pytest.mark.parametrize("family", ["qwen3", "gemma3", "gemma2"])
def test_a_family_judges(family, seats):
    """One score for everything is withheld, since the probe among it scores too high, and counts where it may."""
    with seats(family, LINE) as (counterparty, _):
        requests = to_judge(negotiated(counterparty))
    with seats(family, VERDICT) as (_, judge):
        withheld = judge.judge(requests)
        counted = judge.judge_behind.judge(requests)
    assert [judgement.score for judgement in counted] == [7.0] * 4
    assert all(judgement.raw == VERDICT and judgement.usage.completion_tokens > 0 for judgement in counted)
    assert {judgement.usage.attempts for judgement in counted} == {2 if family == "gemma2" else 1}
    assert {(judgement.score, judgement.reason.split(":")[0]) for judgement in withheld} == {(None, "withheld")}


def test_a_model_that_is_told_not_to_think_does_not(seats):
    with seats("qwen3", LINE, QUIET) as (counterparty, _):
        games = negotiated(counterparty)
    assert [turn.text for turn in theirs(games)] == [LINE] * 4 and counterparty.usage.completion_tokens == 4 * 2


def test_a_thought_that_is_cut_leaves_nothing_to_say_and_nothing_to_score(seats):
    short = ("counterparty.agent.backend.max_tokens=2", "judge.judge.judge.max_tokens=2")
    with seats("qwen3", LINE, *short) as (counterparty, judge):
        games = negotiated(counterparty)
        judged = judge.judge(to_judge(games))
    assert [game.end for game in games] == ["invalid"] * 2 and not theirs(games)
    for reason in [game.fault for game in games] + [judgement.reason for judgement in judged]:
        assert "cut at max_tokens before it said anything; raise max_tokens" in reason
    assert {judgement.score for judgement in judged} == {None}


def test_who_says_that_there_is_no_system_role_spares_half_of_the_calls(seats):
    with seats("gemma2", LINE, "endpoint.dialect.system_role=user") as (counterparty, _):
        games = negotiated(counterparty)
    assert [turn.text for turn in theirs(games)] == [LINE] * 4 and counterparty.usage.attempts == 4
