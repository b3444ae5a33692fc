"""`reproduce.py`: the published settings as docs/reproduce.md has them, a dry run that asks nobody, and a rehearsal."""

import json
import os
import re
import socket
import subprocess
import sys
from functools import partial

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from tiny_runs import CONFIGS

from commands.building import build_study, register_variants
from commands.estimate import Assumptions, Model, Setting, Work, table, work_of
from commands.rehearsal import RuleServer, make_tiny_model, next_turn, reply_to, score_of
from commands.words import for_hydra
from emodistill.errors import UserError
from emodistill.language_models.budget import Price
from emodistill.language_models.client import Endpoint
from emodistill.language_models.completion import CompletionRequest, Message
from emodistill.runs import flat
from evaluate import evaluate
from play import play
from reproduce import COMMANDS, comments, reproduce
from train import train

ROOT = CONFIGS.parent
ROW = re.compile(r"^\| `(\w+): ([\w.]+)` \| `?([^|`]+)`? \| ([^|]+) \|", re.MULTILINE)


def published():
    """(command, key, value) of each row of the table of numbers."""
    text = (ROOT / "docs" / "reproduce.md").read_text(encoding="utf-8")
    for command, key, value, source in ROW.findall(text):
        assert source.strip(), key
        yield command, key, yaml.safe_load(value)


@pytest.fixture(scope="module")
def configured():
    """The configurations of the five commands, composed once each."""
    register_variants()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return {name: compose(script, [*more, "experiment=paper"]) for name, (script, more) in COMMANDS.items()}


@pytest.fixture
def offline(monkeypatch):
    """Any attempt to reach another process ends the test."""

    def refuse(*_args, **_kwargs):
        raise AssertionError("somebody was asked")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)


def run(experiment, *overrides):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        given = [f"experiment={experiment}", *overrides]
        reproduce(compose("reproduce", given), experiment, given)


def test_the_page_has_the_numbers_of_all_commands():
    rows = list(published())
    assert {command for command, _, _ in rows} == set(COMMANDS) and len(rows) > 40
    assert len({row[:2] for row in rows}) == len(rows)


@pytest.mark.parametrize(
    ("command", "key", "value"), [pytest.param(*row, id=f"{row[0]}:{row[1]}") for row in published()]
)
def test_the_configuration_has_the_number_of_the_page(configured, command, key, value):
    found = OmegaConf.select(configured[command], key, throw_on_missing=True)
    assert (OmegaConf.to_container(found) if OmegaConf.is_config(found) else found) == value


def test_the_selection_is_the_published_one(configured):
    chosen = OmegaConf.to_container(configured["sft"].data.dataset.selection)
    assert chosen["_target_"].endswith("TopAdvantage") and chosen["advantages"]["_target_"].endswith("IQLAdvantages")
    assert configured["jpo"].data.dataset.selection["_target_"].endswith("AllTurns")


def test_the_rehearsal_is_the_published_experiment_in_small():
    """Every key that differs between the two is a size, or names the model, the server and the scenarios."""
    may_differ = (
        r"run$|run_dir|stage_dir|domains|model\.|scenarios|size\.|endpoint\.|judge\.ledger|data\.corpus\.folder"
    )
    may_differ += (
        r"|data\.corpus\.scenarios|data\.corpus\.episodes_per_scenario|sampler\.max_new_tokens|trainer\.max_steps"
    )
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        for name, (script, more) in COMMANDS.items():
            paper, small = (
                flat(OmegaConf.to_container(compose(script, [*more, f"experiment={experiment}"])))
                for experiment in ("paper", "rehearsal")
            )
            keys = [key for key in paper.keys() | small.keys() if paper.get(key) != small.get(key)]
            assert [key for key in keys if not re.match(may_differ, key)] == [], name
            if name in ("sft", "jpo"):
                assert small["trainer.max_epochs"] == 1 and small["trainer.max_steps"] == -1


@pytest.mark.parametrize("experiment", ["paper", "rehearsal"])
@pytest.mark.parametrize("stage", ["sft", "jpo"])
def test_no_validation_comes_between_two_batches_of_one_step(experiment, stage):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        trainer = compose("train", [f"stage={stage}", f"experiment={experiment}"]).trainer
    assert trainer.val_check_interval % trainer.accumulate_grad_batches == 0


def test_training_that_an_evaluation_asks_for_is_of_the_same_experiment(configured):
    given = ["experiment=paper", "scenario_files=here", "domains=[debt]"]
    assert build_study(configured["evaluate"], [*given, "train=missing", "temperature=0.0"]).training == given


def test_a_user_may_change_what_the_experiment_sets():
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        given = ["experiment=paper", "model=embedded", "data.corpus.episodes_per_scenario=2", "judge=rubric"]
        cfg = compose("train", ["stage=sft", *given, "learner.optimizer.learning_rate=1.0"])
    assert cfg.model.base_model == "embedded" and cfg.data.corpus.episodes_per_scenario == 2
    assert cfg.judge.judge["_target_"].endswith("RubricJudge") and cfg.learner.optimizer.learning_rate == 1.0


def test_a_dry_run_asks_nobody_and_writes_nothing(offline, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("paper", "dry_run=true", "endpoint.base_url=http://127.0.0.1:9/v1", "endpoint.model=gpt-4o-mini")
    said = capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    commands = [line for line in said.splitlines() if line.startswith("python ")]
    assert len(commands) == 4 * 5 and all(" experiment=paper endpoint.spending.path=" in line for line in commands)
    assert len({re.search(r"spending.path=(\S+)", line)[1] for line in commands}) == 1  # one budget for all domains
    assert all(f"  {name}={value:g}  " in said for name, value in vars(assumptions()).items())
    assert (
        "play            16,000     256,000" in said
    )  # 80 scenarios x 50 episodes x 4 domains; 8 rounds of both sides
    assert "no price" not in said


def test_a_dry_run_without_a_price_says_what_the_listed_ones_would_make_of_it(offline, capsys):
    run("paper", "dry_run=true", "domains=[debt]")
    said = capsys.readouterr().out
    assert "no price of qwen-plus is known" in said and "gpt-4o-mini" in said


def test_a_dry_run_counts_the_scenarios_that_there_are(offline, capsys):
    run("rehearsal", "dry_run=true", "scenarios.per_domain=20")  # of 4 test scenarios it plays 2
    assert "debt: 14 scenarios to learn from, 2 to choose by, 2 to test on" in capsys.readouterr().out


def test_every_assumption_is_explained():
    assert set(vars(assumptions())) <= comments().keys()


def assumptions(**changes):
    given = yaml.safe_load((CONFIGS / "reproduce.yaml").read_text(encoding="utf-8"))["estimate"]
    return Assumptions(**given | changes)


SPEAKER, SCORER = Model("speaker", Price(input=1.0, output=2.0)), Model("scorer", Price(input=10.0, output=100.0))
SMALL = Setting(
    learning=2,
    choosing=1,
    testing=1,
    episodes=3,
    focal=SPEAKER,
    counterparty=SPEAKER,
    judge=SCORER,
    arm=SPEAKER,
    probe_every=4,
    fraction=0.5,
    validation_every=(2, 3),
    validation_contexts=5,
    expression_contexts=2,
    test_episodes=2,
    local_arms=2,
    endpoint_arms=1,
)
FEW = {
    "situation_tokens": 10,
    "turn_tokens": 2,
    "reply_tokens": 3,
    "judge_tokens": 7,
    "judge_history": 2,
    "verdict_tokens": 1,
    "adapter_parameters": 100,
    "training_gflop": 2,
    "teraflops": 1,
    "tokens_per_second": 5,
    "turn_bytes": 4,
}


def test_the_arithmetic_of_a_small_experiment():
    """Two rounds. Prompts of the focal side: 10 and 14 tokens, of the counterparty 12 and 16, of the judge 7 and 11."""
    play, iql, sft, jpo, evaluate = work_of(SMALL, assumptions(**FEW), rounds=2)
    assert (play.episodes, play.asked) == (9, {SPEAKER: (36, 9 * 24 + 9 * 28, 9 * 4 * 3)})
    assert play.cost == pytest.approx((468 * 1 + 108 * 2) / 1e6) and play.disk_bytes == 9 * 4 * 4 and not play.gpu_hours
    assert (iql.calls, iql.gpu_hours) == (0, 0)
    # 6 chats of 18 tokens at 2 GFLOP and 1,000 GFLOP/s; three validations of 5 contexts, each written in 3/5 s
    assert sft.asked == {SCORER: (19, 19 * 9, 19)} and sft.gpu_hours == pytest.approx((0.216 + 9) / 3600)
    assert sft.cost == pytest.approx((171 * 10 + 19 * 100) / 1e6) and sft.disk_bytes == 7 * 100 * 4
    # every turn of 6 episodes, 10 replies of two validations, and 6 probes among these 22
    assert jpo.asked == {SCORER: (28, 28 * 9, 28)} and jpo.gpu_hours == pytest.approx((0.324 + 6) / 3600)
    assert evaluate.episodes == 6 and evaluate.gpu_hours == pytest.approx(14 * 3 / 5 / 3600)
    assert evaluate.asked == {SPEAKER: (12 + 4, 168 + 48, 36 + 12), SCORER: (8, 72, 8)}
    total = table([play, iql, sft, jpo, evaluate], assumptions(**FEW, parameters=1e9))[-1].split()
    assert total[:5] == ["all", "15", str(36 + 19 + 28 + 24), "1,179", "211"] and float(total[-1]) == pytest.approx(2.5)


def test_who_is_not_asked_costs_nothing():
    alone = Setting(**vars(SMALL) | {"focal": None, "judge": None, "probe_every": 0})
    play, _, sft, jpo, evaluate = work_of(alone, assumptions(**FEW), rounds=2)
    assert play.asked == {SPEAKER: (18, 9 * 28, 9 * 2 * 3)} and not sft.asked and not jpo.asked
    assert evaluate.asked == {SPEAKER: (12 + 4, 168 + 48, 36 + 12)}
    nobody = work_of(Setting(**vars(alone) | {"arm": None}), assumptions(**FEW), rounds=2)[-1]
    assert nobody.asked == {SPEAKER: (12, 168, 36)}


def test_a_model_without_a_price_makes_no_sum():
    free, unknown = Work("a"), Work("b")
    free.ask(SPEAKER, 1, 10, 10)
    unknown.ask(Model("mine", None), 1, 10, 10)
    assert free.cost is not None and unknown.cost is None and (free + unknown).cost is None


@pytest.mark.parametrize(
    ("experiment", "overrides", "words"),
    [
        ("none", [], "experiment=paper or experiment=rehearsal"),
        ("paper", [], "endpoint.base_url is not set"),
    ],
)
def test_what_cannot_be_run_is_refused(offline, experiment, overrides, words):
    with pytest.raises(UserError, match=words):
        run(experiment, *overrides)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_the_server_of_the_rehearsal_speaks_the_protocol_of_endpoints():
    address = f"http://127.0.0.1:{free_port()}/v1"
    case = Message("user", "Judge this utterance of the creditor: <data>We can settle in 40 days.</data>")
    schema = {"type": "object", "properties": {"score": {"type": "integer"}}}
    with RuleServer(address), Endpoint(address, "rehearsal") as model:
        score, words = model.complete(
            [
                CompletionRequest((case,), 32, 0.0, 0, schema),
                CompletionRequest((Message("user", "Hello."),), 32, 0.7, 1),
            ]
        )
    assert 5 <= json.loads(score.text)["score"] <= 9 and "30 days" in words.text
    assert score.usage.completion_tokens == 2


@pytest.mark.parametrize("address", ["http://example.org:80/v1", "http://127.0.0.1/v1"])
def test_the_server_listens_on_loopback_alone(address):
    with pytest.raises(UserError, match="a rehearsal listens on"):
        RuleServer(address).__enter__()


def test_a_port_that_is_taken_is_named():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(UserError, match="cannot be listened on"):
            RuleServer(f"http://127.0.0.1:{other.getsockname()[1]}/v1").__enter__()


def test_the_rule_concedes_and_closes():
    system = ("system", "You are the debtor. You want more time, ideally 90 days, and a deal rather than none.")
    chat, offers = [system, ("user", "We need it within 30 days.")], []
    for _ in range(4):
        said = next_turn(chat, "0")
        offers.append(int(re.search(r"(\d+) days", said)[1]))
        chat += [("assistant", said), ("user", "We need it within 30 days.")]
    assert offers == [90, 81, 72, 63] and next_turn(chat, "0") == "I accept your offer."


def test_the_focal_side_accepts_where_its_note_says_so():
    system = ("system", "You are the creditor, ideally within 20 days.")
    state = ("user", "I need 90 days.\n[Let your words show joy. State your offer.]")
    assert "20 days" in next_turn([system, state], "0")
    assert next_turn([system, ("user", "I need 25 days.\n[Accept their offer.]")], "0") == "I accept your offer."


def test_an_utterance_without_a_number_scores_low():
    assert score_of("Judge this utterance of the creditor: Bananas are yellow.") == 2
    body = {"messages": [{"role": "user", "content": "Judge this utterance: 20 days."}], "response_format": {}}
    assert json.loads(reply_to(body))["score"] >= 5


def test_the_tiny_model_is_made_once(tmp_path):
    make_tiny_model(tmp_path / "model")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "model").iterdir()}
    make_tiny_model(tmp_path / "model")
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "model").iterdir()} and len(before) >= 4


def started(folder, *words):
    """`python reproduce.py WORDS` in this folder."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "HYDRA_FULL_ERROR": "0"}
    command = [sys.executable, str(ROOT / "reproduce.py"), *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_a_command_that_fails_ends_the_run_with_its_sentence(tmp_path):
    ended = started(tmp_path, "experiment=paper", "endpoint.base_url=http://127.0.0.1:9/v1", "vocabulary=nope")
    assert ended.returncode == 2 and "no vocabulary 'nope'" in ended.stderr
    assert "play.py ended with status 2" in ended.stderr and "train.py stage=iql" not in ended.stdout


@pytest.mark.slow
def test_a_rehearsal_runs_end_to_end_and_once_more_finds_nothing_to_do(tmp_path, monkeypatch, capsys):
    """The commands run in this process, which spares their imports; the test above starts processes."""
    printed = []

    def command(script, words):
        printed.append(script)
        cfg = compose(script, [for_hydra(word) for word in words])
        {"play": play, "train": train, "evaluate": partial(evaluate, overrides=words)}[script](cfg)

    monkeypatch.setattr("reproduce.run_command", command)
    monkeypatch.chdir(tmp_path)
    address = f"endpoint.base_url=http://127.0.0.1:{free_port()}/v1"
    run("rehearsal", address)
    run_dir = tmp_path / "checkpoints" / "rehearsal" / "debt"
    for stage in ("iql", "sft", "jpo"):
        assert (run_dir / stage / "finished.json").is_file()
    report = json.loads((run_dir / "evaluation" / "report.json").read_text(encoding="utf-8"))
    arms = {cell["arm"] for cell in report["cells"]}
    assert arms == {"vanilla", "endpoint_vanilla", "iql", "sft", "emodistill"}
    spending = run_dir.parent / "spending.json"
    spent = spending.read_bytes()
    (bill,) = json.loads(spent).values()
    assert bill["calls"] > 200 and not bill["unmetered_calls"]
    assert printed == ["play", "train", "train", "train", "evaluate"]
    assert list(tmp_path.iterdir()) == [tmp_path / "checkpoints"]
    capsys.readouterr()

    run("rehearsal", address)
    said = capsys.readouterr().out
    assert said.count("nothing to do") == 3 and "nothing to play" in said
    assert spending.read_bytes() == spent
