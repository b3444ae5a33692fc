"""The page: one HTML file that needs nothing else, from verdicts down to single words.

Words in it come from language models, corpora and users, so all of it is data: the template escapes, scripts only ever
set text, JSON cannot end its script element, and a content security policy forbids every request and any other script.
"""

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from emodistill.data.observations import DialoguePrefix
from emodistill.data.schema import Episode
from emodistill.emotions.perceiver import GOEMOTIONS, Perceiver
from emodistill.emotions.vocabulary import Vocabulary
from emodistill.negotiation.protocol import FOCAL, Turn
from emodistill.negotiation.scenarios import Scenario
from emodistill.reporting.formats import data_uri
from emodistill.reporting.tables import Column, Figure, Table

if TYPE_CHECKING:
    from emodistill.evaluation.results import ArmResult
    from emodistill.safety.detector import Flags


# ---- transcripts ----
# Every dialogue as the page shows it: what was said, what it looked like, and what the selector thought of it.
#
# Compact, since a page holds a thousand: short keys, scenarios and players stored once, Q-values as whole thousandths.
# Everything that is asked of a perceiver, detector or selector is asked in one go for all turns.

Detect = Callable[[Sequence[str]], "Sequence[Flags]"]
PERCEIVED = 3  # labels shown of what a reader sees in a turn
VIEWS_AT_ONCE = 4096


def transcripts(
    played: "Sequence[ArmResult]",
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
    scenarios: dict[tuple[str, str], int] = {}
    told: list[Scenario] = []
    episodes = []
    marks = _marks([e for item in played for e in item.episodes], perceiver, detect)
    for number, item in enumerate(played):
        values = _q_values(item, vocabulary, selector_checkpoint)
        for episode, own in zip(item.episodes, values, strict=True):
            key = (episode.scenario.domain, episode.scenario.id)
            if key not in scenarios:
                scenarios[key] = len(told)
                told.append(episode.scenario)
            episodes.append(_episode(episode, number, scenarios[key], marks, own))
    return {
        "labels": list(vocabulary.labels),
        "players": [_player(item) for item in played],
        "domains": {s.domain: {"quantity": s.rules.quantity, "unit": s.rules.unit, **s.rules.roles} for s in told},
        "scenarios": [_scenario(scenario) for scenario in told],
        "episodes": episodes,
    }


def _player(item: "ArmResult") -> dict[str, Any]:
    return {"arm": item.arm, "condition": item.condition, "training_seed": item.training_seed}


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
    episode: Episode, player: int, scenario: int, marks: dict[str, dict[str, Any]], values: Sequence[list[int | None]]
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
    found: dict[str, dict[str, Any]] = {}
    for text, share, order, flag in zip(texts, shares, best, flags, strict=True):
        seen = [[GOEMOTIONS[i], round(100 * float(share[i]))] for i in order]
        found[text] = {"p": [seen[0], *(pair for pair in seen[1:] if pair[1] > 0)]}
        if flag:
            found[text]["flags"] = [[match.kind, match.start, match.end] for match in flag.matches]
    return found


def _q_values(
    item: "ArmResult", vocabulary: Vocabulary, checkpoint: Path | None
) -> Sequence[Sequence[list[int | None]]]:
    """Thousandths of return for every emotion, None for one that the corpus never showed: a list an episode."""
    own = Path(item.run_dir) / "iql" / "best.ckpt" if item.run_dir else None
    file = own if own is not None and own.is_file() else checkpoint
    if file is None or not file.is_file():
        return [[] for _ in item.episodes]
    import torch

    from emodistill.learners.selector import load_selector

    selector = load_selector(str(file), vocabulary)
    learner, stats = selector.learner, selector.learner.stats
    views = [
        DialoguePrefix(e.scenario, e.turns[:i])
        for e in item.episodes
        for i, turn in enumerate(e.turns)
        if turn.speaker == FOCAL
    ]
    rows: list[list[int | None]] = []
    for start in range(0, len(views), VIEWS_AT_ONCE):
        observation = torch.from_numpy(selector.observer(views[start : start + VIEWS_AT_ONCE]))
        thousandths = (1000 * stats.reward_scale * learner.q_values(observation)).round().long().tolist()
        seen = stats.action_mask.tolist()
        rows += [[v if known else None for v, known in zip(row, seen, strict=True)] for row in thousandths]
    remaining = iter(rows)
    return [[next(remaining) for _ in episode.focal_turns] for episode in item.episodes]


SCRIPTS = ("dom", "tables", "data", "charts", "transcript", "reader")
APART = ("costs", "training", "exclusions")  # tables with a section of their own
_FOLDER = files("emodistill") / "assets" / "report"


def page(
    title: str,
    verdicts: Sequence[str],
    rule: str | None,
    tables: Sequence[Table],
    figures: Sequence[Figure],
    about: Mapping[str, Any],
    dialogues: Mapping[str, Any],
) -> str:
    """The whole page.

    Args:
        rule: how a verdict is reached, as it was fixed before the numbers.
        dialogues: see `transcripts`.
    """
    style, script = _asset("page.css"), _script()
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["sort_value"] = sort_value
    return environment.from_string(_asset("page.html.jinja")).render(
        title=title,
        style=Markup(style),
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
        verdicts=verdicts,
        rule=rule,
        tables=[table for table in tables if table.name not in APART],
        apart={table.name: table for table in tables if table.name in APART},
        figures=[(figure, data_uri(figure)) for figure in figures],
        about=[(key.replace("_", " "), value) for key, value in about.items()],
        counts=_counts(dialogues),
        dialogues=htmlsafe_json_dumps(dialogues, separators=(",", ":")),
    )


def sort_value(column: Column, value: Any) -> str:
    """What a column is sorted by; empty for what is missing."""
    if column.kind == "interval":
        value = (value or (None,))[0]
    return "" if value is None or value != value else str(value)


def _counts(dialogues: Mapping[str, Any]) -> str:
    seeds = {(episode["s"], episode["seed"]) for episode in dialogues["episodes"]}
    return (
        f"{len(dialogues['episodes'])} episodes: {len(dialogues['players'])} arms on {len(dialogues['scenarios'])} "
        f"scenarios, {len(seeds)} pairs of scenario and seed"
    )


def _script() -> str:
    parts = "\n".join(_asset(f"{name}.js") for name in SCRIPTS)
    return f'(() => {{\n"use strict";\n{parts}\n}})();'


def _asset(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _hash(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
