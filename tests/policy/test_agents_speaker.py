"""The speaker's chat is what was really said, token for token what training encodes, whatever the cache does."""

import pytest
from families.templates import family_tokenizer
from schedules import concession_schedule
from tiny_model import random_llama

from emodistill.data.chats import ChatEncoder
from emodistill.data.schema import Episode
from emodistill.emotions.perceiver import load_perceiver
from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.errors import UserError
from emodistill.language_models.local import load_model, load_tokenizer
from emodistill.negotiation.agents import Decision, FocalAgent, LeftToSpeaker, Move, NoEmotion, NoRoom, UniformEmotion
from emodistill.negotiation.engine import play, take_turn
from emodistill.negotiation.protocol import COUNTERPARTY, FOCAL, Negotiation
from emodistill.negotiation.role_checks import first_paragraph
from emodistill.negotiation.scenarios import Scenario
from emodistill.policy import chat_backends
from emodistill.policy.agents import ChatSpeaker
from emodistill.policy.chat_backends import LocalChatBackend
from emodistill.policy.chat_format import ChatFormat
from emodistill.policy.generation import ChatGenerator

CONTEXT = 2048
REPLY = 16


class Stubborn:
    """Holds out at its target, in words of differing length, and leaves in another round in each scenario."""

    name = "stubborn"

    def begin(self, negotiations):
        pass

    def act(self, negotiations):
        return [self._move(negotiation) for negotiation in negotiations]

    def _move(self, negotiation):
        leaves = negotiation.round >= 3 + int(negotiation.scenario.id[-1])
        words = "No. " * (1 + negotiation.round * (1 + negotiation.seed) % 7)
        return Move(words + "I need 90 days.", "walk_away" if leaves else "propose", None if leaves else 90.0)


@pytest.fixture(scope="module")
def vocabulary():
    return load_vocabulary("goemotions28")


@pytest.fixture(scope="module")
def parts(tiny_model):
    return load_model(tiny_model, "float32"), load_tokenizer(tiny_model)


@pytest.fixture
def make(parts, vocabulary):
    def build(context=CONTEXT, emotions="prompted", **changes):
        chat = ChatFormat(parts[1], vocabulary, emotions)
        settings = {"temperature": 1.0, "top_k": 50, "max_new_tokens": REPLY, "stop_ids": chat.end_of_turn[:1]}
        generator = ChatGenerator(*parts, **(settings | changes))
        generator.context = context
        return ChatSpeaker(LocalChatBackend(generator, chat), vocabulary, emotions=emotions)

    return build


def negotiations(count=4, seed=0, max_rounds=6):
    scenarios = [Scenario(f"debt-00{i}", "debt", 20.0, 100.0, {}) for i in range(count)]
    return [Negotiation(scenario, seed + i, max_rounds) for i, scenario in enumerate(scenarios)]


def spy_on(speaker):
    """Every history that the speaker asked a reply to, by scenario, in order."""
    histories, extend = {}, speaker.backend.generator.extend_and_sample

    def record(sessions, prompts, seeds):
        by_session = {id(t.session): t.dialogue.negotiation.scenario.id for t in speaker.backend._encoded.values()}
        for session, prompt in zip(sessions, prompts, strict=True):
            asked, history = histories.setdefault(by_session[id(session)], []), [*session.tokens, *prompt]
            if history not in asked[-1:]:  # a further attempt at a reply out of role must be asked the same
                asked.append(history)
        return extend(sessions, prompts, seeds)

    speaker.backend.generator.extend_and_sample = record
    return histories


@pytest.mark.parametrize("context", [CONTEXT, 420])
@pytest.mark.parametrize("emotions", [True, False])
def test_playing_and_training_see_the_same_tokens(make, vocabulary, context, emotions):
    assert_seen_alike(make(context), vocabulary, context, emotions)


@pytest.mark.parametrize("family", ["gemma3", "mistral-v0.3", "qwen3"])
@pytest.mark.parametrize("context", [CONTEXT, 480])
def test_they_do_so_with_every_form_of_a_chat(vocabulary, context, family):
    tokenizer = family_tokenizer(family)
    chat, model = ChatFormat(tokenizer, vocabulary), random_llama(vocab_size=640).eval()
    generator = ChatGenerator(model, tokenizer, 1.0, 50, REPLY, stop_ids=chat.end_of_turn)
    generator.context = context
    assert_seen_alike(ChatSpeaker(LocalChatBackend(generator, chat), vocabulary), vocabulary, context, True)


def assert_seen_alike(speaker, vocabulary, context, emotions):
    histories = spy_on(speaker)
    selector = UniformEmotion(vocabulary) if emotions else NoEmotion()
    played = play(negotiations(), FocalAgent(selector, concession_schedule(), speaker), Stubborn())
    assert len({len(negotiation.turns) for negotiation in played}) > 1  # chats ended in different rounds
    assert any(turn.offer_appended for negotiation in played for turn in negotiation.turns)
    encoder = ChatEncoder(speaker.backend.chat, context)
    for negotiation in played:
        episode = Episode.of(negotiation, "train", "uniform", "lm")
        contexts = encoder.contexts(episode, [True] * len(episode.focal_turns), reserve=REPLY)
        assert [context.input_ids for context in contexts] == histories[negotiation.scenario.id]
    assert (speaker.backend.dropped_rounds > 0) == (context < CONTEXT)


class Naming:
    """Puts a name before every reply of a generator, or now and then none, as a trained policy would."""

    def __init__(self, speaker, vocabulary):
        self.backend, self.labels = speaker.backend, vocabulary.labels
        self.reply_as_it_is = self.backend.reply

    def reply(self, dialogues, prompts, seeds):
        replies = self.reply_as_it_is(dialogues, prompts, seeds)
        return [self._named(text, seed) for text, seed in zip(replies, seeds, strict=True)]

    def _named(self, text, seed):
        return text if seed % 5 == 0 else f"{self.labels[seed % 28]}: {text}"


@pytest.mark.parametrize("context", [CONTEXT, 500])
def test_a_chat_of_named_emotions_is_the_one_that_training_sees(make, vocabulary, context):
    speaker = make(context, "self_selected")
    histories = spy_on(speaker)
    speaker.backend.reply = Naming(speaker, vocabulary).reply
    played = play(negotiations(), FocalAgent(LeftToSpeaker(), concession_schedule(), speaker), Stubborn())
    turns = [turn for negotiation in played for turn in negotiation.turns if turn.speaker == FOCAL]
    assert len({turn.emotion for turn in turns}) > 3
    encoder = ChatEncoder(speaker.backend.chat, context)
    for negotiation in played:
        episode = Episode.of(negotiation, "train", "self_selected", "lm")
        contexts = encoder.contexts(episode, [True] * len(episode.focal_turns), reserve=REPLY)
        assert [context.input_ids for context in contexts] == histories[negotiation.scenario.id]
    assert (speaker.backend.dropped_rounds > 0) == (context < CONTEXT)


def test_the_cache_changes_no_word(make, vocabulary):
    def words(forget):
        speaker = make()
        extend = speaker.backend.generator.extend_and_sample

        def without_cache(sessions, prompts, seeds):
            for session in sessions:
                session.cached, session.keys_values = [], None
            return extend(sessions, prompts, seeds)

        if forget:
            speaker.backend.generator.extend_and_sample = without_cache
        agent = FocalAgent(UniformEmotion(vocabulary), concession_schedule(), speaker)
        return [[turn.text for turn in negotiation.turns] for negotiation in play(negotiations(), agent, Stubborn())]

    assert words(forget=False) == words(forget=True)


def test_the_same_seeds_say_the_same_in_any_company(make, vocabulary):
    def words(games, **changes):
        agent = FocalAgent(UniformEmotion(vocabulary), concession_schedule(), make(**changes))
        return [[turn.text for turn in negotiation.turns] for negotiation in play(games, agent, Stubborn())]

    together = words(negotiations())
    assert [words([game])[0] for game in negotiations()] == together
    assert words(negotiations(), max_batch=3) == together
    assert words(negotiations(seed=50)) != together


def test_chats_that_are_over_are_forgotten(make, vocabulary):
    speaker = make()
    play(negotiations(), FocalAgent(NoEmotion(), concession_schedule(), speaker), Stubborn())
    assert len(speaker.backend._encoded) < 4
    games = negotiations(count=2)
    speaker.begin(games)
    speaker.speak(games, [Decision("propose", 45.0, "open")] * 2, [None] * 2)
    assert len(speaker.backend._encoded) == 2


@pytest.mark.parametrize(("caches", "holding"), [(0, 1), (1, 2), (2, 3), (9, 4)])
def test_of_chats_that_wait_the_latest_keep_their_caches_and_no_word_changes(make, monkeypatch, caches, holding):
    def replies(speaker):
        agent, games, held = FocalAgent(NoEmotion(), concession_schedule(), speaker), negotiations(count=4), []
        agent.begin(games)
        for _ in range(2):
            for game in games:  # one after the other, each in a call of its own
                take_turn(game, FOCAL, agent.act([game])[0])
                take_turn(game, COUNTERPARTY, Stubborn().act([game])[0])
            held.append([each.session.held_bytes for each in speaker.backend._encoded.values()])
        return [[turn.text for turn in game.turns] for game in games], held[0]

    unlimited, sizes = replies(make())
    assert min(sizes) > 0
    monkeypatch.setattr(chat_backends, "KEPT_BYTES", caches * max(sizes))
    said, held = replies(make())
    assert said == unlimited
    assert held == [0] * (4 - holding) + sizes[4 - holding :]


def test_the_cache_of_the_chat_that_was_spoken_in_last_stays(make, monkeypatch):
    agent, games = FocalAgent(NoEmotion(), concession_schedule(), make()), negotiations(count=4)
    agent.begin(games)

    def speak(game):
        take_turn(game, FOCAL, agent.act([game])[0])
        take_turn(game, COUNTERPARTY, Stubborn().act([game])[0])
        sessions = {e.dialogue.negotiation.scenario.id: e.session for e in agent.speaker.backend._encoded.values()}
        return {name: session.held_bytes for name, session in sessions.items() if session.held_bytes}

    held = [speak(game) for game in (*games, games[0])][-1]
    monkeypatch.setattr(chat_backends, "KEPT_BYTES", max(held.values()))
    assert speak(games[1]).keys() == {games[0].scenario.id, games[1].scenario.id}


def test_a_context_too_short_for_one_round_is_said_plainly(make):
    speaker, games = make(context=60), negotiations(1)
    speaker.begin(games)
    with pytest.raises(UserError, match="context of 60 tokens is too short"):
        speaker.speak(games, [Decision("propose", 45.0, "open")], [None])


def test_words_that_do_not_fit_are_those_of_one_negotiation(make):
    speaker, games = make(context=500), negotiations(3)
    speaker.begin(games)
    take_turn(games[1], FOCAL, Move("45 days.", offer=45.0))
    take_turn(games[1], COUNTERPARTY, Move("\u0e01\u0e47 " * 600, offer=90.0))
    with pytest.raises(NoRoom, match="say fewer") as refused:
        speaker.speak(games, [Decision("propose", 45.0, "open")] * 3, [None] * 3)
    assert [game is games[1] for game in refused.value.negotiations] == [True]
    assert speaker.backend.generator.written == 0


def test_a_generator_that_would_talk_on_is_refused(parts, vocabulary):
    chat = ChatFormat(parts[1], vocabulary)
    generator = ChatGenerator(*parts, temperature=0.0, top_k=None, max_new_tokens=4)
    generator.sampling = type(generator.sampling)(0.0, None, 4, frozenset())
    with pytest.raises(ValueError, match="end of turn"):
        LocalChatBackend(generator, chat)


def test_only_the_first_paragraph_is_said():
    assert first_paragraph("  We need\nit now.  \n\nDebtor: no") == "We need it now."
    assert first_paragraph("") == ""


def test_sides_are_told_apart(make):
    game = negotiations(1)[0]
    assert game.next_speaker == FOCAL != COUNTERPARTY
    speaker = make()
    speaker.begin([game])
    before = game.rng[COUNTERPARTY].bit_generator.state
    speaker.speak([game], [Decision("propose", 45.0, "open")], [None])
    assert game.rng[COUNTERPARTY].bit_generator.state == before  # noise comes from the focal side's generator only


def test_of_several_drafts_the_best_is_said_and_the_first_is_the_reply_without_drafts(make, vocabulary):
    """Drafts are judged by role, then by the offer, then by the emotion that is read."""
    said = {}
    for drafts in (1, 4):
        speaker = make()
        if drafts > 1:
            speaker = speaker.drafting(drafts, load_perceiver("judge"))
        drafted = []
        play_of = speaker._play
        in_role = play_of._in_role
        play_of._in_role = lambda *given, own=in_role, seen=drafted: seen.append(own(*given)) or seen[-1]
        table = negotiations(3)
        speaker.begin(table)
        decisions = [Decision("propose", 30.0, "open")] * 3
        said[drafts] = speaker.speak(table, decisions, ["joy", "anger", "fear"]), drafted
    (alone, _), (best, found) = said[1], said[4]
    assert len(found) == 4 and found[0] == alone
    for place, emotion in enumerate(("joy", "anger", "fear")):
        own = [draft[place] for draft in found]
        assert best[place] in own and len({draft.text for draft in own}) > 1
        clean = [draft for draft in own if not draft.role_violations] or own
        assert best[place] in clean
        shares = load_perceiver("judge").probabilities([draft.text for draft in clean])
        read = [row[vocabulary.index(emotion)] for row in shares]
        assert read[clean.index(best[place])] == pytest.approx(max(read), abs=1e-4)


def test_with_drafts_playing_and_training_still_see_the_same_tokens(make, vocabulary):
    speaker = make().drafting(3, load_perceiver("judge"))
    histories = spy_on(speaker)
    played = play(negotiations(), FocalAgent(UniformEmotion(vocabulary), concession_schedule(), speaker), Stubborn())
    encoder = ChatEncoder(speaker.backend.chat, CONTEXT)
    for negotiation in played:
        episode = Episode.of(negotiation, "train", "uniform", "lm")
        contexts = encoder.contexts(episode, [True] * len(episode.focal_turns), reserve=REPLY)
        assert [context.input_ids for context in contexts] == histories[negotiation.scenario.id]
