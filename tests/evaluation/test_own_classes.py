"""Selectors and agents of one's own: what is refused before play, and what is refused of what they give."""

import sys

import pytest

from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.errors import UserError
from emodistill.evaluation.own_classes import OwnAgent, OwnSelector, resolve, source_hash, speaks_here
from emodistill.language_models.completion import Usage
from emodistill.negotiation.agents import Choice, Fault, Move
from emodistill.negotiation.generator import generate_scenarios
from emodistill.negotiation.protocol import Negotiation
from emodistill.safety.guard import GuardedSelector, Maskable, load_guard

VOCABULARY = load_vocabulary()
TABLES = [Negotiation(scenario, 0) for scenario in generate_scenarios("debt", 10)[:2]]


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module that only this test can import."""
    monkeypatch.syspath_prepend(tmp_path)
    written = []

    def write(name, text):
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
        written.append(name)
        resolve.cache_clear()
        return name

    yield write
    resolve.cache_clear()
    for name in written:
        sys.modules.pop(name, None)


class Given:
    """A selector and an agent that gives what it is told to."""

    name, given = "given", None

    def begin(self, _negotiations):
        self.begun = True

    def select(self, _negotiations):
        return self.given

    act = select


def agent(given):
    made = OwnAgent("test_own_classes.Given", f"{__name__}.Given", VOCABULARY)
    made.inner.given = given
    return made


def selector(given):
    made = OwnSelector("test_own_classes.Given+base", f"{__name__}.Given", VOCABULARY)
    made.inner.given = given
    return made


@pytest.mark.parametrize(
    ("path", "why"),
    [
        (
            "nowhere_at_all.Own",
            "No module named 'nowhere_at_all'.*; put nowhere_at_all.py beside train.py, or install it",
        ),
        ("emodistill.nowhere.Own", "No module named 'emodistill.nowhere'"),
        ("emodistill.negotiation.agents.NoEmotions", "has no 'NoEmotions'; did you mean NoEmotion"),
        (
            "emodistill.negotiation.agents.FixedEmotion",
            "cannot be called without arguments .missing a required argument",
        ),
        ("emodistill.negotiation.agents.FOCAL", "cannot be called without arguments .'focal' is not a callable"),
    ],
)
def test_what_cannot_be_had_is_said(path, why):
    with pytest.raises(UserError, match=why):
        resolve(path)


def test_a_mistake_in_the_module_is_shown_where_it_is(module):
    with pytest.raises(ModuleNotFoundError, match="numpyy"):
        resolve(f"{module('needs_more', 'import numpyy')}.Own")
    with pytest.raises(SyntaxError):
        resolve(f"{module('no_python', 'class Own')}.Own")


def test_what_is_made_must_have_the_methods():
    with pytest.raises(UserError, match=r"is no selector; it needs a name, and select\(negotiations\)"):
        OwnSelector("builtins.dict+base", "builtins.dict", VOCABULARY)
    with pytest.raises(UserError, match=r"is no agent; it needs a name, and begin\(negotiations\) and act\(negotia"):
        OwnAgent("emodistill.negotiation.agents.NoEmotion", "emodistill.negotiation.agents.NoEmotion", VOCABULARY)


def test_a_function_may_give_it(module):
    name = module("with_function", f"from {__name__} import Given\n\n\ndef own():\n    return Given()\n")
    assert OwnAgent("it", f"{name}.own", VOCABULARY).name == "given"


def test_the_hash_is_of_the_file_of_the_name_and_of_the_class(module, tmp_path):
    inner = "class Own:\n    name = 'own'\n"
    module("own_inner", inner)
    path = f"{module('own_outer', 'from own_inner import Own')}.Own"
    first = source_hash(path)
    assert first == source_hash(path) != source_hash("own_inner.Own")
    for file, text in (("own_inner.py", inner + "# other\n"), ("own_outer.py", "from own_inner import Own  # other")):
        before = (tmp_path / file).read_text()
        (tmp_path / file).write_text(text)
        assert source_hash(path) != first
        (tmp_path / file).write_text(before)
    assert source_hash(path) == first
    (tmp_path / "own_inner.py").write_bytes(b"# \xe9\n" + inner.encode())  # its encoding is its own business
    assert source_hash(path) != first


def test_right_moves_and_choices_pass():
    moves = [Move("I need 30 days.", "propose", 30, "anger", 0.5), Fault("no idea")]
    assert agent(moves).act(TABLES) == moves and agent(tuple(moves)).act(TABLES) == moves
    choices = [Choice("joy", 1.0), Choice(None, None)]
    assert selector(choices).select(TABLES) == choices


@pytest.mark.parametrize(
    ("moves", "why"),
    [
        (None, "act gave None for 2 negotiations; give a list, one for each"),
        ("ab", "act gave 'ab' for 2 negotiations"),
        ([Move("x")], "act gave 1 for 2 negotiations"),
        ([Move("x"), "y"], r"moved by 'y'; give a Move\(text, act, offer\), or a Fault"),
        ([Move("x"), Move(None)], "moved by Move"),
        ([Move("x"), Move("y", "shrug")], "moved by act='shrug'; acts are propose, accept, walk_away"),
        ([Move("x"), Move("y", "propose", "30")], "offered '30'; give a number"),
        ([Move("x"), Move("y", "propose", float("nan"))], "offered nan; give a number"),
        ([Move("x"), Move("y", emotion="smug")], "shows 'smug', which is no label of the vocabulary 'goemotions28'"),
        ([Move("x"), Move("y", "propose", 1.0, "joy", 0.0)], "the probability 0.0; give one above 0 and at most 1"),
        ([Move("x"), Move("y", "propose", 1.0, "joy", 1.5)], "the probability 1.5"),
    ],
)
def test_a_wrong_move_is_refused_with_what_was_given(moves, why):
    with pytest.raises(UserError, match=why):
        agent(moves).act(TABLES)


@pytest.mark.parametrize(
    ("choices", "why"),
    [
        ([Choice("joy", 1.0)], "select gave 1 for 2 negotiations"),
        (["joy", "joy"], r"chose 'joy'; give a Choice\(emotion, probability\)"),
        ([Choice("joy", 1.0), Choice("smug", 1.0)], "shows 'smug', which is no label"),
        ([Choice("joy", 1.0), Choice("joy", 2.0)], "the probability 2.0"),
    ],
)
def test_a_wrong_choice_is_refused_with_what_was_given(choices, why):
    with pytest.raises(UserError, match=why):
        selector(choices).select(TABLES)


def test_tokens_are_those_that_it_counts():
    one = agent([])
    assert one.usage == Usage()
    one.inner.usage = Usage(7, 2)
    assert one.usage == Usage(7, 2)
    one.inner.usage = {"prompt_tokens": 7}
    with pytest.raises(UserError, match="its usage is .*; give a Usage, or leave it out"):
        _ = one.usage


def test_a_model_behind_an_agent_is_known_by_what_its_class_says(monkeypatch):
    assert not speaks_here(f"{__name__}.Given")
    monkeypatch.setattr(Given, "is_local_model", True, raising=False)
    assert speaks_here(f"{__name__}.Given")


def test_under_a_guard_it_chooses_among_what_is_left_or_says_that_it_cannot(monkeypatch):
    guard = load_guard("strict")
    barred = next(iter(guard.barred(VOCABULARY, "debt")))
    plain = selector([Choice(barred, 1.0)] * 2)
    assert not isinstance(plain, Maskable)
    with pytest.raises(
        UserError, match=f"bars '{barred}' in 'debt', and given chose it; leave its arm out, or give its"
    ):
        GuardedSelector(plain, guard, VOCABULARY).select(TABLES)
    monkeypatch.setattr(
        Given, "select_among", lambda self, _, allowed: [Choice(labels[0], 1.0) for labels in allowed], raising=False
    )
    masked = GuardedSelector(selector(None), guard, VOCABULARY).select(TABLES)
    assert {choice.emotion for choice in masked} == {guard.allowed(VOCABULARY, "debt")[0]}
