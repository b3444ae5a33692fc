"""Speaking in role: what is asked again, how often, with which seeds, and what is said in the end."""

import pytest
from scripted_backends import ScriptedBackend

from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.negotiation.agents import Fault, Utterance
from emodistill.negotiation.protocol import COUNTERPARTY, FOCAL, Negotiation, Turn
from emodistill.negotiation.scenarios import Scenario
from emodistill.policy.agents import Line, RolePlay

GOOD, BAD, NOTHING = "I want 45 days.", "I want 45 days. Debtor: fine.", "Debtor: fine."


def games(count=3):
    return [Negotiation(Scenario(f"debt-{i}", "debt", 20.0, 100.0), seed=i) for i in range(count)]


def scripted(*replies):
    """A backend that gives every negotiation these replies, attempt by attempt."""
    tries = {}

    def script(dialogue, prompt, seed):
        given = tries.setdefault(id(dialogue), iter(replies))
        return next(given)

    return ScriptedBackend(script)


def said(backend, tables=None, retries=2):
    tables = tables or games()
    play = RolePlay(backend, FOCAL, retries)
    play.begin(tables, ["system"] * len(tables))
    return play.speak(tables, [Line("[Say it.]", "Say it.")] * len(tables))


@pytest.mark.parametrize(
    ("replies", "words", "violations"),
    [
        ([GOOD], GOOD, ()),
        ([BAD, GOOD], GOOD, ("other_side",)),
        (["", "[note]", GOOD], GOOD, ("empty", "copied")),
        ([NOTHING, NOTHING, BAD], GOOD, ("other_side",) * 3),
        ([GOOD + "\n\nDebtor: no.\n\nCreditor: yes."], GOOD, ("other_side",)),
        ([BAD, Fault("line dead"), GOOD], GOOD, ("other_side",)),
    ],
)
def test_what_is_said_and_what_violates_the_role(replies, words, violations):
    backend = scripted(*replies)
    assert said(backend) == [Utterance(words, violations)] * 3
    assert len(backend.asked) == min(len(replies), 2 if Fault("line dead") in replies else 3)


def test_where_nothing_is_left_the_turn_is_a_fault():
    (fault,) = said(scripted("", NOTHING, ""), games(1))
    assert fault == Fault("the focal had nothing to say in role (empty, other_side, empty)")


def test_a_backend_that_fails_is_a_fault_and_is_not_asked_again():
    backend = scripted(Fault("line dead"), GOOD)
    assert said(backend) == [Fault("line dead")] * 3 and len(backend.asked) == 1


def test_only_those_who_slipped_are_asked_again():
    def script(dialogue, prompt, seed):
        return BAD if dialogue.negotiation.seed == 1 else GOOD

    backend = ScriptedBackend(script)
    assert [len(words.role_violations) for words in said(backend)] == [0, 3, 0]
    assert [[name for name, _, _ in call] for call in backend.asked] == [
        ["debt-0", "debt-1", "debt-2"],
        ["debt-1"],
        ["debt-1"],
    ]


def test_every_attempt_has_a_seed_of_its_own_and_takes_one_draw_of_the_negotiation():
    backend, tables, steady = scripted(BAD, BAD, BAD), games(), games()
    said(backend, tables)
    said(scripted(GOOD), steady)
    seeds = [seed for call in backend.asked for _, _, seed in call]
    assert len(set(seeds)) == 9
    for one, other in zip(tables, steady, strict=True):
        assert one.rng[FOCAL].bit_generator.state == other.rng[FOCAL].bit_generator.state
        assert one.rng[COUNTERPARTY].bit_generator.state == games(3)[one.seed].rng[COUNTERPARTY].bit_generator.state


def test_a_backend_that_would_repeat_itself_is_asked_once():
    backend = scripted(BAD, GOOD)
    backend.repeats = True
    assert said(backend) == [Utterance(GOOD, ("other_side",))] * 3 and len(backend.asked) == 1
    assert len(said(scripted(BAD, GOOD), games(1), retries=0)) == 1


@pytest.mark.parametrize(
    ("replies", "words", "violations", "emotion"),
    [
        (["joy: " + GOOD], GOOD, (), "joy"),
        ([GOOD, "joy: " + GOOD], GOOD, ("unnamed",), "joy"),
        (["hope: " + GOOD, "Anger: " + GOOD], GOOD, ("unnamed",), "anger"),
        ([GOOD] * 3, GOOD, ("unnamed",) * 3, None),
        ([GOOD, NOTHING, ""], GOOD, ("unnamed", "other_side", "empty"), None),
        (["joy: " + BAD, "fear: " + GOOD], GOOD, ("other_side",), "fear"),
        (["joy: " + BAD] * 3, GOOD, ("other_side",) * 3, "joy"),
        (["joy:", "joy: Creditor: " + GOOD, "joy: " + GOOD], GOOD, ("empty", "label"), "joy"),
        (["joy:\n\n" + GOOD + "\n\nDebtor: no."], GOOD, ("other_side",), "joy"),
        ([BAD] * 3, GOOD, ("other_side",) * 3, None),
    ],
)
def test_a_name_is_taken_off_and_its_lack_is_a_violation(replies, words, violations, emotion):
    backend, tables = scripted(*replies), games()
    play = RolePlay(backend, FOCAL, names=load_vocabulary())
    play.begin(tables, ["system"] * 3)
    assert play.speak(tables, [Line("[Say it.]", "Say it.")] * 3) == [Utterance(words, violations, emotion)] * 3
    assert len(backend.asked) == len(replies)


def test_the_own_chat_keeps_the_name_and_the_table_does_not():
    (table,) = games(1)
    kept = []
    backend = ScriptedBackend(lambda dialogue, prompt, seed: kept.append(list(dialogue.exchanges)) or f"joy: {GOOD}")
    play = RolePlay(backend, FOCAL, names=load_vocabulary())
    play.begin([table], ["system"])
    for number, (told, emotion) in enumerate((("first", "joy"), ("second", None)), 1):
        (spoken,) = play.speak([table], [Line(told)])
        table.play(Turn(number, FOCAL, spoken.text, emotion=emotion))
        table.play(Turn(number, COUNTERPARTY, "No."))
    play.speak([table], [Line("third")])
    assert kept[-1] == [("first", f"joy: {GOOD}"), ("second", GOOD)]
    assert all(turn.text in (GOOD, "No.") for turn in table.turns)


def test_the_dialogue_holds_what_stands_in_the_negotiation():
    (table,) = games(1)
    kept = []
    backend = ScriptedBackend(lambda dialogue, prompt, seed: kept.append(list(dialogue.exchanges)) or GOOD)
    play = RolePlay(backend, FOCAL)
    play.begin([table], ["system"])
    play.speak([table], [Line("first")])
    table.play(Turn(1, FOCAL, "I said this in the end."))
    table.play(Turn(1, COUNTERPARTY, "No."))
    play.speak([table], [Line("second")])
    assert kept == [[], [("first", "I said this in the end.")]]
