"""Flagged words under the guard: asked for again, with which seeds, and the neutral sentence at last."""

import pytest
from scripted_backends import ScriptedBackend

from emodistill.emotions.perceiver import load_perceiver
from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.errors import UserError
from emodistill.negotiation.agents import Decision, Fault, FocalAgent, NoEmotion, Utterance
from emodistill.negotiation.protocol import COUNTERPARTY, FOCAL, Negotiation, Turn
from emodistill.negotiation.scenarios import Scenario
from emodistill.policy.agents import ChatSpeaker
from emodistill.safety.guard import Guard, load_guard, neutral_sentence

VOCABULARY = load_vocabulary("goemotions28")
GOOD, THREAT, INSULT = "I want 45 days.", "Pay in 45 days or I will sue you.", "45 days, you idiot."
OFFER = Decision("propose", 45.0, "open")


def games(count: int = 1, domain: str = "debt") -> list[Negotiation]:
    return [Negotiation(Scenario(f"{domain}-{i}", domain, 20.0, 100.0), seed=i) for i in range(count)]


def backend(*replies: str | Fault, repeats: bool = False) -> ScriptedBackend:
    """Gives every negotiation these replies, attempt by attempt; the last one for ever."""
    given: dict[int, int] = {}

    def script(dialogue, prompt, seed):
        at = given[id(dialogue.negotiation)] = given.get(id(dialogue.negotiation), -1) + 1
        return replies[min(at, len(replies) - 1)]

    scripted = ScriptedBackend(script)
    scripted.repeats = repeats
    return scripted


def said(scripted, level="words", decision=OFFER, tables=None, emotions="prompted", retries=0):
    tables = tables or games()
    speaker = ChatSpeaker(scripted, VOCABULARY, retries=retries, emotions=emotions)
    guard = load_guard(level) if isinstance(level, str) else level
    guarded = guard.speaker(speaker)
    guarded.begin(tables)
    return guarded.speak(tables, [decision] * len(tables), [None] * len(tables))


@pytest.mark.parametrize(
    ("replies", "words", "violations", "calls"),
    [
        ([GOOD], GOOD, (), 1),
        ([THREAT, GOOD], GOOD, ("guarded:threat",), 2),
        ([THREAT, INSULT, GOOD], GOOD, ("guarded:threat", "guarded:insult"), 3),
        ([THREAT], "My offer is 45 days.", ("guarded:threat",) * 3 + ("guarded:fallback",), 3),
        (["Pay or I will sue you, idiot.", GOOD], GOOD, ("guarded:threat", "guarded:insult"), 2),
        ([GOOD + "\n\nYou idiot."], GOOD, (), 1),  # a second paragraph is never said
    ],
)
def test_what_is_said_and_what_was_refused(replies, words, violations, calls):
    scripted = backend(*replies)
    assert said(scripted) == [Utterance(words, violations)]
    assert len(scripted.asked) == calls


def test_only_flagged_words_are_asked_for_again_with_new_seeds_of_their_own():
    def script(dialogue, prompt, seed):
        return THREAT if dialogue.negotiation.seed == 1 else GOOD

    scripted, tables = ScriptedBackend(script), games(3)
    said(scripted, tables=tables)
    assert [[name for name, _, _ in call] for call in scripted.asked] == [["debt-0", "debt-1", "debt-2"]] + [
        ["debt-1"]
    ] * 2
    seeds = [seed for call in scripted.asked for name, _, seed in call if name == "debt-1"]
    assert len(set(seeds)) == 3
    unguarded, plain = ScriptedBackend(script), games(3)
    said(unguarded, "off", tables=plain)
    assert unguarded.asked[0] == scripted.asked[0]  # the first attempt is the same with and without a guard
    assert [t.rng[FOCAL].integers(99) for t in tables] == [t.rng[FOCAL].integers(99) for t in plain]


def test_a_kind_that_the_guard_does_not_refuse_passes_and_a_bound_of_none_asks_once():
    only_insults = Guard("test", ["insult"], {}, redraws=0)
    assert said(backend(THREAT), only_insults) == [Utterance(THREAT)]
    scripted = backend(INSULT)
    assert (
        said(scripted, only_insults)[0].role_violations == ("guarded:insult", "guarded:fallback")
        and len(scripted.asked) == 1
    )


@pytest.mark.parametrize("redraws", [-1, 1.5, None])
def test_redraws_that_mean_nothing_are_refused_for_with_minus_one_nobody_would_be_asked(redraws):
    with pytest.raises(UserError, match="guard.redraws=.*a whole number of at least 0"):
        load_guard("words", redraws)


def test_a_backend_that_repeats_itself_is_not_asked_again_and_a_fault_stays_one():
    scripted = backend(THREAT, repeats=True)
    assert said(scripted)[0].text == "My offer is 45 days." and len(scripted.asked) == 1
    assert said(backend(Fault("line dead"))) == [Fault("line dead")]


def test_slips_of_role_and_refusals_are_both_kept():
    (words,) = said(backend("Debtor: fine.", THREAT, GOOD), retries=2)
    assert words.text == GOOD and sorted(words.role_violations) == ["guarded:threat", "other_side"]


def test_a_model_that_names_a_barred_emotion_is_asked_again():
    hospital = games(domain="hospital")
    (words,) = said(
        backend("anger: I want 45 days.", "joy: I want 45 days."), "mild", tables=hospital, emotions="self_selected"
    )
    assert (words.emotion, words.role_violations) == ("joy", ("guarded:emotion",))
    (words,) = said(backend("anger: no."), "mild", tables=games(domain="hospital"), emotions="self_selected")
    assert (words.emotion, words.text) == ("neutral", "My offer is 45 days.")


def test_the_neutral_sentence_says_the_decision():
    (table,) = games()
    assert neutral_sentence(table, Decision("accept", None, "close")) == "I accept your offer."
    assert neutral_sentence(table, Decision("walk_away", None, "hold")).endswith("I end the talks here.")
    assert neutral_sentence(table, Decision("propose", None, "open")) == "My offer is 20 days."  # its own target
    table.play(Turn(1, FOCAL, "30 days.", "propose", 30.0))
    assert neutral_sentence(table, Decision("propose", None, "hold")) == "My offer is 30 days."


def test_refusals_belong_to_their_own_turn():
    (table,) = tables = games()
    speaker = load_guard("words").speaker(ChatSpeaker(backend(THREAT, GOOD), VOCABULARY))
    speaker.begin(tables)
    assert speaker.speak(tables, [OFFER], [None])[0].role_violations == ("guarded:threat",)
    table.play(Turn(1, FOCAL, GOOD, "propose", 45.0))
    table.play(Turn(1, COUNTERPARTY, "90 days.", "propose", 90.0))
    assert speaker.speak(tables, [OFFER], [None])[0] == Utterance(GOOD)


def test_a_guarded_speaker_still_drafts_and_no_draft_is_flagged():
    flat, shown = "I want 45 days.", "I love your patience. I want 45 days."
    given = iter([flat, THREAT, "I love it, you idiot. 45 days.", shown, flat])  # drafts 1, 2 (asked twice more), 3
    speaker = ChatSpeaker(ScriptedBackend(lambda *_: next(given)), VOCABULARY, retries=0)
    guarded = load_guard("words").speaker(speaker.drafting(3, load_perceiver("judge")))
    tables = games()
    guarded.begin(tables)
    (words,) = guarded.speak(tables, [OFFER], ["love"])
    assert words == Utterance(shown, ("guarded:threat", "guarded:insult"))
    assert next(given, None) is None


def test_a_neutral_sentence_in_a_draft_that_is_not_said_is_no_fallback():
    shown = "I love your patience. I want 45 days."
    for last, marks in ((shown, ()), (THREAT, ("guarded:threat",) * 3 + ("guarded:fallback",))):
        given = iter([THREAT] * 3 + [last] * 3)  # draft 1 is given up, draft 2 may be
        speaker = ChatSpeaker(ScriptedBackend(lambda *_, given=given: next(given)), VOCABULARY, retries=0)
        guarded = load_guard("words").speaker(speaker.drafting(2, load_perceiver("judge")))
        tables = games()
        guarded.begin(tables)
        (words,) = guarded.speak(tables, [OFFER], ["love"])
        assert words.role_violations == ("guarded:threat",) * 3 + marks
        assert words.text == (shown if last == shown else "My offer is 45 days.")


class Repeating:
    """A speaker without memory, like the phrasebook: it says its lines in turn."""

    name = "repeating"

    def __init__(self, *lines):
        self.lines, self.calls = list(lines), 0

    def begin(self, negotiations):
        """Nothing to prepare."""

    def speak(self, negotiations, decisions, emotions):
        self.calls += 1
        return [self.lines[min(self.calls, len(self.lines)) - 1]] * len(negotiations)


def test_any_other_speaker_is_asked_again_and_the_turn_keeps_why():
    class Schedule:
        def decide(self, negotiation):
            return OFFER

    for lines, text, violations in [
        ((THREAT, GOOD), GOOD, ("guarded:threat",)),
        ((INSULT,), "My offer is 45 days.", ("guarded:insult",) * 3 + ("guarded:fallback",)),
    ]:
        speaker = load_guard("words").speaker(Repeating(*lines))
        (move,) = FocalAgent(NoEmotion(), Schedule(), speaker).act(games())
        assert (move.text, move.role_violations, move.offer, move.offer_appended) == (text, violations, 45.0, False)


def test_the_level_off_leaves_the_speaker_alone():
    speaker = Repeating(GOOD)
    assert load_guard("off").speaker(speaker) is speaker
