"""What was asked for against what is read, on lines whose reading is not in doubt."""

from dataclasses import replace

from episodes import make_episode

from emodistill.emotions.perceiver import load_perceiver
from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.evaluation.results import ArmResult
from emodistill.studies.behaviour import EVERY, emotion_confusion

THANKS, SORRY = "Thank you so much, thanks!", "I am so sorry, I apologize."


def episode(lines, end="deadline"):
    """An episode whose focal turns are asked for an emotion and say a line each."""
    bare = make_episode(rounds=len(lines), end=end)
    asked = iter(lines)
    turns = []
    for turn in bare.turns:
        if turn.speaker == "focal":
            emotion, text = next(asked)
            turn = replace(turn, emotion=emotion, text=text)
        turns.append(turn)
    return replace(bare, turns=tuple(turns))


def table(*played):
    return emotion_confusion(list(played), load_perceiver("counterparty"), load_vocabulary("goemotions28")).rows


def test_each_emotion_is_held_against_its_readings():
    lines = [("gratitude", THANKS), ("gratitude", SORRY), ("remorse", SORRY), ("gratitude", THANKS), (None, THANKS)]
    rows = {row["emotion"]: row for row in table(ArmResult("sft", [episode(lines)]))}
    assert list(rows) == [EVERY, "gratitude", "remorse"]
    assert (rows[EVERY]["turns"], rows[EVERY]["faithful"]) == (4, 0.75)
    assert rows["gratitude"]["faithful"] == 2 / 3 and rows["remorse"]["faithful"] == 1.0
    assert rows["gratitude"]["read"] == "gratitude 67 %, remorse 33 %"


def test_arms_stand_apart_and_what_is_invalid_or_shows_nothing_is_not_there():
    spoilt, silent = episode([("joy", THANKS)], "invalid"), episode([(None, THANKS)])
    rows = table(ArmResult("vanilla", [silent]), ArmResult("iql", [spoilt, episode([("remorse", SORRY)])]))
    assert [(row["arm"], row["emotion"], row["turns"]) for row in rows] == [("iql", EVERY, 1), ("iql", "remorse", 1)]
