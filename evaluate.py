"""Play a study on unseen scenarios: `python evaluate.py run=demo [study=...] [key=value ...]` ends with its verdicts.

Running the same command again continues an unfinished study. See `configs/evaluate.yaml` for every key, and
docs/studies.md for the studies.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from commands import entry
from commands.building import build_study
from emodistill.lazy import loading

if TYPE_CHECKING:
    from emodistill.execution.pieces import Piece
    from emodistill.reporting.results import StudyResult
    from emodistill.studies.study import Study

WAITING = 75  # exit status (EX_TEMPFAIL of sysexits.h): the same command can go on later
VERDICTS = 12  # as many fit on a screen beside the table


def evaluate(cfg: DictConfig, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Train what is missing and may be trained, play what is not played yet, analyse and report.

    Args:
        overrides: what the user gave; conditions and training are told the same.

    Returns:
        the content of `report.json`.
    """
    from emodistill.errors import UserError

    if cfg.train not in ("never", "missing"):
        raise UserError(f"train={cfg.train}: use never (stop where something is missing) or missing (train it)")
    entry.check_files(cfg)
    from emodistill.studies.study import refusal

    with loading():
        study = build_study(cfg, overrides)
    with study.opened(cfg.resume):
        missing = study.missing()
        if missing and cfg.train == "never":
            raise UserError(refusal(missing))
        study.check_training()
        with loading():
            study.prepare()
        entry.use_threads(cfg)
        waiting = study.train(missing)
        if study.share:
            return play_share(study, waiting)
        announce(cfg, study)
        entry.log_to(study.folder / "evaluate.log")  # from here on the command may write to its folder
        from emodistill.reporting.report import write_report  # here: a refusal does not wait for what draws
        from emodistill.safety.detector import detect

        result = study.analyse(study.play())
        report = write_report(study.folder, result, detect)
    show(result, study.folder)
    return report


def play_share(study: "Study", waiting: "Sequence[Piece]") -> dict[str, Any]:
    """The end of a command with a share of the study: it plays that, and makes no report.

    Raises:
        SystemExit: with status 75, where stages of other shares have to be trained first.
    """
    others = [one for one in study.missing() if not one.is_trained]
    if waiting or others:
        names = ", ".join(str(one.folder) for one in others)
        print(f"share {study.share} waits for {names}; run the same command again once they are trained")
        raise SystemExit(WAITING)
    study.play_share()
    print(f"share {study.share} of {study.folder} is done; once all are, the command without shard= makes the report")
    return {}


def announce(cfg: DictConfig, study: "Study") -> None:
    """Say what is played, and about how long what is missing takes: nearly all of it where a language model speaks.

    No time is said where nothing is missing, an arm is half played, or an agent of one's own plays.
    """
    from emodistill.evaluation.arms import ITSELF, PHRASEBOOK

    if not study.runs:
        entry.announce(f"study {study.name} ({study.folder}) plays nothing", None)
        return
    arms, scenarios = [arm.name for arm in study.arms], cfg.scenarios_per_domain
    missing, seconds = study.unplayed(), None
    known = missing and all(arm.generator != ITSELF for arm in missing)
    if known and scenarios and cfg.size.seconds and study.name == "main":
        speaking = sum(arm.generator != PHRASEBOOK for arm in missing)
        seconds = speaking * len(cfg.domains) * scenarios * cfg.episodes_per_scenario * cfg.size.seconds.episode
    each = f"{scenarios} scenario{'s' * (scenarios > 1)}" if scenarios else "all test scenarios"
    entry.announce(f"study {study.name} ({study.folder}) plays {', '.join(arms)} on {each} a domain", seconds)


def show(result: "StudyResult", folder: Path) -> None:
    """Print what fits on one screen: the table that answers the question, verdicts, cost, and where the rest is."""
    from emodistill.evaluation.results import Cost
    from emodistill.reporting.formats import print_table

    if result.summary:
        print_table(result.summary)
    print(*result.verdicts[:VERDICTS], sep="\n")
    if (more := len(result.verdicts) - VERDICTS) > 0:
        print(f"... and {more} more")
    cost = sum((one.cost for one in result.arms), Cost())
    print(f"counterparty: {result.about['counterparty']}; playing took {cost}")
    print(f"everything else is in {folder / 'report.html'}")


@hydra.main(config_path="configs", config_name="evaluate", version_base="1.3")
def main(cfg: DictConfig) -> None:
    with entry.explained(), entry.paid(cfg):
        evaluate(cfg, list(HydraConfig.get().overrides.task))


if __name__ == "__main__":
    entry.run(main, "evaluate", __doc__ or "")
