"""A published folder is the agent that was trained, and nothing else that a file could name."""

import json
import shutil

import pytest
import yaml
from scripted_backends import ScriptedBackend

from emodistill import Negotiator
from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.errors import UserError
from emodistill.evaluation.arms import Arm, parse_arm
from emodistill.export.agent import write_sums
from emodistill.learners.selector import load_selector
from emodistill.learners.selector_file import read_selector, same_selector, write_selector
from emodistill.negotiation.protocol import COUNTERPARTY
from emodistill.negotiator import PublishedAgent
from emodistill.serving.served_run import ServedRun, line

WORDS = [None, "I need at least 90 days.", "You ask too much!", "Be fair. 80 days?"]


def talked(agent, seed):
    talk = agent.open("debt", target=30, seed=seed)
    return [talk.reply(words) for words in WORDS]


@pytest.fixture
def folder(exported, tmp_path):
    """A copy, to be changed."""
    shutil.copytree(exported("peft"), tmp_path / "agent")
    return tmp_path / "agent"


def rewrite(folder, change):
    about = json.loads((folder / "agent.json").read_text(encoding="utf-8"))
    change(about)
    (folder / "agent.json").write_text(json.dumps(about), encoding="utf-8")
    write_sums(folder)


@pytest.mark.parametrize(("arm", "published"), [("sft", None), ("vanilla", "vanilla"), ("joy+sft", "joy+sft")])
def test_it_says_what_the_run_says(run, exported, arm, published):
    mine = Negotiator.load(run, arm, guard="off")
    theirs = Negotiator.load(exported("peft"), published, guard="off")
    for seed in (0, 1):
        assert talked(theirs, seed) == talked(mine, seed)


def test_a_merged_folder_shows_and_offers_the_same(run, exported):
    mine = talked(Negotiator.load(run, "sft", guard="off"), 0)
    theirs = talked(Negotiator.load(exported("merged"), guard="off"), 0)
    assert [reply.q_values for reply in theirs[:2]] == [reply.q_values for reply in mine[:2]]
    assert [(reply.emotion, reply.offer) for reply in theirs] == [(reply.emotion, reply.offer) for reply in mine]
    assert all(reply.words for reply in theirs)


def test_it_knows_the_unseen_scenarios(run, exported):
    assert Negotiator.load(exported("peft")).scenarios() == Negotiator.load(run, "sft").scenarios()


@pytest.mark.parametrize(
    ("form", "arm", "reason"),
    [
        ("peft", "emodistill", "holds 'sft' .* such as vanilla;"),
        ("peft", "mean_return", "holds 'sft'"),
        ("peft", "emodistill.negotiation.agents.NoEmotion+phrasebook", "holds 'sft'"),
        ("ollama", None, "iql\\+endpoint"),
        ("merged", "emodistill", "holds 'sft' .* such as phrasebook_vanilla;"),
        ("merged", "vanilla", "holds the words of 'sft' merged into its base, and no untrained base"),
        ("merged", "fixed:joy", "no untrained base"),
        ("ollama", "random", "no untrained base"),
    ],
)
def test_other_arms_need_the_run(exported, form, arm, reason):
    with pytest.raises(UserError, match=reason):
        Negotiator.load(exported(form), arm)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("sft", "emotions of the trained selector, words of the model of stage sft"),
        ("joy+base", "always joy, words of the base model"),
        ("closing.Own+base", "emotions of closing.Own, words of the base model"),
    ],
)
def test_a_server_says_what_an_arm_is(name, said):
    assert line(parse_arm(name, load_vocabulary())) == said


def test_a_selector_that_cannot_be_had_is_refused_before_it_is_served(run):
    with pytest.raises(UserError, match="cannot import nowhere_at_all.Own"):
        ServedRun(run, ["phrasebook_random", "nowhere_at_all.Own+phrasebook"], guard="off")


@pytest.mark.parametrize("form", ["peft", "merged"])
def test_an_exported_folder_names_no_agent(exported, form):
    agent = PublishedAgent(exported(form))
    for arm in (Arm("joy", "joy", "itself"), Arm("os.getcwd", "os.getcwd", "itself")):
        with pytest.raises(UserError, match="is an agent of yours, which only evaluate.py plays"):
            agent.check(arm)


def test_the_other_side_needs_the_run(exported):
    with pytest.raises(UserError, match="focal side alone"):
        Negotiator.load(exported("peft"), side=COUNTERPARTY).ready()


def test_a_served_model_speaks_for_the_selector_here(run, exported):
    def served():
        return ScriptedBackend(lambda dialogue, prompt, seed: f"Let us see. {seed % 7}")

    mine = Negotiator.load(run, "iql+endpoint", guard="off", endpoint=served)
    theirs = Negotiator.load(exported("ollama"), "iql+endpoint", guard="off", endpoint=served)
    assert talked(theirs, 3) == talked(mine, 3)


def test_a_changed_file_is_refused(folder):
    with (folder / "selector.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x00\x01")
    with pytest.raises(UserError, match="selector.safetensors is not the file that was exported"):
        Negotiator.load(folder)


def test_a_missing_file_is_refused(folder):
    (folder / "vocabulary.yaml").unlink()
    with pytest.raises(UserError, match="is not whole"):
        Negotiator.load(folder)


def test_other_rules_of_a_domain_are_refused(folder):
    rules = folder / "domains" / "debt.yaml"
    rules.write_text(rules.read_text(encoding="utf-8").replace("grid: 1", "grid: 2"), encoding="utf-8")
    write_sums(folder)
    with pytest.raises(UserError, match="not this version's 'debt'"):
        Negotiator.load(folder)


def test_a_file_names_no_code(folder, tmp_path):
    """Configurations of a run may say what is made; those of strangers may not."""
    victim = tmp_path / "victim"
    target = {"_target_": "emodistill.files.atomic_write", "path": str(victim), "content": "x"}

    def change(about):
        about["sampler"] |= target | {"top_k": target}
        about["offers"] |= target

    rewrite(folder, change)
    with pytest.raises(UserError, match="agent.json is damaged"):
        Negotiator.load(folder, "vanilla")
    rewrite(folder, lambda about: about["sampler"].update(top_k=40))
    assert Negotiator.load(folder, "phrasebook_random").open("debt", target=30).reply().words
    assert not victim.exists()


@pytest.mark.parametrize("change", [lambda about: about.pop("base"), lambda about: about["offers"].update(kind="os")])
def test_a_damaged_description_is_refused(folder, change):
    rewrite(folder, change)
    with pytest.raises(UserError, match="agent.json is damaged or of another version"):
        Negotiator.load(folder)


def test_the_selector_comes_back_to_the_bit(run, tmp_path):
    vocabulary = load_vocabulary()
    trained = load_selector(str(run / "iql" / "best.ckpt"), vocabulary)
    write_selector(trained, tmp_path)
    again = read_selector(tmp_path, vocabulary)
    assert same_selector(trained, again)
    assert again.settings == trained.settings
    assert again.observer.variant == trained.observer.variant
    again.learner.q.q1[0].weight.data[0, 0] += 1e-6
    assert not same_selector(trained, again)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda about: about.update(perceiver="0" * 12), "another version of the perceiver"),
        (lambda about: about["settings"]["dataset_stats"].update(fingerprint="0" * 12), "another vocabulary"),
        (lambda about: about.pop("settings"), "is damaged"),
        (lambda about: about["settings"].update(hidden_dims=[2]), "is damaged"),
    ],
)
def test_a_foreign_selector_is_refused(exported, tmp_path, change, reason):
    for name in ("selector.json", "selector.safetensors"):
        shutil.copy(exported("peft") / name, tmp_path / name)
    about = json.loads((tmp_path / "selector.json").read_text(encoding="utf-8"))
    change(about)
    (tmp_path / "selector.json").write_text(json.dumps(about), encoding="utf-8")
    with pytest.raises(UserError, match=reason):
        read_selector(tmp_path, load_vocabulary())


def test_a_vocabulary_of_ones_own_goes_along(exported):
    """The file has all that the package's own has."""
    mine, theirs = load_vocabulary(), load_vocabulary(str(exported("peft") / "vocabulary.yaml"))
    assert (theirs.fingerprint, theirs.perceived_as) == (mine.fingerprint, mine.perceived_as)
    assert yaml.safe_load((exported("peft") / "vocabulary.yaml").read_text(encoding="utf-8"))["name"] == mine.name
