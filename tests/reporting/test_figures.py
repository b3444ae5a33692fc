import io
from dataclasses import replace

import numpy as np
import pytest
from episodes import make_episode
from PIL import Image
from reporting_cases import FIGURE, some_played
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.evaluation.results import ArmResult
from emodistill.reporting import formats as pictures
from emodistill.reporting.figures.curves import Bin, Curve, calibration, learning_curves
from emodistill.reporting.figures.episodes import FAMILIES, emotion_use, family, offer_trajectories
from emodistill.reporting.figures.intervals import Estimate, differences, interval_plot, utility_by_arm
from emodistill.reporting.figures.matrix import matrix

WORDS = load_vocabulary()
ESTIMATES = [Estimate(d, a, 0.5, 0.4, 0.6) for d in ("debt", "student") for a in ("vanilla", "iql")]
EXAMPLES = {
    "intervals": interval_plot("u", "Utility", ESTIMATES, "utility (0 to 1)", reference=0.0),
    "matrix": matrix("m", "Transfer", ["a", "b"], ["a", "b"], [[0.1, None], [float("nan"), 0.4]], ("x", "y", "z")),
    "centred": matrix("c", "Payoff", ["a", "long name"], ["a", "long name"], [[0, -1], [1, 0]], ("x", "y", "z"), 0.0),
    "emotions": emotion_use(some_played(), WORDS),
    "offers": offer_trajectories(some_played()),
    "curves": learning_curves("l", "Curves", [Curve("loss", f"seed {s}", [1, 2], [0.5, 0.25]) for s in range(12)]),
    "calibration": calibration("q", "Calibration", [Bin("iql", 0.1, 0.2, 0.0, 0.3)], "return"),
}


def text_of(name):
    return pictures.svg(EXAMPLES[name]).decode()


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_figure_draws_in_every_format(name):
    figure = EXAMPLES[name]
    image = Image.open(io.BytesIO(pictures.picture(figure).png))
    assert image.info["dpi"] == pytest.approx((150, 150), abs=0.1) and np.ptp(np.asarray(image.convert("L"))) > 200
    assert pictures.svg(figure) == pictures.svg(figure)  # the same figure is the same file
    assert figure.title in pictures.drawn(figure, titled=True).get_suptitle()
    assert len(figure.alternative) > 40


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("intervals", ["debt", "student", "vanilla", "iql", "utility (0 to 1)"]),
        ("matrix", ["0.10", "0.40", "x", "y", "z"]),
        ("emotions", ["emodistill", "joy", "round", "share of the round's focal turns"]),
        ("offers", ["vanilla", "debt", "focal side", "counterparty", "round"]),
        ("curves", ["seed 0", "seed 11", "loss", "step"]),
        ("calibration", ["iql", "predicted by Q (return)", "realised (return)"]),
    ],
)
def test_what_is_drawn_is_named(name, words):
    drawing = text_of(name)
    assert [word for word in words if f">{word}<" not in drawing.replace("&#x27;", "'")] == []


def test_differences_are_filled_only_where_they_stand_after_correction():
    row = {"domain": "debt", "against": "iql", "difference_interval": [0.1, 0.05, 0.2]}
    hollow, filled = (pictures.svg(differences([row | {"p_holm": p}], "D")).decode() for p in (0.2, 0.01))
    assert "#ffffff" in hollow.split('id="axes_1"')[1].split("line2d")[-1] and hollow != filled
    assert differences([row | {"difference_interval": [None, None, None], "p_holm": None}], "D") is None


def test_the_overview_has_a_row_for_each_arm_and_condition_and_counts_no_invalid_episode():
    episodes = [replace(make_episode(number=n), end="deal", deal_value=20.0 + 7.1 * n) for n in range(4)]
    invalid = replace(make_episode(number=9), end="invalid")
    home, away = ArmResult("iql", [*episodes, invalid], "home"), ArmResult("iql", episodes[:1], "away")
    text = utility_by_arm([home, away]).alternative
    assert "debt, iql, home: 0.85 [" in text and "debt, iql, away: 1.00 [" in text and "all domains" not in text
    elsewhere = replace(episodes[3], scenario=replace(episodes[3].scenario, domain="student"))
    text = utility_by_arm([ArmResult("iql", [*episodes[:3], elsewhere])]).alternative
    assert [text.index(part) for part in ("all domains, iql: ", "debt, iql: 0.90 ", "student, iql: ")]
    assert utility_by_arm([ArmResult("iql", [invalid])]) is None


def test_missing_numbers_of_a_matrix_stay_empty():
    assert "nan" not in text_of("matrix") and "nan" not in EXAMPLES["matrix"].alternative


def test_the_words_of_a_figure_hold_its_numbers():
    assert "debt, iql: 0.50 [0.40, 0.60]" in EXAMPLES["intervals"].alternative
    assert "long name, a: 1.00" in EXAMPLES["centred"].alternative
    assert "vanilla 0." in EXAMPLES["offers"].alternative


def test_arms_without_a_choice_have_no_emotions_to_show():
    constant = [ArmResult("vanilla", [make_episode(emotions=False)])]
    assert emotion_use(constant, WORDS) is None and offer_trajectories([]) is None


def test_emotions_of_an_invalid_episode_are_not_counted():
    cut_short = replace(make_episode(3), end="invalid", deal_value=None, fault="no answer")
    assert emotion_use([ArmResult("a", [make_episode(3)])], load_vocabulary())
    assert emotion_use([ArmResult("a", [cut_short])], load_vocabulary()) is None


def test_an_unknown_interval_is_a_dash_in_the_words_of_a_figure():
    unknown = Estimate("debt", "vanilla", 0.1, float("nan"), float("nan"))
    assert "debt, vanilla: 0.10 [–, –]." in interval_plot("d", "D", [unknown], "difference").alternative


def test_every_label_of_goemotions_has_one_family():
    listed = [label for members in FAMILIES.values() for label in members.split()]
    assert sorted(listed) == sorted(WORDS.labels)
    assert family("anger", load_vocabulary("ekman7")) == "negative" and family("joy", WORDS) == "positive"


def test_a_large_drawing_goes_into_the_page_as_pixels(monkeypatch):
    assert pictures.picture(FIGURE).uri.startswith("data:image/svg+xml,")
    monkeypatch.setattr(pictures, "LARGEST_VECTOR", 10)
    assert pictures.picture(FIGURE).uri.startswith("data:image/png;base64,")


def test_tensorboard_has_each_figure_once(tmp_path):
    for _ in range(2):
        pictures.to_tensorboard([pictures.picture(FIGURE)], tmp_path / "tb")
    assert EventAccumulator(str(tmp_path / "tb")).Reload().Tags()["images"] == ["line"]
    assert len(list((tmp_path / "tb").iterdir())) == 1
