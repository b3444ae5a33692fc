"""Arms: where the emotion of a turn comes from, and which generator writes its words.

An arm has a name of its own, or is spelt `<emotion>+<generator>`: `mean_return+jpo`, `joy+phrasebook`,
`self_selected+jpo_joint`. A selector of one's own is named by its import path: `closing.ThanksWhenClose+jpo`. So is an
agent of one's own, which decides everything itself: `stubborn.Stubborn`. The suffix `@4` lets the language model draft
four replies a turn and says the best of them (see `policy.agents.ChatSpeaker`). The suffix `#2`, `#3`, ... plays an arm
again with other draws of the focal side, against the same draws of the counterparty.
"""

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from emodistill.emotions.vocabulary import Vocabulary
from emodistill.errors import UserError
from emodistill.evaluation.own_classes import OwnSelector
from emodistill.negotiation.agents import FixedEmotion, LeftToSpeaker, NoEmotion, Selector, UniformEmotion
from emodistill.negotiation.protocol import FOCAL, Negotiation

PHRASEBOOK, ENDPOINT, BASE = "phrasebook", "endpoint", "base"
ITSELF = "itself"  # an agent of one's own: numbers, emotions and words
UNTRAINED = (BASE, PHRASEBOOK, ENDPOINT, ITSELF)  # every other generator is a stage folder of the run, with an adapter
SELF_SELECTED = "self_selected"
EMOTION_SOURCES = {  # besides these, the labels of the vocabulary
    "none": "none",
    "uniform": "uniform",
    "random": "uniform",
    "iql": "iql",
    "mean_return": "mean_return",
    "best_constant": "best_constant",
    SELF_SELECTED: SELF_SELECTED,
}
_ARMS: dict[str, tuple[str, str]] = {
    "vanilla": ("none", BASE),
    "random": ("uniform", BASE),
    "mean_return": ("mean_return", BASE),
    "best_constant": ("best_constant", BASE),
    "iql": ("iql", BASE),
    "sft": ("iql", "sft"),
    "emodistill": ("iql", "jpo"),
    # variants of training, see docs/arms.md
    "emotion_free": ("none", "jpo_emotion_free"),
    "joint": (SELF_SELECTED, "jpo_joint"),
    "positive_advantage": ("iql", "jpo_positive_advantage"),
    # the selector alone, spoken by the phrasebook: no language model in between
    "phrasebook_vanilla": ("none", PHRASEBOOK),
    "phrasebook_random": ("uniform", PHRASEBOOK),
    "phrasebook_mean_return": ("mean_return", PHRASEBOOK),
    "phrasebook_best_constant": ("best_constant", PHRASEBOOK),
    "phrasebook_iql": ("iql", PHRASEBOOK),
    # a large model behind an endpoint in place of the base model
    "endpoint_vanilla": ("none", ENDPOINT),
    "endpoint_random": ("uniform", ENDPOINT),
    "endpoint_mean_return": ("mean_return", ENDPOINT),
    "endpoint_iql": ("iql", ENDPOINT),
}
_FIXED = {"fixed": BASE, "phrasebook_fixed": PHRASEBOOK, "endpoint_fixed": ENDPOINT}
_DEFAULT_FIXED = ("gratitude", "joy")
_RENAMED = {
    "table": "mean_return",
    "phrasebook_table": "phrasebook_mean_return",
    "endpoint_table": "endpoint_mean_return",
    "named": SELF_SELECTED,
}
_FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


@dataclass(frozen=True)
class Arm:
    """One arm.

    Attributes:
        emotion: `none`, `uniform`, `iql`, `mean_return`, `best_constant`, `self_selected` (the language model names it
            itself), a label of the vocabulary, or the import path of the class of a selector or an agent.
        generator: `base`, `phrasebook`, `endpoint`, the stage folder whose adapter speaks, e.g. `jpo`, or `itself`: the
            agent whose import path `emotion` is.
        repetition: which of several plays of the same arm this is, from 1.
        drafts: replies from which each turn takes the best.
    """

    name: str
    emotion: str
    generator: str
    repetition: int = 1
    drafts: int = 1


def parse_arm(name: str, vocabulary: Vocabulary) -> Arm:
    """Read an arm's name, e.g. `vanilla`, `fixed:joy`, `mean_return+jpo`, `sft@4` or `emodistill#2`.

    `fixed` without a label takes gratitude, or else joy, or else the first label: whichever the vocabulary has.

    Raises:
        UserError: if there is no such arm, or the label is not in the vocabulary.
    """
    plain, mark, number = name.partition("#")
    if mark and (not number.isdecimal() or int(number) < 2):
        raise UserError(f"arm '{name}': after # stands which repetition it is, from 2 on, e.g. {plain or 'iql'}#2")
    words, at, drafts = plain.partition("@")
    if at and (not drafts.isdecimal() or int(drafts) < 2):
        raise UserError(f"arm '{name}': after @ stands how many replies are drafted, 2 or more: {words or 'sft'}@4")
    full_name, emotion, generator = _parts(words, vocabulary, name)
    if at and generator in (PHRASEBOOK, ITSELF):
        raise UserError(f"arm '{name}': only a language model drafts replies; leave out {at}{drafts}")
    return Arm(full_name + at + drafts + mark + number, emotion, generator, int(number or 1), int(drafts or 1))


def _parts(name: str, vocabulary: Vocabulary, given: str) -> tuple[str, str, str]:
    """Name without abbreviations, source of the emotion, generator."""
    if name in _ARMS:
        return name, *_ARMS[name]
    if "+" in name:
        return name, *_spelt(name, vocabulary)
    if _IMPORT_PATH.fullmatch(name):
        return name, name, ITSELF
    kind, colon, label = name.partition(":")
    if kind in _FIXED and not colon:
        label = next((label for label in _DEFAULT_FIXED if label in vocabulary.labels), vocabulary.labels[0])
    if kind not in _FIXED or not label:
        raise UserError(
            f"unknown arm '{given}'{did_you_mean(kind, [*_ARMS, *_FIXED])}; arms are {', '.join(_ARMS)}, "
            f"{', '.join(f'{kind}:<label>' for kind in _FIXED)}, <emotion>+<generator>, the import path of an "
            "agent's class, and any of them with #2"
        )
    vocabulary.index(label)
    return f"{kind}:{label}", label, _FIXED[kind]


def _spelt(name: str, vocabulary: Vocabulary) -> tuple[str, str]:
    emotion, _, generator = name.partition("+")
    if not _FOLDER.fullmatch(generator) or generator == ITSELF:
        raise UserError(
            f"arm '{name}': a generator is {BASE}, {PHRASEBOOK}, {ENDPOINT}, or a stage folder of the run such as jpo"
        )
    if emotion not in EMOTION_SOURCES and emotion not in vocabulary and not _IMPORT_PATH.fullmatch(emotion):
        raise UserError(
            f"arm '{name}': an emotion comes from {', '.join(EMOTION_SOURCES)}, is a label of the vocabulary "
            f"'{vocabulary.name}', or is the import path of a selector's class"
            f"{did_you_mean(emotion, [*EMOTION_SOURCES, *vocabulary.labels])}"
        )
    if emotion == SELF_SELECTED and generator == PHRASEBOOK:
        raise UserError(f"arm '{name}': the phrasebook cannot choose an emotion; use uniform+phrasebook")
    return EMOTION_SOURCES.get(emotion, emotion), generator


def did_you_mean(given: str, names: Sequence[str]) -> str:
    """`; did you mean 'vanilla'?` where one of the names is close, or the name has changed; else nothing."""
    near = [_RENAMED[given]] if given in _RENAMED else difflib.get_close_matches(given, names, 1)
    return f"; did you mean '{near[0]}'?" if near else ""


def parse_arms(names: Sequence[str], vocabulary: Vocabulary) -> list[Arm]:
    """All arms; one that comes twice is a UserError: its cells could not be told apart, or are the same by design."""
    arms = [parse_arm(name, vocabulary) for name in names]
    twice = len({(arm.emotion, arm.generator, arm.repetition, arm.drafts) for arm in arms}) < len(arms)
    if twice or not arms:
        raise UserError(
            f"arms={list(names)}: {'the same arm twice' if twice else 'no arm to play'}; name each arm once, and a "
            "repetition with other draws by #2"
        )
    return arms


def selector_of(
    arm: Arm,
    vocabulary: Vocabulary,
    trained: Callable[[], Selector],
    mean_return: Callable[[], Selector] | None = None,
    best_constant: Callable[[], Selector] | None = None,
) -> Selector:
    """The selector of an arm.

    Args:
        trained, mean_return, best_constant: load the IQL selector and the two baselines; called only for arms that need
            them.

    Raises:
        UserError: if the arm needs mean returns and there is no corpus, or a constant that nobody can choose.
    """
    if arm.emotion == "none":
        return NoEmotion()
    if arm.emotion == "uniform":
        return UniformEmotion(vocabulary)
    if arm.emotion == SELF_SELECTED:
        return LeftToSpeaker()
    if arm.emotion == "mean_return":
        if mean_return is None:
            raise UserError(f"arm '{arm.name}' needs the mean returns of a corpus, and there is none")
        return mean_return()
    if arm.emotion == "best_constant":
        if best_constant is None:
            raise UserError(
                f"arm '{arm.name}': the best constant is chosen in play against validation personas, and this "
                "counterparty has none; use mean_return, or counterparty=behavioural"
            )
        return best_constant()
    if arm.emotion in vocabulary:
        return FixedEmotion(vocabulary, arm.emotion)
    return trained() if arm.emotion == "iql" else OwnSelector(arm.name, arm.emotion, vocabulary)


def is_imported(arm: Arm, vocabulary: Vocabulary) -> bool:
    """Whether the arm's selector, or the whole agent, is a class of one's own, named by its import path."""
    return arm.generator == ITSELF or arm.emotion not in (*EMOTION_SOURCES.values(), *vocabulary.labels)


def is_local(generator: str) -> bool:
    """Whether it is a policy on this machine, whose expression can be measured in fixed contexts."""
    return generator not in (PHRASEBOOK, ENDPOINT, ITSELF)


def draw_anew(negotiation: Negotiation, repetition: int) -> None:
    """Give the focal side the random draws of a repetition; the first keeps its own, the counterparty always does."""
    if repetition > 1:
        negotiation.rng[FOCAL] = negotiation.rng[FOCAL].spawn(repetition - 1)[-1]
