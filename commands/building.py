"""A `Study` and what it plays with, built from a configuration; beneath this file, nothing knows Hydra."""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from commands import entry
from commands.words import as_typed, for_hydra, literal

if TYPE_CHECKING:
    from emodistill.emotions.vocabulary import Vocabulary
    from emodistill.evaluation.arms import Arm
    from emodistill.evaluation.best_constant import BestConstant
    from emodistill.evaluation.expression import ExpressionTest
    from emodistill.evaluation.runner import Runner
    from emodistill.evaluation.speakers import Speakers
    from emodistill.learners.selector import IQLSelector, MeanReturnBaseline
    from emodistill.studies.study import Analysis, Setup, Study, StudyRun

ROOT = Path(__file__).resolve().parents[1]
TOLD_S = 5.0  # Ctrl-C once more, while a stage ends well, would cut that short
COUNTERPARTY_ASSETS = ("counterparty_lines", "perceivers", "personas.yaml")  # what simulations are made of
CHANGE_NO_EPISODE = ("train", "study", "seeds", "conditions", "training_keys", "executor", "shard")


def read_variants() -> dict[str, dict[str, dict[str, Any]]]:
    """Variant -> stage -> what it changes there, from the files of `configs/variants`."""
    loaded = {path.stem: OmegaConf.load(path) for path in sorted((ROOT / "configs" / "variants").glob("*.yaml"))}
    return {name: OmegaConf.to_container(node) for name, node in loaded.items()}  # type: ignore[misc]  # dicts


def register_variants() -> None:
    """Make every file of `configs/variants` an option of `train.py variant=`.

    Hydra gets a configuration for each variant and stage; `configs/train.yaml` takes the one of the stage at hand.
    """
    store = ConfigStore.instance()
    store.store(group="variant", name="none", node={})
    for variant, stages in read_variants().items():
        store.store(group="variant", name=variant, node={})
        for stage, changes in stages.items():
            node = {"stage_dir": f"${{run_dir}}/{stage}_{variant}", **changes}
            node.pop("after", None)  # for the graph of stages
            store.store(group="variant/of", name=f"{variant}_{stage}", package="_global_", node=node)


def build_study(cfg: DictConfig, overrides: Sequence[str] = ()) -> "Study":
    """The study that `evaluate.py` was asked for.

    Args:
        overrides: what the user gave; conditions and training are told the same.
    """
    from hydra.utils import instantiate

    from emodistill.emotions.vocabulary import load_vocabulary
    from emodistill.evaluation.arms import parse_arms
    from emodistill.evaluation.stage_graph import StageGraph
    from emodistill.execution.pieces import Share
    from emodistill.studies.study import Study, conditions_of, training_seeds

    vocabulary = load_vocabulary(cfg.vocabulary)
    node: Any = OmegaConf.to_container(cfg.study, resolve=True)
    arms = parse_arms(cfg.arms, vocabulary)
    seeds: Any = list(cfg.seeds) if OmegaConf.is_list(cfg.seeds) else cfg.seeds
    about = {
        "command": shlex.join(["python", "evaluate.py", *map(as_typed, overrides)]),
        "run": cfg.run,
        "study": cfg.study.name,
        **({} if cfg.study.plays else {"counterparty": "people, in dialogues of a corpus"}),
    }
    return Study(
        name=cfg.study.name,
        vocabulary=vocabulary,
        arms=arms,
        conditions=conditions_of(
            node, [arm.name for arm in arms], None if cfg.conditions is None else list(cfg.conditions)
        ),
        seeds=training_seeds(seeds, cfg.seed),
        run_dir=Path(cfg.run_dir),
        folder=Path(cfg.stage_dir),
        configure=lambda run: setup_of(condition_config(cfg, run, overrides), vocabulary),
        make_analyses=lambda: {name: analysis(name, one, vocabulary) for name, one in node["analyses"].items() if one},
        stages=StageGraph(read_variants()),
        training=[
            as_typed(word) for word in overrides if word.lstrip("+~").split("=")[0].split(".")[0] in cfg.training_keys
        ],
        default_run_dir=Path("checkpoints", cfg.run),
        run_training=run_training,
        training_config=training_config,
        about=about,
        executor=instantiate(cfg.executor),
        share=Share.parse(cfg.shard) if cfg.shard else None,
    )


def condition_config(cfg: DictConfig, run: "StudyRun", overrides: Sequence[str]) -> DictConfig:
    """The configuration of one run of a study: the user's own overrides, then those of its condition."""
    if not run.condition.label and str(run.stage_dir) == str(cfg.stage_dir):
        return cfg
    folders = [literal("run_dir", str(run.run_dir)), literal("stage_dir", str(run.stage_dir))]
    folders.append(f"seed={run.training_seed}")
    return composed("evaluate", [*overrides, *run.condition.play, *folders])


def composed(command: str, overrides: Sequence[str]) -> DictConfig:
    """The configuration of a command with these overrides, inside another command or alone."""
    here = GlobalHydra.instance().is_initialized()
    with nullcontext() if here else initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return compose(command, overrides=[*overrides])


def setup_of(cfg: DictConfig, vocabulary: "Vocabulary") -> "Setup":
    """What one run of a study plays with."""
    from emodistill.errors import UserError
    from emodistill.evaluation.arms import ITSELF, is_imported, parse_arm, parse_arms
    from emodistill.evaluation.own_classes import source_hash
    from emodistill.studies.study import Setup

    check_play(cfg)
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]  # a DictConfig
    recorded = {key: value for key, value in config.items() if key not in CHANGE_NO_EPISODE}
    opponent = parse_arm(cfg.opponent, vocabulary) if cfg.opponent else None
    seated = [*parse_arms(cfg.arms, vocabulary), *([opponent] if opponent else [])]
    if opponent and opponent.generator == ITSELF:
        raise UserError(
            f"'{opponent.name}' is an agent of yours, which plays the focal side alone: name another arm as "
            "opponent=, and in a tournament the arms that may sit opposite as conditions=[...]"
        )
    for arm in (arm for arm in seated if arm.generator == ITSELF and cfg.guard.level != "off"):
        raise UserError(
            f"the guard does not cover '{arm.name}', an agent of yours; leave out this arm, or guard={cfg.guard.level}"
        )
    imported = [arm.emotion for arm in seated if is_imported(arm, vocabulary)]
    own = {path: source_hash(path) for path in imported}  # what cannot be had is refused before a folder is claimed
    return Setup(
        recorded,
        opponent,
        partial(describe_counterparty, cfg),
        partial(made_of, cfg, vocabulary, seated),
        partial(build_runner, cfg, vocabulary),
        own,
    )


def check_play(cfg: DictConfig) -> None:
    """Refuse what cannot be played before any folder is claimed.

    Raises:
        UserError: naming the key.
    """
    from hydra.utils import instantiate

    from emodistill.checks import check_number, check_whole
    from emodistill.errors import UserError

    if cfg.opponent and cfg.guard.level != "off":
        raise UserError(
            f"guard={cfg.guard.level}: the guard is over the focal side alone, and with opponent={cfg.opponent} an arm "
            "would play without it; leave out one of them"
        )
    simulated = "emodistill.counterparties.specs.SimulatedCounterpartySpec"
    if cfg.opponent and (cfg.counterparty.agent._target_ != simulated or not cfg.offers.told):
        raise UserError(
            f"opponent={cfg.opponent}: an arm sits opposite, and the documented simulation decides the numbers of both "
            "sides; leave out counterparty= and offers="
        )
    check_whole("scenarios_per_domain", cfg.scenarios_per_domain, null="for all")
    check_whole("episodes_per_scenario", cfg.episodes_per_scenario)
    check_whole("constant_repeats", cfg.constant_repeats)
    check_whole("retries", cfg.retries, 0)
    check_number("temperature", cfg.temperature, 0)
    personas(cfg)
    instantiate(cfg.schedule)  # it checks its own numbers


def analysis(name: str, node: Mapping[str, Any], vocabulary: "Vocabulary") -> "Analysis":
    """An analysis of a study; one with a key `vocabulary` is given the study's, which is loaded once."""
    from hydra.utils import get_class

    from emodistill.errors import UserError

    given = {key: value for key, value in node.items() if key != "_target_"}
    if "vocabulary" in given:
        given["vocabulary"] = vocabulary
    try:
        made: Analysis = get_class(node["_target_"])(**given)
    except TypeError as error:
        raise UserError(f"study.analyses.{name}: {error}") from error
    return made


def training_config(overrides: Sequence[str]) -> dict[str, Any]:
    """The configuration of `train.py` with these overrides, in plain values."""
    register_variants()
    cfg = composed("train", [for_hydra(override) for override in overrides])
    return OmegaConf.to_container(cfg, resolve=True)  # type: ignore[return-value]  # a DictConfig gives a dict


def run_training(overrides: Sequence[str]) -> int:
    """Run `train.py` in a process of its own, whose output is shown; returns its exit status.

    It shows tracebacks of users' mistakes where the user has asked this process for them, and only there. Among others
    that train at the same time it starts no workers of its own. It ends with this process, and Ctrl-C reaches both.
    """
    from emodistill.execution import worker

    environment = {**os.environ, "HYDRA_FULL_ERROR": "1" if entry.WANTS_TRACEBACK else "0"}
    command = [sys.executable, str(ROOT / "train.py"), *overrides, *["executor.workers=1"] * worker.is_worker]
    with subprocess.Popen(command, env=environment, preexec_fn=worker.die_with_parent) as training:
        try:
            return training.wait()
        except KeyboardInterrupt:
            with suppress(subprocess.TimeoutExpired):
                return training.wait(TOLD_S)  # a terminal has told it too
            training.send_signal(signal.SIGINT)
            return training.wait()


def build_runner(cfg: DictConfig, vocabulary: "Vocabulary") -> "tuple[Runner, ExpressionTest | None]":
    """Everything that plays one condition; where the study asks for it, what measures expression in fixed contexts."""
    entry.quieten()  # a worker begins here
    from hydra.utils import instantiate

    from emodistill.data.provenance import check_unseen, training_episodes
    from emodistill.evaluation.arms import is_local
    from emodistill.evaluation.runner import Runner, first_of_each_domain
    from emodistill.evaluation.speakers import Speakers

    corpus = instantiate(cfg.data.corpus, _convert_="all")
    policy: dict[str, Any] = OmegaConf.to_container(cfg.policy, resolve=True)  # type: ignore[assignment]  # a DictConfig
    scenarios = first_of_each_domain(corpus.scenarios("test"), cfg.scenarios_per_domain)
    check_unseen(Path(cfg.run_dir), scenarios)

    def selector() -> "IQLSelector":  # imported here: a worker that says set phrases needs no PyTorch
        from emodistill.learners.selector import load_selector

        return load_selector(f"{cfg.run_dir}/iql/best.ckpt", vocabulary, cfg.temperature)

    def mean_return() -> "MeanReturnBaseline":
        from emodistill.learners.selector import MeanReturnBaseline

        return MeanReturnBaseline(training_episodes(Path(cfg.run_dir), cfg.domains, corpus), vocabulary)

    if Path(f"{cfg.run_dir}/iql/best.ckpt").is_file():
        selector()  # a run of another vocabulary is refused by its name, before its dialogues are read with this one
    expression = build_expression_test(cfg, corpus, vocabulary) if cfg.study.expression else None
    open_sampler = cache(partial(instantiate, cfg.sampler, _convert_="all"))
    speakers = Speakers(policy, cfg.run_dir, open_sampler, vocabulary, partial(open_endpoint, cfg), cfg.retries)

    def measure(generator: str) -> None:
        if expression and is_local(generator):
            expression.measure(generator, open_sampler(), speakers.emotions(generator))

    selectors = {
        "trained": selector,
        "mean_return": mean_return,
        "best_constant": constant_selector(cfg, corpus, vocabulary),
    }

    def measured(generator: str) -> Path | None:
        return expression.file(generator) if expression and is_local(generator) else None

    runner = Runner(
        scenarios=scenarios,
        episodes_per_scenario=cfg.episodes_per_scenario,
        **chairs(cfg, speakers, vocabulary, selectors),
        speaker=speakers,
        vocabulary=vocabulary,
        folder=Path(cfg.stage_dir),
        on_speaker=measure,
        measured=measured,
        guard=instantiate(cfg.guard),
        selector=selector,
        mean_return=mean_return,
        best_constant=selectors["best_constant"],
    )
    return runner, expression


def constant_selector(cfg: DictConfig, corpus: Any, vocabulary: "Vocabulary") -> "Callable[[], BestConstant] | None":
    """What finds the best constant emotions; None where the counterparty has no personas for validation."""
    from hydra.utils import instantiate

    from emodistill.evaluation.best_constant import best_constant

    if cfg.counterparty.validation_personas is None:
        return None

    def find() -> "BestConstant":
        opposite = instantiate(cfg.counterparty.agent, personas=cfg.counterparty.validation_personas, _convert_="all")
        offers = instantiate(cfg.offers.policy)
        return best_constant(corpus.scenarios("val"), cfg.constant_repeats, opposite.open(), offers, vocabulary)

    return find


def chairs(
    cfg: DictConfig, speakers: "Speakers", vocabulary: "Vocabulary", selectors: Mapping[str, Callable[[], Any]]
) -> dict[str, Any]:
    """The counterparty, and who decides the focal side's numbers.

    With an arm as counterparty, the numbers of both sides are those of the simulation and answer to words.
    """
    from hydra.utils import instantiate

    from emodistill.counterparties.simulation import BehaviouralCounterparty
    from emodistill.counterparties.trained_arm import ArmCounterparty, LazyAgent, simulated_offers
    from emodistill.emotions.perceiver import load_perceiver
    from emodistill.evaluation.arms import parse_arm, selector_of
    from emodistill.evaluation.speakers import speaker_of
    from emodistill.negotiation.protocol import COUNTERPARTY

    if not cfg.opponent:
        return {"counterparty": opened_late(counterparty(cfg)), "offers": instantiate(cfg.offers.policy)}
    numbers = BehaviouralCounterparty(load_perceiver("counterparty"), personas(cfg))
    arm = parse_arm(cfg.opponent, vocabulary)

    def open_arm() -> ArmCounterparty:
        speaker = speaker_of(arm, speakers(arm.generator, fresh=True, side=COUNTERPARTY))
        return ArmCounterparty(arm.name, selector_of(arm, vocabulary, **selectors), speaker, numbers)

    return {"counterparty": LazyAgent(arm.name, open_arm), "offers": simulated_offers(numbers)}


def opened_late(spec: Any) -> Any:
    """The agent of a counterparty; a language model on this machine is loaded when it first plays."""
    from emodistill.counterparties.trained_arm import LazyAgent

    return LazyAgent(spec.describe(), spec.open) if spec.is_local_model else spec.open()


def counterparty(cfg: DictConfig) -> Any:
    """The counterparty of the configuration, with the personas of this evaluation."""
    from hydra.utils import instantiate

    return instantiate(cfg.counterparty.agent, personas=personas(cfg), _convert_="all")


def personas(cfg: DictConfig) -> str | list[str]:
    """The personas of this evaluation, as they were given: one word or a list of them.

    Raises:
        UserError: if they are neither.
    """
    from emodistill.errors import UserError

    if not isinstance(cfg.personas, str) and not OmegaConf.is_list(cfg.personas):
        given = "null" if cfg.personas is None else cfg.personas
        raise UserError(f"personas={given}: give a list of personas, or a set of them such as test:16")
    return cfg.personas if isinstance(cfg.personas, str) else list(cfg.personas)


def describe_counterparty(cfg: DictConfig) -> str:
    """The counterparty in words."""
    from emodistill.counterparties.specs import SimulatedCounterpartySpec

    if cfg.opponent:
        return f"the arm {cfg.opponent}, its numbers those of {SimulatedCounterpartySpec(personas(cfg)).describe()}"
    described: str = counterparty(cfg).describe()
    return described


def made_of(cfg: DictConfig, vocabulary: "Vocabulary", arms: Sequence["Arm"]) -> dict[str, str]:
    """Hashes, by name, of what episodes are made of besides the configuration, trained stages and scenarios.

    A language model opposite counts by its adapter: its base is named by the configuration, and need not be here where
    everything is played.

    Args:
        arms: all that sit at the table.
    """
    from emodistill.counterparties.specs import SimulatedCounterpartySpec
    from emodistill.data.corpus import assets_fingerprint
    from emodistill.evaluation.arms import PHRASEBOOK
    from emodistill.execution.pieces import digest
    from emodistill.runs import ADAPTER_WEIGHTS, weights_hash

    opposite = SimulatedCounterpartySpec(personas(cfg)) if cfg.opponent else counterparty(cfg)
    found = {
        "rules": assets_fingerprint(["protocol.yaml"]),
        "vocabulary": digest([vocabulary.fingerprint, vocabulary.perceived_as]),
    }
    own = assets_fingerprint(COUNTERPARTY_ASSETS if opposite.depends_on_assets else (), with_domains=False)
    adapter = OmegaConf.select(cfg, "counterparty.agent.backend.adapter")
    if not opposite.is_local_model:
        found["counterparty"] = digest([opposite.recipe(), own])
    elif adapter and Path(adapter, ADAPTER_WEIGHTS).is_file():
        found["counterparty"] = weights_hash(Path(adapter))
    if any(arm.generator == PHRASEBOOK for arm in arms):
        found["phrasebook"] = assets_fingerprint(["phrasebook"], with_domains=False)
    if cfg.guard.level != "off":
        found["guard"] = assets_fingerprint(["safety/guard.yaml", "safety/patterns.yaml"], with_domains=False)
    return found


def open_endpoint(cfg: DictConfig) -> Any:
    """The model behind an endpoint that speaks in the arms `endpoint_*`."""
    from hydra.utils import instantiate

    return instantiate(cfg.endpoint_backend, _convert_="all").open()


def build_expression_test(cfg: DictConfig, corpus: Any, vocabulary: "Vocabulary") -> "ExpressionTest":
    """The fixed contexts in which base model, SFT and JPO are compared."""
    from hydra.utils import instantiate

    from emodistill.data.chat_datasets import ChatSource, validation_contexts
    from emodistill.data.provenance import training_episodes
    from emodistill.emotions.perceiver import load_perceiver
    from emodistill.evaluation.expression import ExpressionTest

    @cache
    def validation() -> list[Any]:  # read when something is measured
        learnt_from = training_episodes(Path(cfg.run_dir), cfg.domains, corpus)
        return [episode for episode in learnt_from if episode.split == "val"]

    def contexts(emotions: Any) -> Any:
        context = cfg.model.get("context")
        source = ChatSource(cfg.model.base_model, cfg.vocabulary, cfg.max_tokens, cfg.offers.told, emotions, context)
        return validation_contexts(
            validation(), source.open()[0], cfg.size.expression_contexts, cfg.sampler.max_new_tokens
        )

    judge, perceiver = instantiate(cfg.judge, _convert_="all"), load_perceiver("counterparty")
    return ExpressionTest(contexts, judge, perceiver, vocabulary, Path(cfg.stage_dir) / "expression")
