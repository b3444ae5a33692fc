"""Play a study on unseen scenarios: `python evaluate.py run=demo [study=...] [key=value ...]` ends with its verdicts.

Running the same command again continues an unfinished study. See `configs/evaluate.yaml` for every key, and
docs/studies.md for the studies.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from commands import entry
from commands.playing import build, describe
from commands.studying import configured, ensure_trained, plan, recorded

if TYPE_CHECKING:
    from emodistill.evaluation.results import ArmResult
    from emodistill.reporting.results import AnalysisResult
    from emodistill.studies.study import StudyRun


def evaluate(cfg: DictConfig, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Train what may be trained, play what is not played yet, analyse and report; returns the report.

    Args:
        overrides: what the user gave, for conditions with a configuration of their own.
    """
    from emodistill.emotions.vocabulary import load_vocabulary
    from emodistill.evaluation.arms import parse_arms
    from emodistill.files import exclusive
    from emodistill.runs import StageFolder

    parts = plan(cfg)
    configs = [configured(cfg, part, overrides) for part in parts]
    for config in configs:  # a mistake in an arm's name ends here, before anything is trained
        parse_arms(config.arms, load_vocabulary(config.vocabulary))
    with exclusive(Path(cfg.stage_dir)):
        for config in configs:
            StageFolder(Path(config.stage_dir)).state(recorded(config), cfg.resume)
        ensure_trained(cfg, parts, configs, overrides)
        entry.log_to(Path(cfg.stage_dir) / "evaluate.log")  # from here on the command may write to its folder
        played: list[ArmResult] = []
        expression: dict[str, Any] = {}
        for number, (part, config) in enumerate(zip(parts, configs, strict=True), 1):
            if len(parts) > 1:
                print(f"{cfg.study.name} {number}/{len(parts)}: {part.title}, training seed {part.training_seed}")
            episodes, measured = play_part(config, part)
            played += episodes
            expression |= {row["source"]: row for row in measured}
        return report(cfg, played, analysed(cfg, played), list(expression.values()), overrides)


def play_part(cfg: DictConfig, part: "StudyRun") -> "tuple[list[ArmResult], list[dict[str, Any]]]":
    """Play one condition with one training seed; what is on disk is read."""
    from emodistill.emotions.vocabulary import load_vocabulary
    from emodistill.evaluation.arms import parse_arms
    from emodistill.runs import StageFolder

    folder, vocabulary = StageFolder(Path(cfg.stage_dir)), load_vocabulary(cfg.vocabulary)
    arms, config = parse_arms(cfg.arms, vocabulary), recorded(cfg)
    if folder.state(config, "auto") == "finished":
        print(f"{folder.path} is finished; nothing to play")
    runner, expression = build(cfg, vocabulary)
    folder.record(config)
    played = runner.played(arms, part.condition.label, part.training_seed, str(part.run_dir))
    folder.finish({"episodes": sum(len(one.episodes) for one in played)})
    return played, expression.rows(list(dict.fromkeys(arm.generator for arm in arms))) if expression else []


def analysed(cfg: DictConfig, played: "Sequence[ArmResult]") -> "dict[str, AnalysisResult]":
    """What each analysis of the study finds, by its name."""
    from hydra.utils import instantiate

    analyses = {name: node for name, node in cfg.study.analyses.items() if node}
    return {name: instantiate(node, _convert_="all")(played) for name, node in analyses.items()}


def report(
    cfg: DictConfig,
    played: "Sequence[ArmResult]",
    findings: "dict[str, AnalysisResult]",
    expression: list[dict[str, Any]],
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """Write the report, and print tables, verdicts and cost."""
    from emodistill.emotions.perceiver import load_perceiver
    from emodistill.emotions.vocabulary import load_vocabulary
    from emodistill.reporting.formats import print_table
    from emodistill.reporting.report import write_report
    from emodistill.reporting.results import StudyResult
    from emodistill.safety.detector import detect
    from emodistill.studies.costs import in_words, total_of
    from emodistill.studies.report_context import about_of, expression_result

    opposite = describe(cfg) if cfg.study.plays else "people, in dialogues of a corpus"
    known = {"run": cfg.run, "study": cfg.study.name, "counterparty": opposite, "scenarios_seed": cfg.seed}
    about = about_of({"command": shlex.join(["python", "evaluate.py", *overrides]), **known})
    folder, selector = Path(cfg.stage_dir), Path(cfg.run_dir) / "iql" / "best.ckpt"
    analyses = {**findings, "expression": expression_result(expression)}
    seen = load_vocabulary(cfg.vocabulary), load_perceiver("counterparty")
    found = StudyResult(played, analyses, about, *seen, selector)
    written = write_report(folder, found, detect)
    for table in found.tables:
        if table.rows and not table.appendix:
            print_table(table)
    print(*found.statements, sep="\n")
    print(in_words(total_of(played)))
    print(f"the counterparty is {opposite}; report: {folder / 'report.html'}")
    return written


@hydra.main(config_path="configs", config_name="evaluate", version_base="1.3")
def main(cfg: DictConfig) -> None:
    with entry.explained(), entry.paid(cfg):
        evaluate(cfg, list(HydraConfig.get().overrides.task))


if __name__ == "__main__":
    entry.run(main, "evaluate", __doc__ or "")
