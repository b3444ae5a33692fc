"""The emotion in the words as a score of its own."""

import pytest

from emodistill.emotions.perceiver import load_perceiver
from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.errors import UserError
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


def test_naming_it_again_gains_nothing_once_it_is_in_plain_sight(request_of):
    texts = ["I love your patience. 40 days.", "I love your patience, and I love your work, and I love it. 40 days."]
    requests = [request_of(text, emotion="love") for text in texts]
    once, thrice = ShownEmotion(load_vocabulary(), load_perceiver("judge")).scores(requests)
    assert once == thrice == 1.0
    once, thrice = ShownEmotion(load_vocabulary(), load_perceiver("judge"), plain_sight=1.0).scores(requests)
    assert 0.9 < once < thrice  # by a hundredth, which standardising within a group makes as large as any difference


@pytest.mark.parametrize("bound", [0.0, 1.5])
def test_an_impossible_bound_is_refused(bound):
    with pytest.raises(UserError, match="plain_sight"):
        ShownEmotion(load_vocabulary(), load_perceiver("judge"), plain_sight=bound)


def test_a_score_does_not_depend_on_its_batch(request_of):
    judge = ShownEmotion(load_vocabulary(), load_perceiver("judge"))
    requests = [request_of(f"I am so sorry about day {i}.", emotion="remorse") for i in range(40)]
    assert judge.scores(requests) == [judge.scores([one])[0] for one in requests]
