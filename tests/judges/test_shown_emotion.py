"""The emotion in the words as a score of its own."""

import pytest

from emodistill.emotions.perceiver import load_perceiver
from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.judges.request import JudgeRequest
from emodistill.judges.shown_emotion import ShownEmotion


@pytest.fixture
def request_of(scenario):
    return lambda text, emotion: JudgeRequest(scenario, (), emotion, text)


def test_words_that_show_the_emotion_score_higher_whatever_else_they_say(request_of):
    judge = ShownEmotion(load_vocabulary(), load_perceiver("judge"))
    shown, flat, other, unasked = judge.scores(
        [
            request_of("Thank you so much, I am truly grateful.", emotion="gratitude"),
            request_of("My offer is 45 days, and it is a fair one.", emotion="gratitude"),
            request_of("Thank you so much, I am truly grateful.", emotion="anger"),
            request_of("Thank you so much, I am truly grateful.", emotion=None),
        ]
    )
    assert 1.0 >= shown > 0.5 > flat >= 0.0 and other < 0.1 and unasked is None
    assert judge.scores([]) == []


def test_a_score_does_not_depend_on_its_batch(request_of):
    judge = ShownEmotion(load_vocabulary(), load_perceiver("judge"))
    requests = [request_of(f"I am so sorry about day {i}.", emotion="remorse") for i in range(40)]
    assert judge.scores(requests) == [judge.scores([one])[0] for one in requests]
