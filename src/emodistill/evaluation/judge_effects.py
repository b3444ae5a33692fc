"""Does a judge's score say what the counterparty then does? Rank correlations within groups of the same context.

    python -m emodistill.evaluation.judge_effects EPISODES.parquet --judge arithmetic rubric
    python -m emodistill.evaluation.judge_effects EPISODES.parquet --judge arithmetic rubric --replies 8

For focal turns of the validation split: the score of the words, and what followed them,

- *concession*: how far the counterparty's next offer moved towards the focal side's target, in position; where it
  accepts, how far the agreed offer lies beyond its last one. Turns before its first offer, and walking away, have none.
- *mood*: warm minus cold feelings in its next words, as the judge's perceiver reads them.

Turns form a group if they have scenario, counterparty and round in common. In the first round their contexts are the
same to the letter; later ones differ in what was said before. Within a group scores and effects are replaced by their
ranks, centred; the correlation of all of these is Spearman's, without what differs between groups. Intervals are
bootstraps over scenarios, because an episode has a turn in the groups of several rounds.

With `--replies N` the groups are N replies to one and the same context of an episode, in place of its own turn. Each is
said to the episode's simulated counterparty, which answers it with the same draws (`SimulationJudge.continued`): the
mood is then the simulation's own. The teacher replies with several emotions or several times with the one that the
corpus asked for (`--emotions`), or a policy does (`--adapter`), as in a group of JPO. Judging is not training: the
simulation is asked here to see what a score is worth.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from emodistill.counterparties.persuadable import PersuadableCounterpartySpec
from emodistill.counterparties.simulation_judge import SimulationJudge
from emodistill.counterparties.specs import SimulatedCounterpartySpec
from emodistill.data.corpus import CorpusFile
from emodistill.data.schema import Episode, read_episodes
from emodistill.data.selection import origin_of
from emodistill.emotions.perceiver import GOEMOTIONS, load_perceiver
from emodistill.emotions.vocabulary import Vocabulary, load_vocabulary
from emodistill.errors import UserError
from emodistill.evaluation.statistics import statistic_interval
from emodistill.judges.outcome import OutcomeJudge
from emodistill.judges.request import Judge, JudgeRequest
from emodistill.judges.validation.calibration import add_judge_options, judges, scores_of
from emodistill.negotiation.phrasebook import PhrasebookSpeaker
from emodistill.negotiation.protocol import COUNTERPARTY, FOCAL

Values = NDArray[np.float64]
# Positive and negative labels after Demszky et al. 2020 (GoEmotions), table 2; the others count for neither
WARM = {"admiration", "amusement", "approval", "caring", "desire", "excitement", "gratitude", "joy", "love"}
WARM |= {"optimism", "pride", "relief"}
COLD = {"anger", "annoyance", "disappointment", "disapproval", "disgust", "embarrassment", "fear", "grief"}
COLD |= {"nervousness", "remorse", "sadness"}
LEAST = 3  # turns in a group
SIMULATION = "simulation"  # the judge that is made here
SIMULATIONS = {"behavioural": SimulatedCounterpartySpec, "persuadable": PersuadableCounterpartySpec}
MAX_TOKENS, REPLY_TOKENS, TOP_K, TEMPERATURE, ROWS = 768, 48, 40, 0.7, 32  # of a policy's replies, as in the demo
Place = tuple[Episode, int]  # an episode and which of its focal turns


@dataclass(frozen=True)
class Effect:
    """A focal turn with what followed it.

    Attributes:
        group: turns of one group are compared.
        concession: in position; NaN where there is none.
        answer: the counterparty's next words; None where there are none.
        mood: that of a simulation that was asked; None where it has to be read in the answer.
    """

    request: JudgeRequest
    group: tuple[str, str, int]
    concession: float
    answer: str | None
    mood: float | None = None


def effects(episodes: Sequence[Episode]) -> list[Effect]:
    """Every focal turn that was answered, in the order of the episodes, in groups of at least `LEAST`."""
    found = [
        Effect(
            JudgeRequest(
                episode.scenario, episode.turns[:place], turn.emotion, turn.text, origin=origin_of(episode, turn)
            ),
            (f"{episode.scenario.domain}/{episode.scenario.id}", episode.counterparty, turn.round),
            _concession(episode, place + 1),
            episode.turns[place + 1].text,
        )
        for episode in episodes
        if episode.end != "invalid"
        for place, turn in enumerate(episode.turns[:-1])
        if turn.speaker == FOCAL and episode.turns[place + 1].speaker == COUNTERPARTY
    ]
    sizes: dict[tuple[str, str, int], int] = {}
    for one in found:
        sizes[one.group] = sizes.get(one.group, 0) + 1
    return [one for one in found if sizes[one.group] >= LEAST]


def _concession(episode: Episode, place: int) -> float:
    answer, before = episode.turns[place], episode.turns[:place]
    own, theirs = (
        [turn.offer for turn in before if turn.speaker == side and turn.offer is not None]
        for side in (FOCAL, COUNTERPARTY)
    )
    offer = (own[-1] if own else None) if answer.act == "accept" else answer.offer
    if answer.act == "walk_away" or offer is None or not theirs:
        return float("nan")
    return episode.scenario.position(offer) - episode.scenario.position(theirs[-1])


def played_on(requests: Sequence[tuple[Place, Sequence[JudgeRequest]]], simulation: SimulationJudge) -> list[Effect]:
    """The effects of several replies to each context, of those contexts that have `LEAST` different ones."""
    found = []
    for (episode, turn), replies in requests:
        different = list({reply.utterance: reply for reply in replies}.values())
        if len(different) < LEAST:
            continue
        group = (episode.episode_id, episode.counterparty, episode.focal_turns[turn].round)
        for reply, then in zip(different, simulation.continued(different), strict=True):
            found.append(Effect(reply, group, then.concession, then.answer, then.mood))
    return found


def proposals(episodes: Sequence[Episode], rounds: int) -> list[Place]:
    """The focal turns that propose, up to a round; whoever accepts has ended the negotiation."""
    return [
        (episode, number)
        for episode in episodes
        if episode.end != "invalid"
        for number, turn in enumerate(episode.focal_turns)
        if turn.act == "propose" and turn.round <= rounds
    ]


def teacher_replies(
    places: Sequence[Place], vocabulary: Vocabulary, count: int, emotions: Literal["several", "one"], seed: int
) -> Iterator[tuple[Place, list[JudgeRequest]]]:
    """`count` replies of the teacher in the place of each turn: with different emotions, or all with the turn's own."""
    teacher = PhrasebookSpeaker(vocabulary)
    for number, (episode, turn) in enumerate(places):
        rng = np.random.default_rng((seed, number))
        spoken = episode.focal_turns[turn]
        several = rng.permutation(len(vocabulary.labels))[:count]
        asked = [spoken.emotion] * count if emotions == "one" else [vocabulary.labels[i] for i in several]
        history = episode.turns[: episode.turns.index(spoken)]
        told = (episode.scenario, history, spoken.act, spoken.offer)
        lines = [teacher.line_after(*told, emotion, int(rng.integers(2**31))) for emotion in asked]
        origin = origin_of(episode, spoken)
        yield (
            (episode, turn),
            [
                JudgeRequest(episode.scenario, history, emotion, line, origin=origin)
                for emotion, line in zip(asked, lines, strict=True)
            ],
        )


def policy_replies(
    places: Sequence[Place], adapter: Path, count: int, seed: int
) -> Iterator[tuple[Place, list[JudgeRequest]]]:
    """`count` replies that a policy gives in the place of each turn, asked for the turn's own emotion, as JPO does.

    Raises:
        UserError: if the adapter chooses its emotions itself, or is told of none.
    """
    from emodistill.data.chat_datasets import ChatSource  # here: PyTorch and PEFT, which take seconds, serve this alone
    from emodistill.policy.adapter_files import emotions_of, read_identity
    from emodistill.policy.expression_policy import ExpressionPolicy
    from emodistill.policy.generation import RolloutSampler

    identity = read_identity(adapter)
    if emotions_of(identity, str(adapter)) != "prompted":
        raise UserError(f"{adapter} is not told which emotion to show; give an adapter of stage sft or jpo")
    source = ChatSource(identity["base_model"], identity["vocabulary"], MAX_TOKENS)
    encoder, _ = source.open()
    four_bit = identity.get("four_bit", True)
    policy = ExpressionPolicy(identity["base_model"], {}, four_bit, "auto", identity["vocabulary"], str(adapter))
    sampler = RolloutSampler(encoder.chat_format, "auto", TEMPERATURE, TOP_K, REPLY_TOKENS, ROWS)
    sampler.refresh(policy)
    masks = [[number == turn for number in range(len(episode.focal_turns))] for episode, turn in places]
    given = [encoder.contexts(place[0], mask, REPLY_TOKENS) for place, mask in zip(places, masks, strict=True)]
    fit = [(place, contexts[0]) for place, contexts in zip(places, given, strict=True) if contexts]
    sampled = sampler.sample([context.input_ids for _, context in fit], count, seed)
    for (place, context), replies in zip(fit, sampled, strict=True):
        asked = [context.request(sampler.text(reply)) for reply in replies]
        yield place, [request for request in asked if request is not None]


def simulation_of(episodes: Sequence[Episode], personas: Sequence[str]) -> SimulationJudge:
    """The simulation that played these episodes.

    Raises:
        UserError: if none did.
    """
    name = episodes[0].counterparty.partition(":")[0]
    if name not in SIMULATIONS:
        raise UserError(
            f"these episodes were played against '{name}', which cannot be asked again; give episodes against "
            "counterparty=behavioural or persuadable"
        )
    return SimulationJudge(SIMULATIONS[name](personas))


def mood(answers: Sequence[str]) -> Values:
    """(N,) share of warm feelings minus that of cold ones in each text."""
    sign = np.array([float(label in WARM) - float(label in COLD) for label in GOEMOTIONS])
    result: Values = load_perceiver("judge").probabilities(answers).astype(float) @ sign
    return result


def moods(found: Sequence[Effect]) -> Values:
    """(N,) the mood of a simulation that was asked, or else what is read in its answer."""
    known = np.array([one.mood for one in found if one.mood is not None], dtype=np.float64)
    return known if len(known) else mood([one.answer or "" for one in found])


def within_groups(
    scores: Values, effect: Values, groups: Sequence[object], scenarios: Sequence[object], seed: int = 0
) -> tuple[float, float, float]:
    """Rank correlation within groups, and its 95 % interval over scenarios; NaN where nothing varies.

    Args:
        groups, scenarios: those of each turn. A scenario has several groups, and they share episodes.
    """
    members: dict[object, list[int]] = {}
    for place in np.flatnonzero(~np.isnan(scores) & ~np.isnan(effect)).tolist():
        members.setdefault(groups[place], []).append(place)
    sums: dict[object, Values] = {}  # scenario -> sums of a b, a a and b b, for centred ranks a and b
    for rows in members.values():
        if len(rows) >= LEAST:
            a, b = (ranks - ranks.mean() for ranks in (rankdata(scores[rows]), rankdata(effect[rows])))
            own = np.array([(a * b).sum(), (a * a).sum(), (b * b).sum()])
            sums[scenarios[rows[0]]] = sums.get(scenarios[rows[0]], np.zeros(3)) + own
    if not sums:
        return float("nan"), float("nan"), float("nan")
    return statistic_interval(list(np.stack(list(sums.values())).T), _correlation, seed)


def _correlation(products: Values, squares: Values, others: Values, axis: int) -> Values:
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Values = products.sum(axis) / np.sqrt(squares.sum(axis) * others.sum(axis))
    return found


def row(name: str, judge: Judge, found: Sequence[Effect], seed: int) -> str:
    """One line of the table."""
    scores = scores_of(judge.judge([one.request for one in found]))
    groups = [one.group for one in found]
    scenarios = [(one.request.scenario.domain, one.request.scenario.id) for one in found]
    columns = {
        "concession": np.array([one.concession for one in found]),
        "mood": moods(found),
    }
    cells = [
        f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"
        for value, low, high in (within_groups(scores, effect, groups, scenarios, seed) for effect in columns.values())
    ]
    return f"| `{name}` | {len(found)} | {len(set(groups))} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("episodes", type=Path, help="a corpus: the Parquet file of its episodes")
    add_judge_options(parser, (SIMULATION,))
    parser.add_argument("--split", default="val", help="episodes of this split")
    parser.add_argument(
        "--rounds", type=int, default=15, help="turns up to this round; 1 has equal contexts to the letter"
    )
    parser.add_argument("--groups", type=int, help="so many groups, drawn by the seed; all of them by default")
    parser.add_argument("--replies", type=int, help="so many replies to each context, each said to the simulation")
    parser.add_argument("--emotions", choices=("several", "one"), default="several", help="of the teacher's replies")
    parser.add_argument("--adapter", type=Path, help="the replies are sampled from this adapter, not the teacher's")
    parser.add_argument(
        "--personas", nargs="+", default=["population:48"], help="that the episodes were played against"
    )
    parser.add_argument("--learn-from", metavar="CORPUS", help="of outcome: the corpus to fit, in place of --fit")
    options = parser.parse_args()
    if options.learn_from is not None:
        options.fit = OutcomeJudge(load_perceiver("judge"), CorpusFile(options.learn_from)).file
        print(f"--fit {options.fit}\n")
    played = [episode for episode in read_episodes(options.episodes) if episode.split == options.split]
    played = [episode for episode in played if episode.scenario.domain in options.domains]
    if not played:
        raise UserError(f"{options.episodes}: no episode of {', '.join(options.domains)} in split {options.split}")
    simulation = simulation_of(played, options.personas) if options.replies or SIMULATION in options.judge else None
    found = replied(played, simulation, options) if options.replies and simulation else answered(played, options)
    if not found:
        raise UserError(f"{options.episodes}: no group of {LEAST} answered turns in split {options.split}")
    asked = options.judge
    options.judge = [name for name in asked if name != SIMULATION]
    made = judges(options) | ({SIMULATION: simulation} if simulation else {})
    print("| judge | turns | groups | next concession [95 %] | mood of the answer [95 %] |\n|---|---|---|---|---|")
    for name in asked:
        print(row(name, made[name], found, options.seed), flush=True)


def answered(played: Sequence[Episode], options: argparse.Namespace) -> list[Effect]:
    """The episodes' own turns, of all groups or of some."""
    found = [one for one in effects(played) if one.group[2] <= options.rounds]
    names = sorted({one.group for one in found})
    kept = {names[place] for place in some(len(names), options.groups, options.seed)}
    return [one for one in found if one.group in kept]


def replied(played: Sequence[Episode], simulation: SimulationJudge, options: argparse.Namespace) -> list[Effect]:
    """Several replies to each context, of all or of some."""
    if options.replies < LEAST:
        raise UserError(f"--replies {options.replies}: at least {LEAST} can be ranked")
    every = proposals(played, options.rounds)
    places = [every[place] for place in some(len(every), options.groups, options.seed)]
    if options.adapter is not None:
        replies = policy_replies(places, options.adapter, options.replies, options.seed)
    else:
        replies = teacher_replies(places, load_vocabulary(), options.replies, options.emotions, options.seed)
    return played_on(list(replies), simulation)


def some(count: int, wanted: int | None, seed: int) -> list[int]:
    """`wanted` of so many places, drawn by the seed and in order; all of them where nobody wants fewer."""
    if wanted is None or wanted >= count:
        return list(range(count))
    return sorted(np.random.default_rng(seed).choice(count, wanted, replace=False).tolist())


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
