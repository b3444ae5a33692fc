"""Emotions and outcomes of people: by hand on a few, with the known signs on all, and tests that are right."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import statsmodels.api as sm
from episodes import make_episode

from emodistill.data.casino.reading import read_dialogues
from emodistill.data.schema import SCHEMA
from emodistill.errors import UserError
from emodistill.evaluation.statistics import holm
from emodistill.studies.human import Human, compared, difference_of, permutation_p, rated_episodes, studentised

TINY = Path(__file__).parents[1] / "data" / "casino_tiny.json"


def found(paths, resamples=1000):
    return {(row["emotion"], row["outcome"]): row for row in compared(read_dialogues(paths), 0, resamples)}


def test_differences_by_hand():
    """Three show anger: satisfied 2 3 2, liked 2 1 2. The nine others: 5 4 1 3 2 4 4 5 4, and 4 5 1 4 3 5 5 3 4."""
    rows = found([TINY])
    satisfaction, liked = rows["anger", "own satisfaction"], rows["anger", "liked by the other"]
    assert (satisfaction["showed"], satisfaction["others"]) == (3, 9)
    assert satisfaction["difference_interval"][0] == pytest.approx(7 / 3 - 32 / 9)
    assert liked["difference_interval"][0] == pytest.approx(5 / 3 - 34 / 9)
    assert rows["sadness", "own points"]["difference_interval"][0] == pytest.approx(23 - (153 / 11))
    assert [row["p_holm"] for row in rows.values()] == pytest.approx(holm([row["p_value"] for row in rows.values()]))
    pooled = np.sqrt((3 * np.var([2, 3, 2]) + 9 * np.var([5, 4, 1, 3, 2, 4, 4, 5, 4])) / 12)
    assert satisfaction["effect_size"] == pytest.approx((7 / 3 - 32 / 9) / pooled)


@pytest.mark.parametrize(("effect", "verdict"), [(2.0, "higher"), (-2.0, "lower"), (0.0, "within noise")])
def test_a_difference_has_the_word_of_its_side(effect, verdict):
    did, outcomes = people(np.random.default_rng(3), 40, effect, 0.5)
    found = difference_of(did[:, :, 0], outcomes[:, :, 0], 0, 500)
    assert found["verdict"] == verdict and found["effect_size"] == pytest.approx(found["standardised"][0])


def test_an_interval_is_symmetric_about_its_difference_and_the_same_each_time():
    rows, again = found([TINY]), found([TINY])
    assert rows == again
    for row in rows.values():
        mean, low, high = row["difference_interval"]
        assert low < mean < high and mean - low == pytest.approx(high - mean)


def test_an_emotion_that_nobody_shows_has_no_difference(tmp_path):
    path = tmp_path / "calm.json"
    path.write_bytes(TINY.read_bytes().replace("😡".encode(), b"!"))
    rows = found([path])
    row = rows["anger", "own satisfaction"]
    assert row["showed"] == 0 and all(map(math.isnan, [*row["difference_interval"], row["p_value"], row["p_holm"]]))
    assert math.isfinite(rows["joy", "own satisfaction"]["p_holm"])


def test_the_import_reproduces_the_known_signs(shared_data):
    """As measured before by others on this corpus: anger costs satisfaction and liking, joy goes with being liked."""
    rows = found([shared_data / "casino" / f"casino_{name}.json" for name in ("train", "valid")])
    known = {
        ("anger", "own satisfaction"): -0.76,
        ("anger", "liked by the other"): -1.10,
        ("joy", "liked by the other"): 0.24,
    }
    for key, value in known.items():
        mean, low, high = rows[key]["difference_interval"]
        assert low < value < high and math.copysign(1, low) == math.copysign(1, high) == math.copysign(1, mean)
        assert rows[key]["p_holm"] < 0.05 and rows[key]["verdict"] == ("higher" if value > 0 else "lower")


def people(rng, dialogues, effect, cluster):
    """Half of the dialogues have a side that shows something; both sides of a dialogue share how it went."""
    did = np.zeros((dialogues, 2, 1), bool)
    did[: dialogues // 2, :, 0] = rng.random((dialogues // 2, 2)) < 0.8
    shared = rng.normal(0, cluster, (dialogues, 1, 1))
    return did, shared + rng.normal(0, 0.5, (dialogues, 2, 1)) + effect * did


def test_p_is_right_though_the_two_sides_of_a_dialogue_share_their_outcome():
    """200 samples without an effect: p <= .05 in about 10 of them; people taken one by one would give 30 or more."""
    rng = np.random.default_rng(0)
    hits = sum(permutation_p(*people(rng, 30, 0.0, 2.0), 0, 199)[0, 0] <= 0.05 for _ in range(200))
    assert 3 <= hits <= 18


def test_a_small_group_that_varies_more_does_not_pass_for_one_whose_mean_differs():
    """Ten of a hundred show it, and their outcomes vary four times as much: equal means are still told apart in 5 %."""
    rng = np.random.default_rng(0)
    did = np.zeros((50, 2, 1), bool)
    did[:10, 0] = True
    hits = 0
    for _ in range(200):
        outcomes = rng.normal(0, np.where(did, 4.0, 1.0), (50, 2, 1))
        hits += permutation_p(did, outcomes, 0, 199)[0, 0] <= 0.05
    assert hits <= 22  # a difference that is not studentised: about 60


def test_the_standard_error_takes_the_two_sides_of_a_dialogue_together():
    """Against the robust standard error of a regression, clustered by dialogue."""
    did, outcomes = people(np.random.default_rng(2), 40, 0.3, 1.0)
    design = sm.add_constant(did.reshape(-1).astype(float))
    groups = np.repeat(np.arange(40), 2)
    fit = sm.OLS(outcomes.reshape(-1), design).fit(
        cov_type="cluster", cov_kwds={"groups": groups, "use_correction": False}
    )
    assert studentised(did.astype(float), outcomes)[0, 0] == pytest.approx(abs(fit.tvalues[1]))


def test_a_planted_effect_is_found():
    p = permutation_p(*people(np.random.default_rng(1), 60, 1.0, 0.5), 0, 999)
    assert p[0, 0] == 1 / 1000


def test_the_study_says_which_files_it_lacks_and_reports_what_it_has(tmp_path):
    with pytest.raises(UserError, match="casino_train.json"):
        Human([str(tmp_path / "gone.json")])()
    report = Human([str(TINY)], resamples=200)()
    assert report.tables[0].rows and report.verdicts[0].startswith("The rule")


def stored(path, ratings, people=()):
    """A file as `serve.py` writes it: two rounds each, whose emotions go by the number (`episodes.EMOTIONS`).

    Args:
        people: numbers of those in which a person is on the focal side.
    """
    episodes = [make_episode(2, seed=seed) for seed in range(len(ratings))]
    episodes = [replace(one, focal_agent="human") if one.seed in people else one for one in episodes]
    rows = [one.row() | {"ratings": json.dumps(rating)} for one, rating in zip(episodes, ratings, strict=True)]
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA.append(pa.field("ratings", pa.string()))), path)
    return str(path)


def test_ratings_of_agents_by_what_they_showed(tmp_path):
    """Anger in the first, fourth and fifth: satisfied 1 2 1; the others that were rated: 4 5."""
    rated = [{"satisfaction": s, "liking": liked} for s, liked in ((1, 2), (4, 4), (5, 3), (2, 1), (1, 1))]
    path = stored(tmp_path / "people.parquet", [*rated, {"satisfaction": 5}, {}])
    report = Human([path], resamples=200)()
    rows = {(row["emotion"], row["outcome"]): row for row in report.tables[0].rows}
    assert {emotion for emotion, _ in rows} == {"anger", "joy", "caring", "neutral"}
    row = rows["anger", "satisfaction"]
    assert (row["showed"], row["others"]) == (3, 2)
    assert row["difference_interval"][0] == pytest.approx(4 / 3 - 9 / 2)
    assert rows["anger", "liking"]["difference_interval"][0] == pytest.approx(4 / 3 - 7 / 2)
    assert "5 negotiations" in report.tables[0].note


def test_a_person_on_the_focal_side_is_no_agent(tmp_path):
    """Whatever the ratings say of the side: they are the client's."""
    rating = {"satisfaction": 3, "liking": 3, "side": "counterparty"}
    found, _ = rated_episodes(Path(stored(tmp_path / "people.parquet", [rating] * 5, people=(1, 3))))
    assert [episode.seed for episode, _ in found] == [0, 2, 4]


def test_answers_outside_of_the_scale_are_left_out_and_counted(tmp_path):
    given = [4, "very", 6, 0.5, float("nan"), None, 2]
    path = stored(tmp_path / "people.parquet", [{"satisfaction": one, "liking": 3} for one in given])
    found, left_out = rated_episodes(Path(path))
    assert [rating["satisfaction"] for _, rating in found] == [4, 2] and left_out == 5
    note = Human([path], resamples=50)().tables[0].note
    assert note.startswith("2 negotiations") and note.endswith("Left out: 5 rated outside of that scale.")


def test_ratings_that_are_too_few_or_among_dialogues(tmp_path):
    path = stored(tmp_path / "people.parquet", [{"satisfaction": 5, "liking": 3}, {}])
    with pytest.raises(UserError, match="1 negotiations with an agent that shows emotions are rated"):
        Human([path])()
    with pytest.raises(UserError, match="analyse them apart"):
        Human([path, str(TINY)])()
