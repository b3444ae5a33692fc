"""How a case is put before a base language model: a list of scored utterances that it goes on with a digit.

A small model does not follow a rubric, but it does continue a list. So the rubric stands on top, the domain's examples
follow, each with its score, and then comes the utterance with its score left open. What was said before it is not
shown: that costs the embedded model more than it gives (docs/judges.md). A score is one digit, 1 to 9, so that one
distribution over the next token says all.
"""

from typing import Any

from emodistill.errors import UserError
from emodistill.judges.cleaning import LONGEST, cleaned
from emodistill.judges.examples import Example, example_domains, examples
from emodistill.judges.request import JudgeRequest
from emodistill.negotiation.domains import Domain
from emodistill.negotiation.protocol import FOCAL

DIGITS = "123456789"
LOGIC = 1  # raise it when what a model is shown changes
_CUES = ("Score: ", "Score:")


def cue_and_digits(tokenizer: Any, model: str) -> tuple[str, list[int]]:
    """The words after which every digit is one token, and those nine tokens.

    Raises:
        UserError: if the tokenizer does not read digits one by one.
    """
    for cue in _CUES:
        before = tokenizer.encode(cue, add_special_tokens=False)
        after = [tokenizer.encode(cue + digit, add_special_tokens=False) for digit in DIGITS]
        tokens = {ids[-1] for ids in after}
        if all(ids[:-1] == before for ids in after) and len(tokens) == len(DIGITS):
            return cue, [ids[-1] for ids in after]
    raise UserError(f"model={model}: its tokenizer has no token of its own for each digit, so it cannot be asked so")


def prefix(domain: Domain, cue: str, with_emotion: bool, shown: int) -> str:
    """The rubric and the scored examples of a domain."""
    head = f"{domain.rubric.get('text', '')}\n\nUtterances of a {domain.roles[FOCAL]} in a negotiation, scored "
    listed = [
        f"{_entry(domain, example.text, example.emotion if with_emotion else None)}{cue}{example.score}\n\n"
        for example in examples(domain.name)[:shown]
    ]
    return f"{head}from 1 (bad) to 9 (excellent).\n\n{''.join(listed)}"


def case(request: JudgeRequest, cue: str, defended: bool) -> str:
    """The utterance to judge, with its score left open."""
    text = cleaned(request.utterance) if defended else request.utterance[: 2 * LONGEST]
    if defended:
        text = text.replace('"', "'")  # it stands in these
    return _entry(request.scenario.rules, text, request.emotion) + cue


def anchors(domain: str, shown: int) -> list[tuple[str, Example]]:
    """(domain, example) that are not among the examples shown: what a model's scale is set by."""
    mine = {example.text for example in examples(domain)[:shown]}
    others = [(name, example) for name in example_domains() if name != domain for example in examples(name)]
    return [pair for pair in others if pair[1].text not in mine][::3]


def _entry(domain: Domain, text: str, emotion: str | None) -> str:
    asked = "" if emotion is None else f", to show {emotion}"
    return f'{domain.roles[FOCAL].capitalize()}{asked}: "{text}"\n'
