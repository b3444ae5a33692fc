"""Negotiate with a run's agent in the terminal: `python chat.py run=demo domain=debt [key=value ...]`.

You are the counterparty, or with `side=focal` the focal side. Words may come from a pipe. See `configs/chat.yaml` for
every key, and docs/use.md for an example.
"""

import re
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING

import hydra
from omegaconf import DictConfig

from commands import entry

if TYPE_CHECKING:
    from rich.console import Console

    from emodistill.negotiation.protocol import Side
    from emodistill.negotiation.scenarios import Scenario
    from emodistill.negotiator import Conversation, Negotiator, Reply

MACHINE = (
    "You are talking to a machine. It may choose which emotion to show in each turn, because that gets it a better "
    "deal; it feels none of them. It is research software and makes mistakes. Nothing that you say is stored."
)
HELP = """Say what you want in your own words. A number is an offer ("I can do 40 days");
"I accept" or "deal" takes the offer on the table; "no deal, I am leaving" ends it.
/why     what the other side read in your words, chose and valued
/result  where the talks stand
/quit    leave
/help    this list"""
LONE_NUMBER = re.compile(r"(\d{1,4}(?:\.\d+)?)([.?!]*)")
SHOWN = 5  # of 28 emotions
ECHOED = 300  # characters of a line from a pipe


def chat(cfg: DictConfig) -> None:
    """Hold one negotiation, from the scenario to the result."""
    from rich.console import Console

    from emodistill.errors import UserError
    from emodistill.negotiation.protocol import COUNTERPARTY, FOCAL
    from emodistill.runs import check_seed

    if cfg.side not in (COUNTERPARTY, FOCAL):
        raise UserError(f"side={cfg.side}: use counterparty or focal")
    if cfg.blind and cfg.side == FOCAL:
        raise UserError("blind=true hides which arm is opposite, and with side=focal no arm is; leave one of them out")
    console = Console(highlight=False)
    check_seed(cfg.seed)
    agent, about = opposite(cfg)
    talk = agent.open(choose(agent, cfg), seed=cfg.seed)
    session = Session(console, talk, cfg.side, about, cfg.blind, cfg.explain)
    session.begin()
    try:
        with console.status("loading the model") if console.is_terminal else nullcontext(), entry.loading_for_good():
            entry.use_threads(cfg)
            agent.ready()
        session.hold(lines(console, session.you))
    except KeyboardInterrupt:
        console.print()
    session.end()


def opposite(cfg: DictConfig) -> "tuple[Negotiator, str]":
    """Who sits opposite, and what it is in words; of several arms the seed draws one."""
    import numpy as np

    from commands.building import open_endpoint
    from emodistill.errors import UserError
    from emodistill.negotiation.protocol import COUNTERPARTY, FOCAL
    from emodistill.negotiator import Negotiator

    arms = [cfg.arm] if isinstance(cfg.arm, str) else list(cfg.arm or [])
    if not arms:
        raise UserError("arm=[]: give an arm, or several of which one is drawn")
    if cfg.side == FOCAL and arms != ["emodistill"]:
        raise UserError("arm= says who bargains with you as the counterparty; with side=focal leave it out")
    arm = arms[int(np.random.default_rng((cfg.seed, len(arms))).integers(len(arms)))]
    focal = cfg.side == COUNTERPARTY
    settings = (arm, FOCAL if focal else COUNTERPARTY, cfg.guard.level, cfg.guard.redraws, cfg.device)
    about = (
        f"the arm {arm} of {cfg.run_dir}, guard={cfg.guard.level}" if focal else f"the counterparty of {cfg.run_dir}"
    )
    return Negotiator.load(cfg.run_dir, *settings, partial(open_endpoint, cfg)), about


def choose(agent: "Negotiator", cfg: DictConfig) -> "Scenario":
    """The scenario that the user asked for, or the one that the seed points to."""
    from emodistill.errors import UserError

    scenarios = agent.scenarios(cfg.domain)
    if cfg.scenario is None:
        first = [scenario for scenario in scenarios if scenario.domain == scenarios[0].domain]
        return first[cfg.seed % len(first)]
    for scenario in scenarios:
        if scenario.id == cfg.scenario:
            return scenario
    raise UserError(f"scenario={cfg.scenario}: unseen ones are {', '.join(scenario.id for scenario in scenarios)}")


def lines(console: "Console", prompt: str) -> Iterator[str]:
    """What the person says, line by line, until the input ends; lines from a pipe are shown too."""
    if not sys.stdin.isatty():
        sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]  # standard input is a text file
        for line in sys.stdin:
            say(console, prompt, line.strip()[:ECHOED])
            yield line
        return
    import readline  # noqa: F401 - gives `input` its line editing

    while True:
        try:
            yield input(f"{prompt}: ")
        except EOFError:
            console.print()
            return


def say(console: "Console", who: str, words: str, style: str = "bold") -> None:
    """Words as they are: nothing in them can mark up or steer the terminal."""
    from rich.text import Text

    plain = "".join(character for character in words if character.isprintable())
    console.print(Text.assemble((f"{who}: ", style), plain))


class Session:
    """One conversation on the screen.

    Args:
        mine: the person's side.
        about: who sits opposite.
        blind: that, and what it thinks, is told at the end only.
        explain: tell what it thinks after each reply.
    """

    def __init__(
        self, console: "Console", talk: "Conversation", mine: "Side", about: str, blind: bool, explain: bool
    ) -> None:
        from emodistill.negotiation.protocol import other

        self.console, self.talk, self.mine, self.about = console, talk, mine, about
        self.blind, self.explain = blind, explain
        self.theirs, self.rules = other(mine), talk.scenario.rules
        self.you, self.they = f"{self.rules.roles[mine]} (you)", self.rules.roles[self.theirs]
        self.replies: list[Reply] = []

    def begin(self) -> None:
        """Say who speaks, and what the person is told."""
        from emodistill.negotiation.prompts import brief

        self.console.print(MACHINE, style="yellow")
        if not self.blind:
            self.console.print(f"It is {self.about}.", markup=False)
        self.console.print(
            f"\nScenario {self.talk.scenario.id}. {brief(self.talk.scenario, self.mine)}\n", markup=False
        )
        self.console.print("/help shows what you can type.\n", style="dim")

    def hold(self, said: Iterator[str]) -> None:
        """Talk until the negotiation is over, the person leaves, or nothing more is said."""
        from emodistill.errors import UserError
        from emodistill.negotiation.protocol import FOCAL

        if self.mine != FOCAL:
            self.answer(None)
        commands = {"/help": self.help, "/why": self.why, "/result": self.result}
        while not self.is_over:
            words = next(said, "/quit").strip()
            if words == "/quit":
                return
            if words.startswith("/"):
                commands.get(words, self.help)()
                continue
            try:
                self.answer(self.with_unit(words))
            except UserError as error:
                self.console.print(f"({error})", style="yellow", markup=False)

    def with_unit(self, words: str) -> str:
        """ "60?" as "60 days?": in a chat, a number that is all one says is an offer in the domain's unit."""
        alone = LONE_NUMBER.fullmatch(words)
        return (
            words if alone is None or self.rules.style != "duration" else f"{self.rules.say(float(alone[1]))}{alone[2]}"
        )

    @property
    def is_over(self) -> bool:
        return bool(self.replies) and self.replies[-1].end is not None

    def answer(self, words: str | None) -> None:
        """What the other side says to these words."""
        reply = self.talk.reply(words)
        self.replies.append(reply)
        if reply.words:
            say(self.console, self.they, reply.words, "bold cyan")
        if self.explain and not self.blind:
            self.why()

    def help(self) -> None:
        self.console.print(HELP, markup=False)

    def why(self) -> None:
        """What the other side read in the last words, chose and valued."""
        if not self.replies:
            self.console.print("Nobody has answered yet.")
        elif self.blind and not self.is_over:
            self.console.print("With blind=true that is told at the end.")
        else:
            for line in reasons(self.replies[-1], self.talk, self.they):
                self.console.print(f"  {line}", style="dim", markup=False)

    def result(self) -> None:
        """Where the talks stand, for the person's eyes: only their own target."""
        scenario, rules = self.talk.scenario, self.rules
        target = scenario.focal_target if self.mine == "focal" else scenario.counterparty_target
        theirs, mine = self._offers()
        self.console.print(
            f"Round {self.replies[-1].round if self.replies else 1}. Your target: {rules.say(target)}. "
            f"Last offers: {self.they} {theirs}, you {mine}.",
            markup=False,
        )

    def _offers(self) -> tuple[str, str]:
        """The last offer of the other side and of the person, in words."""
        spoken = [reply.offer for reply in self.replies if reply.offer is not None]
        heard = [reply.heard.offer for reply in self.replies if reply.heard and reply.heard.offer is not None]
        theirs, mine = (self.rules.say(offers[-1]) if offers else "none" for offers in (spoken, heard))
        return theirs, mine

    def end(self) -> None:
        """The result against both targets, what the other side knew, and who it was."""
        from rich.table import Table

        from emodistill.negotiation.prompts import brief

        scenario, last = self.talk.scenario, self.replies[-1] if self.replies else None
        roles, say_value = self.rules.roles, self.rules.say
        self.console.print(f"\n{outcome(last, self.talk)}", style="bold", markup=False)
        table = Table(box=None, pad_edge=False)
        for column in ("", "target", "of the way to it"):
            table.add_column(column)
        share = None if last is None or last.deal_value is None else scenario.utility(last.deal_value)
        for side, target in (("focal", scenario.focal_target), ("counterparty", scenario.counterparty_target)):
            mine = None if share is None else share if side == "focal" else 1 - share
            name = roles[side] + (" (you)" if side == self.mine else "")
            table.add_row(name, say_value(target), "no deal" if mine is None else f"{mine:.0%}")
        self.console.print(table)
        shown = [reply.emotion or "none" for reply in self.replies if reply.words]
        if self.mine == "counterparty" and shown:
            self.console.print(f"Emotions that it showed: {', '.join(shown)}.", markup=False)
        if self.blind:
            self.console.print(f"It was {self.about}. What it thought, turn by turn:", markup=False)
            for number, reply in enumerate(self.replies, 1):
                self.console.print(f"{number}. {reply.words}", markup=False)
                for line in reasons(reply, self.talk, self.they):
                    self.console.print(f"   {line}", style="dim", markup=False)
        self.console.print(f"It was told: {brief(scenario, self.theirs)}", style="dim", markup=False)


def outcome(reply: "Reply | None", talk: "Conversation") -> str:
    """How the talks ended, in a sentence."""
    if reply is None or reply.end is None:
        return "No deal: you left the table."
    if reply.deal_value is not None:
        return f"A deal at {talk.scenario.rules.say(reply.deal_value)}, in round {reply.round}."
    if reply.end == "walk_away":
        return f"No deal: {'the other side' if reply.act == 'walk_away' else 'you'} walked away."
    if reply.end == "deadline":
        return f"No deal: all {reply.round} rounds are over."
    return f"The talks broke off: {reply.fault}."


def reasons(reply: "Reply", talk: "Conversation", they: str) -> Iterator[str]:
    """What the other side read in the last words, chose and valued."""
    rules, position = talk.scenario.rules, talk.scenario.position
    if reply.heard:
        offer = None if reply.heard.offer is None else rules.say(reply.heard.offer)
        read = {"accept": "an acceptance", "walk_away": "leaving"}
        yield f"read in your words: {read.get(reply.heard.act) or (f'an offer of {offer}' if offer else 'no offer')}"
    if reply.perceived:
        yield f"perceived: {best(reply.perceived, '.0%')}"
    if reply.probabilities:
        favourite = max(reply.probabilities, key=lambda label: reply.probabilities[label])
        barred = f", its favourite {favourite} being barred" if reply.emotion not in (favourite, None) else ""
        yield f"emotion: {reply.emotion or 'none'}{barred}; its policy: {best(reply.probabilities, '.0%')}"
        yield f"values (Q, scaled reward): {best(reply.q_values, '.2f')}"
    elif reply.words:
        yield f"emotion: {reply.emotion or 'none'}; nothing trained chose it"
    if reply.offer is not None:
        added = ", in a sentence that was added" if reply.offer_appended else ""
        place = f"position {position(reply.offer):.2f}, where 1 is the focal side's target and 0 the counterparty's"
        yield f"offer: {rules.say(reply.offer)}{added}; {place}"
    elif reply.act:
        yield f"act: {reply.act}"
    if reply.guard or reply.role_violations:
        yield f"attempts refused before these words: {', '.join((*reply.guard, *reply.role_violations))}"


def best(shares: "dict[str, float]", form: str) -> str:
    """The highest few, e.g. `joy 31%, love 22%`."""
    highest = sorted(shares.items(), key=lambda item: -item[1])[:SHOWN]
    return ", ".join(f"{label} {value:{form}}" for label, value in highest)


@hydra.main(config_path="configs", config_name="chat", version_base="1.3")
def main(cfg: DictConfig) -> None:
    with entry.explained(), entry.paid(cfg):
        chat(cfg)


if __name__ == "__main__":
    entry.run(main, "chat", __doc__ or "")
