"""Play every arm on unseen scenarios: `python evaluate.py run=demo [key=value ...]` prints a table and a verdict.

Running the same command again continues an unfinished evaluation. See `configs/evaluate.yaml` for every key.
"""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig, OmegaConf

import entry

if TYPE_CHECKING:
    from emodistill.emotions.vocabulary import Vocabulary
    from emodistill.evaluation.expression import ExpressionTest
    from emodistill.evaluation.runner import Runner


def evaluate(cfg: DictConfig) -> dict[str, Any]:
    """Play what is not played yet and report; returns the report."""
    from emodistill.emotions.perceiver import load_perceiver
    from emodistill.emotions.vocabulary import load_vocabulary
    from emodistill.evaluation.arms import parse_arms
    from emodistill.evaluation.runner import write_report
    from emodistill.evaluation.tables import show
    from emodistill.locks import exclusive
    from emodistill.runs import StageFolder

    folder, vocabulary = StageFolder(Path(cfg.stage_dir)), load_vocabulary(cfg.vocabulary)
    arms = parse_arms(cfg.arms, vocabulary)
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]  # a DictConfig gives a dict
    with exclusive(folder.path):
        if folder.state(config, cfg.resume) == "finished":
            print(f"{folder.path} is finished; nothing to play")
        runner, expression = build(cfg, vocabulary)
        folder.record(config)
        played = runner.play(arms)
        rows = expression.rows(list(dict.fromkeys(arm.words for arm in arms)))
        about = {"run": cfg.run, "counterparty": opponent(cfg).describe(), "scenarios_seed": cfg.seed}
        report = write_report(folder.path, played, load_perceiver("counterparty"), vocabulary, rows, about)
        folder.finish({"episodes": sum(len(episodes) for episodes in played.values())})
    show(report)
    print(f"the counterparty is {report['about']['counterparty']}; report: {folder.path / 'report.json'}")
    return report


def build(cfg: DictConfig, vocabulary: "Vocabulary") -> "tuple[Runner, ExpressionTest]":
    """Everything that plays and measures, from the configuration."""
    from hydra.utils import instantiate

    from emodistill.data.provenance import check_unseen
    from emodistill.evaluation.runner import Runner, first_of_each_domain
    from emodistill.evaluation.words import Speakers, is_local
    from emodistill.learners.return_table import ReturnTable
    from emodistill.learners.selector import load_selector

    corpus, sampler = instantiate(cfg.data.corpus, _convert_="all"), instantiate(cfg.sampler, _convert_="all")
    policy: dict[str, Any] = OmegaConf.to_container(cfg.policy, resolve=True)  # type: ignore[assignment]  # a DictConfig
    scenarios = first_of_each_domain(corpus.scenarios("test"), cfg.scenarios_per_domain)
    check_unseen(Path(cfg.run_dir), scenarios)
    selector = partial(load_selector, f"{cfg.run_dir}/iql/best.ckpt", vocabulary, cfg.temperature)
    if Path(f"{cfg.run_dir}/iql/best.ckpt").is_file():
        selector()  # a run of another vocabulary is refused by its name, before its dialogues are read with this one
    expression = expression_test(cfg, corpus, vocabulary)
    speakers = Speakers(policy, cfg.run_dir, sampler, vocabulary, partial(endpoint_voice, cfg), cfg.retries)
    runner = Runner(
        scenarios=scenarios,
        episodes_per_scenario=cfg.episodes_per_scenario,
        counterparty=opponent(cfg).open(),
        offers=instantiate(cfg.offers.policy),
        speaker=speakers,
        selector=selector,
        vocabulary=vocabulary,
        folder=Path(cfg.stage_dir),
        on_speaker=lambda w: expression.measure(w, sampler, speakers.emotions(w)) if is_local(w) else None,
        table=lambda: ReturnTable(trained_on(cfg, corpus), vocabulary),
    )
    return runner, expression


def endpoint_voice(cfg: DictConfig) -> Any:
    """The model behind an endpoint that speaks in the arms `endpoint_*`."""
    from hydra.utils import instantiate

    return instantiate(cfg.endpoint_voice, _convert_="all").open()


def opponent(cfg: DictConfig) -> Any:
    """The seat opposite, with the personas of this evaluation."""
    from hydra.utils import instantiate

    return instantiate(cfg.counterparty.seat, personas=list(cfg.personas), _convert_="all")


def expression_test(cfg: DictConfig, corpus: Any, vocabulary: "Vocabulary") -> "ExpressionTest":
    """The fixed situations in which base model, SFT and JPO are compared."""
    from hydra.utils import instantiate

    from emodistill.data.chat_views import ChatSource, validation_situations
    from emodistill.emotions.perceiver import load_perceiver
    from emodistill.evaluation.expression import ExpressionTest

    validation = [episode for episode in trained_on(cfg, corpus) if episode.split == "val"]

    def situations(emotions: Any) -> Any:
        source = ChatSource(cfg.model.base_model, cfg.vocabulary, cfg.max_tokens, cfg.offers.told, emotions)
        return validation_situations(validation, source.open()[0], cfg.size.situations, cfg.sampler.max_new_tokens)

    judge, perceiver = instantiate(cfg.judge, _convert_="all"), load_perceiver("counterparty")
    return ExpressionTest(situations, judge, perceiver, vocabulary, Path(cfg.stage_dir) / "expression")


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


@hydra.main(config_path="configs", config_name="evaluate", version_base="1.3")
def main(cfg: DictConfig) -> None:
    with entry.explained(), entry.paid(cfg):
        evaluate(cfg)


if __name__ == "__main__":
    entry.run(main, "evaluate", __doc__ or "")
