"""The table of mean returns: a planted emotion is found, ties and thin cells are settled as documented."""

from dataclasses import replace

import numpy as np
import pytest
from episodes import make_episode

from emodistill.data.schema import Episode
from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.errors import UserError
from emodistill.learners.selector import MeanReturnBaseline
from emodistill.negotiation.generator import generate_scenarios
from emodistill.negotiation.protocol import COUNTERPARTY, FOCAL, Negotiation, Turn

VOCABULARY = load_vocabulary()
SCENARIOS = {domain: generate_scenarios(domain, 10)[0] for domain in ("debt", "student", "disaster")}


def episode(domain, emotions, position, seed=0, split="train", end="deal"):
    """Shows these emotions one after the other and closes a deal at this position."""
    scenario = SCENARIOS[domain]
    span = scenario.counterparty_target - scenario.focal_target
    value = scenario.counterparty_target - position * span if end == "deal" else None
    turns = []
    for i, emotion in enumerate(emotions):
        turns += [Turn(i + 1, FOCAL, "We insist.", emotion=emotion), Turn(i + 1, COUNTERPARTY, "No.")]
    return Episode(f"{seed}", split, scenario, "uniform", "t", "c", seed, tuple(turns), end, value)


def planted(domain, best, count=400, seed=0):
    """Two-turn episodes of five emotions; each turn that shows the best one is worth a tenth more than chance."""
    rng, labels = np.random.default_rng(seed), VOCABULARY.labels[:5]
    rows = []
    for i in range(count):
        shown = [str(rng.choice(labels)) for _ in range(2)]
        rows.append(episode(domain, shown, 0.4 + 0.1 * shown.count(best) + rng.uniform(-0.2, 0.2), i))
    return rows


def test_the_planted_emotion_is_found_in_each_domain():
    corpus = planted("debt", VOCABULARY.labels[3]) + planted("student", VOCABULARY.labels[1], seed=1)
    table = MeanReturnBaseline(corpus, VOCABULARY)
    tables = [Negotiation(SCENARIOS[domain], 0) for domain in ("debt", "student")]
    assert [choice.emotion for choice in table.select(tables)] == [VOCABULARY.labels[3], VOCABULARY.labels[1]]
    assert all(choice.probability == 1.0 for choice in table.select(tables)) and table.name == "mean_return"


def test_the_state_changes_nothing():
    table = MeanReturnBaseline(planted("debt", "anger"), VOCABULARY)
    later = Negotiation(SCENARIOS["debt"], 7)
    later.play(Turn(1, FOCAL, "45 days", offer=45.0, emotion="joy"))
    later.play(Turn(1, COUNTERPARTY, "90 days", offer=90.0))
    assert table.select([later]) == table.select([Negotiation(SCENARIOS["debt"], 0)])


def test_values_by_hand():
    corpus = [episode("debt", ["joy", "anger"], 0.8), episode("debt", ["joy"], 0.4)]
    table = MeanReturnBaseline(corpus, VOCABULARY, discount=0.5, least=1)
    mean = (0.4 + 0.8 + 0.4) / 3  # the first joy is one step from the end
    assert table.values["debt"] == pytest.approx({"joy": 0.4 - mean, "anger": 0.8 - mean})
    assert table.choice("debt") == "anger"


def test_a_thin_cell_takes_the_mean_over_all_domains():
    rich = [episode("student", ["anger"], 0.9, i) for i in range(20)]
    rich += [episode("student", ["joy"], 0.1, i) for i in range(20)]
    thin = [episode("debt", ["joy"], 0.3, i) for i in range(20)] + [episode("debt", ["anger"], 0.25)]
    table = MeanReturnBaseline(rich + thin, VOCABULARY, least=20)
    assert table.choice("debt") == "anger"  # one bad turn in this domain says less than twenty elsewhere
    assert MeanReturnBaseline(rich + thin, VOCABULARY, least=1).choice("debt") == "joy"
    assert table.choice("disaster") == "anger"


def test_a_level_of_a_domain_is_no_merit_of_its_emotions():
    easy = [episode("student", ["joy"], 0.9, i) for i in range(30)]
    easy += [episode("student", ["anger"], 0.95, i) for i in range(30)]
    hard = [episode("debt", [emotion], 0.1, i) for emotion in ("joy", "fear") for i in range(30)]
    assert MeanReturnBaseline(easy + hard, VOCABULARY).choice("debt") == "anger"


def test_a_tie_goes_to_the_first_of_the_vocabulary():
    corpus = [episode("debt", [emotion], 0.5) for emotion in ("joy", "anger", "caring")]
    assert MeanReturnBaseline(corpus, VOCABULARY, least=1).choice("debt") == "anger"


def test_only_valid_training_episodes_count():
    good = episode("debt", ["joy"], 0.5)
    others = [episode("debt", ["fear"], 1.0, split="test"), episode("debt", ["fear"], 1.0, split="val")]
    invalid = replace(episode("debt", ["fear"], 1.0), end="invalid")
    table = MeanReturnBaseline([good, *others, invalid], VOCABULARY, least=1)
    assert set(table.pooled) == {"joy"}
    with pytest.raises(UserError, match="train split"):
        MeanReturnBaseline([*others, make_episode(emotions=False)], VOCABULARY)


def test_no_deal_is_worth_nothing():
    corpus = [episode("debt", ["joy"], 0.0, end="deadline"), episode("debt", ["anger"], 0.2)]
    assert MeanReturnBaseline(corpus, VOCABULARY, least=1).choice("debt") == "anger"


def test_an_emotion_of_another_vocabulary_is_named():
    with pytest.raises(UserError, match="gratitude"):
        MeanReturnBaseline([episode("debt", ["gratitude"], 0.5)], load_vocabulary("ekman7"))
