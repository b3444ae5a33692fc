"""What an experiment will take, from its configurations alone: calls, tokens, money, GPU hours, disk. Asks nobody.

Every figure is arithmetic on counts that the configurations fix and on the assumptions of `configs/reproduce.yaml`.
Retries, and replies asked for again because they break the role, are not in it; scores that the ledger has already are.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from emodistill.language_models.budget import Price, currency, price_list, price_of
from emodistill.negotiation.protocol import MAX_ROUNDS
from emodistill.runs import ENDPOINT

SOURCES = 3  # whose words the expression test compares: base, SFT, JPO
REFERENCE = 1.5  # JPO runs the reference forward too, half of forward and backward
CHECKPOINTS, MOMENTS = 2, 3  # best and last; weights and Adam's two moments
FLOAT_BYTES = 4
BASE_BYTES = 2.5  # a parameter, in 16 bits and in the 4-bit copy that the cache keeps


@dataclass(frozen=True)
class Assumptions:
    """The section `estimate` of `configs/reproduce.yaml`, where each is explained."""

    scenarios: int
    rounds: int
    situation_tokens: int
    turn_tokens: int
    reply_tokens: int
    judge_tokens: int
    judge_history: int
    verdict_tokens: int
    parameters: float
    adapter_parameters: float
    training_gflop: float
    teraflops: float
    tokens_per_second: float
    turn_bytes: int


@dataclass(frozen=True)
class Model:
    """A model behind an endpoint, and what a million of its tokens cost; None where nobody says."""

    name: str
    price: Price | None


@dataclass(frozen=True)
class Setting:
    """One domain of an experiment. A seat is None where nobody outside is asked.

    Attributes:
        learning, choosing, testing: scenarios of the splits train, val and test.
        episodes: a scenario, in the corpus.
        validation_every: chats between validations, of SFT and of JPO.
        probe_every: judgements that share a probe; 0 where there are no probes.
        expression_contexts: in which three sources speak when they are compared.
        local_arms, endpoint_arms: of the evaluation, by who speaks; `arm` is the model of the latter.
    """

    learning: int
    choosing: int
    testing: int
    episodes: int
    focal: Model | None
    counterparty: Model | None
    judge: Model | None
    arm: Model | None
    probe_every: int
    fraction: float
    validation_every: tuple[int, int]
    validation_contexts: int
    expression_contexts: int
    test_episodes: int
    local_arms: int
    endpoint_arms: int


@dataclass
class Work:
    """What one command takes.

    Attributes:
        asked: calls, tokens read and tokens written, by model.
    """

    command: str
    episodes: int = 0
    gpu_hours: float = 0.0
    disk_bytes: float = 0.0
    asked: dict[Model, tuple[int, float, float]] = field(default_factory=dict)

    def ask(self, model: Model | None, calls: int, read: float, written: float) -> None:
        """Add calls to a model; nothing where nobody is asked."""
        if model is not None and calls:
            before = self.asked.get(model, (0, 0, 0))
            self.asked[model] = (before[0] + calls, before[1] + read, before[2] + written)

    @property
    def calls(self) -> int:
        return sum(calls for calls, _, _ in self.asked.values())

    @property
    def read(self) -> float:
        return sum(read for _, read, _ in self.asked.values())

    @property
    def written(self) -> float:
        return sum(written for _, _, written in self.asked.values())

    @property
    def cost(self) -> float | None:
        """In the currency of the price list; None where a model has no known price."""
        if any(model.price is None for model in self.asked):
            return None
        return sum(m.price.of(read, written) for m, (_, read, written) in self.asked.items() if m.price)

    def __add__(self, other: "Work") -> "Work":
        total = Work(self.command, self.episodes + other.episodes)
        total.gpu_hours, total.disk_bytes = self.gpu_hours + other.gpu_hours, self.disk_bytes + other.disk_bytes
        for one in (self, other):
            for model, amounts in one.asked.items():
                total.ask(model, *amounts)
        return total


def work_of(s: Setting, a: Assumptions, rounds: int) -> list[Work]:
    """What the five commands of one domain take if every negotiation has so many rounds.

    A prompt holds the situation and all turns so far: the focal side's k-th has 2k of them before it, the
    counterparty's 2k + 1.
    """
    turn, reply = a.turn_tokens, a.reply_tokens
    focal_read = rounds * a.situation_tokens + turn * rounds * (rounds - 1)
    other_read = rounds * a.situation_tokens + turn * rounds**2
    chat = a.situation_tokens + turn * 2 * rounds
    seen = sum(min(2 * k, a.judge_history) for k in range(rounds)) / rounds
    stored = 2 * rounds * a.turn_bytes
    trained = (CHECKPOINTS * MOMENTS + 1) * a.adapter_parameters * FLOAT_BYTES

    def judged(work: Work, turns: int) -> None:
        asked = turns + (math.ceil(turns / s.probe_every) if s.probe_every else 0)
        work.ask(s.judge, asked, asked * (a.judge_tokens + turn * seen), asked * a.verdict_tokens)

    def hours(training_tokens: float, written_tokens: float) -> float:
        training = training_tokens * a.training_gflop / (a.teraflops * 1000)
        return (training + written_tokens / a.tokens_per_second) / 3600

    played = (s.learning + s.choosing) * s.episodes
    play = Work("play", played, disk_bytes=played * stored)
    play.ask(s.focal, played * rounds, played * focal_read, played * rounds * reply)
    play.ask(s.counterparty, played * rounds, played * other_read, played * rounds * reply)

    learnt = s.learning * s.episodes
    chosen = min(s.learning * math.ceil(s.fraction * s.episodes * rounds), learnt)  # chats, at most one an episode
    stages = []
    for name, chats, every, passes in (
        ("sft", chosen, s.validation_every[0], 1.0),
        ("jpo", learnt, s.validation_every[1], REFERENCE),
    ):
        spoken = chats // every * s.validation_contexts
        stage = Work(name, gpu_hours=hours(chats * chat * passes, spoken * reply), disk_bytes=trained)
        judged(stage, spoken + (learnt * rounds if name == "jpo" else 0))
        stages.append(stage)

    local, remote = (s.testing * s.test_episodes * arms for arms in (s.local_arms, s.endpoint_arms))
    compared = SOURCES * s.expression_contexts
    written = (local * rounds + compared) * reply
    evaluate = Work("evaluate", local + remote, hours(0, written), (local + remote) * stored)
    evaluate.ask(
        s.counterparty, (local + remote) * rounds, (local + remote) * other_read, evaluate.episodes * rounds * reply
    )
    evaluate.ask(s.arm, remote * rounds, remote * focal_read, remote * rounds * reply)
    judged(evaluate, compared)
    return [play, Work("iql"), *stages, evaluate]


def setting_of(commands: Mapping[str, DictConfig], a: Assumptions, domain: str) -> Setting:
    """What the configurations of the five commands say of one domain.

    Args:
        commands: `play`, `iql`, `sft`, `jpo` and `evaluate`.
    """
    play, sft, jpo, evaluate = (plain(commands[name]) for name in ("play", "sft", "jpo", "evaluate"))
    corpus, size = play["data"]["corpus"], evaluate["size"]
    learning, choosing, testing = scenario_counts(commands["play"], a, domain)
    most = evaluate["scenarios_per_domain"]
    remote = sum(arm.startswith("endpoint_") for arm in evaluate["arms"])
    return Setting(
        learning=learning,
        choosing=choosing,
        testing=testing if most is None else min(most, testing),
        episodes=corpus["episodes_per_scenario"],
        focal=model_in(corpus["focal"]),
        counterparty=model_in(corpus["counterparty"]),
        judge=model_in(jpo["judge"]),
        arm=model_in(evaluate["endpoint_backend"]),
        probe_every=jpo["judge"]["judge"].get("every", 0),
        fraction=sft["data"]["dataset"]["selection"].get("fraction", 1.0),
        validation_every=(
            sft["trainer"]["val_check_interval"] * sft["data"]["dataset"]["batch_size"],
            jpo["trainer"]["val_check_interval"] * jpo["data"]["dataset"]["batch_size"],
        ),
        validation_contexts=size["validation_contexts"],
        expression_contexts=size["expression_contexts"],
        test_episodes=evaluate["episodes_per_scenario"],
        local_arms=len(evaluate["arms"]) - remote,
        endpoint_arms=remote,
    )


def scenario_counts(play: DictConfig, a: Assumptions, domain: str) -> tuple[int, int, int]:
    """Scenarios of a domain to learn from, to choose by and to test on; assumed where the file is not there."""
    from hydra.utils import instantiate

    from emodistill.negotiation.splits import SPLITS, shares, split_of

    file = play.scenarios.get("files", {}).get(domain)
    if file is not None and not Path(file).expanduser().is_file():
        return shares(a.scenarios)
    scenarios = instantiate(play.scenarios, _convert_="all").load(domain)
    manifest = split_of(scenarios, play.data.corpus.split_seed)
    learning, choosing, testing = (sum(manifest.split(each) == split for each in scenarios) for split in SPLITS)
    return learning, choosing, testing


def plain(cfg: DictConfig) -> dict[str, Any]:
    content: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]  # a DictConfig
    return content


def model_in(node: Any) -> Model | None:
    """The first endpoint beneath a node of a configuration."""
    if not isinstance(node, dict):
        return None
    if node.get("_target_") == ENDPOINT:
        return Model(node["model"], price_of(node["model"], node["price"]))
    return next(filter(None, map(model_in, node.values())), None)


def report(domains: Mapping[str, Setting], a: Assumptions, comments: Mapping[str, str]) -> str:
    """The estimate in words, with every assumption beneath it."""
    lines = [
        f"{name}: {s.learning} scenarios to learn from, {s.choosing} to choose by, {s.testing} to test on"
        for name, s in domains.items()
    ]
    for rounds, why in ((a.rounds, "assumed"), (MAX_ROUNDS, "the deadline")):
        work = [sum_of(each) for each in zip(*(work_of(s, a, rounds) for s in domains.values()), strict=True)]
        lines += ["", f"{rounds} rounds a negotiation ({why})", *table(work, a)]
    lines += ["", "assumptions; change one with estimate.KEY=VALUE"]
    lines += [f"  {key}={value:g}  {comments.get(key, '')}" for key, value in vars(a).items()]
    return "\n".join(lines)


def sum_of(work: Iterable[Work]) -> Work:
    """The work of all domains together."""
    first, *rest = work
    for each in rest:
        first = first + each
    return first


def table(work: Sequence[Work], a: Assumptions) -> list[str]:
    """One line a command, their sum, and what it would cost at each listed price where a model has none."""
    base = Work("base model", disk_bytes=BASE_BYTES * a.parameters)
    total = sum_of([Work("all"), base, *work])
    form = "{:<12}{:>10}{:>12}{:>14}{:>14}{:>12}{:>11}{:>10}"
    head = ("command", "episodes", "calls", "tokens read", "written", currency(), "GPU hours", "disk, GB")
    lines = [form.format(*head)]
    for one in (base, *work, total):
        cost = "no price" if one.cost is None else f"{one.cost:,.2f}"
        amounts = (f"{one.episodes:,}", f"{one.calls:,}", f"{one.read:,.0f}", f"{one.written:,.0f}", cost)
        lines.append(form.format(one.command, *amounts, f"{one.gpu_hours:.1f}", f"{one.disk_bytes / 1e9:.2f}"))
    if total.cost is None:
        unknown = ", ".join(sorted(model.name for model in total.asked if model.price is None))
        listed = ", ".join(f"{n} {price.of(total.read, total.written):,.2f}" for n, price in price_list().items())
        lines.append(f"no price of {unknown} is known: give 'endpoint.price={{input: ..., output: ...}}'")
        lines.append(f"all these tokens at the listed prices, {currency()}: {listed}")
    return lines
