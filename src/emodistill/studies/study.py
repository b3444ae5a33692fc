"""A study: conditions and training seeds, what they lack, the training of it, the play, and the analyses.

Every condition with every training seed is one `StudyRun`, with folders of its own:

    checkpoints/<run>                                   the run: the first training seed, no condition
                     /seeds/<seed>                      another training seed
                     /studies/<study>/<condition>       what a condition trains (and /seeds/<seed> in it)
                     /<study>/<condition>               what it plays (and /seed-<seed> in it)

A condition is a label with overrides for training and overrides for playing. One that trains nothing plays the run.
An arm in which nothing is trained is played with the first training seed, and its episodes count for all of them.
"""

import platform
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from datetime import date
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emodistill.emotions.vocabulary import Vocabulary
from emodistill.errors import UserError
from emodistill.evaluation.arms import Arm
from emodistill.evaluation.results import ArmResult, Cost
from emodistill.evaluation.stage_graph import PIPELINE, Stage, StageGraph, is_trained, played_with
from emodistill.execution.pieces import Advance, Executor, Needs, OneAfterOther, Piece, Share, Work, digest, plan
from emodistill.files import exclusive, in_use
from emodistill.negotiation.splits import content_of
from emodistill.reporting.results import AnalysisResult, StudyResult
from emodistill.reporting.tables import Column, Table
from emodistill.runs import StageFolder, differing, fixed, settings, weights_hash

if TYPE_CHECKING:
    from emodistill.evaluation.expression import ExpressionTest
    from emodistill.evaluation.runner import Runner

ALL = "all"  # of a condition's `train`: every stage
TRAINING_S = 60.0  # a stage takes that long at least, and most take much longer
NAMED = 4  # arms that the bar of progress names
SHOWN = 8  # commands, or settings, that a refusal names
GROUPS = "parts/groups.json"  # of a `Runner`: which arms play together
Analysis = Callable[[Sequence[ArmResult]], AnalysisResult]


@dataclass(frozen=True)
class Condition:
    """One condition of a study.

    Attributes:
        label: what reports call it; empty where a study has only one.
        train: stage, or `all`, -> overrides of train.py. The stages before the first one named are the run's own.
        play: overrides of evaluate.py.
    """

    label: str = ""
    train: Mapping[str, Sequence[str]] | None = None
    play: Sequence[str] = ()

    def __post_init__(self) -> None:
        for stage in self.train or ():
            if stage not in (*PIPELINE, ALL):
                raise UserError(
                    f"study condition '{self.label}': train.{stage} is no stage; use {', '.join(PIPELINE)} or {ALL}"
                )
        for override in self.play:
            if override.split("=")[0] in ("arms", "vocabulary"):
                raise UserError(f"study condition '{self.label}': {override} would change what all conditions share")

    @property
    def slug(self) -> str:
        """The label as the name of a folder."""
        return re.sub(r"[^\w.+-]+", "-", self.label).strip("-")

    def overrides(self, stage: str) -> list[str]:
        """Overrides of train.py for one stage of the pipeline."""
        train = self.train or {}
        return [*train.get(ALL, ()), *train.get(stage, ())]

    @property
    def shared(self) -> tuple[str, ...]:
        """The stages of the pipeline that the condition takes over from the run as they are."""
        train = self.train or {}
        if ALL in train:
            return ()
        return PIPELINE[: min((PIPELINE.index(stage) for stage in train), default=len(PIPELINE))]


@dataclass(frozen=True)
class StudyRun:
    """One condition with one training seed: what is trained where, and what was played.

    Attributes:
        run_dir: folder of the stages that play.
        shared_from: folder of the run whose first stages the condition takes over; `run_dir` where it trains nothing.
        stage_dir: folder of the episodes.
        results: of each arm, once they are played.
        expression: what was measured of each generator in fixed contexts, where the study asks for it.
    """

    condition: Condition
    training_seed: int
    run_dir: Path
    shared_from: Path
    stage_dir: Path
    results: Sequence[ArmResult] = ()
    expression: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Setup:
    """What the configuration of one `StudyRun` comes to.

    Attributes:
        config: everything that changes an episode, in plain values; kept beside the episodes.
        opponent: the arm on the counterparty's chair; None where somebody else sits there.
        counterparty: says in words who sits on that chair.
        made_of: hashes, by name, of what episodes are made of besides the configuration, trained stages and scenarios.
        open_runner: makes what plays, and what measures expression where the study asks for it.
        own: hashes of selectors and agents of one's own, by import path, as they were when they were imported.
    """

    config: dict[str, Any]
    opponent: Arm | None
    counterparty: Callable[[], str]
    made_of: Callable[[], Mapping[str, str]]
    open_runner: "Callable[[], tuple[Runner, ExpressionTest | None]]"
    own: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class MissingStage:
    """A stage that has to be trained before the study can be played.

    Attributes:
        run_dir: folder of the run that it belongs to.
        overrides: what `train.py` is told.
        after: folders of the stages that it learns from.
    """

    stage: Stage
    run_dir: Path
    overrides: Sequence[str]
    after: Sequence[Path] = ()

    @property
    def folder(self) -> Path:
        return self.run_dir / self.stage.name

    @property
    def is_trained(self) -> bool:
        return is_trained(self.stage.name, self.run_dir)

    @property
    def command(self) -> str:
        """What a user would type to train it."""
        return shlex.join(["python", "train.py", *self.overrides])


class Study:
    """A study, made once from its configuration; `opened`, then `missing`, `prepare`, `train`, `play`, `analyse`.

    Args:
        arms: every condition plays all of them.
        conditions: see `conditions_of`; none where the study plays nothing.
        seeds: training seeds; the first one is the run's own.
        run_dir: folder of the run.
        folder: of the report, and of the episodes of the first training seed.
        configure: makes the setup of a run of the study.
        make_analyses: gives them by name, in the order of the report; see `prepare`.
        stages: of training.
        training: overrides for all training, e.g. `run=demo`; with them `train.py` works in `default_run_dir`.
        default_run_dir: see `training`; training elsewhere is told its folder.
        run_training: runs `train.py` with these overrides and returns its exit status.
        training_config: the configuration of `train.py` with these overrides.
        about: how the numbers come about, e.g. `run` and `command`, for the report; who sits opposite is added to it.
        executor: trains and plays; None does it here, one after the other.
        share: of training and play that this command does; None does all.
    """

    def __init__(
        self,
        name: str,
        vocabulary: Vocabulary,
        arms: Sequence[Arm],
        conditions: Sequence[Condition],
        seeds: Sequence[int],
        run_dir: Path,
        folder: Path,
        configure: Callable[[StudyRun], Setup],
        make_analyses: Callable[[], Mapping[str, Analysis]],
        stages: StageGraph,
        training: Sequence[str],
        default_run_dir: Path,
        run_training: Callable[[Sequence[str]], int],
        training_config: Callable[[Sequence[str]], dict[str, Any]],
        about: Mapping[str, Any],
        executor: Executor | None = None,
        share: Share | None = None,
    ) -> None:
        self.name, self.vocabulary, self.arms, self.make_analyses = name, vocabulary, arms, make_analyses
        self.run_dir, self.folder, self.stages, self.about = run_dir, folder, stages, about
        self.training, self.default_run_dir, self.run_training = training, default_run_dir, run_training
        self.training_config = training_config
        self.executor, self.share = executor or OneAfterOther(), share
        self.runs = plan_runs(name, conditions, seeds, run_dir, folder)
        self.setups = [configure(run) for run in self.runs]

    @contextmanager
    def opened(self, resume: str) -> Iterator[None]:
        """Hold the study's folder; with a share, hold that share of it, and leave the rest to others.

        Stages that a condition takes over from its run get a link beside those that it trains; one that is still to be
        trained gets its link as well, so that the commands of `refusal` work by hand. A folder in which nothing is kept
        begins anew with another configuration.

        Raises:
            UserError: if another process holds the folder or, without a share, a share of it; if episodes in it were
                begun with another configuration.
        """
        held = self.folder / "shares" / self.share.slug if self.share else self.folder
        with exclusive(held):
            try:
                if not self.share and (at_work := [share for share in self.folder.glob("shares/*") if in_use(share)]):
                    share = at_work[0].name.replace("-of-", "/")
                    raise UserError(f"share {share} still plays in {self.folder}; wait for it")
                self._forget_unused(held)
                for run, setup in self._runs():
                    StageFolder(run.stage_dir).state(setup.config, resume)
                for run, setup in self._runs():
                    self._link_shared_stages(run, setup)
                yield
            finally:
                if not self.share:
                    StageFolder(self.folder).discard_if_unused()

    def _forget_unused(self, held: Path) -> None:
        """Forget how folders were begun in which nothing is kept: that command was refused, or ended too early.

        What another share plays just now is not kept yet, and counts all the same.
        """
        unused = [folder for folder in (run.stage_dir for run in self.runs) if _is_unused(folder)]
        if not unused:
            return
        with self._recording():
            if any(in_use(share) for share in self.folder.glob("shares/*") if share != held):
                return
            for folder in filter(_is_unused, unused):
                for file in (StageFolder(folder).config_file, StageFolder(folder).used_file, folder / GROUPS):
                    file.unlink(missing_ok=True)

    def _recording(self) -> AbstractContextManager[None]:
        """Held while it is decided with which configuration the folders begin: several shares may do so at once."""
        return exclusive(self.folder, wait=True) if self.share else nullcontext()

    def missing(self) -> list[MissingStage]:
        """What the arms play with and nobody has trained: every stage once, after those that it learns from."""
        found: dict[Path, MissingStage] = {}
        for run, setup in self._runs():
            for stage in self.stages.missing(self._at_table(setup), run.run_dir):
                one = self._stage(run, stage)
                if not (stage.kind in run.condition.shared and one.is_trained):
                    found.setdefault(one.folder, one)
        return list(found.values())

    def check_training(self) -> None:
        """Refuse a stage of a condition or of a further seed that differs from the run's in more than the study names.

        A stage that is there is known by the configuration beside it, one that is missing by the one that it would be
        trained with. Weights that came without a configuration, such as published ones, are taken as they are.

        Raises:
            UserError: naming the stage and what differs.
        """
        described = cache(lambda *overrides: settings(self.training_config(overrides)))
        begun = cache(_begun_with)
        several, missing = len({run.training_seed for run in self.runs}) > 1, {one.folder for one in self.missing()}
        for run, one in self._all_stages():
            own, there = self._stage(self._plain(run), one.stage), begun(one.folder)
            if several and there and there.get("seed") != run.training_seed:
                raise UserError(
                    f"{one.folder} was trained with seed={there.get('seed')}, and the study takes it for "
                    f"seed={run.training_seed}; a study counts its seeds from seed=..., the run's own"
                )
            if one.folder == own.folder or not (there or one.folder in missing):
                continue
            found = settings(there) if there else described(*one.overrides)
            wanted = found
            if at_home := begun(own.folder):
                wanted = settings(at_home)
            elif own.folder in missing:
                wanted = described(*own.overrides)
            if words := run.condition.overrides(one.stage.kind):
                before, now = described(*own.overrides), described(*own.overrides, *words)
                wanted = wanted | {key: now.get(key) for key in differing(before, now)}
            if changed := differing(found, wanted):
                shown = "; ".join(f"{key} {found.get(key)!r} and not {wanted.get(key)!r}" for key in changed[:SHOWN])
                trained, remedy = "would be", f"give the keys that {own.folder} was trained with, or train it by hand"
                if there:
                    trained, remedy = "was", "delete that folder to have it trained anew"
                raise UserError(f"{one.folder} {trained} trained with {shown}; {remedy}")

    def _plain(self, run: StudyRun) -> StudyRun:
        """The run itself, with its own seed and no condition."""
        return replace(run, condition=Condition(), training_seed=self.runs[0].training_seed, shared_from=self.run_dir)

    def _stage(self, run: StudyRun, stage: Stage) -> MissingStage:
        """A stage as a run of the study trains it, or takes it over."""
        run_dir = self._place(run, stage)
        where = [] if run_dir == self.default_run_dir else [f"run_dir={run_dir}"]
        own = [*where, f"seed={run.training_seed}", *run.condition.overrides(stage.kind)]
        after = [self._place(run, self.stages.stages[name]) / name for name in stage.after]
        return MissingStage(stage, run_dir, [*stage.overrides, *self.training, *own], after)

    def _place(self, run: StudyRun, stage: Stage) -> Path:
        """Folder of the run that a stage is trained in."""
        return run.shared_from if stage.kind in run.condition.shared else run.run_dir

    def prepare(self) -> None:
        """Make the analyses, and say who sits opposite.

        That is before anything is trained or played, but after what can be refused without them: what they import
        takes seconds.

        Raises:
            UserError: if one is given a key that it does not have.
        """
        self.analyses = self.make_analyses()
        if opposite := dict.fromkeys(setup.counterparty() for setup in self.setups):
            self.about = {**self.about, "counterparty": "; ".join(opposite)}

    def train(self, missing: Sequence[MissingStage]) -> Sequence[Piece]:
        """Train stages, each after those that it learns from; a stage that was begun before goes on where it was.

        Returns:
            those of the share that wait for stages of other shares.

        Raises:
            UserError: if one fails, with the command to run it by hand; those that are trained stay trained.
        """
        lacking = {one.folder for one in missing}
        planned = plan(
            [self._training(one) for _, one in self._all_stages() if one.folder in lacking or self.share], self.share
        )
        ours = [piece for piece in planned.now if piece.task[0].folder in lacking]
        self.executor.run("training stages", ours)
        return [piece for piece in planned.waiting if piece.task[0].folder in lacking]

    def _all_stages(self) -> list[tuple[StudyRun, MissingStage]]:
        """Every stage that the study plays with, trained or not, each once and after those that it learns from.

        Beside each stands the first run of the study that plays with it.
        """
        found: dict[Path, tuple[StudyRun, MissingStage]] = {}
        for run, setup in self._runs():
            for name in self.stages.needed(self._at_table(setup)):
                if name in self.stages.stages:
                    one = self._stage(run, self.stages.stages[name])
                    found.setdefault(one.folder, (run, one))
        return list(found.values())

    def _training(self, one: MissingStage) -> Piece:
        kind = one.stage.kind
        return Piece(
            name=str(one.folder),  # its configuration is compared by the stage itself, which refuses another one
            title=f"training of {one.folder}",
            open=partial(_Training, self.run_training),
            kit="training",
            task=(one,),
            done=partial(is_trained, one.stage.name, one.run_dir),
            after=tuple(map(str, one.after)),
            needs=Needs(model=kind != "iql", seconds=TRAINING_S),
        )

    def unplayed(self) -> list[Arm] | None:
        """The arms that are still to be played, once for each run that plays them; None where one is half played."""
        from emodistill.evaluation.runner import episodes_file  # here: a refusal needs no PyTorch

        if any(any(run.stage_dir.glob("parts/*.parquet")) for run in self.runs):
            return None
        return [
            arm
            for number, run in enumerate(self.runs)
            for arm in self._arms_of(number)
            if not episodes_file(run.stage_dir, arm).is_file()
        ]

    def play(self) -> list[StudyRun]:
        """Play every condition with every training seed; episodes that are on disk are read."""
        tables = self._play()
        kept: dict[tuple[int, str], ArmResult] = {}
        for number, (runner, _) in enumerate(tables):
            own = self._arms_of(number)
            kept |= {(number, arm.name): result for arm, result in zip(own, runner.results(own), strict=True)}
        return [self._played(number, kept, expression) for number, (_, expression) in enumerate(tables)]

    def play_share(self) -> None:
        """Play what is missing of this command's share."""
        self._play()

    def _arms_of(self, number: int) -> list[Arm]:
        """The arms that a run of the study plays itself."""
        return [arm for arm in self.arms if self._player(number, arm) == number]

    def _player(self, number: int, arm: Arm) -> int:
        """Number of the run that plays the episodes of an arm for run `number`, both counted from 0.

        That is the run itself where the arm or its opponent is trained, or where another training seed changes more
        than training, such as a corpus of its own, which may bring scenarios of its own.
        """
        run, setup = self._runs()[number]
        if self.stages.needed([arm, *([setup.opponent] if setup.opponent else [])]):
            return number
        first = next(i for i, one in enumerate(self.runs) if one.condition == run.condition)
        alike = _untrained(run, setup) == _untrained(*self._runs()[first])
        return first if alike else number

    def _play(self) -> "list[tuple[Runner, ExpressionTest | None]]":
        tables, pieces = [], []
        for number, (run, setup) in enumerate(self._runs(), 1):
            folder = StageFolder(run.stage_dir)
            if len(self.runs) > 1:
                title = run.condition.label or run.stage_dir.name
                print(f"{self.name} {number}/{len(self.runs)}: {title}, training seed {run.training_seed}")
            own = self._arms_of(number - 1)
            runner, expression = setup.open_runner()
            with self._recording():
                state = folder.state(setup.config, "auto")
                folder.record(setup.config)
                folder.hold_to(self._used(run, setup, runner), renewed=self._unplayed_own(setup, runner, own))
            if state == "finished" and all(runner.file(arm).is_file() for arm in own):
                print(f"{folder.path} is finished; nothing to play")
            tables.append((runner, expression))
            fixing = [fixed(setup.config), dict(setup.own)] if setup.own else fixed(setup.config)
            pieces += runner.pieces(own, fixing, partial(_work_of, setup.open_runner))
        try:
            names = [arm.name for arm in self.arms]
            what = ", ".join(names) if len(names) <= NAMED else f"{len(names)} arms"
            self.executor.run(f"playing {what}", plan(pieces, self.share).now)
        finally:
            if not self.share:
                for number, (runner, _) in enumerate(tables):
                    runner.keep(self._arms_of(number))
        return tables

    def _used(self, run: StudyRun, setup: Setup, runner: "Runner") -> dict[str, str]:
        """Hashes of what episodes depend on besides the configuration, such as the weights that play."""
        names = dict.fromkeys(name for arm in self._at_table(setup) for name in played_with(arm))
        weights = {
            name: weights_hash(run.run_dir / name / ("best.ckpt" if name == "iql" else "adapter"))
            for name in names
            if is_trained(name, run.run_dir)
        }
        played = [[content_of(one), one.id, one.focal_target, one.counterparty_target] for one in runner.scenarios]
        return {**weights, "scenarios": digest(played), **setup.made_of(), **setup.own}

    @staticmethod
    def _unplayed_own(setup: Setup, runner: "Runner", arms: Sequence[Arm]) -> list[str]:
        """Import paths of which no episodes are kept yet: their classes may still change."""
        kept = [arm for arm in arms if runner.file(arm).is_file()]
        played = {arm.emotion for arm in kept} | ({setup.opponent.emotion} if setup.opponent and kept else set())
        return [path for path in setup.own if path not in played]

    def _played(
        self, number: int, kept: Mapping[tuple[int, str], ArmResult], expression: "ExpressionTest | None"
    ) -> StudyRun:
        """A run with its results, of which those of another run cost nothing more; `kept` by run and arm."""
        run, own = self.runs[number], self._arms_of(number)
        found = {arm: kept[self._player(number, arm), arm.name] for arm in self.arms}
        results = [
            replace(
                result,
                condition=run.condition.label,
                training_seed=run.training_seed,
                run_dir=str(run.run_dir),
                stages=self.stages.needed([arm]),
                cost=result.cost if arm in own else Cost(),
            )
            for arm, result in found.items()
        ]
        StageFolder(run.stage_dir).finish({"episodes": sum(len(found[arm].episodes) for arm in own)})
        generators = list(dict.fromkeys(arm.generator for arm in own))
        return replace(run, results=results, expression=expression.rows(generators) if expression else ())

    def analyse(self, runs: Sequence[StudyRun]) -> StudyResult:
        """What each analysis finds in what was played, and what was left out of it."""
        from emodistill.emotions.perceiver import load_perceiver  # here: a refusal needs no PyTorch
        from emodistill.studies.exclusions import exclusions

        results = [result for run in runs for result in run.results]
        found = {name: analysis(results) for name, analysis in self.analyses.items()}
        left_out = AnalysisResult([exclusions(results)] if results else [])
        expression = [
            {**row, "condition": run.condition.label, "training_seed": run.training_seed}
            for run in runs
            for row in run.expression
        ]
        return StudyResult(
            results,
            {**found, "expression": expression_result(expression), "exclusions": left_out},
            {**self.about, **report_stamp()},
            self.vocabulary,
            load_perceiver("counterparty"),
            self.run_dir / "iql" / "best.ckpt",
        )

    def _runs(self) -> list[tuple[StudyRun, Setup]]:
        return list(zip(self.runs, self.setups, strict=True))

    def _at_table(self, setup: Setup) -> list[Arm]:
        """All arms that sit on one of the two chairs."""
        return list(dict.fromkeys([*self.arms, *([setup.opponent] if setup.opponent else [])]))

    def _link_shared_stages(self, run: StudyRun, setup: Setup) -> None:
        if run.run_dir == run.shared_from:
            return
        run.run_dir.mkdir(parents=True, exist_ok=True)
        for name in self.stages.needed(self._at_table(setup)):
            stage, link = self.stages.stages.get(name), run.run_dir / name
            shared = stage is not None and stage.kind in run.condition.shared
            if shared and not link.is_symlink() and not link.exists():
                with suppress(FileExistsError):  # of another share, at the same time
                    link.symlink_to((run.shared_from / name).resolve(), target_is_directory=True)


class _Training:
    """Trains stages, each in a process of its own."""

    def __init__(self, run_training: Callable[[Sequence[str]], int]) -> None:
        self.run_training = run_training

    def __call__(self, one: MissingStage, advance: Advance) -> None:
        print(f"{one.folder} is missing: {one.command}", flush=True)
        status = self.run_training(one.overrides)
        if status in (-2, 130):
            raise KeyboardInterrupt
        if status != 0 or not one.is_trained:
            why = f"ended with exit status {status}" if status else f"left nothing in {one.run_dir}"
            raise UserError(
                f"training {one.stage.name} {why}; what it said stands above. Try it by hand: {one.command}"
            )


def _untrained(run: StudyRun, setup: Setup) -> Any:
    """What fixes the episodes of an arm in which nothing is trained: all but the training seed and the folders."""

    def placeless(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: placeless(one) for key, one in value.items()}
        if isinstance(value, list):
            return [placeless(one) for one in value]
        if isinstance(value, str):
            return value.replace(str(run.stage_dir), "<stage>").replace(str(run.run_dir), "<run>")
        return value

    config = {key: value for key, value in setup.config.items() if key != "seed"}
    config["data"] = {key: value for key, value in (config.get("data") or {}).items() if key != "seed"}
    return placeless(config)


def _is_unused(folder: Path) -> bool:
    """Whether play was begun in a folder, and nothing of it is kept."""
    begun, kept = StageFolder(folder), ("episodes/*.parquet", "parts/*.parquet", "expression/*.json")
    ended = begun.finished_file.is_file() or begun.last.is_file()  # the latter of training
    return begun.config_file.is_file() and not ended and not any(any(folder.glob(files)) for files in kept)


def _work_of(open_runner: "Callable[[], tuple[Runner, ExpressionTest | None]]") -> Work:
    """What plays the pieces of a runner, with what it plays with opened anew."""
    return open_runner()[0].work


def conditions_of(
    study: Mapping[str, Any], arms: Sequence[str], wanted: Sequence[str] | None = None
) -> list[Condition]:
    """The conditions of a study's configuration; one without a label where it names none.

    Args:
        study: `conditions` maps labels to {train, play}; `per_arm` names a key of evaluate.py instead, which takes
            each arm in turn; `plays: false` is a study without any.
        wanted: labels of those to play, in the study's order; None plays all.

    Raises:
        UserError: if two labels would share a folder, or a wanted one is not there.
    """
    if not study.get("plays", True):
        return []
    if key := study.get("per_arm"):
        found = [Condition(arm, play=[f"{key}='{_escaped(arm)}'"]) for arm in arms]
    else:
        found = [_condition(label, entry or {}) for label, entry in (study.get("conditions") or {}).items()]
    labels = [condition.label for condition in found]
    if unknown := [label for label in wanted or () if label not in labels]:
        raise UserError(f"conditions: this study has no '{unknown[0]}'; it has {', '.join(labels) or 'none'}")
    if wanted is not None and not wanted:
        raise UserError("conditions=[]: name at least one of the study's conditions, or leave the key out")
    if wanted is not None:
        found = [condition for condition in found if condition.label in wanted]
    slugs = [condition.slug for condition in found]
    if twice := [slug for slug in slugs if slugs.count(slug) > 1 or not slug]:
        raise UserError(f"study conditions: two labels, or an empty one, make the folder '{twice[0]}'; rename one")
    return found or [Condition()]


def _condition(label: str, entry: Mapping[str, Any]) -> Condition:
    if wrong := sorted(entry.keys() - {"train", "play"}):
        raise UserError(f"study condition '{label}': '{wrong[0]}' is no key of one; use train and play")
    return Condition(label, **entry)


def _escaped(text: str) -> str:
    """A text as it stands between single quotes of an override."""
    return re.sub(r"(\\*)'", r"\1\1\'", text)


def _begun_with(folder: Path) -> dict[str, Any] | None:
    """The configuration of a trained stage; None where it is not trained, or came without one."""
    stage = StageFolder(folder)
    return stage.read_config() if stage.config_file.is_file() and is_trained(folder.name, folder.parent) else None


def training_seeds(seeds: int | Sequence[int], first: int) -> list[int]:
    """`seeds=3` is three seeds from `seed` on, a list is itself; the first one is the run's own.

    Raises:
        UserError: if there is none, one comes twice, or a list does not begin with the run's seed; if they are no
            whole numbers.
    """
    given: list[Any] = list(seeds) if isinstance(seeds, list | tuple) else [seeds]
    if not all(isinstance(one, int) for one in given):
        raise UserError(f"seeds={seeds}: give a whole number of training seeds, or a list of them")
    found = list(range(first, first + seeds)) if isinstance(seeds, int) else given
    if not found or len(set(found)) < len(found):
        raise UserError(f"seeds={seeds}: give at least one training seed, each once")
    if found[0] != first:
        raise UserError(f"seeds={seeds}: the first training seed is the run's own, seed={first}")
    return found


def plan_runs(
    study: str, conditions: Sequence[Condition], seeds: Sequence[int], run_dir: Path, folder: Path
) -> list[StudyRun]:
    """Every condition with every training seed, conditions first, so that a half-played study compares conditions."""
    return [
        _run(study, condition, seed, seed == seeds[0], run_dir, folder) for seed in seeds for condition in conditions
    ]


def _run(study: str, condition: Condition, seed: int, first: bool, run_dir: Path, folder: Path) -> StudyRun:
    of_seed = run_dir if first else run_dir / "seeds" / str(seed)
    home = of_seed
    if condition.train:
        home = run_dir / "studies" / study / condition.slug
        home = home if first else home / "seeds" / str(seed)
    episodes = folder / condition.slug if condition.label else folder
    return StudyRun(condition, seed, home, of_seed, episodes if first else episodes / f"seed-{seed}")


def refusal(missing: Sequence[MissingStage]) -> str:
    """One sentence with the commands that train what is missing."""
    names = ", ".join(f"{one.run_dir}/{one.stage.name}" for one in missing)
    commands = " && ".join(one.command for one in missing[:SHOWN])
    more = f" && ... ({len(missing) - SHOWN} more)" if len(missing) > SHOWN else ""
    return f"{names} not trained yet; give train=missing to have that done now, or run: {commands}{more}"


def report_stamp() -> dict[str, str]:
    """When and where a report is written; its episodes may have been played earlier, and elsewhere."""
    import torch

    return {
        "report_written": date.today().isoformat(),
        "report_written_on": f"{platform.machine()}, {torch.get_num_threads()} threads, {torch.__version__}",
    }


_EXPRESSION = [
    Column("source", "generator", "text"),
    Column("condition", "condition", "text"),
    Column("training_seed", "training seed", "count"),
    Column("contexts", "contexts", "count"),
    Column("faithfulness", "faithful"),
    Column("stated_offers", "offer stated"),
    Column("judge_score", "judge score"),
    Column("words", "reply length, words", digits=1),
]


def expression_result(rows: Sequence[Mapping[str, Any]]) -> AnalysisResult:
    """How well each generator expresses itself in fixed contexts, in each condition and with each training seed."""
    one_only = {key for key in ("condition", "training_seed") if len({row[key] for row in rows}) < 2}
    columns = [column for column in _EXPRESSION if column.key not in one_only]
    from emodistill.studies.main_table import FAITHFUL  # here: a refusal needs no PyTorch

    table = Table("expression", "Expression in fixed contexts of the validation split", columns, rows, FAITHFUL)
    return AnalysisResult([table] if rows else [], values={"expression": list(rows)})
