"""Plays arms on unseen scenarios, one Parquet file for each arm. A file on disk is not played again.

<folder>/episodes/<arm>.parquet    its episodes
                  <arm>.json       what they cost: seconds, tokens, money
                  together.json    while the files of arms that played together are written: their names

Arms that share a model on this machine play together: a batch of many rows costs little more than one of few, and the
last long episodes of one arm do not keep the others waiting. A reply depends on its own seed, and on the other rows by
rounding alone: rare in float32, now and then in bfloat16. So arms that played together are played together again where
a command was stopped before all of them were written, and an evaluation that was stopped ends in the same bytes.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Protocol, runtime_checkable

from emodistill.data.schema import Episode, read_episodes, write_episodes
from emodistill.emotions.vocabulary import Vocabulary
from emodistill.errors import UserError
from emodistill.evaluation.arms import SELF_SELECTED, Arm, draw_anew, selector_of
from emodistill.evaluation.results import ArmResult, Cost
from emodistill.evaluation.speakers import is_local, speaker_of
from emodistill.files import atomic_write
from emodistill.language_models.completion import Usage, total
from emodistill.negotiation.agents import Agent, Choice, FocalAgent, OfferPolicy, Selector, Speaker
from emodistill.negotiation.engine import play
from emodistill.negotiation.protocol import Negotiation
from emodistill.negotiation.scenarios import Scenario
from emodistill.progress import progress

TOGETHER = 256  # episodes, at most, that are played together and lost where a command is stopped; one arm may have more


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
        speaker: makes the speaker of a generator; called once for each generator, one speaker alive at a time.
        selector: loads the trained selector.
        mean_return: fits the baseline of mean returns; None where there is no corpus.
        best_constant: finds the best constant emotions in play; None where nobody can be played against for that.
        on_speaker: called with each generator when its speaker is ready, before its arms are played.
        folder: episodes go to `<folder>/episodes/<arm>.parquet`.
        guard: over selector and speaker of every arm; None is no guard.
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
        mean_return: Callable[[], Selector] | None = None,
        best_constant: Callable[[], Selector] | None = None,
        guard: Keeper | None = None,
    ) -> None:
        if not scenarios or episodes_per_scenario < 1:
            asked = f"{len(scenarios)} scenarios x {episodes_per_scenario} episodes"
            raise UserError(f"nothing to play: {asked}; give at least one of each")
        self.scenarios, self.episodes_per_scenario = scenarios, episodes_per_scenario
        self.counterparty, self.offers, self.vocabulary = counterparty, offers, vocabulary
        self.speaker, self.folder, self.on_speaker = speaker, folder, on_speaker
        self.selector, self.mean_return, self.best_constant, self.guard = selector, mean_return, best_constant, guard

    def play(self, arms: Sequence[Arm]) -> list[ArmResult]:
        """Play what is not on disk yet, arms that share a generator together or one after the other.

        Of an arm that was played before costs were kept, the cost is zero and its money unknown.
        """
        stopped = json.loads(self._together.read_text(encoding="utf-8")) if self._together.is_file() else []
        missing = [arm for arm in arms if arm.name in stopped or not self.file(arm).is_file()]
        if self.guard:
            domains = list(dict.fromkeys(scenario.domain for scenario in self.scenarios))
            for arm in missing:
                self.guard.check(arm.emotion, domains, self.vocabulary)
        for generator in dict.fromkeys(arm.generator for arm in missing):
            speaker = self.speaker(generator)
            self.on_speaker(generator)
            for group in self._groups([arm for arm in missing if arm.generator == generator]):
                own = speaker_of(group[0], speaker)
                self._keep(group, self.guard.speaker(own) if self.guard else own)
        return [ArmResult(arm.name, read_episodes(self.file(arm)), cost=read_cost(self.file(arm))) for arm in arms]

    def _groups(self, arms: Sequence[Arm]) -> list[list[Arm]]:
        """Which of the arms of one generator play together: all of a group use their speaker in the same way."""
        groups: list[list[Arm]] = []
        for arm in sorted(arms, key=_use):
            episodes = len(self.scenarios) * self.episodes_per_scenario
            fits = groups and (len(groups[-1]) + 1) * episodes <= TOGETHER and is_local(arm.generator)
            if fits and _use(groups[-1][0]) == _use(arm):
                groups[-1].append(arm)
            else:
                groups.append([arm])
        return groups

    def _keep(self, arms: Sequence[Arm], speaker: Speaker) -> None:
        """Play arms together and write their files, those of an arm with its episodes last: they say it is played.

        What playing cost is shared out by the turns that each arm spoke.
        """
        at_table = [seat for seat in (speaker, self.counterparty) if isinstance(seat, Metered)]
        began, before = time.perf_counter(), total([seat.usage for seat in at_table])
        played = self._play(arms, speaker)
        after, seconds = total([seat.usage for seat in at_table]), time.perf_counter() - began
        money = None if after.cost is None or before.cost is None else after.cost - before.cost
        read, written = after.prompt_tokens - before.prompt_tokens, after.completion_tokens - before.completion_tokens
        turns = [sum(len(episode.turns) for episode in episodes) for episodes in played]
        valid = [any(episode.end != "invalid" for episode in episodes) for episodes in played]
        if any(valid):
            self._together.parent.mkdir(parents=True, exist_ok=True)
        if len(arms) > 1:
            atomic_write(self._together, json.dumps([arm.name for arm in arms]) + "\n")
        for arm, episodes, spoken, any_valid in zip(arms, played, turns, valid, strict=True):
            share, path = spoken / max(sum(turns), 1) if len(arms) > 1 else 1.0, self.file(arm)
            if any_valid:
                paid = None if money is None else money * share
                cost = Cost(seconds * share, round(read * share), round(written * share), paid)
                atomic_write(path.with_suffix(".json"), json.dumps(asdict(cost)) + "\n")
                write_episodes(episodes, path)
        self._together.unlink(missing_ok=True)
        for arm, episodes, any_valid in zip(arms, played, valid, strict=True):
            if not any_valid:
                raise UserError(
                    f"no episode of the arm '{arm.name}' could be played ({episodes[0].fault}); nothing of it is kept: "
                    "mend it and run the same command again"
                )

    def _play(self, arms: Sequence[Arm], speaker: Speaker) -> list[list[Episode]]:
        """The episodes of each arm."""
        sources = (self.selector, self.mean_return, self.best_constant)
        selectors = [selector_of(arm, self.vocabulary, *sources) for arm in arms]
        if self.guard:
            selectors = [self.guard.selector(selector, self.vocabulary) for selector in selectors]
        played = [
            [
                Negotiation(scenario, i + seed)  # counterparties take turns by seed, so that few seeds meet several
                for i, scenario in enumerate(self.scenarios)
                for seed in range(self.episodes_per_scenario)
            ]
            for _ in arms
        ]
        for arm, negotiations in zip(arms, played, strict=True):
            for negotiation in negotiations:
                draw_anew(negotiation, arm.repetition)
        focal = FocalAgent(_SelectorOfEach(selectors, played), self.offers, speaker)
        everything = [negotiation for negotiations in played for negotiation in negotiations]
        with progress(f"playing {', '.join(arm.name for arm in arms)}", len(everything)) as advance:
            over = 0

            def on_round(finished: int, _total: int) -> None:
                nonlocal over
                advance(finished - over)
                over = finished

            play(everything, focal, self.counterparty, on_round)
        return [
            [Episode.of(negotiation, "test", selector.name, arm.name) for negotiation in negotiations]
            for arm, selector, negotiations in zip(arms, selectors, played, strict=True)
        ]

    @property
    def _together(self) -> Path:
        return self.folder / "episodes" / "together.json"

    def file(self, arm: Arm) -> Path:
        """Where its episodes are."""
        return self.folder / "episodes" / f"{arm.name.replace(':', '-')}.parquet"


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


def read_cost(episodes: Path) -> Cost:
    """What the episodes of this file cost; nothing is known of those from before costs were kept."""
    path = episodes.with_suffix(".json")
    return Cost(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else Cost(money=None)


def first_of_each_domain(scenarios: Sequence[Scenario], count: int | None) -> list[Scenario]:
    """The first `count` scenarios of every domain, or all for None."""
    by_domain: dict[str, list[Scenario]] = {}
    for scenario in scenarios:
        by_domain.setdefault(scenario.domain, []).append(scenario)
    return [scenario for group in by_domain.values() for scenario in group[:count]]


def _use(arm: Arm) -> tuple[bool, int]:
    """How an arm uses its speaker."""
    return arm.emotion == SELF_SELECTED, arm.drafts
