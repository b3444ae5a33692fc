"""Play every arm on unseen scenarios: `python evaluate.py run=demo [key=value ...]` prints a table and a verdict.

Running the same command again continues an unfinished evaluation. See `configs/evaluate.yaml` for every key.
"""

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
    from rich.console import Console

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
        about = {"run": cfg.run, "counterparty": f"simulated: {', '.join(cfg.personas)}", "scenarios_seed": cfg.seed}
        report = write_report(folder.path, played, load_perceiver("counterparty"), vocabulary, rows, about)
        folder.finish({"episodes": sum(len(episodes) for episodes in played.values())})
    console = Console()
    show(report, console if console.is_terminal else Console(width=130))  # a file is as wide as the table needs
    print(f"the counterparty is a simulation; report: {folder.path / 'report.json'}")
    return report


def build(cfg: DictConfig, vocabulary: "Vocabulary") -> "tuple[Runner, ExpressionTest]":
    """Everything that plays and measures, from the configuration."""
    from hydra.utils import instantiate

    from emodistill.counterparties.behavioural import BehaviouralCounterparty
    from emodistill.emotions.perceiver import load_perceiver
    from emodistill.evaluation.runner import Runner, first_of_each_domain
    from emodistill.evaluation.words import Speakers
    from emodistill.learners.selector import load_selector

    corpus, sampler = instantiate(cfg.data.corpus, _convert_="all"), instantiate(cfg.sampler, _convert_="all")
    policy: dict[str, Any] = OmegaConf.to_container(cfg.policy, resolve=True)  # type: ignore[assignment]  # a DictConfig
    adapters = {words: f"{cfg.run_dir}/{words}/adapter" for words in ("sft", "jpo")}
    expression = expression_test(cfg, corpus, vocabulary)
    runner = Runner(
        scenarios=first_of_each_domain(corpus.scenarios("test"), cfg.scenarios_per_domain),
        seeds=cfg.seeds,
        counterparty=BehaviouralCounterparty(load_perceiver("counterparty"), list(cfg.personas)),
        offers=instantiate(cfg.schedule),
        speaker=Speakers(policy, adapters, sampler, vocabulary),
        selector=lambda: load_selector(f"{cfg.run_dir}/iql/best.ckpt", vocabulary, cfg.temperature),
        vocabulary=vocabulary,
        folder=Path(cfg.stage_dir),
        on_speaker=lambda words: expression.measure(words, sampler) if words != "phrasebook" else None,
    )
    return runner, expression


def expression_test(cfg: DictConfig, corpus: Any, vocabulary: "Vocabulary") -> "ExpressionTest":
    """The fixed situations in which base model, SFT and JPO are compared."""
    from hydra.utils import instantiate

    from emodistill.data.chat_views import ChatSource, validation_situations
    from emodistill.emotions.perceiver import load_perceiver
    from emodistill.evaluation.expression import ExpressionTest

    corpus.build()
    validation = [episode for episode in corpus.episodes() if episode.split == "val"]
    encoder, _ = ChatSource(cfg.model.base_model, cfg.vocabulary, cfg.max_tokens).open()
    count, reply_tokens = cfg.size.situations, cfg.sampler.max_new_tokens
    contexts = validation_situations(validation, encoder, count, reply_tokens)
    judge, perceiver = instantiate(cfg.judge, _convert_="all"), load_perceiver("counterparty")
    return ExpressionTest(contexts, judge, perceiver, vocabulary, Path(cfg.stage_dir) / "expression")


@hydra.main(config_path="configs", config_name="evaluate", version_base="1.3")
def main(cfg: DictConfig) -> None:
    with entry.explained():
        evaluate(cfg)


if __name__ == "__main__":
    entry.run(main, "evaluate", __doc__ or "")
