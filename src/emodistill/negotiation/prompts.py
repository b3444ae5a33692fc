"""What a language model on either seat is told, in words: its situation once, and what to do in every round.

A seat learns the columns that its side may see and its own target, never the other side's, and nothing that no side may
see. The same words serve a model on this machine, one behind an endpoint, and training.
"""

from typing import Literal

from emodistill.emotions.vocabulary import Vocabulary
from emodistill.errors import UserError
from emodistill.negotiation.protocol import FOCAL, Act, Speaker, other
from emodistill.negotiation.scenarios import Scenario

FOLLOWS_NOTES = "Answer in one or two sentences as the {role}, and follow the note in brackets."
NAMES_EMOTION = (
    "Answer as the {role}: first the name of the emotion that you choose to show, one of {labels}; then a colon; then "
    "one or two sentences. Follow the note in brackets."
)
CHOOSE = "Choose an emotion."
Emotions = Literal["told", "hidden", "named"]  # the prompt asks for one; never speaks of any; asks to name one
BARGAINS = (
    "Answer in one or two sentences as the {role}. You decide what to offer, and state it as a number. "
    'To take their offer, say "I accept your offer." To give up, say "I am walking away."'
)


def system_words(scenario: Scenario, side: Speaker = FOCAL, persona: str = "", answer: str = FOLLOWS_NOTES) -> str:
    """The system message of one side.

    Args:
        persona: a sentence about how this side behaves, or nothing.
        answer: how to answer, with the slot `{role}`.

    Raises:
        UserError: if the domain's prompt asks for something that this side does not know.
    """
    rules = scenario.rules
    own = scenario.focal_target if side == FOCAL else scenario.counterparty_target
    slots = {f"{seat}_role": rules.roles[seat] for seat in (side, other(side))}
    slots |= {"quantity": rules.quantity, f"{side}_target": rules.say(own)}
    facts = [
        f"{rules.fields[column]['label']}: {value.strip().rstrip('.')}."
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


def opening_words(
    scenario: Scenario, vocabulary: Vocabulary, emotions: Emotions = "told", side: Speaker = FOCAL
) -> str:
    """The system message of a side that shows emotions; a model that names them learns their names from it."""
    if emotions != "named":
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
    vocabulary: Vocabulary, emotion: str | None, act: Act, offer_words: str | None, emotions: Emotions = "told"
) -> str:
    """What the focal side's next reply has to do; with no emotion there is no sentence about emotions at all.

    Args:
        emotions: `hidden` leaves the emotion out, `named` leaves it to the model.

    Raises:
        UserError: if the emotion is not in the vocabulary.
    """
    task = task_words(act, offer_words)
    if emotions == "named":
        return f"{CHOOSE} {task}"
    return task if emotion is None or emotions == "hidden" else f"{vocabulary.directive(emotion)} {task}"
