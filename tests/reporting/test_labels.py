"""Labels of any language: drawn as they stand or said to lack a font; a figure that fails costs no other part."""

import io
import json
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from episodes import make_episode
from matplotlib.font_manager import fontManager
from PIL import Image
from reporting_cases import FIGURE, TABLE, write_some_report

from emodistill.emotions.vocabulary import load_vocabulary
from emodistill.evaluation.results import ArmResult
from emodistill.reporting import formats
from emodistill.reporting.figures.curves import Bin, Curve, calibration, learning_curves
from emodistill.reporting.figures.episodes import emotion_use
from emodistill.reporting.figures.intervals import Estimate, interval_plot
from emodistill.reporting.figures.matrix import matrix
from emodistill.reporting.figures.style import font_families
from emodistill.reporting.results import AnalysisResult
from emodistill.reporting.tables import Figure

LABELS = [
    *("offers $$ now", "asks $5 to $10 more", "$x_1^2$", r"\frac{1}", "50 % & more", "a_b^c", "{curly}", "<b>&amp;"),
    *(
        "施压",
        "ทดสอบ",
        "سلام",
        "Ångström",
        "привет",
        "θυμός",
        "🙂 smile",
        "e\u0301",
        "zero\u200bwidth",
        "#",
    ),
]
NOWHERE = "\U0005fffd"  # a character that no script has, so no font either


def figures_with(label):
    numbers = [[0.1, 0.2], [0.3, 0.4]]
    return [
        interval_plot("intervals", label, [Estimate(label, label, 0.5, 0.4, 0.6)], label),
        matrix("matrix", label, [label, "b"], [label, "b"], numbers, (label, label, label)),
        learning_curves("curves", label, [Curve(label, label, [1, 2], [0.5, 0.25])], label),
        calibration("bins", label, [Bin(label, 0.1, 0.2, 0.0, 0.3)], label),
    ]


@pytest.mark.parametrize("label", LABELS)
def test_a_label_is_drawn_as_it_stands_in_every_figure(label):
    for figure in figures_with(label):
        shown = [text.get_text() for text in formats.drawn(figure, titled=True).findobj(formats.Label)]
        assert shown.count(label) >= 2, figure.name
        picture = formats.picture(figure)
        image = Image.open(io.BytesIO(picture.png))
        assert picture.uri and np.ptp(np.asarray(image.convert("L"))) > 200
        assert "could not be drawn" not in picture.note


def test_a_dollar_is_no_formula():
    """Between two of them nothing is slanted or dropped, so a label with more of them is wider."""
    widths = []
    for label in ("x", "$x", "$x$", "$$x$$"):
        canvas = formats.drawn(Figure("f", label, "", lambda canvas: canvas.subplots()), titled=True)
        canvas.draw_without_rendering()
        (title,) = [text for text in canvas.findobj(formats.Label) if text.get_text() == label]
        widths.append(title.get_window_extent().width)
    assert all(before < after for before, after in pairwise(widths))


def test_a_character_that_no_font_has_is_said_once(caplog):
    (figure, *_) = figures_with(f"calm {NOWHERE}{NOWHERE}")
    picture = formats.picture(figure)
    assert picture.png and picture.note.startswith(f"No font of this machine has the characters {NOWHERE}; boxes")
    assert len(caplog.records) == 1 and NOWHERE in caplog.text
    assert formats.picture(FIGURE).note == ""


def test_another_font_helps_out_where_the_usual_one_lacks_a_character():
    usual = {font.name for font in fontManager.ttflist if "DejaVuSans.ttf" in font.fname}
    assert font_families("plain, Ångström, привет") == ([], "")
    families, lacking = font_families("𝒜")  # in the STIX fonts that matplotlib brings
    assert families and not set(families) & usual and lacking == ""
    canvas = formats.drawn(interval_plot("i", "t", [Estimate("p", "𝒜", 0.5, 0.4, 0.6)], "x"), titled=False)
    assert all(set(families) <= set(text.get_fontfamily()) for text in canvas.findobj(formats.Label))


def _fails(error, canvas):
    canvas.subplots()
    raise error


ERRORS = [ValueError("Image size of 99999x9 pixels\nis too large"), RuntimeError(), ZeroDivisionError("by zero"),
    KeyError("font"), MemoryError("no room"), TypeError("a kind"), OSError("font file"), AttributeError("axes"),
    UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates")]  # fmt: skip


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_figure_that_cannot_be_drawn_loses_nothing_else(tmp_path, caplog, error):
    broken = Figure("broken", "Broken", "Rises <from> 1 to 2", partial(_fails, error))
    write_some_report(tmp_path, result=AnalysisResult([TABLE], [broken, FIGURE], ["debt: higher"]))
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == ["line.png", "utility.png"]
    assert (
        "broken" not in json.loads((tmp_path / "report.json").read_text()) and (tmp_path / "tables/arms.md").is_file()
    )
    text, page = (tmp_path / "report.md").read_text(), (tmp_path / "report.html").read_text()
    sentence = f"This figure could not be drawn ({type(error).__name__}: "
    assert sentence in text and "figures/broken.png" not in text and r"Rises \<from\> 1 to 2" in text
    assert sentence in page and "Rises &lt;from&gt; 1 to 2" in page and page.count("<img ") == 2
    assert "figures/line.png" in text and list((tmp_path / "tensorboard").iterdir())
    assert "figure broken: This figure could not be drawn" in caplog.text


def test_a_surrogate_in_a_label_loses_nothing_else():
    for figure in figures_with("half \ud83d an emoji"):
        picture = formats.picture(figure)
        assert picture.png is None and "could not be drawn" in picture.note


MONEY = """name: money
labels:
  offers $$ now: {directive: "Let your words show generosity.", perceived_as: [optimism]}
  asks $5 to $10 more: {directive: "Let your words show greed.", perceived_as: [desire]}
  施压: {directive: "Let your words show pressure.", perceived_as: [anger]}
  calm: {directive: "Let your words show calm.", perceived_as: [neutral]}
"""


def test_a_vocabulary_of_money_and_chinese_is_drawn(tmp_path):
    (tmp_path / "money.yaml").write_text(MONEY, encoding="utf-8")
    words = load_vocabulary(str(tmp_path / "money.yaml"))
    _check_emotions(words)


def test_the_vocabulary_that_people_reported(shared_data):
    path = shared_data / "reports" / "tactics_money.yaml"
    if not path.is_file():
        pytest.skip("this file is not here")
    _check_emotions(load_vocabulary(str(path)))


def _check_emotions(words):
    episodes = []
    for seed in range(8):
        episode = make_episode(4, seed=seed)
        turns = [
            replace(turn, emotion=words.labels[(seed + turn.round) % len(words)]) if turn.emotion else turn
            for turn in episode.turns
        ]
        episodes.append(replace(episode, turns=tuple(turns)))
    figure = emotion_use([ArmResult("fixed:offers $$ now", episodes)], words)
    picture = formats.picture(figure)
    assert picture.png and picture.uri and "could not" not in picture.note
    drawing = formats.svg(figure).decode()
    assert [label for label in words.labels if f">{label}<" not in drawing] == []
