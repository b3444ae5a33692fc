"""What `evaluate.py` plays and measures with, built from a configuration."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from emodistill.emotions.vocabulary import Vocabulary
    from emodistill.evaluation.expression import ExpressionTest
    from emodistill.evaluation.runner import Runner
    from emodistill.evaluation.speakers import Speakers


def build(cfg: DictConfig, vocabulary: "Vocabulary") -> "tuple[Runner, ExpressionTest | None]":
    """Everything that plays one condition; where the study asks for it, what measures words in fixed contexts."""
    from hydra.utils import instantiate

    from emodistill.data.provenance import check_unseen
    from emodistill.evaluation.runner import Runner, first_of_each_domain
    from emodistill.evaluation.speakers import Speakers, is_local
    from emodistill.learners.selector import MeanReturnBaseline, load_selector

    corpus, sampler = instantiate(cfg.data.corpus, _convert_="all"), instantiate(cfg.sampler, _convert_="all")
    policy: dict[str, Any] = OmegaConf.to_container(cfg.policy, resolve=True)  # type: ignore[assignment]  # a DictConfig
    scenarios = first_of_each_domain(corpus.scenarios("test"), cfg.scenarios_per_domain)
    check_unseen(Path(cfg.run_dir), scenarios)
    selector = partial(load_selector, f"{cfg.run_dir}/iql/best.ckpt", vocabulary, cfg.temperature)
    if Path(f"{cfg.run_dir}/iql/best.ckpt").is_file():
        selector()  # a run of another vocabulary is refused by its name, before its dialogues are read with this one
    expression = expression_test(cfg, corpus, vocabulary) if cfg.study.expression else None
    speakers = Speakers(policy, cfg.run_dir, sampler, vocabulary, partial(endpoint_backend, cfg), cfg.retries)

    def measure(generator: str) -> None:
        if expression and is_local(generator):
            expression.measure(generator, sampler, speakers.emotions(generator))

    parts = {"selector": selector, "mean_return": lambda: MeanReturnBaseline(trained_on(cfg, corpus), vocabulary)}
    runner = Runner(
        scenarios=scenarios,
        episodes_per_scenario=cfg.episodes_per_scenario,
        **seats(cfg, speakers, vocabulary, parts),
        speaker=speakers,
        vocabulary=vocabulary,
        folder=Path(cfg.stage_dir),
        on_speaker=measure,
        guard=instantiate(cfg.guard),
        **parts,
    )
    return runner, expression


def seats(cfg: DictConfig, speakers: "Speakers", vocabulary: "Vocabulary", parts: dict[str, Any]) -> dict[str, Any]:
    """Who sits opposite, and the focal side's numbers: with an arm opposite, both sides' numbers answer to words."""
    from hydra.utils import instantiate

    from emodistill.counterparties.simulation import BehaviouralCounterparty
    from emodistill.counterparties.trained_arm import ArmCounterparty, LateSeat, moved_offers
    from emodistill.emotions.perceiver import load_perceiver
    from emodistill.evaluation.arms import parse_arm, selector_of
    from emodistill.evaluation.speakers import speaker_of
    from emodistill.negotiation.protocol import COUNTERPARTY

    if not cfg.opponent:
        return {"counterparty": opponent(cfg).open(), "offers": instantiate(cfg.offers.policy)}
    numbers = BehaviouralCounterparty(load_perceiver("counterparty"), list(cfg.personas))
    arm = parse_arm(cfg.opponent, vocabulary)

    def sit_down() -> ArmCounterparty:
        speaker = speaker_of(arm, speakers(arm.generator, fresh=True, side=COUNTERPARTY))
        return ArmCounterparty(arm.name, selector_of(arm, vocabulary, **_loaders(parts)), speaker, numbers)

    return {"counterparty": LateSeat(arm.name, sit_down), "offers": moved_offers(numbers)}


def _loaders(parts: dict[str, Any]) -> dict[str, Any]:
    return {"trained": parts["selector"], "mean_return": parts["mean_return"]}


def describe(cfg: DictConfig) -> str:
    """Who sat opposite, in words."""
    if cfg.opponent:
        return "each arm in turn, its numbers those of the behavioural simulation"
    words: str = opponent(cfg).describe()
    return words


def endpoint_backend(cfg: DictConfig) -> Any:
    """The model behind an endpoint that speaks in the arms `endpoint_*`."""
    from hydra.utils import instantiate

    return instantiate(cfg.endpoint_backend, _convert_="all").open()


def opponent(cfg: DictConfig) -> Any:
    """The seat opposite, with the personas of this evaluation."""
    from hydra.utils import instantiate

    return instantiate(cfg.counterparty.seat, personas=list(cfg.personas), _convert_="all")


def expression_test(cfg: DictConfig, corpus: Any, vocabulary: "Vocabulary") -> "ExpressionTest":
    """The fixed contexts in which base model, SFT and JPO are compared."""
    from hydra.utils import instantiate

    from emodistill.data.chat_datasets import ChatSource, validation_contexts
    from emodistill.emotions.perceiver import load_perceiver
    from emodistill.evaluation.expression import ExpressionTest

    validation = [episode for episode in trained_on(cfg, corpus) if episode.split == "val"]

    def contexts(emotions: Any) -> Any:
        source = ChatSource(cfg.model.base_model, cfg.vocabulary, cfg.max_tokens, cfg.offers.told, emotions)
        return validation_contexts(
            validation, source.open()[0], cfg.size.expression_contexts, cfg.sampler.max_new_tokens
        )

    judge, perceiver = instantiate(cfg.judge, _convert_="all"), load_perceiver("counterparty")
    return ExpressionTest(contexts, judge, perceiver, vocabulary, Path(cfg.stage_dir) / "expression")


def trained_on(cfg: DictConfig, corpus: Any) -> list[Any]:
    """The episodes that this run learnt from; where nothing says so or they are gone, those of the configuration."""
    from emodistill.data.provenance import of_run
    from emodistill.data.schema import read_episodes

    files = {provenance.episodes for provenance in of_run(Path(cfg.run_dir)).values()}
    for file in sorted(files):
        if Path(file).is_file():
            found = read_episodes(Path(file))
            return [episode for episode in found if episode.scenario.domain in cfg.domains] or found
    corpus.build()
    episodes: list[Any] = corpus.episodes()
    return episodes
