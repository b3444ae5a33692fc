"""What a run was trained on is kept, and no scenario of it is tested on."""

from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from episodes import make_episode, make_scenario

from emodistill.data.corpus import CorpusFile
from emodistill.data.provenance import Provenance, check_unseen, of_run, training_episodes
from emodistill.data.schema import read_episodes, write_episodes
from emodistill.errors import UserError
from emodistill.negotiation.protocol import Turn
from emodistill.negotiation.scenarios import Scenario


@pytest.fixture
def run(tmp_path):
    (tmp_path / "run" / "iql").mkdir(parents=True)
    episodes = [replace(make_episode(number=i, seed=k), scenario=scenario(i)) for k, i in enumerate((0, 1, 1))]
    write_episodes(episodes, tmp_path / "episodes.parquet")
    Provenance.of(tmp_path / "episodes.parquet", episodes).write(tmp_path / "run" / "iql")
    return tmp_path / "run"


def scenario(number, name=None):
    """Like `make_scenario`, with a situation of its own for each number."""
    made = make_scenario(number)
    return replace(made, id=name or made.id, context=made.context | {"Days Overdue": str(number)})


def test_what_was_written_is_read_back(run, tmp_path):
    (kept,) = of_run(run).values()
    assert kept.episodes == str(tmp_path / "episodes.parquet") and set(kept.scenarios.values()) == {
        "debt-000",
        "debt-001",
    }
    assert of_run(tmp_path) == {}


def test_the_episodes_of_a_run_are_those_of_its_selector(run, tmp_path):
    """JPO may learn from others, such as its own adapter's play, whose file may come first by name."""
    (run / "jpo").mkdir()
    others = [replace(make_episode(number=5, seed=9), scenario=scenario(5))]
    write_episodes(others, tmp_path / "a.parquet")
    Provenance.of(tmp_path / "a.parquet", others).write(run / "jpo")
    assert [episode.seed for episode in training_episodes(run, ["debt"], None)] == [0, 1, 2]
    write_episodes(others, tmp_path / "episodes.parquet")
    with pytest.raises(UserError, match=r"episodes.parquet is not what .*iql learnt from; put that file back"):
        training_episodes(run, ["debt"], None)
    (tmp_path / "episodes.parquet").unlink()
    assert [episode.seed for episode in training_episodes(run, ["student"], None)] == [9]


def test_another_corpus_is_not_taken_for_the_one_that_is_gone(run, tmp_path):
    path = tmp_path / "episodes.parquet"
    path.rename(tmp_path / "moved.parquet")
    write_episodes([make_episode(number=5)], tmp_path / "other.parquet")
    with pytest.raises(UserError, match=r"episodes.parquet, which .*iql learnt from, is gone, and .*other.parquet is"):
        training_episodes(run, ["debt"], CorpusFile(str(tmp_path / "other.parquet")))
    found = training_episodes(run, ["debt"], CorpusFile(str(tmp_path / "moved.parquet")))
    assert [episode.seed for episode in found] == [0, 1, 2]


def test_a_test_scenario_that_was_trained_on_is_named(run):
    check_unseen(run, [scenario(2), scenario(3)])
    with pytest.raises(UserError, match=r"test scenario debt-001 was trained on: .*iql learnt from .*episodes.parquet"):
        check_unseen(run, [scenario(2), scenario(1)])


def test_the_situation_counts_and_not_its_name(run):
    check_unseen(run, [scenario(7, "debt-001")])
    with pytest.raises(UserError, match=r"debt-009 was trained on \(there called debt-000\)"):
        check_unseen(run, [scenario(0, "debt-009")])


def test_a_stage_goes_on_with_the_episodes_it_was_begun_with_and_no_others(run, tmp_path):
    """The scenarios are the same; only the words of one episode are not."""
    file, stage = tmp_path / "episodes.parquet", run / "iql"
    same = read_episodes(file)
    Provenance.of(file.rename(tmp_path / "moved.parquet"), same).check_continues(stage)
    write_episodes([replace(same[0], seed=9), *same[1:]], file)
    with pytest.raises(UserError, match=r"^data: .*episodes.parquet is not what .*iql was begun with"):
        Provenance.of(file, same).check_continues(stage)


@pytest.mark.parametrize("kept", ['{"episodes": "a", "scenarios": {}}', None])
def test_a_stage_begun_before_the_hash_was_kept_goes_on(run, tmp_path, kept):
    note = run / "iql" / "corpus.json"
    if kept:
        note.write_text(kept)
    else:
        note.unlink()
    Provenance("another", {}, "hash").check_continues(run / "iql")


def test_a_damaged_note_is_named(run):
    (run / "iql" / "corpus.json").write_text("{")
    with pytest.raises(UserError, match="corpus.json is damaged"):
        of_run(run)


@pytest.fixture
def corpus(tmp_path):
    splits = ["train", "test", "test", "val", "test"]
    episodes = [
        replace(make_episode(number=i), scenario=scenario(i), split=split, episode_id=f"{i}")
        for i, split in enumerate(splits)
    ]
    again = replace(episodes[1], episode_id="again", seed=1)
    write_episodes([*episodes, again], tmp_path / "mine.parquet")
    return CorpusFile(str(tmp_path / "mine.parquet"), ["debt"])


def test_a_corpus_of_yours_gives_the_scenarios_of_a_split_each_once_and_in_order(corpus):
    assert corpus.scenarios("test") == [scenario(1), scenario(2), scenario(4)]
    assert corpus.scenarios("train") == [scenario(0)]


@pytest.mark.parametrize("first", [0, 1])
def test_a_content_in_two_splits_is_found_beside_another_one_of_the_same_id(tmp_path, first):
    one, other = scenario(1), replace(scenario(2), id=scenario(1).id)
    rows = [((one, other)[first], "train"), ((other, one)[first], "train"), (replace(one, id="debt-009"), "test")]
    episodes = [
        replace(make_episode(number=i), scenario=s, split=split, episode_id=str(i)) for i, (s, split) in enumerate(rows)
    ]
    write_episodes(episodes, tmp_path / "leaky.parquet")
    with pytest.raises(UserError, match="debt-009 is in the split 'test' and has the same context as"):
        CorpusFile(str(tmp_path / "leaky.parquet")).episodes()


def test_a_path_that_is_no_corpus_is_named(tmp_path):
    with pytest.raises(UserError, match=r"is a folder; give the episodes\.parquet in it"):
        CorpusFile(str(tmp_path)).build()
    with pytest.raises(UserError, match=r"data\.corpus\.path=.*: one file, an episodes\.parquet"):
        CorpusFile(["a", "b"])


def written(tmp_path, *episodes):
    write_episodes(episodes, tmp_path / "own.parquet")
    return CorpusFile(str(tmp_path / "own.parquet"), ["debt"])


def test_what_would_be_counted_twice_or_not_at_all_is_named(tmp_path, caplog):
    one = replace(make_episode(), episode_id="one")
    with pytest.raises(UserError, match=r"own.parquet: two episodes have the episode_id one; give each"):
        written(tmp_path, one, one).episodes()
    other = replace(one, episode_id="other", scenario=replace(one.scenario, focal_target=25.0))
    assert len(written(tmp_path, one, other).episodes()) == 2
    with pytest.raises(UserError, match=r"the split 'train' has two scenarios with the id debt-000; give each its own"):
        written(tmp_path, one, other).scenarios("train")
    for wrong, says in (("debt", r"domains=debt: a list"), (["debts"], "no domain 'debts'; there are: debt")):
        with pytest.raises(UserError, match=says):
            CorpusFile("own.parquet", wrong)
    student = replace(one, episode_id="late", scenario=Scenario("student-1", "student", 0.0, 90.0), turns=())
    student = replace(student, turns=(Turn(1, "focal", "10 PM.", offer=60.0),))
    assert [episode.episode_id for episode in written(tmp_path, one, student).episodes()] == ["one"]
    assert "1 of 2 episodes are not used: they are of the domains student" in caplog.text


def test_numbers_that_contradict_the_domain_or_each_other_are_named(tmp_path):
    one = make_episode()
    wild = replace(one, turns=(replace(one.turns[0], offer=18_000.0), *one.turns[1:]))
    with pytest.raises(UserError, match=r"the focal's offer in round 1 is 18000 days, outside the bounds .*1 to 730"):
        written(tmp_path, wild).episodes()
    far = replace(one, scenario=replace(one.scenario, counterparty_target=1e6))
    with pytest.raises(UserError, match=r"counterparty_target is 1e\+06 days, outside"):
        written(tmp_path, far).episodes()
    table = pq.read_table(written(tmp_path, one).path)
    given = table.set_column(table.schema.get_field_index("utility"), "utility", pa.array([0.75]))
    pq.write_table(given, tmp_path / "own.parquet")
    with pytest.raises(UserError, match=r"utility is 0.75, but by targets and deal_value it is 0"):
        CorpusFile(str(tmp_path / "own.parquet")).episodes()


def test_a_split_without_episodes_is_named(corpus):
    with pytest.raises(UserError, match="mine.parquet has no episode in the split 'dev'"):
        corpus.scenarios("dev")
    with pytest.raises(UserError, match=r"has no episode of \['student'\]; it has the domains \['debt'\]"):
        CorpusFile(str(corpus.path), ["student"]).scenarios("test")
