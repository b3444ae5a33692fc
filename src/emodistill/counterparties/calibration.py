"""Is there anything to learn? Tables of the simulated world, with the phrasebook as the focal side's speaker.

    python -m emodistill.counterparties.calibration

Three questions, by domain: how often random emotions reach a deal; what each constant emotion earns, with 95 %
intervals (bootstrap over scenarios); and what a state-dependent choice earns, by one step of look-ahead on the
simulation. The answers for fresh draws of the prior are in `docs/counterparty.md`.
"""

import argparse
import sys
import time
from collections.abc import Sequence

import numpy as np

from emodistill.counterparties.simulation import BehaviouralCounterparty
from emodistill.emotions.perceiver import load_perceiver
from emodistill.emotions.vocabulary import Vocabulary, load_vocabulary
from emodistill.errors import UserError
from emodistill.negotiation.agents import Choice, FixedEmotion, FocalAgent, NoEmotion, Selector, UniformEmotion
from emodistill.negotiation.domains import domain_names
from emodistill.negotiation.engine import play
from emodistill.negotiation.generator import generate_scenarios
from emodistill.negotiation.phrasebook import PhrasebookSpeaker
from emodistill.negotiation.protocol import COUNTERPARTY, FOCAL, Negotiation
from emodistill.negotiation.schedule import ConcessionSchedule

_RESAMPLES = 2000
SCHEDULE = ConcessionSchedule(start=1.0, reserve=0.3, rounds=10, exponent=1.0)  # that of configs/base.yaml
CANDIDATES = (
    "anger",
    "disapproval",
    "disappointment",
    "sadness",
    "gratitude",
    "caring",
    "joy",
    "optimism",
    "curiosity",
    "neutral",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenarios", type=int, default=50, help="scenarios a domain for the constants")
    parser.add_argument("--arm-scenarios", type=int, default=25, help="scenarios a domain for the arms")
    parser.add_argument("--repeats", type=int, default=4, help="negotiations a scenario")
    parser.add_argument(
        "--rollouts", type=int, default=8, help="rollouts a candidate emotion; 0 leaves the look-ahead out"
    )
    parser.add_argument("--personas", nargs="+", default=["test:16"], help="names, or draws as test:16")
    parser.add_argument("--domains", nargs="+", default=domain_names())
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    began = time.monotonic()
    print(f"seed {args.seed}, personas {', '.join(args.personas)}, {args.scenarios} x {args.repeats} episodes a cell")
    calibration = Calibration(args.personas, args.scenarios, args.repeats, args.seed)
    rows = calibration.constants(args.domains)
    print_constants(rows, args.domains)
    best = {
        domain: max(rows, key=lambda label: float(np.mean([n.utility for n in rows[label][i]])))
        for i, domain in enumerate(args.domains)
    }
    print_arms(calibration, args.domains, best, args)
    print(f"\n{time.monotonic() - began:.0f} s")


class Calibration:
    """Plays rows of the tables, all against the same negotiations of a domain."""

    def __init__(self, personas: str | Sequence[str], scenarios: int, repeats: int, seed: int) -> None:
        self.vocabulary = load_vocabulary()
        self.counterparty = BehaviouralCounterparty(load_perceiver("counterparty"), personas)
        self.scenarios, self.repeats, self.seed = scenarios, repeats, seed

    def play(self, selector: Selector, domain: str, scenarios: int | None = None) -> list[Negotiation]:
        negotiations = new_negotiations(domain, scenarios or self.scenarios, self.repeats, self.seed)
        return play(negotiations, focal(selector, self.vocabulary), self.counterparty)

    def constants(self, domains: Sequence[str]) -> dict[str, list[list[Negotiation]]]:
        """For every label, the episodes of each domain under that constant emotion."""
        rows = {}
        for label in self.vocabulary.labels:
            rows[label] = [self.play(FixedEmotion(self.vocabulary, label), domain) for domain in domains]
        return rows

    def look_ahead(self, rollouts: int) -> "LookAhead":
        agent = focal(UniformEmotion(self.vocabulary), self.vocabulary)
        return LookAhead(self.vocabulary, agent, self.counterparty, rollouts, self.seed)


def new_negotiations(domain: str, scenarios: int, repeats: int, seed: int) -> list[Negotiation]:
    """`repeats` negotiations of each generated scenario; consecutive seeds, so the personas take turns."""
    generated = generate_scenarios(domain, scenarios, seed)
    return [
        Negotiation(scenario, seed * 100_003 + i * repeats + repeat)
        for i, scenario in enumerate(generated)
        for repeat in range(repeats)
    ]


def focal(selector: Selector, vocabulary: Vocabulary) -> FocalAgent:
    """The focal side of every row: only the selector differs."""
    return FocalAgent(selector, SCHEDULE, PhrasebookSpeaker(vocabulary))


class LookAhead:
    """One step of look-ahead on the simulation: what a state-dependent choice of emotion can earn at least.

    Before every focal turn each candidate emotion is tried on copies of the negotiation that are played to their end
    with random emotions, and the one with the highest mean utility is shown. That is one step of policy improvement
    over random play, found with knowledge that no learner has (the simulation itself): a lower bound of what the best
    policy earns. The copies draw their own randomness: the look-ahead does not know the draws to come.

    Args:
        agent: plays the copies; its selector says how they go on.
        rollouts: copies a candidate. The same draws serve all candidates, which takes most of the noise out.
    """

    name = "look-ahead"

    def __init__(
        self,
        vocabulary: Vocabulary,
        agent: FocalAgent,
        counterparty: BehaviouralCounterparty,
        rollouts: int,
        seed: int,
        candidates: Sequence[str] = CANDIDATES,
    ) -> None:
        for label in candidates:
            vocabulary.index(label)
        self.agent, self.counterparty, self.rollouts, self.seed = agent, counterparty, rollouts, seed
        self.candidates = tuple(candidates)

    def select(self, negotiations: Sequence[Negotiation]) -> list[Choice]:
        copies, first = [], {}
        for negotiation in negotiations:
            for label in self.candidates:
                for rollout in range(self.rollouts):
                    copy = self._copy(negotiation, rollout)
                    first[id(copy)] = label
                    copies.append(copy)
        agent = FocalAgent(FirstThen(self.agent, first), self.agent.offers, self.agent.speaker)
        play(copies, agent, self.counterparty)
        shape = (len(negotiations), len(self.candidates), self.rollouts)
        values = np.array([copy.utility for copy in copies]).reshape(shape).mean(axis=2)
        return [Choice(self.candidates[int(best)], 1.0) for best in values.argmax(axis=1)]

    def _copy(self, negotiation: Negotiation, rollout: int) -> Negotiation:
        """A copy that shares the past and has draws of its own to come."""
        copy = Negotiation(
            negotiation.scenario,
            negotiation.seed,
            negotiation.max_rounds,
            negotiation.tolerance,
            negotiation.counterparty,
            list(negotiation.turns),
            dict(negotiation.standing),
        )
        for i, side in enumerate((FOCAL, COUNTERPARTY)):
            copy.rng[side] = np.random.default_rng((self.seed, negotiation.seed, negotiation.round, rollout, i))
        return copy


class FirstThen:
    """Shows a given emotion in a negotiation's next turn, then whatever the agent's own selector says."""

    name = "first-then"

    def __init__(self, agent: FocalAgent, first: dict[int, str]) -> None:
        self.agent, self.first = agent, first

    def select(self, negotiations: Sequence[Negotiation]) -> list[Choice]:
        choices = self.agent.selector.select(negotiations)
        forced = [self.first.pop(id(negotiation), None) for negotiation in negotiations]
        return [Choice(first, 1.0) if first else choice for first, choice in zip(forced, choices, strict=True)]


def print_constants(rows: dict[str, list[list[Negotiation]]], domains: Sequence[str]) -> None:
    """The 28 x 4 table, best first by the mean over domains."""
    print(f"\n| constant emotion | mean | {' | '.join(domains)} |\n|---|---|{'---|' * len(domains)}")
    means = {label: [float(np.mean([n.utility for n in cell])) for cell in cells] for label, cells in rows.items()}
    for label in sorted(means, key=lambda label: -float(np.mean(means[label]))):
        cells = []
        for mean, played in zip(means[label], rows[label], strict=True):
            low, high = interval(played)
            cells.append(f"{mean:.3f} [{low:.3f}, {high:.3f}]")
        print(f"| {label} | {np.mean(means[label]):.3f} | {' | '.join(cells)} |")
    spread = [max(column) - min(column) for column in zip(*means.values(), strict=True)]
    print(
        "spread between best and worst constant:",
        ", ".join(f"{d} {s:.3f}" for d, s in zip(domains, spread, strict=True)),
    )


def print_arms(
    calibration: Calibration, domains: Sequence[str], best: dict[str, str], args: argparse.Namespace
) -> None:
    print("\n| domain | arm | utility [95 %] | success | outcome | rounds |\n|---|---|---|---|---|---|")
    for domain in domains:
        selectors: dict[str, Selector] = {
            "no emotion": NoEmotion(),
            "random": UniformEmotion(calibration.vocabulary),
            f"best constant ({best[domain]})": FixedEmotion(calibration.vocabulary, best[domain]),
        }
        if args.rollouts:
            selectors["look-ahead"] = calibration.look_ahead(args.rollouts)
        for name, selector in selectors.items():
            print(
                f"| {domain} | {name} | {summary(calibration.play(selector, domain, args.arm_scenarios))} |", flush=True
            )


def summary(played: Sequence[Negotiation]) -> str:
    """Utility with its interval, success, outcome of the deals and rounds, as one row's cells."""
    deals = [negotiation.utility for negotiation in played if negotiation.end == "deal"]
    low, high = interval(played)
    utility = np.mean([negotiation.utility for negotiation in played])
    rounds = np.mean([negotiation.turns[-1].round for negotiation in played])
    outcome = np.mean(deals) if deals else float("nan")
    return f"{utility:.3f} [{low:.3f}, {high:.3f}] | {len(deals) / len(played):.2f} | {outcome:.2f} | {rounds:.1f}"


def interval(played: Sequence[Negotiation], seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of the mean utility, resampling scenarios."""
    groups: dict[str, list[float]] = {}
    for negotiation in played:
        groups.setdefault(negotiation.scenario.id, []).append(negotiation.utility)
    means = np.array([np.mean(group) for group in groups.values()])
    draws = np.random.default_rng(seed).integers(len(means), size=(_RESAMPLES, len(means)))
    low, high = np.quantile(means[draws].mean(axis=1), (0.025, 0.975))
    return float(low), float(high)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
