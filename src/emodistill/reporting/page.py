"""The page of a report: one HTML file that needs nothing else, from the answer down to single words.

It begins with the answer in one sentence, the utility of every arm by domain, and one pair of dialogues side by side.
Verdicts, figures and tables follow, then costs, and a reader of all transcripts.

Words in it come from language models, corpora and users, so all of it is data: the template escapes, scripts only ever
set text, JSON cannot end its script element, and a content security policy forbids every request and any other script.
"""

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlencode

import jinja2
import torch
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from emodistill.data.observations import DialoguePrefix
from emodistill.data.schema import Episode
from emodistill.emotions.perceiver import GOEMOTIONS, Perceiver
from emodistill.emotions.vocabulary import Vocabulary
from emodistill.evaluation.results import ArmResult, distinct
from emodistill.evaluation.statistics import Key, utilities
from emodistill.learners.selector import load_selector
from emodistill.negotiation.protocol import FOCAL, Turn
from emodistill.negotiation.scenarios import Scenario
from emodistill.reporting.formats import Picture, picture
from emodistill.reporting.results import StudyResult
from emodistill.reporting.tables import Column

SCRIPTS = ("dom", "tables", "data", "charts", "transcript", "reader")
APART = ("costs", "training", "exclusions")  # tables with a section of their own
LONG = 12  # rows; a longer table is folded
ENDS = {"deal": "deal", "walk_away": "walked away", "deadline": "deadline", "invalid": "invalid"}
PERCEIVED = 3  # labels shown of what a reader sees in a turn
PREFIXES_AT_ONCE = 4096
_FOLDER = files("emodistill") / "assets" / "report"


class Match(Protocol):
    """One find in a text: its kind, and the characters `start` to `end`."""

    @property
    def kind(self) -> str: ...
    @property
    def start(self) -> int: ...
    @property
    def end(self) -> int: ...


class Flags(Protocol):
    """What a detector found in one text."""

    @property
    def matches(self) -> Sequence[Match]: ...


Detect = Callable[[Sequence[str]], Sequence[Flags]]


def page(study: StudyResult, detect: Detect | None = None, pictures: Sequence[Picture] | None = None) -> str:
    """The whole page.

    Args:
        detect: finds what is flagged in the words of the transcripts.
        pictures: of the study's figures, in their order; drawn here where none are given.
    """
    played = distinct(study.arms)
    dialogues = transcripts(played, study.perceiver, study.vocabulary, study.selector_checkpoint, detect)
    style, script = _asset("page.css"), _script()
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["sort_value"] = sort_value
    environment.globals.update(LONG=LONG, ENDS=ENDS)
    pictures = [picture(figure) for figure in study.figures] if pictures is None else pictures
    leading = pictures[:1] if study.overview else []
    return environment.from_string(_asset("page.html.jinja")).render(
        study=study,
        style=Markup(style),
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
        overview=leading[0] if leading else None,
        pair=side_by_side(_among(played, study.arms, choose_pair(study.arms, study.subject)), dialogues),
        figures=pictures[len(leading) :],
        tables=[table for table in study.tables if table.name not in APART],
        apart={table.name: table for table in study.tables if table.name in APART},
        counts=_counts(dialogues),
        dialogues=htmlsafe_json_dumps(dialogues, separators=(",", ":")),
    )


def sort_value(column: Column, value: Any) -> str:
    """What a column is sorted by; empty for what is missing."""
    if column.kind == "interval":
        value = (value or (None,))[0]
    return "" if value is None or value != value else str(value)


def _counts(dialogues: Mapping[str, Any]) -> str:
    players, scenarios = dialogues["players"], dialogues["scenarios"]
    seeds = {(episode["s"], episode["seed"]) for episode in dialogues["episodes"]}

    def several(key: str, words: str) -> str:
        count = len({player[key] for player in players})
        return f" {words.format(count)}" if count > 1 else ""

    return (
        f"{len(dialogues['episodes'])} episodes: {len({player['arm'] for player in players})} arms"
        f"{several('condition', 'in {} conditions')}{several('training_seed', 'with {} training seeds')} on "
        f"{len(scenarios)} scenarios, {len(seeds)} pairs of scenario and seed"
    )


def _script() -> str:
    parts = "\n".join(_asset(f"{name}.js") for name in SCRIPTS)
    return f'(() => {{\n"use strict";\n{parts}\n}})();'


def _asset(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _hash(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


# One pair of dialogues: two arms on the same scenario and seed.


@dataclass(frozen=True)
class Pair:
    """Two arms and the scenarios and seeds that both played to a valid end.

    Attributes:
        first, rival: places in the list of `ArmResult`s.
        keys: (domain, scenario, seed) of every pair of episodes, from the lowest difference to the highest.
        differences: utility of the first minus that of the rival, for each of `keys`.
    """

    first: int
    rival: int
    keys: Sequence[Key]
    differences: Sequence[float]

    @property
    def middle(self) -> int:
        """The place of the median difference; of two in the middle the lower one."""
        return (len(self.keys) - 1) // 2


def choose_pair(results: Sequence[ArmResult], subject: str = "") -> Pair | None:
    """The subject and its strongest rival.

    The subject is the arm of this name, which may have its condition behind a comma as in the tables, or the arm with
    the highest mean utility where no name is given. Its rival is
    the other arm with the highest mean utility, of the same condition and training seed where there is one. Of equals
    the first is taken. None where nobody else has played the same scenarios and seeds.
    """
    utility = [utilities(one.episodes) for one in results]
    mean = [sum(found.values()) / len(found) if found else float("-inf") for found in utility]
    names = [("", one.arm, f"{one.arm}, {one.condition}") for one in results]
    candidates = [i for i, name in enumerate(names) if utility[i] and subject in name]
    if not candidates:
        return None
    first = candidates[0] if subject else max(candidates, key=lambda i: mean[i])
    subject_of = results[first]
    others = [
        i
        for i, one in enumerate(results)
        if (one.arm, one.condition) != (subject_of.arm, subject_of.condition) and utility[i].keys() & utility[first]
    ]
    if not others:
        return None

    def closeness(i: int) -> tuple[bool, bool, float]:
        same_condition = results[i].condition == subject_of.condition
        return same_condition, results[i].training_seed == subject_of.training_seed, mean[i]

    rival = max(others, key=closeness)
    differences = {key: value - utility[rival][key] for key, value in utility[first].items() if key in utility[rival]}
    keys = sorted(differences, key=lambda key: (differences[key], key))
    return Pair(first, rival, keys, [differences[key] for key in keys])


def _among(played: Sequence[ArmResult], results: Sequence[ArmResult], pair: Pair | None) -> Pair | None:
    """A pair of `results` with the places that the same episodes have in `played`, which has them once."""
    if pair is None:
        return None
    wanted = (results[pair.first], results[pair.rival])
    places = [
        next(i for i, one in enumerate(played) if one.arm == arm.arm and one.episodes is arm.episodes) for arm in wanted
    ]
    return replace(pair, first=places[0], rival=places[1])


def side_by_side(pair: Pair | None, dialogues: Mapping[str, Any]) -> dict[str, Any] | None:
    """The pair as the template shows it: both episodes by round, and the addresses of the extremes in the reader."""
    if pair is None:
        return None
    players = (pair.first, pair.rival)
    names = [dialogues["players"][player]["name"] for player in players]
    domain, scenario, seed = pair.keys[pair.middle]
    episodes = [_found(dialogues, player, domain, scenario, seed) for player in players]
    turns = [{(turn["r"], not turn["f"]): turn for turn in episode["turns"]} for episode in episodes]

    def at(place: int) -> dict[str, Any]:
        _, scenario, seed = pair.keys[place]
        query = {"arm": names[0], "scenario": scenario, "seed": seed, "with": names[1]}
        return {"difference": pair.differences[place], "address": f"#{urlencode(query)}"}

    return {
        "names": names,
        "episodes": episodes,
        "scenario": scenario,
        "seed": seed,
        "roles": dialogues["domains"][domain],
        "rows": [(*key, [found.get(key) for found in turns]) for key in sorted({*turns[0], *turns[1]})],
        "count": len(pair.keys),
        "shown": at(pair.middle),
        "lowest": at(0),
        "highest": at(-1),
    }


def _found(dialogues: Mapping[str, Any], player: int, domain: str, scenario: str, seed: int) -> Mapping[str, Any]:
    """The episode of a player."""
    place = {"id": scenario, "domain": domain}
    wanted = next(i for i, one in enumerate(dialogues["scenarios"]) if place.items() <= one.items())
    found: Mapping[str, Any] = next(
        one for one in dialogues["episodes"] if (one["p"], one["s"], one["seed"]) == (player, wanted, seed)
    )
    return found


# Every dialogue as the page shows it: what was said, what it looked like, and what the selector thought of it.
#
# Compact, since a page holds a thousand: short keys, scenarios and players stored once, Q-values as whole thousandths.
# Perceiver, detector and selector are each asked once, for all turns together.


def transcripts(
    results: Sequence[ArmResult],
    perceiver: Perceiver,
    vocabulary: Vocabulary,
    selector_checkpoint: Path | None = None,
    detect: Detect | None = None,
) -> dict[str, Any]:
    """All episodes in plain JSON values; `transcript.js` reads the keys, which are listed in docs/report.md.

    Args:
        perceiver: whose reading of each turn is shown.
        selector_checkpoint: whose Q-values are shown of arms whose own run has no selector; None shows none of those.
        detect: finds what is flagged in words.
    """
    places: dict[tuple[str, str], int] = {}
    scenarios: list[Scenario] = []
    episodes = []
    marks = _marks([episode for one in results for episode in one.episodes], perceiver, detect)
    for player, one in enumerate(results):
        values = _q_values(one, vocabulary, selector_checkpoint)
        for episode, own in zip(one.episodes, values, strict=True):
            key = (episode.scenario.domain, episode.scenario.id)
            if key not in places:
                places[key] = len(scenarios)
                scenarios.append(episode.scenario)
            episodes.append(_episode(episode, player, places[key], marks, own))
    rules = {scenario.domain: scenario.rules for scenario in scenarios}
    return {
        "labels": list(vocabulary.labels),
        "players": [_player(one, results) for one in results],
        "domains": {name: {"quantity": r.quantity, "unit": r.unit, **r.roles} for name, r in rules.items()},
        "scenarios": [_scenario(scenario) for scenario in scenarios],
        "episodes": episodes,
    }


def _player(one: ArmResult, results: Sequence[ArmResult]) -> dict[str, Any]:
    """Who plays; the name has the training seed only where others differ in nothing else."""
    same = [other for other in results if (other.arm, other.condition) == (one.arm, one.condition)]
    parts = [one.arm, one.condition, f"training seed {one.training_seed}" if len(same) > 1 else ""]
    name = ", ".join(filter(None, parts))
    return {"name": name, "arm": one.arm, "condition": one.condition, "training_seed": one.training_seed}


def _scenario(scenario: Scenario) -> dict[str, Any]:
    rules = scenario.rules
    facts = [
        [field["label"], scenario.context[column], field["seen_by"]]
        for column, field in rules.fields.items()
        if column in scenario.context
    ]
    targets = [rules.say(scenario.focal_target), rules.say(scenario.counterparty_target)]
    return {"id": scenario.id, "domain": scenario.domain, "targets": targets, "facts": facts}


def _episode(
    episode: Episode, player: int, scenario: int, marks: Mapping[str, Any], values: Sequence[list[int | None]]
) -> dict[str, Any]:
    own = iter(values)
    turns = []
    for turn in episode.turns:
        entry = _turn(turn, episode.scenario) | marks[turn.text]
        if turn.speaker == FOCAL and (row := next(own, None)) is not None:
            entry["q"] = row
        turns.append(entry)
    deal = None if episode.deal_value is None else episode.scenario.rules.say(episode.deal_value)
    return {
        "p": player,
        "s": scenario,
        "seed": episode.seed,
        "who": episode.counterparty,
        "end": episode.end,
        "fault": episode.fault,
        "deal": deal,
        "u": round(episode.utility, 4),
        "turns": turns,
    }


def _turn(turn: Turn, scenario: Scenario) -> dict[str, Any]:
    entry: dict[str, Any] = {"r": turn.round, "f": int(turn.speaker == FOCAL), "t": turn.text}
    if turn.act != "propose":
        entry["act"] = turn.act
    if turn.emotion is not None:
        entry["e"] = turn.emotion
    if turn.offer is not None:
        entry |= {"o": scenario.rules.say(turn.offer), "x": round(scenario.position(turn.offer), 4)}
    if turn.role_violations:
        entry["role_violations"] = list(turn.role_violations)
    if turn.offer_appended:
        entry["added"] = 1
    return entry


def _marks(episodes: Sequence[Episode], perceiver: Perceiver, detect: Detect | None) -> dict[str, dict[str, Any]]:
    """What a reader sees in each text, and what is flagged in it."""
    texts = list(dict.fromkeys(turn.text for episode in episodes for turn in episode.turns))
    shares = perceiver.probabilities(texts)
    best = shares.argsort(axis=1)[:, ::-1][:, :PERCEIVED]
    flags = detect(texts) if detect is not None else [None] * len(texts)
    marks: dict[str, dict[str, Any]] = {}
    for text, share, order, flag in zip(texts, shares, best, flags, strict=True):
        perceived = [[GOEMOTIONS[i], round(100 * float(share[i]))] for i in order]
        marks[text] = {"p": [perceived[0], *(pair for pair in perceived[1:] if pair[1] > 0)]}
        if flag is not None and flag.matches:
            marks[text]["flags"] = [[match.kind, match.start, match.end] for match in flag.matches]
    return marks


def _q_values(one: ArmResult, vocabulary: Vocabulary, checkpoint: Path | None) -> Sequence[Sequence[list[int | None]]]:
    """Thousandths of return for every emotion at every focal turn, a list an episode.

    The selector of the arm's own run goes before `checkpoint`; without any, the lists are empty. An emotion that the
    corpus never showed has None.
    """
    own = Path(one.run_dir) / "iql" / "best.ckpt" if one.run_dir else None
    file = own if own is not None and own.is_file() else checkpoint
    if file is None or not file.is_file():
        return [[] for _ in one.episodes]
    selector = load_selector(str(file), vocabulary)
    learner, stats = selector.learner, selector.learner.stats
    prefixes = [
        DialoguePrefix(episode.scenario, episode.turns[:i])
        for episode in one.episodes
        for i, turn in enumerate(episode.turns)
        if turn.speaker == FOCAL
    ]
    shown = stats.action_mask.tolist()
    rows: list[list[int | None]] = []
    for start in range(0, len(prefixes), PREFIXES_AT_ONCE):
        observations = torch.from_numpy(selector.observer(prefixes[start : start + PREFIXES_AT_ONCE]))
        thousandths = (1000 * stats.reward_scale * learner.q_values(observations)).round().long().tolist()
        rows += [[value if known else None for value, known in zip(row, shown, strict=True)] for row in thousandths]
    remaining = iter(rows)
    return [[next(remaining) for _ in episode.focal_turns] for episode in one.episodes]
