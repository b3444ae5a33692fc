"""A trained agent to negotiate with, in any program.

    from emodistill import Negotiator

    agent = Negotiator.load("checkpoints/demo")
    talk = agent.open("debt", target=30)
    print(talk.reply().words)  # the agent opens
    print(talk.reply("I cannot pay before 90 days are over.").words)

It is the agent that `evaluate.py` plays: the same selector, offer policy, speaker and guard, put together from what the
run recorded. A reply is a function of scenario, seed and the messages so far, and nothing else: a conversation that is
stored as messages goes on in another process as it would have here. What earlier rounds left behind (draws, chats,
emotions) is computed anew from the messages, without asking a model; for conversations that were held lately it is
still in memory. The same messages give the same reply, except where rounding that depends on the batch tips a choice.

The words of the other side are data: they are cleaned (`clean`), and the neutral parsers read offer and act in them.
"""

import copy
import json
import math
import unicodedata
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal, NotRequired, TypedDict, cast

import yaml

from emodistill.checks import check_whole
from emodistill.emotions.vocabulary import Vocabulary, load_vocabulary
from emodistill.errors import UserError
from emodistill.evaluation.arms import (
    BASE,
    ITSELF,
    UNTRAINED,
    Arm,
    draw_anew,
    is_imported,
    is_local,
    parse_arm,
    selector_of,
)
from emodistill.evaluation.own_classes import OwnSelector
from emodistill.evaluation.stage_graph import is_trained, played_with
from emodistill.files import file_hash, load_yaml
from emodistill.negotiation.agents import Agent, FocalAgent, Move, NoRoom, Selector, Utterance, move_in_words
from emodistill.negotiation.domains import domain_text, load_domain
from emodistill.negotiation.engine import take_turn
from emodistill.negotiation.generator import generate_scenarios
from emodistill.negotiation.offers import parse_offer
from emodistill.negotiation.protocol import FOCAL, Act, End, Negotiation, Side
from emodistill.negotiation.scenarios import Scenario
from emodistill.runs import adapter_folder

if TYPE_CHECKING:
    from emodistill.data.schema import Episode
    from emodistill.learners.selector import IQLSelector
    from emodistill.policy.chat_backends import ChatBackend
    from emodistill.policy.expression_policy import ExpressionPolicy
    from emodistill.policy.generation import RolloutSampler
    from emodistill.policy.kept_policy import KeptPolicy

LONGEST = 2000  # characters of what the other side may say in one turn
AGENT, SUMS = "agent.json", "checksums.json"  # of a published folder: how it plays, and the hash of every file
REMEMBERED = 32  # conversations whose state an agent keeps in memory; others are computed anew from their messages
CONFIGS = ("evaluation", "jpo", "sft", "iql")  # stages whose recorded configuration says how the run plays
_POLICY = ("base_model", "compute_dtype", "device", "four_bit", "vocabulary", "lora")  # what any adapter is loaded with
_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn"}  # control, format (zero width, direction), half pairs, private, unassigned
_BRACKETS = str.maketrans("[]", "()")


class Message(TypedDict):
    """One turn as a plain value; `role` is `assistant` for the agent's own, `user` for the other side's.

    `emotion` is the one that the agent showed; where it is missing, it is the one that its selector chooses there.
    """

    role: Literal["assistant", "user"]
    content: str
    emotion: NotRequired[str | None]


@dataclass(frozen=True)
class Reply:
    """What the agent answers, and why.

    Attributes:
        words: what it says; empty where the other side's words ended the negotiation, or where there is a `fault`.
        act: `propose`, `accept` or `walk_away`; None where it says nothing.
        offer: in the domain's unit; None where its words state none.
        emotion: the one that it shows, None where the arm shows none.
        probabilities: of the 28 (or the vocabulary's) emotions by the policy head, before the guard bars any; empty
            where no trained selector chooses.
        q_values: min(Q1, Q2) of every emotion, in units of the scaled reward; empty likewise.
        perceived: the shares of the 28 GoEmotions labels that the selector reads in the other side's words; likewise.
        heard: offer and act that were read in the other side's words; None before it has spoken.
        guard: why the guard refused words of this turn, e.g. `guarded:threat`; empty where it refused none.
        role_violations: what else was wrong with attempts at these words, see `negotiation.role_checks`.
        offer_appended: the model's words did not state the offer, or did not accept, so a sentence was added.
        round: from 1.
        end: how the negotiation ended; None while it goes on.
        deal_value: agreed value in the domain's unit.
        utility: to the focal side, in [0, 1]; None while it goes on.
        fault: why the agent could not answer.
    """

    words: str = ""
    act: Act | None = None
    offer: float | None = None
    emotion: str | None = None
    probabilities: Mapping[str, float] = field(default_factory=dict)
    q_values: Mapping[str, float] = field(default_factory=dict)
    perceived: Mapping[str, float] = field(default_factory=dict)
    heard: Move | None = None
    guard: tuple[str, ...] = ()
    role_violations: tuple[str, ...] = ()
    offer_appended: bool = False
    round: int = 1
    end: End | None = None
    deal_value: float | None = None
    utility: float | None = None
    fault: str | None = None


@dataclass
class Conversation:
    """One negotiation with an agent: plain values, which can be stored, and go on with any agent of the same run.

    Attributes:
        messages: what was said so far, in turns; the focal side opens.
        end: how the negotiation ended; None while it goes on.
    """

    agent: "Negotiator" = field(repr=False, compare=False)
    scenario: Scenario
    seed: int = 0
    messages: list[Message] = field(default_factory=list)
    end: End | None = None

    def reply(self, words: str | None = None) -> Reply:
        """What the agent answers to these words; without any, its opening. See `Negotiator.reply`."""
        return self.agent.reply([self], [words])[0]


class Negotiator:
    """One arm of a run, or the run's counterparty, ready to talk.

    One call at a time: it is not for several threads.
    """

    def __init__(
        self,
        open_agent: Callable[[], Agent],
        side: Side = FOCAL,
        *,
        vocabulary: Vocabulary,
        arm: Arm | None = None,
        guard: str = "off",
        scenarios: Callable[[], list[Scenario]] | None = None,
        remembered: int = REMEMBERED,
    ) -> None:
        """
        Args:
            open_agent: makes the agent, with its models; called once, for the first reply or by `ready`.
            side: that it plays.
            arm: which arm it is; None for a counterparty.
            guard: level of the guard over the agent; here it is asked only whether a constant emotion is barred.
            scenarios: the unseen scenarios of its run.
            remembered: conversations whose state is kept in memory.
        """
        self.side, self.vocabulary, self.arm, self.guard = side, vocabulary, arm, guard
        check_whole("remembered", remembered, 0)
        self.remembered = remembered
        self._open, self._scenarios = open_agent, scenarios
        self._held: OrderedDict[tuple[Any, ...], Negotiation] = OrderedDict()

    @classmethod
    def load(
        cls,
        folder: str | Path,
        arm: str | None = None,
        side: Side = FOCAL,
        guard: str = "strict",
        redraws: int = 2,
        device: str | None = None,
        endpoint: "Callable[[], ChatBackend] | None" = None,
        remembered: int = REMEMBERED,
    ) -> "Negotiator":
        """An arm of a run, as the run's evaluation plays it; models are loaded for the first reply, or by `ready`.

        Args:
            folder: of the run, `checkpoints/<run>`; or a folder that `export.py` wrote, or its id on the hub.
            arm: any arm, e.g. `emodistill`, `vanilla`, `fixed:joy`; see docs/arms.md. None is `emodistill`, or the arm
                that was exported.
            side: `focal` is the arm's own; `counterparty` is whoever the run's arms are evaluated against, and no arm.
            guard: `strict`, `mild`, `words`, or `off`, which is how the studies play.
            redraws: how often refused words are asked for again before a neutral sentence takes their place.
            device: where the language model speaks; None is what the run recorded.
            endpoint: opens the model that the arms `endpoint_*` speak with.
            remembered: conversations whose state is kept in memory; others are computed anew from their messages.

        Raises:
            UserError: if there is no such run or arm, a stage that it needs is not trained, or the guard bars it.
        """
        run = settings_of(folder)
        vocabulary = load_vocabulary(run.config["vocabulary"])
        if side != FOCAL:
            return cls(run.counterparty, side, vocabulary=vocabulary, scenarios=run.scenarios, remembered=remembered)
        found = run.arm(arm, vocabulary)
        run.check(found)
        open_agent = partial(run.focal, found, vocabulary, (guard, redraws), device, endpoint)
        about: dict[str, Any] = {"vocabulary": vocabulary, "arm": found, "guard": guard, "scenarios": run.scenarios}
        return cls(open_agent, FOCAL, **about, remembered=remembered)

    @cached_property
    def agent(self) -> Agent:
        """Who plays; its models are loaded when this is first asked for."""
        return self._open()

    def ready(self) -> "Negotiator":
        """Load the models now, not with the first reply."""
        _ = self.agent
        return self

    def scenarios(self, domain: str | None = None) -> list[Scenario]:
        """The scenarios that the run was not trained on, of one domain or of all.

        Raises:
            UserError: if the run knows none of that domain.
        """
        found = self._scenarios() if self._scenarios else []
        chosen = [scenario for scenario in found if domain in (None, scenario.domain)]
        if not chosen:
            there = ", ".join(dict.fromkeys(scenario.domain for scenario in found)) or "none"
            raise UserError(f"domain={domain}: the run has no scenario of it; its domains are {there}")
        return chosen

    def open(
        self,
        scenario: Scenario | str,
        target: float | str | None = None,
        their_target: float | str | None = None,
        seed: int = 0,
        messages: Sequence[Message] = (),
    ) -> Conversation:
        """A conversation to begin, or to go on with.

        Args:
            scenario: of `scenarios()`, or one of your own; or the name of a domain, which then needs a target.
            target: what the focal side wants, in the domain's unit or in words: `45`, `"45 days"`, `"10:30 PM"`.
            their_target: what the counterparty is thought to want; by default as far from `target` as the domain's
                scenarios have it (the median).
            seed: with scenario and messages, fixes what is said.
            messages: of an earlier conversation in the same scenario, to continue it.

        Raises:
            UserError: if domain or target make no scenario, the seed is none, or the guard bars this arm there.
        """
        check_whole("seed", seed, 0)
        if isinstance(scenario, str):
            scenario = own_scenario(scenario, target, their_target)
        elif target is not None or their_target is not None:
            raise UserError("a scenario has its targets; give target= with the name of a domain, or leave it out")
        if self.arm and self.arm.emotion in self.vocabulary:
            from emodistill.safety.guard import load_guard  # here, with PyTorch behind it

            load_guard(self.guard).check(self.arm.emotion, [scenario.domain], self.vocabulary)
        return Conversation(self, scenario, seed, [*messages])

    def reply(self, conversations: Sequence[Conversation], words: Sequence[str | None]) -> list[Reply]:
        """Answer in several conversations at once, in lockstep; words and replies are added to their messages.

        Args:
            words: of the other side, one for each conversation; None asks for the opening, where the agent opens.

        Returns:
            One reply for each. Where the other side's words end the negotiation, the agent says nothing more.

        Raises:
            UserError: if words are empty or too long (also for the model's context), messages do not alternate, or a
                negotiation is over. No conversation has changed then.
        """
        answers = self._answer(conversations, words, True)
        return [answer for answer in answers if isinstance(answer, Reply)]

    def reply_each(self, conversations: Sequence[Conversation], words: Sequence[str | None]) -> list[Reply | UserError]:
        """As `reply`; but one that cannot be answered has its reason in place of a reply, and the others go on.

        Raises:
            UserError: where the agent can answer nobody: its files are damaged, or an endpoint takes no more requests.
        """
        return self._answer(conversations, words, False)

    def replay(self, conversation: Conversation) -> Negotiation:
        """The negotiation that the messages of a conversation amount to, over or not; no model is asked.

        Raises:
            UserError: if messages do not alternate, or go on after the end.
        """
        thread = self._alternating(conversation.messages)
        negotiation = Negotiation(conversation.scenario, conversation.seed)
        refused = self._catch_up([negotiation], [thread])
        found = copy.copy(negotiation)
        _leave([negotiation])  # nobody speaks in it again
        if refused:
            raise refused[0]
        return found

    def _answer(
        self, conversations: Sequence[Conversation], words: Sequence[str | None], all_or_none: bool
    ) -> list[Reply | UserError]:
        """One reply for each, or why there is none; with `all_or_none`, the first reason is raised."""
        refused: dict[int, UserError] = {}
        threads: dict[int, list[Message]] = {}
        for place, (talk, said) in enumerate(zip(conversations, words, strict=True)):
            try:
                _check_open(talk.end)
                threads[place] = self._thread(talk.messages, said)
            except UserError as error:
                if all_or_none:
                    raise
                refused[place] = error
        taken = {place: self._take(conversations[place], thread) for place, thread in threads.items()}
        try:
            over = self._catch_up([*taken.values()], [*threads.values()])
            if over and all_or_none:
                raise over[min(over)]
            refused |= {place: over[i] for i, place in enumerate(taken) if i in over}
            going = {place: one for place, one in taken.items() if place not in refused}
            replies = dict(zip(going, self._act([*going.values()]), strict=True))
            for negotiation in going.values():
                self._hold(negotiation)
        except NoRoom as error:
            if all_or_none:
                raise
            full = {place for place, one in taken.items() if any(one is each for each in error.negotiations)}
            rest = [place for place in range(len(conversations)) if place not in full]
            answers = self._answer([conversations[place] for place in rest], [words[place] for place in rest], False)
            found = dict(zip(rest, answers, strict=True))  # computed anew from their messages
            return [found.get(place, error) for place in range(len(conversations))]
        finally:
            held = {id(negotiation) for negotiation in self._held.values()}
            _leave(negotiation for negotiation in taken.values() if id(negotiation) not in held)
        for place, reply in replies.items():
            shown = [turn.emotion for turn in going[place].turns]
            said_before = [_with_emotion(*pair) for pair in zip(threads[place], shown, strict=False)]
            own: list[Message] = [{"role": "assistant", "content": reply.words, "emotion": reply.emotion}]
            conversations[place].messages[:] = said_before + own * bool(reply.words)
            conversations[place].end = reply.end
        return [refused[place] if place in refused else replies[place] for place in range(len(conversations))]

    def _act(self, negotiations: Sequence[Negotiation]) -> list[Reply]:
        """Play this side's turn in every negotiation that is not over."""
        running = [negotiation for negotiation in negotiations if negotiation.end is None]
        reasons = dict(zip(map(id, running), self._insights(running), strict=True))
        for negotiation, move in zip(running, self.agent.act(running) if running else [], strict=True):
            take_turn(negotiation, self.side, move)
        return [self._reply(negotiation, reasons.get(id(negotiation), {})) for negotiation in negotiations]

    def _thread(self, messages: Sequence[Message], words: str | None) -> list[Message]:
        """The messages with these words as the last, all of the other side's cleaned.

        Raises:
            UserError: if a message is none, out of turn, empty or too long.
        """
        said: list[Message] = [] if words is None else [{"role": "user", "content": words}]
        thread = self._alternating([*messages, *said])
        if self._turn_of(len(thread)) == "user":
            raise UserError("it is the other side's turn; give their words")
        return thread

    def _turn_of(self, place: int) -> str:
        """The role whose turn a message is, counted from 0; the focal side opens."""
        return "assistant" if (place % 2 == 0) == (self.side == FOCAL) else "user"

    def _alternating(self, messages: Sequence[Message]) -> list[Message]:
        """The messages, all of the other side's cleaned.

        Raises:
            UserError: if a message is none, out of turn, empty or too long, or its emotion is unknown.
        """
        thread: list[Message] = []
        for place, message in enumerate(messages):
            role, due = message.get("role"), self._turn_of(place)
            if role != due or not isinstance(message.get("content"), str):
                raise UserError(
                    f"message {place + 1} must be words of the role '{due}', not of '{role}': the focal side opens, "
                    "and the sides take turns"
                )
            if (emotion := message.get("emotion")) is not None:
                self.vocabulary.index(emotion)
            thread.append(message if role == "assistant" else {"role": "user", "content": clean(message["content"])})
        return thread

    def _catch_up(self, found: Sequence[Negotiation], threads: Sequence[Sequence[Message]]) -> dict[int, UserError]:
        """Play the messages that the negotiations do not have yet, in lockstep.

        Returns:
            By place, why one cannot go on: it was over before its messages were, or a message of this side is empty.
        """
        fresh = [negotiation for negotiation in found if not negotiation.turns and not negotiation.counterparty]
        for negotiation in fresh:
            negotiation.counterparty = "person"
            if self.arm:
                draw_anew(negotiation, self.arm.repetition)
        self.agent.begin(fresh)
        for place in range(max(map(len, threads), default=0)):
            due = [
                (negotiation, thread[place])
                for negotiation, thread in zip(found, threads, strict=True)
                if negotiation.end is None
                and len(negotiation.turns) == place < len(thread)
                and thread[place]["content"]
            ]
            self._play_again([negotiation for negotiation, _ in due], [message for _, message in due])
        unheard = [place for place, thread in enumerate(threads) if len(found[place].turns) < len(thread)]
        return {place: _stuck(found[place]) for place in unheard}

    def _play_again(self, negotiations: list[Negotiation], messages: list[Message]) -> None:
        """Play one message in each negotiation; all of them are the same side's."""
        if not negotiations:
            return
        side, texts = negotiations[0].next_speaker, [message["content"] for message in messages]
        if side != self.side:
            moves: Sequence[Any] = [move_in_words(n, side, text) for n, text in zip(negotiations, texts, strict=True)]
        elif hasattr(self.agent, "recall"):  # what it said before leaves behind, without asking a model
            spoken = [
                Utterance(text, (), message.get("emotion")) for text, message in zip(texts, messages, strict=True)
            ]
            moves = self.agent.recall(negotiations, spoken)
        else:  # whoever has no memory acts once more, so that its draws are made
            again = zip(negotiations, texts, self.agent.act(negotiations), strict=True)
            moves = [
                move if isinstance(move, Move) and move.text == text else move_in_words(n, side, text)
                for n, text, move in again
            ]
        for negotiation, move in zip(negotiations, moves, strict=True):
            take_turn(negotiation, side, move)

    def _take(self, conversation: Conversation, thread: Sequence[Message]) -> Negotiation:
        """The negotiation of these messages as far as it is in memory, which forgets it; else one at its beginning."""
        key = _key(conversation.scenario, conversation.seed, [message["content"] for message in thread[:-1]])
        held = self._held.pop(key, None)
        if held is not None:
            shown = [message.get("emotion") for message in thread[:-1]]
            if all(one is None or one == turn.emotion for one, turn in zip(shown, held.turns, strict=True)):
                return held
            _leave([held])
        return Negotiation(conversation.scenario, conversation.seed)

    def _hold(self, negotiation: Negotiation) -> None:
        """Keep a negotiation that goes on, for the next words in it; the one that waited longest has to go."""
        if negotiation.end is None:
            key = _key(negotiation.scenario, negotiation.seed, [turn.text for turn in negotiation.turns])
            _leave([self._held.pop(key)] if key in self._held else [])
            self._held[key] = negotiation
            while len(self._held) > self.remembered:
                _leave([self._held.popitem(last=False)[1]])

    def _insights(self, negotiations: Sequence[Negotiation]) -> list[dict[str, Any]]:
        """What a trained selector perceives and thinks before the turn; nothing for whoever has none."""
        trained = trained_selector(self.agent)
        return trained.insights(negotiations) if trained and negotiations else [{} for _ in negotiations]

    def _reply(self, negotiation: Negotiation, reasons: Mapping[str, Any]) -> Reply:
        turns = negotiation.turns
        mine = turns[-1] if turns and turns[-1].speaker == self.side else None
        theirs = next((turn for turn in reversed(turns) if turn.speaker != self.side), None)
        state: dict[str, Any] = {
            "heard": theirs and Move(theirs.text, theirs.act, theirs.offer),
            "round": turns[-1].round if turns else 1,
            "end": negotiation.end,
            "deal_value": negotiation.deal_value,
            "utility": None if negotiation.end is None else negotiation.utility,
            "fault": negotiation.fault,
            **reasons,
        }
        if mine is None:
            return Reply(**state)
        refused = tuple(one for one in mine.role_violations if one.startswith("guarded:"))
        return Reply(
            words=mine.text,
            act=mine.act,
            offer=mine.offer,
            emotion=mine.emotion,
            guard=refused,
            role_violations=tuple(one for one in mine.role_violations if one not in refused),
            offer_appended=mine.offer_appended,
            **state,
        )


class RunSettings:
    """What a run recorded of how it plays, and the agents made of it.

    The configuration of its evaluation counts; before there is one, that of its last stage.

    Raises:
        UserError: if the folder is none of a run.
    """

    has_counterparty = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        files = [folder / stage / "config.yaml" for stage in CONFIGS]
        self.file = next((file for file in files if file.is_file()), folder)
        if self.file == folder and (folder / AGENT).is_file():
            raise UserError(
                f"{folder} holds an exported agent, which chat.py, serve.py and Negotiator.load open; give the folder "
                "of its run here, checkpoints/<run>"
            )
        if self.file == folder:
            raise UserError(
                f"{folder} is no run that was trained; give the folder that train.py wrote, checkpoints/<run>"
            )
        try:
            loaded = load_yaml(self.file.read_text(encoding="utf-8"))
            self.config: dict[str, Any] = dict(loaded)
        except (yaml.YAMLError, TypeError, ValueError) as error:
            raise UserError(f"{self.file} is damaged; restore it, or run the command that wrote it again") from error

    def arm(self, name: str | None, vocabulary: Vocabulary) -> Arm:
        """The arm of a name; without one, the method itself."""
        return parse_arm(name or "emodistill", vocabulary)

    def check(self, arm: Arm) -> None:
        """Raises UserError, with the command that trains it, if a stage that the arm plays with is missing."""
        _refuse_agent(arm)
        vocabulary = load_vocabulary(self.config["vocabulary"])
        if is_imported(arm, vocabulary):
            OwnSelector(arm.name, arm.emotion, vocabulary)
        for name in played_with(arm):
            if not is_trained(name, self.folder):
                kind, _, variant = name.partition("_")
                raise UserError(
                    f"arm '{arm.name}' needs {self.folder / name}, which is not trained; train it with: python "
                    f"train.py stage={kind}{f' variant={variant}' if variant else ''} (and the same run=...)"
                )

    def scenarios(self) -> list[Scenario]:
        """The scenarios of the test split, on which no stage was trained."""
        return self._scenarios("test")

    def _scenarios(self, split: str) -> list[Scenario]:
        corpus = self.config["data"]["corpus"]
        nobody = {key: None for key in ("counterparty", "focal") if key in corpus}  # who played it is not asked
        found: list[Scenario] = _made(corpus | nobody, self.file).scenarios(split)
        return found

    def counterparty(self) -> Agent:
        """Whoever the arms are evaluated against."""
        settings = self.config["counterparty"]
        return self._opposite(self.config.get("personas", settings["test_personas"]))

    def focal(
        self,
        arm: Arm,
        vocabulary: Vocabulary,
        guard: tuple[str, int],
        device: str | None,
        endpoint: "Callable[[], ChatBackend] | None",
    ) -> FocalAgent:
        """The arm as `evaluation.runner` plays it."""
        with ThreadPoolExecutor(1) as beside:  # files are read while modules are imported and the selector is loaded
            looked = beside.submit(self._kept, arm, vocabulary, device)
            return self._focal(arm, vocabulary, guard, device, endpoint, looked)

    def _focal(
        self,
        arm: Arm,
        vocabulary: Vocabulary,
        guard: tuple[str, int],
        device: str | None,
        endpoint: "Callable[[], ChatBackend] | None",
        looked: "Future[tuple[KeptPolicy, bool] | None]",
    ) -> FocalAgent:
        from emodistill.evaluation.speakers import Speakers, speaker_of
        from emodistill.learners.selector import MeanReturnBaseline
        from emodistill.safety.guard import load_guard

        over = load_guard(*guard)
        temperature, retries = self.config.get("temperature", 0.0), self.config.get("retries", 2)
        selector = selector_of(
            arm,
            vocabulary,
            lambda: self.trained(vocabulary, temperature),
            lambda: MeanReturnBaseline(self._training_episodes(), vocabulary),
            self._best_constant(vocabulary),
        )
        policy, settings = self._speaking(arm, device)
        sampler: Any = None  # whoever needs no model on this machine needs none
        speakers = Speakers(policy, self.folder, sampler, vocabulary, endpoint, retries)
        if settings:
            sampler = self._sampler(settings, lambda: speakers.policy_of(arm.generator), looked.result())
        spoken = speakers.over(sampler, arm.generator) if settings else speakers(arm.generator)
        speaker = over.speaker(speaker_of(arm, spoken))
        return FocalAgent(over.selector(selector, vocabulary), self._made("offers", "policy"), speaker)

    def _sampler(
        self,
        settings: Mapping[str, Any],
        load: "Callable[[], ExpressionPolicy]",
        looked: "tuple[KeptPolicy, bool] | None",
    ) -> "RolloutSampler":
        """A sampler that holds the merged weights: what is kept of them, or new ones, which are kept from then on."""
        kept, there = looked or (None, False)
        if kept is None or not there:
            policy, sampler = load(), _made(settings, self.file)
            if kept is None or not kept.keep(policy, sampler.dtype, sampler.chat_format):
                sampler.refresh(policy)
                return cast("RolloutSampler", sampler)
        chat_format = settings["chat_format"] | {"tokenizer": kept.tokenizer}
        sampler = _made({**settings, "chat_format": chat_format}, self.file)
        sampler.take(kept.model)
        return cast("RolloutSampler", sampler)

    def _speaking(self, arm: Arm, device: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
        """Arguments of `ExpressionPolicy` and of `RolloutSampler`; empty where no model on this machine speaks.

        Raises:
            UserError: if one does, and the run does not say how.
        """
        if not is_local(arm.generator):
            return {}, {}
        if "sampler" not in self.config:
            raise UserError(
                f"arm '{arm.name}' speaks with a language model, and {self.file} does not say how; train "
                "stage=sft or evaluate the run first"
            )
        where = {} if device is None else {"device": device}
        return {key: self.config["policy"][key] for key in _POLICY} | where, self.config["sampler"] | where

    def _kept(self, arm: Arm, vocabulary: Vocabulary, device: str | None) -> "tuple[KeptPolicy, bool] | None":
        """Where the merged weights of an arm are kept, and whether they are there; None where that is nowhere."""
        policy, settings = self._speaking(arm, device)
        if not policy:
            return None
        from emodistill.policy.kept_policy import find

        adapter = None if arm.generator == BASE else adapter_folder(self.folder, arm.generator)
        return find(policy, adapter, settings, vocabulary)

    def trained(self, vocabulary: Vocabulary, temperature: float) -> "IQLSelector":
        """The trained selector."""
        from emodistill.learners.selector import load_selector

        return load_selector(str(self.folder / "iql" / "best.ckpt"), vocabulary, temperature)

    def _best_constant(self, vocabulary: Vocabulary) -> Callable[[], Selector] | None:
        personas = self.config["counterparty"]["validation_personas"]
        if personas is None:
            return None

        def find() -> Selector:
            from emodistill.evaluation.best_constant import best_constant

            repeats, offers = self.config.get("constant_repeats", 4), self._made("offers", "policy")
            return best_constant(self._scenarios("val"), repeats, self._opposite(personas), offers, vocabulary)

        return find

    def _opposite(self, personas: str | list[str]) -> Agent:
        spec = _made(self.config["counterparty"]["agent"] | {"personas": personas}, self.file)
        opened: Agent = spec.open()
        return opened

    def _training_episodes(self) -> "list[Episode]":
        from emodistill.data.provenance import training_episodes

        return training_episodes(self.folder, self.config["domains"], self._made("data", "corpus"))

    def _made(self, *keys: str) -> Any:
        node: Any = self.config
        for key in keys:
            node = node[key]
        return _made(node, self.file)


class PublishedAgent(RunSettings):
    """What `export.py` wrote into a folder, and the agents made of it: the arm itself, and what needs no other file.

    Such a folder may come from anybody. Its configuration is plain values: it names no code, and what is made of them
    is fixed here.

    Raises:
        UserError: if a file is missing or not what it was when it was written, or the rules of a domain are not those
            of this version.
    """

    has_counterparty = False

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / AGENT
        check_sums(folder)
        try:
            about = json.loads(self.file.read_text(encoding="utf-8"))
            self.name, self.parts = str(about["arm"]), (str(about["emotion"]), str(about["generator"]))
            self.config = _published_config(about, folder)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{self.file} is damaged or of another version; export the run again") from error
        for path in sorted((folder / "domains").glob("*.yaml")):
            if path.read_text(encoding="utf-8") != domain_text(path.stem):
                raise UserError(
                    f"{path} is not this version's '{path.stem}'; install emodistill {about.get('version')}, or put "
                    "the file in the place of the other"
                )

    def arm(self, name: str | None, vocabulary: Vocabulary) -> Arm:
        if name in (None, self.name):
            plain, at, drafts = self.name.partition("@")
            return Arm(self.name, *self.parts, drafts=int(drafts) if at else 1)
        return parse_arm(name or "", vocabulary)

    def check(self, arm: Arm) -> None:
        _refuse_agent(arm)
        merged = self.parts[1] == BASE  # then the words of the base are those of the trained arm
        if merged and arm.generator == BASE and arm.name != self.name:
            raise UserError(
                f"arm '{arm.name}': {self.folder} holds the words of '{self.name}' merged into its base, and no "
                "untrained base; give the folder of its run, or of an export to=peft, for others"
            )
        needs_run = arm.emotion in ("mean_return", "best_constant")
        needs_run |= is_imported(arm, load_vocabulary(self.config["vocabulary"]))  # a file of anybody's names no code
        has_selector = arm.emotion != "iql" or (self.folder / "selector.json").is_file()
        if needs_run or not has_selector or arm.generator not in (*UNTRAINED, self.parts[1]):
            untrained = "phrasebook_vanilla" if merged else "vanilla"
            raise UserError(
                f"arm '{arm.name}': {self.folder} holds '{self.name}' and what needs no training, such as {untrained}; "
                "give the folder of its run for others"
            )
        if arm.generator == BASE and not self.config["policy"]["base_model"]:
            raise UserError(
                f"arm '{arm.name}': {self.folder} holds no weights for transformers; serve its model, and give "
                f"arm={arm.emotion}+endpoint"
            )

    def counterparty(self) -> Agent:
        raise UserError(f"{self.folder} holds the focal side alone; give the folder of its run for the counterparty")

    def scenarios(self) -> list[Scenario]:
        return super().scenarios() if "data" in self.config else []

    def trained(self, vocabulary: Vocabulary, temperature: float) -> "IQLSelector":
        from emodistill.learners.selector_file import read_selector

        return read_selector(self.folder, vocabulary, temperature)

    def _best_constant(self, vocabulary: Vocabulary) -> None:
        return None


def settings_of(folder: str | Path) -> RunSettings:
    """What is in the folder of a run, in a published folder, or under an id of the hub.

    Raises:
        UserError: if it is none of these.
    """
    path = Path(folder)
    if not path.exists() and path.parts[:1] != ("checkpoints",):
        from emodistill.language_models.local import HUB_ID, fetched

        if HUB_ID.fullmatch(str(folder)):
            path = fetched(str(folder), str(folder))
    return PublishedAgent(path) if (path / AGENT).is_file() else RunSettings(path)


def check_sums(folder: Path) -> None:
    """Raises UserError, naming the file, if one is missing or has changed since it was exported.

    The base model is left out, which may be large: its own fingerprint is compared when it is loaded. So is the card,
    which people edit.
    """
    try:
        noted = json.loads((folder / SUMS).read_text(encoding="utf-8"))
        for name, expected in noted.items():
            if not name.startswith("base/") and file_hash(folder / name) != expected:
                raise UserError(f"{folder / name} is not the file that was exported; export or download it again")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{folder} is not whole ({error}); export or download it again") from error


def _published_config(about: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What a run's configuration would say; every value of the folder is a number, or a word that is looked up."""
    base = about["base"]["model"]
    model = None if base is None else str(folder / base) if base in (".", "base") else str(base)
    words, device = str(folder / "vocabulary.yaml"), "auto"
    bargains = {"schedule": False, "model": True}[about["offers"]["kind"]]
    schedule = {key: float(about["offers"][key]) for key in ("start", "reserve", "exponent")}
    offers: dict[str, Any] = {
        "_target_": "emodistill.negotiation.schedule.ConcessionSchedule",
        "rounds": int(about["offers"]["rounds"]),
        **schedule,
    }
    if bargains:
        offers = {"_target_": "emodistill.negotiation.schedule.OpenOffers", "acceptance": offers}
    numbers = ("temperature", "top_k", "max_new_tokens", "max_batch")
    sampler = {"dtype": str(about["sampler"]["dtype"]), **{key: _number(about["sampler"][key]) for key in numbers}}
    chat_format = {
        "_target_": "emodistill.policy.chat_format.ChatFormat",
        "tokenizer": {"_target_": "emodistill.language_models.local.load_tokenizer", "model": model},
        "vocabulary": {"_target_": "emodistill.emotions.vocabulary.load_vocabulary", "name": words},
    }
    four_bit, dtype = bool(about["base"]["four_bit"]), str(about["base"]["compute_dtype"])
    config: dict[str, Any] = {
        "vocabulary": words,
        "policy": {
            "base_model": model,
            "compute_dtype": dtype,
            "device": device,
            "four_bit": four_bit,
            "vocabulary": words,
            "lora": {"r": 1, "target_modules": "all-linear"},  # of an arm without an adapter, where it changes nothing
        },
        "sampler": {
            "_target_": "emodistill.policy.generation.RolloutSampler",
            "device": device,
            "chat_format": chat_format,
            **sampler,
        },
        "offers": {"policy": offers},
        "temperature": float(about["selector_temperature"]),
        "retries": int(about["retries"]),
    }
    if drawn := about.get("scenarios"):
        config["data"] = {
            "corpus": {
                "_target_": "emodistill.data.corpus.PlayedCorpus",
                "name": "published",
                "domains": [str(name) for name in about["domains"]],
                "episodes_per_scenario": 1,
                "split_seed": int(drawn["split_seed"]),
                "focal": None,
                "counterparty": None,
                "scenarios": {
                    "_target_": "emodistill.data.corpus.GeneratedScenarios",
                    "per_domain": int(drawn["per_domain"]),
                    "seed": int(drawn["seed"]),
                },
            }
        }
    return config


def _number(value: Any) -> float | int | None:
    """The value itself, or None; raises TypeError where it is no number."""
    if value is not None and not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")
    return value


def _made(node: Any, file: Path) -> Any:
    """The object that a recorded configuration describes: `_target_` is what is called with the other keys.

    Raises:
        UserError: if it is nothing of this package: no file may say what else is run here.
    """
    if isinstance(node, list):
        return [_made(one, file) for one in node]
    if not isinstance(node, dict):
        return node
    given = {key: _made(value, file) for key, value in node.items() if key != "_target_"}
    if "_target_" not in node:
        return given
    module, _, name = str(node["_target_"]).rpartition(".")
    if not module.startswith("emodistill."):
        raise UserError(f"{file}: {node['_target_']} is no part of emodistill; make a Negotiator of your own parts")
    return getattr(import_module(module), name)(**given)


def clean(words: str) -> str:
    """Words of the other side as they are heard: one line, nothing invisible, and round brackets for square ones.

    In a prompt, square brackets hold what this side is told to do.

    Raises:
        UserError: if nothing is left, or more than `LONGEST` characters.
    """
    visible = "".join(" " if c.isspace() else "" if unicodedata.category(c) in _INVISIBLE else c for c in words)
    line = " ".join(visible.translate(_BRACKETS).split())
    if not line:
        raise UserError("the words are empty; say something, such as an offer")
    if len(line) > LONGEST:
        raise UserError(f"the words are {len(line):,} characters long; say it in at most {LONGEST:,}")
    return line


def own_scenario(domain: str, target: float | str | None, their_target: float | str | None = None) -> Scenario:
    """A scenario of a domain without any context, from the target of the focal side; see `Negotiator.open`.

    Raises:
        UserError: if there is no such domain, a target is none, or both are the same.
    """
    rules = load_domain(domain)
    if target is None:
        raise UserError(
            f"domain '{domain}' needs a target; give what the focal side wants, e.g. target={rules.snap(0):g}"
        )
    own = _value(domain, "target", target)
    if their_target is not None:
        return Scenario(f"{domain}-own", domain, own, _value(domain, "their_target", their_target))
    apart = median(one.counterparty_target - one.focal_target for one in generate_scenarios(domain))
    supposed = rules.snap(own + apart)
    if supposed == own:  # no offer lies between the target and the other side's end of the bounds
        raise UserError(f"target={target}: nothing beyond it can be offered; give their_target= too, or another target")
    return Scenario(f"{domain}-own", domain, own, supposed)


def _value(domain: str, key: str, given: float | str) -> float:
    rules = load_domain(domain)
    value = parse_offer(given, domain) if isinstance(given, str) else float(given)
    low, high = rules.bounds
    if value is None or not (math.isfinite(value) and low <= value <= high):
        raise UserError(
            f"{key}={given} is no {rules.quantity} in {rules.unit} from {low:g} to {high:g}; give a number, or words "
            f"such as '{rules.say(rules.snap((low + high) / 2))}'"
        )
    return value


def trained_selector(agent: Agent) -> "IQLSelector | None":
    """The trained selector in an agent, also behind a guard; None where nothing trained chooses its emotions."""
    selector = getattr(agent, "selector", None)
    inner = getattr(selector, "inner", selector)
    return inner if hasattr(inner, "insights") else None


def _key(scenario: Scenario, seed: int, texts: Sequence[str]) -> tuple[Any, ...]:
    return (repr(scenario), seed, *texts)


def _leave(negotiations: Iterable[Negotiation]) -> None:
    """Nobody goes on with these: speakers forget the chats of a negotiation that has ended."""
    for negotiation in negotiations:
        if negotiation.end is None:
            negotiation.break_off("nobody went on with it")


def _with_emotion(message: Message, emotion: str | None) -> Message:
    """A message with the emotion that was shown with it, where it does not say."""
    if message["role"] == "user" or message.get("emotion") is not None:
        return message
    return {**message, "emotion": emotion}


def _check_open(end: End | None) -> None:
    if end is not None:
        raise _over(end)


def _stuck(negotiation: Negotiation) -> UserError:
    """Why the next message of a negotiation was not played: it is over, or else the message is empty."""
    if negotiation.end is not None:
        return _over(negotiation.end)
    return UserError(f"message {len(negotiation.turns) + 1} is empty, where the agent's words must stand")


def _over(end: End | None) -> UserError:
    return UserError(f"this negotiation is over ({end}); open another one")


def _refuse_agent(arm: Arm) -> None:
    if arm.generator == ITSELF:
        raise UserError(f"arm '{arm.name}' is an agent of yours, which only evaluate.py plays; name another arm")
