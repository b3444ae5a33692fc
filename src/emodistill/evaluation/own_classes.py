"""Selectors and agents of one's own, named by their import path (docs/extending.md).

They are code that this package does not know. So they are imported before a folder is claimed, what they
give is checked turn by turn, and an error names the class and what it gave.
"""

import difflib
import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, get_args

from emodistill.checks import is_number
from emodistill.emotions.vocabulary import Vocabulary
from emodistill.errors import UserError
from emodistill.language_models.completion import Usage
from emodistill.negotiation.agents import Choice, Fault, Move
from emodistill.negotiation.protocol import Act, Negotiation

ACTS = get_args(Act)


@cache
def resolve(path: str) -> Callable[[], Any]:
    """The class, or function without arguments, of an import path. An exception of its own module is raised as it is.

    Raises:
        UserError: if there is no such module, nothing of that name in it, or it needs arguments.
    """
    module, _, name = path.rpartition(".")
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # the module is there, and what it imports is not
        file = f"{module.split('.')[0]}.py"
        raise UserError(f"cannot import {path} ({error}); put {file} beside train.py, or install it") from error
    if not hasattr(found, name):
        near = difflib.get_close_matches(name, vars(found), 1)
        raise UserError(f"cannot import {path}: {module} has no '{name}'{f'; did you mean {near[0]}?' if near else ''}")
    make: Callable[[], Any] = getattr(found, name)
    try:
        inspect.signature(make).bind()
    except TypeError as error:
        raise UserError(
            f"{path} cannot be called without arguments ({error}); name a function that needs none"
        ) from error
    except ValueError:  # some classes in C do not say what they take
        pass
    return make


def source_hash(path: str) -> str:
    """Hash of the file that the path names and of the file with the class; files that these import are not included."""
    make = resolve(path)
    modules = dict.fromkeys([path.rpartition(".")[0], getattr(make, "__module__", "builtins")])
    files = [getattr(sys.modules.get(module), "__file__", None) for module in modules]
    digest = hashlib.sha256()
    for file in (file for file in files if file):
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()[:16]


def speaks_here(path: str) -> bool:
    """Whether an agent says, by `is_local_model = True`, that a language model on this machine is behind it."""
    return bool(getattr(resolve(path), "is_local_model", False))


class OwnSelector:
    """A selector of one's own; each choice is checked.

    Args:
        arm: its name, for messages.
        path: of the class, which is called without arguments, or of a function that gives a selector.

    Raises:
        UserError: if it cannot be had, or is no selector.
    """

    def __init__(self, arm: str, path: str, vocabulary: Vocabulary) -> None:
        self.path, self.vocabulary = path, vocabulary
        self.inner = _made(arm, path, "selector", "select")
        self.name: str = self.inner.name
        if callable(
            getattr(self.inner, "select_among", None)
        ):  # a guard asks for this method, see `safety.guard.Maskable`
            self.select_among = self._select_among

    def select(self, negotiations: Sequence[Negotiation]) -> list[Choice]:
        return self._checked(self.inner.select(negotiations), negotiations)

    def _select_among(self, negotiations: Sequence[Negotiation], allowed: Sequence[Sequence[str]]) -> list[Choice]:
        return self._checked(self.inner.select_among(negotiations, allowed), negotiations)

    def _checked(self, choices: Any, negotiations: Sequence[Negotiation]) -> list[Choice]:
        found = _one_each(choices, negotiations, self.path, "select")
        for choice in found:
            if not isinstance(choice, Choice):
                raise UserError(f"{self.path} chose {choice!r}; give a Choice(emotion, probability)")
            _check_emotion(self.path, choice.emotion, choice.probability, self.vocabulary)
        return found


class OwnAgent:
    """An agent of one's own; each move is checked. See `OwnSelector` for arguments and errors."""

    def __init__(self, arm: str, path: str, vocabulary: Vocabulary) -> None:
        self.path, self.vocabulary = path, vocabulary
        self.inner = _made(arm, path, "agent", "begin", "act")
        self.name: str = self.inner.name

    @property
    def usage(self) -> Usage:
        """Tokens and money since it was made; nothing where it does not say."""
        usage = getattr(self.inner, "usage", Usage())
        if not isinstance(usage, Usage):
            raise UserError(f"{self.path}: its usage is {usage!r}; give a Usage, or leave it out")
        return usage

    def begin(self, negotiations: Sequence[Negotiation]) -> None:
        self.inner.begin(negotiations)

    def act(self, negotiations: Sequence[Negotiation]) -> list[Move | Fault]:
        moves = _one_each(self.inner.act(negotiations), negotiations, self.path, "act")
        for move in moves:
            if not isinstance(move, Fault):
                self._check(move)
        return moves

    def _check(self, move: Any) -> None:
        if not isinstance(move, Move) or not isinstance(move.text, str):
            raise UserError(f"{self.path} moved by {move!r}; give a Move(text, act, offer), or a Fault(why)")
        if move.act not in ACTS:
            raise UserError(f"{self.path} moved by act={move.act!r}; acts are {', '.join(ACTS)}")
        if move.offer is not None and not is_number(move.offer):
            raise UserError(f"{self.path} offered {move.offer!r}; give a number, or None for words without an offer")
        _check_emotion(self.path, move.emotion, move.emotion_prob, self.vocabulary)


def _made(arm: str, path: str, kind: str, *methods: str) -> Any:
    made = resolve(path)()
    if not isinstance(getattr(made, "name", None), str) or not all(
        callable(getattr(made, method, None)) for method in methods
    ):
        needed = " and ".join(f"{method}(negotiations)" for method in methods)
        raise UserError(
            f"arm '{arm}': what {path}() gives is no {kind}; it needs a name, and {needed} (docs/extending.md)"
        )
    return made


def _one_each(given: Any, negotiations: Sequence[Negotiation], path: str, method: str) -> list[Any]:
    if not isinstance(given, list | tuple) or len(given) != len(negotiations):
        what = len(given) if isinstance(given, list | tuple) else repr(given)
        raise UserError(f"{path}.{method} gave {what} for {len(negotiations)} negotiations; give a list, one for each")
    return list(given)


def _check_emotion(path: str, emotion: Any, probability: Any, vocabulary: Vocabulary) -> None:
    if emotion is not None and emotion not in vocabulary.labels:
        raise UserError(
            f"{path} shows {emotion!r}, which is no label of the vocabulary '{vocabulary.name}': "
            f"{', '.join(vocabulary.labels)}"
        )
    if probability is not None and not (is_number(probability, 0, 1) and probability > 0):
        raise UserError(f"{path} gives its emotion the probability {probability!r}; give one above 0 and at most 1")
