"""What a language model on either side is told, in words: its situation once, and what to do in every round.

A side learns the columns that it may see and its own target, never the other side's, and nothing that no side may see.
The same words serve a model on this machine, one behind an endpoint, and training.

Where the model chooses the emotion itself, its reply begins with the name: "joy: We are nearly there." The name is for
this side alone. It is taken off before anybody hears the words; the model's own chat keeps it.
"""

import re
from functools import cache
from typing import Literal, NamedTuple

from emodistill.emotions.vocabulary import Vocabulary
from emodistill.errors import UserError
from emodistill.negotiation.protocol import FOCAL, Act, Side, other
from emodistill.negotiation.scenarios import Scenario

# How emotions enter a chat: the prompt asks for one; nothing speaks of any; the model names one itself.
Emotions = Literal["prompted", "none", "self_selected"]

FOLLOWS_NOTES = "Answer in one or two sentences as the {role}, and follow the note in brackets."
NAMES_EMOTION = (
    "Answer as the {role}: first the name of the emotion that you choose to show, one of {labels}; then a colon; then "
    "one or two sentences. Follow the note in brackets."
)
BARGAINS = (
    "Answer in one or two sentences as the {role}. You decide what to offer, and state it as a number. "
    'To take their offer, say "I accept your offer." To give up, say "I am walking away."'
)
CHOOSE = "Choose an emotion."


def system_words(scenario: Scenario, side: Side = FOCAL, persona: str = "", answer: str = FOLLOWS_NOTES) -> str:
    """The system message of one side.

    Args:
        persona: a sentence about how this side behaves, or nothing.
        answer: how to answer, with the slot `{role}`.

    Raises:
        UserError: if the domain's prompt asks for something that this side does not know.
    """
    rules = scenario.rules
    own = scenario.focal_target if side == FOCAL else scenario.counterparty_target
    slots = {f"{each}_role": rules.roles[each] for each in (side, other(side))}
    slots |= {"quantity": rules.quantity, f"{side}_target": rules.say(own)}
    facts = [
        f"{rules.fields[column]['label']}: {_sentence(value)}"
        for column, value in scenario.context.items()
        if rules.fields.get(column, {}).get("seen_by") in {"both", side} and value.strip()
    ]
    try:
        situation, goal = (rules.prompt[part].format_map(slots) for part in ("situation", f"{side}_goal"))
    except KeyError as error:
        allowed = ", ".join(slots)
        raise UserError(
            f"domains/{rules.name}.yaml: the {side} prompt has no {error}; its slots are {allowed}"
        ) from error
    parts = [situation, *facts, goal, persona.strip(), answer.format(role=rules.roles[side])]
    return " ".join(part for part in parts if part)


def brief(scenario: Scenario, side: Side) -> str:
    """What one side is told of a scenario: the columns that it may see, and its own target."""
    return system_words(scenario, side, answer="")


def _sentence(words: str) -> str:
    kept = words.strip().rstrip(".")
    return kept if kept.endswith(("?", "!")) else f"{kept}."


def opening_words(
    scenario: Scenario, vocabulary: Vocabulary, emotions: Emotions = "prompted", side: Side = FOCAL
) -> str:
    """The system message of a side that shows emotions; a model that names them learns their names from it."""
    if emotions != "self_selected":
        return system_words(scenario, side)
    labels = ", ".join(vocabulary.labels).replace("{", "{{").replace("}", "}}")
    return system_words(scenario, side, answer=NAMES_EMOTION.replace("{labels}", labels))


def round_words(heard: str | None, directive: str) -> str:
    """The user message of one round: what the other side just said, then the directive in brackets, if there is one."""
    note = f"[{directive}]" if directive else ""
    return "\n".join(part for part in ((heard or "").strip(), note) if part)


def task_words(act: Act, offer_words: str | None) -> str:
    """The directive as far as the number goes; `offer_words` as `Domain.say` puts it, None leaves it to the model."""
    if act == "accept":
        return "Accept their offer."
    if act == "walk_away":
        return "End the negotiation without a deal."
    return f"State your offer: {offer_words}." if offer_words else "State your offer."


def directive_words(
    vocabulary: Vocabulary, emotion: str | None, act: Act, offer_words: str | None, emotions: Emotions = "prompted"
) -> str:
    """What the focal side's next reply has to do; with no emotion there is no sentence about emotions at all.

    Args:
        emotions: `none` leaves the emotion out, `self_selected` leaves it to the model.

    Raises:
        UserError: if the emotion is not in the vocabulary.
    """
    task = task_words(act, offer_words)
    if emotions == "self_selected":
        return f"{CHOOSE} {task}"
    return task if emotion is None or emotions == "none" else f"{vocabulary.directive(emotion)} {task}"


class Named(NamedTuple):
    """A reply taken apart; `emotion` is None where it begins with no name of the vocabulary."""

    emotion: str | None
    words: str


def with_name(emotion: str | None, words: str) -> str:
    """A reply as the model writes it; without an emotion, the bare words."""
    return words if emotion is None else f"{emotion}: {words}"


def take_apart(reply: str, vocabulary: Vocabulary) -> Named:
    """The emotion that a reply names, and its words.

    Case, quotes, brackets and stars around the name do not matter. Anything else before a colon is part of the words:
    nobody could tell a name that is not in the vocabulary from the beginning of a sentence.
    """
    found = _pattern(vocabulary.labels).match(reply)
    if found is None:
        return Named(None, reply.strip())
    names = {label.casefold(): label for label in vocabulary.labels}
    return Named(names[found["name"].casefold()], found["words"].strip())


_BEFORE, _BETWEEN, _AFTER = r"[\s*_\"“'\[(]*", r"[\s*_\"”'\])]*:[\s*_]*", r"(?P<words>.*)"


@cache
def _pattern(labels: tuple[str, ...]) -> re.Pattern[str]:
    names = "|".join(re.escape(label) for label in sorted(labels, key=len, reverse=True))
    return re.compile(f"{_BEFORE}(?P<name>{names}){_BETWEEN}{_AFTER}", re.IGNORECASE | re.DOTALL)
