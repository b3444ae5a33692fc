"""Plays arms on unseen scenarios, one Parquet file for each arm. A file on disk is not played again.

<folder>/episodes/<arm>.parquet    its episodes
                  <arm>.json       what they cost: seconds, tokens, money
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
from emodistill.evaluation.arms import Arm, draw_anew, selector_of
from emodistill.evaluation.results import ArmResult, Cost
from emodistill.evaluation.speakers import speaker_of
from emodistill.files import atomic_write
from emodistill.language_models.completion import Usage, total
from emodistill.negotiation.agents import Agent, FocalAgent, OfferPolicy, Selector, Speaker
from emodistill.negotiation.engine import play
from emodistill.negotiation.protocol import Negotiation
from emodistill.negotiation.scenarios import Scenario
from emodistill.progress import progress


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
        guard: Keeper | None = None,
    ) -> None:
        if not scenarios or episodes_per_scenario < 1:
            asked = f"{len(scenarios)} scenarios x {episodes_per_scenario} episodes"
            raise UserError(f"nothing to play: {asked}; give at least one of each")
        self.scenarios, self.episodes_per_scenario = scenarios, episodes_per_scenario
        self.counterparty, self.offers, self.vocabulary = counterparty, offers, vocabulary
        self.speaker, self.folder, self.on_speaker = speaker, folder, on_speaker
        self.selector, self.mean_return, self.guard = selector, mean_return, guard

    def play(self, arms: Sequence[Arm]) -> list[ArmResult]:
        """Play what is not on disk yet, arms that share a generator one after the other; every arm with its cost.

        Of an arm that was played before costs were kept, the cost is zero and its money unknown.
        """
        missing = [arm for arm in arms if not self.file(arm).is_file()]
        if self.guard:
            domains = list(dict.fromkeys(scenario.domain for scenario in self.scenarios))
            for arm in missing:
                self.guard.check(arm.emotion, domains, self.vocabulary)
        for generator in dict.fromkeys(arm.generator for arm in missing):
            speaker = self.speaker(generator)
            self.on_speaker(generator)
            for arm in (arm for arm in missing if arm.generator == generator):
                own = speaker_of(arm, speaker)
                self._keep(arm, self.guard.speaker(own) if self.guard else own)
        return [ArmResult(arm.name, read_episodes(self.file(arm)), cost=read_cost(self.file(arm))) for arm in arms]

    def _keep(self, arm: Arm, speaker: Speaker) -> None:
        """Play an arm and write its files, the episodes last: they say that it is played."""
        at_table = [seat for seat in (speaker, self.counterparty) if isinstance(seat, Metered)]
        began, before = time.perf_counter(), total([seat.usage for seat in at_table])
        episodes = self._play(arm, speaker)
        after, seconds = total([seat.usage for seat in at_table]), time.perf_counter() - began
        money = None if after.cost is None or before.cost is None else after.cost - before.cost
        read, written = after.prompt_tokens - before.prompt_tokens, after.completion_tokens - before.completion_tokens
        path = self.file(arm)
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path.with_suffix(".json"), json.dumps(asdict(Cost(seconds, read, written, money))) + "\n")
        write_episodes(episodes, path)

    def _play(self, arm: Arm, speaker: Speaker) -> list[Episode]:
        selector = selector_of(arm, self.vocabulary, self.selector, self.mean_return)
        if self.guard:
            selector = self.guard.selector(selector, self.vocabulary)
        focal = FocalAgent(selector, self.offers, speaker)
        negotiations = [
            Negotiation(scenario, i + seed)  # counterparties take turns by seed: few seeds must not mean one persona
            for i, scenario in enumerate(self.scenarios)
            for seed in range(self.episodes_per_scenario)
        ]
        for negotiation in negotiations:
            draw_anew(negotiation, arm.repetition)
        with progress(f"playing {arm.name}", len(negotiations)) as advance:
            over = 0

            def on_round(finished: int, _total: int) -> None:
                nonlocal over
                advance(finished - over)
                over = finished

            play(negotiations, focal, self.counterparty, on_round)
        if all(n.end == "invalid" for n in negotiations):
            raise UserError(
                f"no episode of the arm '{arm.name}' could be played ({negotiations[0].fault}); nothing of it is kept: "
                "mend it and run the same command again"
            )
        return [Episode.of(n, "test", selector.name, arm.name) for n in negotiations]

    def file(self, arm: Arm) -> Path:
        """Where its episodes are."""
        return self.folder / "episodes" / f"{arm.name.replace(':', '-')}.parquet"


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
