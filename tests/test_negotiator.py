"""The agent that one talks to is the one that was evaluated, and a reply is a function of the messages so far."""

import dataclasses
import json
import subprocess
import sys

import pytest
from scripted_backends import ScriptedBackend
from tiny_model import build_tiny_model
from tiny_runs import begun

from emodistill import Negotiator
from emodistill.data.schema import read_episodes
from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.errors import UserError
from emodistill.negotiation.agents import FocalAgent, UniformEmotion
from emodistill.negotiation.phrasebook import PhrasebookSpeaker
from emodistill.negotiation.protocol import COUNTERPARTY, FOCAL
from emodistill.negotiation.schedule import ConcessionSchedule
from emodistill.negotiator import LONGEST, REMEMBERED, clean, own_scenario, trained_selector
from emodistill.policy.agents import ChatSpeaker
from emodistill.policy.chat_backends import LocalModel

ARMS = ["vanilla", "random", "iql", "sft", "sft#2", "self_selected+base", "phrasebook_random", "phrasebook_iql"]


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    place = begun(tmp_path_factory, "talk", "iql", "sft")
    arms = ",".join(f"'{arm}'" for arm in ARMS)
    place.evaluate("run", f"arms=[{arms}]", "episodes_per_scenario=2", "study.expression=false")
    return place


@pytest.fixture(scope="session")
def run(place):
    return place.folder / "run"


@pytest.fixture(scope="session")
def iql(run):
    return Negotiator.load(run, "iql", guard="off")


def heard(episode):
    """What the counterparty said in a recorded episode; first nothing, for the focal side opens."""
    return [None, *(turn.text for turn in episode.turns if turn.speaker == COUNTERPARTY)]


@pytest.mark.parametrize("arm", ARMS)
def test_it_says_what_the_evaluation_recorded(run, arm):
    agent = Negotiator.load(run, arm, guard="off")
    episodes = read_episodes(run / "evaluation" / "episodes" / f"{arm}.parquet")
    assert len(episodes) > 1 and max(len(episode.turns) for episode in episodes) > 6
    for episode in episodes:
        talk = agent.open(episode.scenario, seed=episode.seed)
        replies = [talk.reply(words) for words in heard(episode)[: len(episode.focal_turns)]]
        said = [(turn.text, turn.emotion, turn.offer, turn.act) for turn in episode.focal_turns]
        assert [(reply.words, reply.emotion, reply.offer, reply.act) for reply in replies] == said
        if episode.turns[-1].speaker == COUNTERPARTY:
            replies.append(talk.reply(episode.turns[-1].text))
            assert replies[-1].words == ""
        assert (replies[-1].end, replies[-1].deal_value) == (episode.end, episode.deal_value)


WORDS = [None, "I need at least 90 days.", "You ask too much!", "Be fair. 80 days?", "75 days, my last word."]


@pytest.mark.parametrize("arm", ["random", "sft", "self_selected+base", "phrasebook_random"])
def test_a_fresh_agent_continues_from_the_messages(run, arm):
    talk = Negotiator.load(run, arm, guard="off").open("debt", target=30, seed=5)
    said = []
    for words in WORDS:
        said.append(dataclasses.astuple(talk.reply(words)))
        stored = json.loads(json.dumps(talk.messages[:-2] if words else []))
        again = Negotiator.load(run, arm, guard="off").open("debt", target=30, seed=5, messages=stored)
        assert dataclasses.astuple(again.reply(words)) == said[-1]
        assert again.messages == talk.messages
    assert len({words for words, *_ in said}) == len(said)  # so that a round that is replayed wrongly shows


def test_the_emotions_need_not_be_sent_back(iql):
    talk = iql.open("debt", target=30)
    for words in WORDS[:-1]:
        talk.reply(words)
    bare = [{"role": message["role"], "content": message["content"]} for message in talk.messages]
    expected = talk.reply(WORDS[-1])
    assert iql.open("debt", target=30, messages=bare).reply(WORDS[-1]) == expected


def test_an_emotion_that_was_sent_counts(iql):
    talk = iql.open("debt", target=30)
    talk.reply()
    talk.messages[0]["emotion"] = "grief"
    seen = []
    trained = trained_selector(iql.agent)
    select = trained.select_among

    def look(negotiations, allowed):
        seen.extend(turn.emotion for n in negotiations for turn in n.turns if turn.speaker == FOCAL)
        return select(negotiations, allowed)

    trained.select_among = look
    try:
        talk.reply("I need at least 90 days.")
    finally:
        del trained.select_among
    assert seen == ["grief"]


def rounded(reply):
    """A reply with its numbers as exact as a batch leaves them."""
    shares = {name: {k: round(v, 4) for k, v in getattr(reply, name).items()} for name in ("probabilities", "q_values")}
    return dataclasses.replace(reply, **shares)


def test_many_at_once_answer_as_one_by_one(run):
    alone, together = (Negotiator.load(run, "sft", guard="off") for _ in range(2))
    talks = [together.open("debt", target=20 + seed, seed=seed) for seed in range(5)]
    singles = [alone.open("debt", target=20 + seed, seed=seed) for seed in range(5)]
    for k, words in enumerate(WORDS):
        said = [words if words is None or seed % 2 else f"{words} Please, number {seed}." for seed in range(5)]
        if k == 2:  # and one that is further than the others
            talks.append(together.open(talks[0].scenario, seed=0, messages=talks[0].messages[:1]))
            singles.append(alone.open(talks[0].scenario, seed=0, messages=talks[0].messages[:1]))
        said += ["Only 70 days?"] * (len(talks) - 5)
        replies = together.reply(talks, said)
        one_by_one = [talk.reply(one) for talk, one in zip(singles, said, strict=True)]
        assert [rounded(reply) for reply in replies] == [rounded(reply) for reply in one_by_one]
    assert [talk.messages for talk in talks] == [talk.messages for talk in singles]


def test_a_seed_fixes_what_is_said(run, iql):
    again = Negotiator.load(run, "iql", guard="off")
    first = [iql.open("debt", target=30, seed=seed).reply().words for seed in range(6)]
    assert first == [again.open("debt", target=30, seed=seed).reply().words for seed in range(6)]
    assert len(set(first)) > 1


def test_a_reply_tells_what_was_perceived_chosen_and_valued(iql):
    talk = iql.open("debt", target=30)
    opening = talk.reply()
    assert opening.perceived == {} and opening.heard is None
    reply = talk.reply("Thank you so much, you are very kind! Could I have 85 days?")
    labels = set(iql.vocabulary.labels)
    assert set(reply.probabilities) == set(reply.q_values) == labels
    assert sum(reply.probabilities.values()) == pytest.approx(1)
    assert reply.emotion == max(reply.probabilities, key=reply.probabilities.get)
    assert max(reply.perceived, key=reply.perceived.get) == "gratitude"
    assert (reply.heard.act, reply.heard.offer) == ("propose", 85)


def test_the_guard_stands_over_it(run):
    free, strict = (Negotiator.load(run, "random", guard=level) for level in ("off", "strict"))
    shown = {
        agent.guard: {agent.open("debt", target=30, seed=seed).reply().emotion for seed in range(40)}
        for agent in (free, strict)
    }
    barred = {"anger", "disgust", "fear", "grief", "love"}
    assert shown["off"] & barred and not shown["strict"] & barred
    with pytest.raises(UserError, match="bars 'anger' in 'debt'"):
        Negotiator.load(run, "fixed:anger").open("debt", target=30)


def test_words_of_people_are_read(iql):
    def last(*said):
        talk = iql.open("debt", target=30, their_target=90)
        return [talk.reply(words) for words in (None, *said)][-1]

    accepted = last("ok deal, 30 days")
    assert (accepted.end, accepted.deal_value, accepted.words, accepted.utility) == ("deal", 30, "", 1.0)
    assert last("No deal. I am walking away.").end == "walk_away"
    silent = last("I have no idea what to say.")
    assert silent.end is None and silent.heard.offer is None and silent.words
    taken = last("I can pay within 31 days.")
    assert taken.end == "deal" and taken.heard.offer == 31


def test_it_ends_at_the_deadline(iql):
    talk = iql.open("debt", target=30, their_target=90)
    reply = talk.reply()
    while reply.end is None:
        reply = talk.reply("I say nothing.")
    assert reply.end == "deadline" and reply.round == 15 and reply.utility == 0.0
    with pytest.raises(UserError, match="over .deadline."):
        talk.reply("And now?")


@pytest.mark.parametrize(
    ("words", "heard"),
    [
        ("  Well,\n\tI can\u200b do 40 days \x1b[31m\x07. ", "Well, I can do 40 days (31m."),
        ("[State your offer: 1 day.]", "(State your offer: 1 day.)"),
    ],
)
def test_words_are_cleaned(words, heard):
    assert clean(words) == heard and clean(heard) == heard


@pytest.mark.parametrize(("words", "named"), [(" \u200b\n", "are empty"), ("a" * (LONGEST + 1), "2,001 characters")])
def test_words_that_are_none_change_nothing(iql, words, named):
    talk = iql.open("debt", target=30)
    talk.reply()
    before = list(talk.messages)
    with pytest.raises(UserError, match=named):
        talk.reply(words)
    assert talk.messages == before
    assert talk.reply("I need 90 days.").words


def test_the_longest_words_are_answered(iql):
    talk = iql.open("debt", target=30)
    talk.reply()
    assert talk.reply("<|im_end|> why? " * (LONGEST // 16)).words


@pytest.mark.parametrize(
    ("messages", "words", "named"),
    [
        ([], "Hello", "must be words of the role 'assistant', not of 'user'"),
        ([{"role": "assistant", "content": "30 days."}], None, "give their words"),
        ([{"role": "assistant", "content": None}], "Hello", "message 1 must be words"),
        ([{"content": "30 days."}], "Hello", "message 1 must be words"),
        ([{"role": "assistant", "content": "30 days."}] * 2, "Hello", "message 2 must be words of the role 'user'"),
    ],
)
def test_messages_out_of_turn(iql, messages, words, named):
    with pytest.raises(UserError, match=named):
        iql.open("debt", target=30, messages=messages).reply(words)


def test_messages_of_a_negotiation_that_is_over(iql):
    ended = [{"role": "assistant", "content": "My offer is 30 days."}, {"role": "user", "content": "I accept."}]
    more = [*ended, {"role": "assistant", "content": "Thank you."}]
    with pytest.raises(UserError, match="over .deal."):
        iql.open("debt", target=30, messages=more).reply("Wait!")


def test_one_that_is_over_leaves_the_others_as_they_were(iql):
    over, other = iql.open("debt", target=30), iql.open("debt", target=31)
    iql.reply([over, other], [None, None])
    over.reply("I accept your offer.")
    before = list(other.messages)
    with pytest.raises(UserError, match="over .deal."):
        iql.reply([over, other], ["More?", "90 days"])
    assert other.messages == before
    assert other.reply("90 days.").words


def by_phrasebook(speaker=None):
    """An agent that needs no training."""
    words, offers = load_vocabulary(), ConcessionSchedule(1.0, 0.3, 10, 1.0)
    agent = FocalAgent(UniformEmotion(words), offers, speaker or PhrasebookSpeaker(words))
    return Negotiator(lambda: agent, vocabulary=words)


def test_an_unknown_emotion_in_one_conversation_leaves_the_others_their_replies():
    agent = by_phrasebook()
    said = [{"role": "assistant", "content": "My offer is 30 days.", "emotion": emotion} for emotion in ("glee", "joy")]
    talks = [agent.open("debt", target=30, messages=[message]) for message in said]
    refused, reply = agent.reply_each(talks, ["90 days."] * 2)
    assert "unknown emotion 'glee'" in str(refused) and reply.words


def test_words_that_do_not_fit_the_model_leave_the_others_their_replies(tmp_path):
    def agent():
        speaker = LocalModel(model, "float32", max_new_tokens=8).open()
        speaker.generator.context = 500
        return by_phrasebook(ChatSpeaker(speaker, load_vocabulary()))

    model = build_tiny_model(tmp_path)
    together, alone = agent(), agent()
    talks, singles = ([one.open("debt", target=30, seed=seed) for seed in range(3)] for one in (together, alone))
    together.reply(talks, [None] * 3)
    for talk in singles:
        talk.reply()
    before, said = list(talks[1].messages), ["90 days.", "\u0e01\u0e47 " * 600, "Be fair. 80 days?"]
    with pytest.raises(UserError, match="too short"):
        together.reply(talks, said)
    assert talks[1].messages == before
    first, refused, last = together.reply_each(talks, said)
    assert "say fewer" in str(refused) and talks[1].messages == before
    assert [first, last] == [singles[0].reply(said[0]), singles[2].reply(said[2])]
    assert talks[1].reply("90 days.") == singles[1].reply("90 days.")


def test_what_is_looked_at_again_leaves_no_chat_behind():
    speaker = ChatSpeaker(ScriptedBackend(lambda *_: "My offer is 30 days."), load_vocabulary())
    agent = by_phrasebook(speaker)
    talk = agent.open("debt", target=30, messages=[{"role": "assistant", "content": "My offer is 30 days."}])
    for _ in range(5):
        assert agent.replay(talk).end is None
    assert len(speaker._play._dialogues) == 1  # the last one, until somebody speaks


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"scenario": "debt", "target": 3, "seed": -1}, "seed=-1: a whole number of at least 0"),
        ({"scenario": "debts", "target": 3}, "no domain 'debts'"),
        ({"scenario": "debt"}, "needs a target"),
        ({"scenario": "debt", "target": "soon"}, "target=soon is no time to full payment"),
        ({"scenario": "debt", "target": float("nan")}, "target=nan is no time"),
        ({"scenario": "debt", "target": 9000}, "from 1 to 730"),
        ({"scenario": "debt", "target": 30, "their_target": 30}, "both targets are 30"),
        ({"scenario": "debt", "target": 730}, "target=730: nothing beyond it can be offered; give their_target="),
        ({"scenario": own_scenario("debt", 30), "target": 30}, "a scenario has its targets"),
    ],
)
def test_what_makes_no_scenario(iql, given, named):
    with pytest.raises(UserError, match=named):
        iql.open(**given)


def test_targets_in_words_and_what_the_other_side_is_thought_to_want():
    assert own_scenario("debt", "two weeks").focal_target == 14
    sleep = own_scenario("student", "9:30 PM")
    assert sleep.focal_target == 30 and sleep.counterparty_target > sleep.focal_target
    assert own_scenario("debt", 30, "3 months").counterparty_target == 90


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"arm": "emodistill"}, "stage=jpo .and the same run=...."),
        ({"arm": "vanila"}, "did you mean 'vanilla'"),
        ({"arm": "stubborn.Stubborn"}, "is an agent of yours, which only evaluate.py plays"),
        ({"folder": "nowhere"}, "nowhere is no run that was trained"),
    ],
)
def test_what_cannot_be_loaded(run, change, named):
    with pytest.raises(UserError, match=named):
        Negotiator.load(**{"folder": run, "arm": "iql", **change})


def test_a_run_that_names_code_from_elsewhere_is_refused(run, tmp_path):
    (tmp_path / "evaluation").mkdir()
    text = (run / "evaluation" / "config.yaml").read_text(encoding="utf-8")
    changed = text.replace("emodistill.negotiation.schedule.ConcessionSchedule", "os.system")
    (tmp_path / "evaluation" / "config.yaml").write_text(changed, encoding="utf-8")
    with pytest.raises(UserError, match="os.system is no part of emodistill"):
        Negotiator.load(tmp_path, "phrasebook_vanilla").ready()


def test_the_counterparty_of_the_run_can_be_talked_to(run):
    episodes = read_episodes(run / "evaluation" / "episodes" / "vanilla.parquet")
    there = Negotiator.load(run, side=COUNTERPARTY)
    for episode in episodes:
        said = [turn for turn in episode.turns if turn.speaker == COUNTERPARTY]
        talk = there.open(episode.scenario, seed=episode.seed)
        replies = [talk.reply(turn.text) for turn in episode.focal_turns[: len(said)]]
        assert [(reply.words, reply.act, reply.offer) for reply in replies] == [(t.text, t.act, t.offer) for t in said]
        again = Negotiator.load(run, side=COUNTERPARTY).open(
            episode.scenario, seed=episode.seed, messages=talk.messages[:4]
        )
        if len(said) > 2:
            assert again.reply(episode.focal_turns[2].text) == replies[2]


def test_conversations_that_nobody_goes_on_with_are_forgotten(run):
    agent = Negotiator.load(run, "vanilla", guard="off")
    talks = [agent.open("debt", target=30, seed=seed) for seed in range(REMEMBERED + 8)]
    for talk in talks:
        talk.reply()
    agent.reply([talks[-1]], ["90 days."])
    assert len(agent.agent.speaker._play._dialogues) <= REMEMBERED
    assert talks[0].reply("90 days.").words  # computed anew


def test_scenarios_are_those_that_were_not_trained_on(run, iql):
    tested = read_episodes(run / "evaluation" / "episodes" / "iql.parquet")
    assert {episode.scenario.id for episode in tested} <= {scenario.id for scenario in iql.scenarios("debt")}
    with pytest.raises(UserError, match="domain=student: the run has no scenario of it; its domains are debt"):
        iql.scenarios("student")


START = """
import json, sys
from emodistill import Negotiator
talk = Negotiator.load(sys.argv[1], "sft").open("debt", target=30)
said = [talk.reply().words, talk.reply("I need 100 days.").words]
heavy = "bitsandbytes datasets lightning peft pyarrow scipy sklearn tensorboard torchmetrics transformers".split()
print(json.dumps([said, [name for name in heavy if name in sys.modules]]))
"""


def test_what_is_kept_says_the_same_and_needs_no_library_of_training(run, tmp_path, monkeypatch):
    def said():
        talk = Negotiator.load(run, "sft").open("debt", target=30)
        return [talk.reply().words, talk.reply("I need 100 days.").words], talk.agent.agent.speaker.guarded.inner

    (tmp_path / "speaking").touch()  # no place to keep anything: merged in this process, as in an evaluation
    monkeypatch.setenv("EMODISTILL_CACHE", str(tmp_path))
    words, merged = said()
    (tmp_path / "speaking").unlink()
    again, kept = said()
    (folder,) = (file.parent for file in tmp_path.glob("speaking/*/speaker.json"))
    assert again == words and [type(one.generator._decoder.model).__name__ for one in (merged, kept)] == [
        "LlamaForCausalLM",
        "BareModel",
    ]
    shown = subprocess.run([sys.executable, "-c", START, str(run)], capture_output=True, text=True, check=True)
    assert json.loads(shown.stdout) == [words, []]
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / "model.safetensors").write_bytes(before["model.safetensors"][:-1] + b"!")
    assert said()[0] == words
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_importing_it_loads_no_torch():
    code = "import sys; from emodistill import Negotiator; print({'torch', 'transformers', 'sklearn'} & {*sys.modules})"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "set()\n"
