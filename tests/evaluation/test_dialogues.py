"""Dialogues to be read: which are chosen, and how they are written."""

from dataclasses import replace

from episodes import make_episode

from emodistill.data.schema import write_episodes
from emodistill.evaluation import dialogues
from emodistill.evaluation.dialogues import as_markdown, chosen


def test_the_worst_of_each_domain_are_always_among_them_and_the_others_are_drawn():
    deals = [replace(make_episode(seed=seed), end="deal", deal_value=30.0 + 5 * seed) for seed in range(6)]
    episodes = [*deals, make_episode(seed=6)]  # no deal: utility 0
    found = [one.seed for one in chosen(episodes, drawn=2, worst=2, seed=0)]
    assert len(found) == len(set(found)) == 4 and {5, 6} < set(found) and found == sorted(found)
    draws = {tuple(one.seed for one in chosen(episodes, 2, 2, seed)) for seed in range(20)}
    assert len(draws) > 3  # the seed decides
    assert len(chosen(episodes, drawn=20, worst=0, seed=0)) == 7  # no more than there are


def test_a_dialogue_names_targets_result_emotions_and_what_was_added():
    episode = replace(make_episode(rounds=2), end="deal", deal_value=90.0)
    first = replace(episode.turns[0], text="I *want* 20\ndays [now].", offer_appended=True)
    head, body = as_markdown(replace(episode, turns=(first, *episode.turns[1:]))).split("\n\n")
    assert head == "**debt-000**, 20 days against 91 days; behavioural:vanilla; deal at 90 days, utility 0.01"
    lines = body.split("\\\n")
    assert (
        lines[0] == ("Creditor (anger): I \\*want\\* 20 days \\[now\\]. [the last sentence was added]")
        and lines[1] == "Debtor: Reply 0: give me 91 days."
    )
    assert len(lines) == 4


def test_the_command_prints_a_file_of_one_arm(tmp_path, capsys, monkeypatch):
    write_episodes([make_episode(seed=seed) for seed in range(4)], tmp_path / "episodes.parquet")
    monkeypatch.setattr("sys.argv", ["dialogues", str(tmp_path / "episodes.parquet"), "--drawn", "1", "--worst", "1"])
    dialogues.main()
    assert capsys.readouterr().out.count("**debt-000**") == 2
