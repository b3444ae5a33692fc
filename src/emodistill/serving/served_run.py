"""What a server serves of a run or an exported folder: its arms by name, its scenarios, what people see of them.

Of a run it serves the counterparty too; an exported folder has none.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.errors import UserError
from emodistill.evaluation.arms import BASE, ENDPOINT, PHRASEBOOK, SELF_SELECTED, Arm, is_local
from emodistill.negotiation.prompts import brief
from emodistill.negotiation.protocol import COUNTERPARTY, FOCAL, MAX_ROUNDS, Side
from emodistill.negotiation.scenarios import Scenario
from emodistill.negotiator import LONGEST, Conversation, Negotiator, own_scenario, settings_of
from emodistill.safety.guard import load_guard
from emodistill.serving.protocol import DISCLOSURE, Refusal, Talk

if TYPE_CHECKING:
    from emodistill.policy.chat_backends import ChatBackend

OFFERED = (  # arms that are served where their stages are trained; others are named by the configuration
    *("emodistill", "sft", "iql", "vanilla", "random", "joint", "emotion_free", "positive_advantage"),
    *("phrasebook_iql", "phrasebook_random", "phrasebook_vanilla"),
)
MOST_MESSAGES = 2 * MAX_ROUNDS
_LARGEST_SEED = 2**63 - 1
_EMOTIONS = {
    "none": "no emotions",
    "uniform": "emotions by chance",
    "iql": "emotions of the trained selector",
    "mean_return": "emotions of the highest mean return",
    "best_constant": "the best constant emotion",
    SELF_SELECTED: "emotions that the language model chooses",
}
_WORDS = {BASE: "the base model", PHRASEBOOK: "the phrasebook", ENDPOINT: "a model behind an endpoint"}


class ServedRun:
    """The agents of a run or an exported folder, ready to be asked by name.

    Args:
        folder: see `Negotiator.load`.
        arms: to serve; None takes the arm that was exported, and every arm of `OFFERED` that can be played.
        guard, redraws, device, endpoint, remembered: see `Negotiator.load`.

    Raises:
        UserError: if there is no such run, an arm that is named cannot be played, or none can.
    """

    def __init__(
        self,
        folder: str | Path,
        arms: Sequence[str] | None = None,
        guard: str = "strict",
        redraws: int = 2,
        device: str | None = None,
        endpoint: "Callable[[], ChatBackend] | None" = None,
        remembered: int = 32,
    ) -> None:
        self.folder, self.guard = Path(folder), guard
        self.settings = settings_of(folder)
        self.vocabulary = load_vocabulary(self.settings.config["vocabulary"])
        if arms is not None and not arms:
            raise UserError("arms=[]: name at least one arm, or leave the key out to serve all that can be played")
        found = [self.settings.arm(name, self.vocabulary) for name in arms or (None, *OFFERED)]
        playable = found if arms else [arm for arm in found if self._is_playable(arm)]
        if not playable:
            raise UserError(f"{folder} has no arm that can be played; train stage=iql first")
        self.scenarios = {scenario.id: scenario for scenario in self.settings.scenarios()}
        domains = list(dict.fromkeys(scenario.domain for scenario in self.scenarios.values()))
        for arm in playable:
            load_guard(guard).check(arm.emotion, domains, self.vocabulary)
        how = (guard, redraws, device, endpoint, remembered)
        self.arms = list(dict.fromkeys(arm.name for arm in playable))
        self.agents = {name: Negotiator.load(folder, name, FOCAL, *how) for name in self.arms}
        if self.settings.has_counterparty:
            self.agents[COUNTERPARTY] = Negotiator.load(folder, side=COUNTERPARTY, remembered=remembered)
        self._briefs: dict[Side, dict[str, str]] = {
            side: {one.id: brief(one, side) for one in self.scenarios.values()} for side in (FOCAL, COUNTERPARTY)
        }

    def _is_playable(self, arm: Arm) -> bool:
        if is_local(arm.generator) and "sampler" not in self.settings.config:
            return False
        try:
            self.settings.check(arm)
        except UserError:
            return False
        return True

    @cached_property
    def counters(self) -> Mapping[str, Callable[[], Callable[[str], int]]]:
        """For each name what makes a counter of tokens: the agent's tokenizer where a model speaks, else words."""
        named = {name: agent.arm for name, agent in self.agents.items()}
        return {
            name: partial(self._tokens, name) if arm and is_local(arm.generator) else lambda: _words
            for name, arm in named.items()
        }

    def _tokens(self, name: str) -> Callable[[str], int]:
        speaker: Any = self.agents[name].agent.speaker  # type: ignore[attr-defined]  # of a focal agent
        backend = getattr(speaker.backend, "inner", speaker.backend)  # behind a guard
        return lambda text: len(backend.chat.tokenizer.encode(text, add_special_tokens=False))

    def agent(self, model: str) -> Negotiator:
        """
        Raises:
            Refusal: if nobody is served by that name.
        """
        if model not in self.agents:
            there = ", ".join(self.agents)
            raise Refusal(404, "model_not_found", f"there is no model '{model}' here; models are {there}", "model")
        return self.agents[model]

    def open(self, asked: Talk) -> tuple[Conversation, str | None]:
        """The conversation that a client means, and the last words of the other side, which are to be answered.

        Raises:
            Refusal, UserError: if the request names no model, scenario or emotion of the run, or has too many turns.
        """
        agent, thread = self.agent(asked.model), asked.thread
        if len(thread) > MOST_MESSAGES + 1:
            most = f"a negotiation has at most {MAX_ROUNDS} rounds, {MOST_MESSAGES} messages"
            raise Refusal(400, "too_many_messages", f"{len(thread):,} messages are too many; {most}", "messages")
        if agent.side == FOCAL and thread and thread[0]["role"] == "user":
            thread = thread[1:]  # a greeting: in a chat, people speak first
        if len(thread) > 1 and thread[-1]["role"] == "assistant" and not thread[-1]["content"]:
            thread.pop()  # our own empty answer to words that ended the negotiation
        for message in thread:
            if (emotion := message.get("emotion")) is not None:
                self.vocabulary.index(emotion)
        scenario, seed = self._scenario(asked, agent.side), self._seed(asked, agent.side)
        last = thread.pop()["content"] if thread and thread[-1]["role"] == "user" else None
        return agent.open(scenario, seed=seed, messages=thread), last

    def _scenario(self, asked: Talk, side: Side) -> Scenario:
        given = asked.settings
        if "scenario" in given:
            if len({"domain", "target", "their_target"} & set(given)):
                raise UserError("give a scenario, which has its domain and targets, or domain and target without one")
            if given["scenario"] not in self.scenarios:
                some = ", ".join([*self.scenarios][:3])
                there = f"GET /api/scenarios lists them ({some}, ...)" if some else "give domain and target"
                raise UserError(f"scenario={given['scenario']}: there is none; {there}")
            return self.scenarios[given["scenario"]]
        if "domain" in given:
            return own_scenario(given["domain"], _number(given.get("target")), _number(given.get("their_target")))
        told = [words.strip() for words in asked.system]
        meant = [name for name, words in self._briefs[side].items() if any(s.startswith(words) for s in told)]
        if len(meant) == 1:
            return self.scenarios[meant[0]]
        raise UserError(
            "which negotiation is it? Give metadata {'scenario': id}, or {'domain': name, 'target': what the focal "
            "side wants}, or the same as lines 'key: value' of a system message"
        )

    def _seed(self, asked: Talk, side: Side) -> int:
        given = asked.settings.get("seed")
        if given is None:
            opening = asked.thread[0]["content"] if side == COUNTERPARTY and asked.thread else ""
            return zlib.crc32(opening.encode()) if opening else 0
        longest = len(str(_LARGEST_SEED))  # Python refuses to convert thousands of digits
        if not given.isdecimal() or len(given) > longest or int(given) > _LARGEST_SEED:
            raise UserError(f"seed={given[:40]}: give a whole number from 0 to {_LARGEST_SEED}")
        return int(given)

    def about(self, record: bool) -> dict[str, Any]:
        """What the page shows before anybody has chosen."""
        domains = {scenario.domain: scenario.rules for scenario in self.scenarios.values()}
        shown = {arm: self.agents[arm].arm for arm in self.arms}
        return {
            "run": self.folder.name,
            "guard": self.guard,
            "record": record,
            "disclosure": DISCLOSURE,
            "domains": [
                {"name": rules.name, "unit": rules.unit, "quantity": rules.quantity, "roles": rules.roles}
                for rules in domains.values()
            ],
            "arms": [{"id": name, "line": line(arm)} for name, arm in shown.items() if arm],
            "counterparty": COUNTERPARTY in self.agents,
            "emotions": list(self.vocabulary.labels),
            "limits": {"characters": LONGEST, "rounds": MAX_ROUNDS, "messages": MOST_MESSAGES},
        }

    def about_scenarios(self, domain: str | None) -> list[dict[str, Any]]:
        """The scenarios of a domain, or all, with what either side may see.

        Raises:
            UserError: if there are none of that domain.
        """
        return [
            {
                **{"id": one.id, "domain": one.domain, "title": title(one)},
                FOCAL: self._view(one, FOCAL, one.focal_target),
                COUNTERPARTY: self._view(one, COUNTERPARTY, one.counterparty_target),
            }
            for one in self.agents[self.arms[0]].scenarios(domain)
        ]

    def _view(self, scenario: Scenario, side: Side, target: float) -> dict[str, Any]:
        return {
            "view": self._briefs[side][scenario.id],
            "target": target,
            "target_words": scenario.rules.say(target),
        }


def title(scenario: Scenario) -> str:
    """The first two things that both sides know of a scenario."""
    fields = scenario.rules.fields
    known = [value for column, value in scenario.context.items() if fields.get(column, {}).get("seen_by") == "both"]
    return ", ".join(known[:2])


def line(arm: Arm) -> str:
    """An arm in a few words."""
    emotions = _EMOTIONS.get(arm.emotion, f"{'emotions of' if '.' in arm.emotion else 'always'} {arm.emotion}")
    return f"{emotions}, words of {_WORDS.get(arm.generator, f'the model of stage {arm.generator}')}"


def _words(text: str) -> int:
    return len(text.split())


def _number(given: str | None) -> float | str | None:
    """A target as a number where it is one, else in words."""
    if given is None:
        return None
    try:
        return float(given)
    except ValueError:
        return given
