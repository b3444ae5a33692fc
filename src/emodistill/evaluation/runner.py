"""Plays arms on unseen scenarios, one Parquet file for each arm. A file on disk is not played again.

<folder>/episodes/<arm>.parquet    its episodes
                  <arm>.json       what they cost: seconds, tokens, money
        /parts/                    what is played so far; gone when the arms are whole
              groups.json          which arms play together
              <piece>.parquet      the episodes of one piece; <piece>.json is what they cost

Arms that share a model on this machine play together: a batch of many rows costs little more than one of few, and the
last long episodes of one arm do not keep the others waiting. A reply depends on its own seed, and on the other rows by
rounding alone: rare in float32, now and then in bfloat16. So what plays together is fixed before anybody plays, is part
of the name of the piece, and is the same when a command that was stopped goes on: it ends in the same bytes. Where no
language model on this machine speaks, nothing depends on the batch, and the pieces are small.
"""

import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from emodistill.checks import check_whole
from emodistill.data.corpus import over
from emodistill.data.schema import Episode, join_rows, read_episodes, write_episodes, write_rows
from emodistill.emotions.vocabulary import Vocabulary
from emodistill.errors import UserError
from emodistill.evaluation.arms import ITSELF, SELF_SELECTED, Arm, draw_anew, is_local, selector_of
from emodistill.evaluation.own_classes import OwnAgent, speaks_here
from emodistill.evaluation.results import ArmResult, Cost
from emodistill.evaluation.speakers import speaker_of
from emodistill.execution.pieces import Advance, Executor, Needs, OneAfterOther, Piece, Work, digest, plan
from emodistill.files import atomic_write, exclusive
from emodistill.language_models.completion import Usage, total
from emodistill.negotiation.agents import Agent, Choice, FocalAgent, OfferPolicy, Selector, Speaker
from emodistill.negotiation.engine import play
from emodistill.negotiation.protocol import Negotiation
from emodistill.negotiation.scenarios import Scenario

TOGETHER = 256  # episodes, at most, that are played together where a language model on this machine speaks
LOCKSTEP = 32  # and elsewhere; so many are lost where a command is stopped
MODEL_S, SIMULATED_S = 2.0, 0.02  # of one core, an episode: with a small language model at the table, and without


@runtime_checkable
class Metered(Protocol):
    """Somebody at the table who counts tokens; a phrasebook or a simulation reads none."""

    @property
    def usage(self) -> Usage: ...


class Keeper(Protocol):
    """Keeps emotions from being shown and words from being said; see `safety.guard`."""

    def selector(self, selector: Selector, vocabulary: Vocabulary) -> Selector: ...

    def speaker(self, speaker: Speaker) -> Speaker: ...

    def check(self, emotion: str, domains: Sequence[str], vocabulary: Vocabulary) -> None: ...


class Runner:
    """Plays arms against one counterparty.

    Args:
        scenarios: unseen scenarios; every arm plays all of them with the same seeds, so differences are paired.
        episodes_per_scenario: one a seed.
        counterparty: who sits opposite.
        offers: the focal side's offer policy, the same for every arm.
        speaker: makes the speaker of a generator; one is alive at a time.
        selector: loads the trained selector.
        mean_return: fits the baseline of mean returns; None where there is no corpus.
        best_constant: finds the best constant emotions in play; None where nobody can be played against for that.
        on_speaker: called with a generator whose speaker is ready, before its arms are played, to measure something.
        measured: the file that `on_speaker` writes for a generator; None where there is nothing to measure.
        folder: episodes go to `<folder>/episodes/<arm>.parquet`.
        guard: over selector and speaker of every arm on the focal side; None is no guard.
    """

    def __init__(
        self,
        scenarios: Sequence[Scenario],
        episodes_per_scenario: int,
        counterparty: Agent,
        offers: OfferPolicy,
        speaker: Callable[[str], Speaker],
        selector: Callable[[], Selector],
        vocabulary: Vocabulary,
        folder: Path,
        on_speaker: Callable[[str], None] = lambda generator: None,
        measured: Callable[[str], Path | None] = lambda generator: None,
        mean_return: Callable[[], Selector] | None = None,
        best_constant: Callable[[], Selector] | None = None,
        guard: Keeper | None = None,
    ) -> None:
        check_whole("episodes_per_scenario", episodes_per_scenario)
        if not scenarios:
            raise UserError("nothing to play: there are no test scenarios; give at least one")
        self.scenarios, self.episodes_per_scenario = scenarios, episodes_per_scenario
        self.counterparty, self.offers, self.vocabulary = counterparty, offers, vocabulary
        self.speaker, self.folder, self.on_speaker, self.measured = speaker, folder, on_speaker, measured
        self.selector, self.mean_return, self.best_constant, self.guard = selector, mean_return, best_constant, guard
        self._speaking: tuple[str, Speaker] | None = None  # a generator and its speaker: one alive at a time
        self._selectors: dict[str, Selector] = {}  # by arm
        self._agents: dict[str, Agent] = {}  # of one's own, by arm
        self._pieces: list[Piece] = []

    def play(self, arms: Sequence[Arm], executor: Executor | None = None) -> list[ArmResult]:
        """Play what is not on disk yet; see `pieces` and `results`."""
        try:
            (executor or OneAfterOther()).run("playing", plan(self.pieces(arms)).now)
        finally:
            self.keep(arms)
        return self.results(arms)

    def pieces(
        self, arms: Sequence[Arm], fixed: Any = None, open_work: Callable[[], Work] | None = None
    ) -> list[Piece]:
        """The play of what is not kept yet: arms that share a generator together or one after the other.

        Args:
            fixed: plain values that fix the episodes besides arms, scenarios and seeds.
            open_work: makes a runner like this one, in any process, and returns its `work`; None plays with this one.
        """
        if self.guard:
            domains = list(dict.fromkeys(scenario.domain for scenario in self.scenarios))
            for arm in arms:
                if not self.file(arm).is_file():
                    self.guard.check(arm.emotion, domains, self.vocabulary)
        kit = digest([str(self.folder), fixed])
        made: list[Piece] = []

        def add(title: str, task: tuple[Any, ...], done: Path, size: int, needs: Needs, named: Any) -> None:
            work = open_work or (lambda: self.work)
            made.append(Piece(digest([kit, named]), title, work, kit, task, done.is_file, size, (), needs))

        groups = self._groups_to_play(arms)
        for generator in dict.fromkeys(arm.generator for arm in arms):
            if measured := self.measured(generator):
                add(f"expression of {generator}", ("measure", generator), measured, 0, Needs(model=True), generator)
            for group in (group for group in groups if group[0].generator == generator):
                for places in self._lots(group):
                    title = f"{', '.join(arm.name for arm in group)} of {self.folder}"
                    named = [[vars(arm) for arm in group], [self._key(place) for place in places]]
                    part = self._parts / f"{digest([kit, named])}.parquet"
                    size = len(group) * len(places)
                    add(title, ("play", group, places, part), part, size, self._needs(group, size), named)
        self._pieces = [piece for piece in made if piece.task[0] == "play"]
        return made

    def keep(self, arms: Sequence[Arm]) -> None:
        """Put together the files of those arms whose pieces are all there; what was played in pieces is removed then.

        Raises:
            UserError: if no episode of an arm could be played; nothing of it is kept, but all of the others.
        """
        unplayable: list[tuple[Arm, str]] = []
        whole = True
        for arm in arms:
            if not self.file(arm).is_file():
                own = [piece for piece in self._pieces if arm in piece.task[1]]
                if not all(piece.done() for piece in own):
                    whole = False
                elif fault := self._keep(arm, own):
                    unplayable.append((arm, fault))
        if whole:
            self._forget_parts(arms)
        for arm, fault in unplayable:
            raise UserError(
                f"no episode of the arm '{arm.name}' could be played ({fault}); nothing of it is kept: "
                "mend it and run the same command again"
            )

    def _forget_parts(self, arms: Sequence[Arm]) -> None:
        """Remove what was played in pieces, except that of other arms, which may be asked for again."""
        asked = {arm.name for arm in arms}
        if others := [group for group in self._begun() if not set(group) <= asked]:
            for piece in self._pieces:
                piece.task[3].unlink(missing_ok=True)
            atomic_write(self._groups_file, json.dumps(others) + "\n")
        else:
            shutil.rmtree(self._parts, ignore_errors=True)

    def results(self, arms: Sequence[Arm]) -> list[ArmResult]:
        """What was played and kept.

        Of an arm that was played before costs were kept, the cost is zero and its money unknown.
        """
        return [ArmResult(arm.name, read_episodes(self.file(arm)), cost=read_cost(self.file(arm))) for arm in arms]

    def _keep(self, arm: Arm, pieces: Sequence[Piece]) -> str | None:
        """Write the files of an arm, that with its episodes last: it says that the arm is played.

        Returns:
            why the first episode failed, where none could be played and nothing is written.
        """
        parts, order, cost = [], [], Cost()
        for _, group, places, part in (piece.task for piece in pieces):
            parts.append((part, group.index(arm) * len(places), len(places)))
            order += places
            cost += Cost(**json.loads(part.with_suffix(".json").read_text(encoding="utf-8"))[arm.name])
        rows = join_rows(parts, order)
        if rows.column("end").unique().to_pylist() == ["invalid"]:
            return rows.column("fault")[0].as_py() or "invalid"
        self.file(arm).parent.mkdir(parents=True, exist_ok=True)
        atomic_write(self.file(arm).with_suffix(".json"), json.dumps(asdict(cost)) + "\n")
        write_rows(rows, self.file(arm))
        return None

    def _groups_to_play(self, arms: Sequence[Arm]) -> list[list[Arm]]:
        """The groups of arms that are still to be played or put together; those that were begun stay as they are."""
        missing = [arm for arm in arms if not self.file(arm).is_file()]
        if not missing:
            return []
        by_name = {arm.name: arm for arm in arms}
        with exclusive(self._parts, wait=True):
            begun = self._begun()
            kept: list[list[Arm]] = []
            for group in ([by_name[name] for name in names] for names in begun if by_name.keys() >= set(names)):
                if any(arm in missing for arm in group) and not any(arm in other for other in kept for arm in group):
                    kept.append(group)
            others = [names for names in begun if not by_name.keys() >= set(names)]
            missing = [arm for arm in missing if not any(arm in group for group in kept)]
            generators = dict.fromkeys(arm.generator for arm in missing)
            new = [self._groups([arm for arm in missing if arm.generator == one]) for one in generators]
            groups = [*kept, *(group for groups in new for group in groups)]
            atomic_write(
                self._groups_file, json.dumps([*([arm.name for arm in group] for group in groups), *others]) + "\n"
            )
        first = {arm.name: place for place, arm in enumerate(arms)}
        return sorted(groups, key=lambda group: min(first[arm.name] for arm in group))

    def _begun(self) -> list[list[str]]:
        """Which arms have begun to play together, by their names."""
        if not self._groups_file.is_file():
            return []
        begun: list[list[str]] = json.loads(self._groups_file.read_text(encoding="utf-8"))
        return begun

    def _groups(self, arms: Sequence[Arm]) -> list[list[Arm]]:
        """Which of the arms of one generator play together: all of a group use their speaker in the same way."""
        groups: list[list[Arm]] = []
        for arm in sorted(arms, key=_use):
            fits = groups and (len(groups[-1]) + 1) * self._episodes <= TOGETHER and is_local(arm.generator)
            if fits and _use(groups[-1][0]) == _use(arm):
                groups[-1].append(arm)
            else:
                groups.append([arm])
        return groups

    def _lots(self, group: Sequence[Arm]) -> list[list[int]]:
        """The places of the negotiations, in the lots in which a group plays them: each has some of every domain."""
        most = TOGETHER if self._is_batched(group) else LOCKSTEP
        count = math.ceil(self._episodes / most)
        return [list(range(lot, self._episodes, count)) for lot in range(count)]

    def _is_batched(self, group: Sequence[Arm]) -> bool:
        """Whether a language model answers for several negotiations at once, so that words may depend on the batch."""
        return is_local(group[0].generator) or isinstance(self.counterparty, Metered)

    def _needs(self, group: Sequence[Arm], episodes: int) -> Needs:
        own = group[0].generator == ITSELF and speaks_here(group[0].emotion)
        model = own or self._is_batched(group)
        return Needs(model, episodes * (MODEL_S if model else SIMULATED_S))

    @property
    def _episodes(self) -> int:
        """Episodes of an arm."""
        return len(self.scenarios) * self.episodes_per_scenario

    def _key(self, place: int) -> list[str | int]:
        scenario, seed = self._game(place)
        return [scenario.domain, scenario.id, seed]

    def _game(self, place: int) -> tuple[Scenario, int]:
        """Scenario and seed of a negotiation; counterparties take turns by seed, so that few seeds meet several."""
        i, seed = divmod(place, self.episodes_per_scenario)
        return self.scenarios[i], i + seed

    def work(self, kind: str, *task: Any, advance: Advance) -> None:
        """Do a piece: `play`, or `measure` a generator. The last speaker is kept for the next one."""
        if kind == "measure":
            self._speaker_of(*task)
            self.on_speaker(*task)
        else:
            arms, places, part = task
            self._play_part(arms, places, part, advance)

    def _speaker_of(self, generator: str) -> Speaker:
        if self._speaking is None or self._speaking[0] != generator:
            self._speaking = None  # lets go of one model before the next is loaded
            self._speaking = generator, self.speaker(generator)
        return self._speaking[1]

    def _play_part(self, arms: Sequence[Arm], places: Sequence[int], part: Path, advance: Advance) -> None:
        """Play arms together and write their episodes, arm by arm, and what that cost.

        What playing cost is shared out by the turns that each arm spoke.
        """
        focal = self._focal_seat(arms[0])
        at_table = [seat for seat in (focal, self.counterparty) if isinstance(seat, Metered)]
        began, before = time.perf_counter(), total([seat.usage for seat in at_table])
        played = self._play(arms, places, focal, advance)
        after, seconds = total([seat.usage for seat in at_table]), time.perf_counter() - began
        money = None if after.cost is None or before.cost is None else after.cost - before.cost
        read, written = after.prompt_tokens - before.prompt_tokens, after.completion_tokens - before.completion_tokens
        turns = [sum(len(episode.turns) for episode in episodes) for episodes in played]
        costs = {}
        for arm, spoken in zip(arms, turns, strict=True):
            share = spoken / max(sum(turns), 1) if len(arms) > 1 else 1.0
            paid = None if money is None else money * share
            costs[arm.name] = asdict(Cost(seconds * share, round(read * share), round(written * share), paid))
        if len(arms) == 1:
            _check_outage(arms[0], played[0])
        part.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(part.with_suffix(".json"), json.dumps(costs) + "\n")
        write_episodes([episode for episodes in played for episode in episodes], part)

    def _focal_seat(self, arm: Arm) -> Any:
        """What plays for an arm: the speaker of its generator under the guard, or an agent of one's own."""
        if arm.generator == ITSELF:
            if arm.name not in self._agents:
                self._agents[arm.name] = OwnAgent(arm.name, arm.emotion, self.vocabulary)
            return self._agents[arm.name]
        speaker = speaker_of(arm, self._speaker_of(arm.generator))
        return self.guard.speaker(speaker) if self.guard else speaker

    def _play(self, arms: Sequence[Arm], places: Sequence[int], seat: Any, advance: Advance) -> list[list[Episode]]:
        """The episodes of each arm, at these places; `seat` is that of `_focal_seat`, the same for all of them."""
        played = [[Negotiation(*self._game(place)) for place in places] for _ in arms]
        for arm, negotiations in zip(arms, played, strict=True):
            for negotiation in negotiations:
                draw_anew(negotiation, arm.repetition)
        everything = [negotiation for negotiations in played for negotiation in negotiations]
        if arms[0].generator == ITSELF:  # it plays alone, see `_groups`
            play(everything, seat, self.counterparty, over(advance))
            behaviours = [seat.name]
        else:
            selectors = [self._selector_of(arm) for arm in arms]
            focal = FocalAgent(_SelectorOfEach(selectors, played), self.offers, seat)
            play(everything, focal, self.counterparty, over(advance))
            behaviours = [selector.name for selector in selectors]
        return [
            [Episode.of(negotiation, "test", behaviour, arm.name) for negotiation in negotiations]
            for arm, behaviour, negotiations in zip(arms, behaviours, played, strict=True)
        ]

    def _selector_of(self, arm: Arm) -> Selector:
        if arm.name not in self._selectors:
            sources = (self.selector, self.mean_return, self.best_constant)
            self._selectors[arm.name] = selector_of(arm, self.vocabulary, *sources)
        selector = self._selectors[arm.name]
        return self.guard.selector(selector, self.vocabulary) if self.guard else selector

    @property
    def _parts(self) -> Path:
        return self.folder / "parts"

    @property
    def _groups_file(self) -> Path:
        return self._parts / "groups.json"

    def file(self, arm: Arm) -> Path:
        """Where its episodes are."""
        return episodes_file(self.folder, arm)


class _SelectorOfEach:
    """Lets each of several lots of negotiations have a selector of its own, which sees no others."""

    name = "one for each arm"

    def __init__(self, selectors: Sequence[Selector], lots: Sequence[Sequence[Negotiation]]) -> None:
        self.selectors = selectors
        self.lot = {id(negotiation): number for number, lot in enumerate(lots) for negotiation in lot}

    def select(self, negotiations: Sequence[Negotiation]) -> list[Choice]:
        lots = [self.lot[id(negotiation)] for negotiation in negotiations]
        choices: dict[int, Choice] = {}
        for number in sorted(set(lots)):
            places = [place for place, lot in enumerate(lots) if lot == number]
            chosen = self.selectors[number].select([negotiations[place] for place in places])
            choices.update(zip(places, chosen, strict=True))
        return [choices[place] for place in range(len(negotiations))]


def _check_outage(arm: Arm, episodes: Sequence[Episode]) -> None:
    """Raises UserError where no episode of a piece could be played: what a server that is down leaves is not kept."""
    if all(episode.end == "invalid" for episode in episodes):
        raise UserError(
            f"no episode of the arm '{arm.name}' could be played ({episodes[0].fault}); nothing of it is kept: "
            "mend it and run the same command again"
        )


def episodes_file(folder: Path, arm: Arm) -> Path:
    """Where the episodes of an arm are, in the folder of a `Runner`."""
    return folder / "episodes" / f"{arm.name.replace(':', '-')}.parquet"


def read_cost(episodes: Path) -> Cost:
    """What the episodes of this file cost; nothing is known of those from before costs were kept."""
    path = episodes.with_suffix(".json")
    return Cost(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else Cost(money=None)


def first_of_each_domain(scenarios: Sequence[Scenario], count: int | None) -> list[Scenario]:
    """The first `count` scenarios of every domain, or all for None.

    Raises:
        UserError: if `count` is no whole number of at least 1.
    """
    check_whole("scenarios_per_domain", count, null="for all")
    by_domain: dict[str, list[Scenario]] = {}
    for scenario in scenarios:
        by_domain.setdefault(scenario.domain, []).append(scenario)
    return [scenario for group in by_domain.values() for scenario in group[:count]]


def _use(arm: Arm) -> tuple[bool, int]:
    """How an arm uses its speaker."""
    return arm.emotion == SELF_SELECTED, arm.drafts
