"""What a user sees of a training: optimizer steps, time left, the loss and the monitored metric."""

import io
import re
import sys
from types import SimpleNamespace

import pytest
import torch
from tiny_runs import begun, composed, forget_cut

from emodistill import progress as progress_module
from emodistill.progress import progress
from train import train


class Screen(io.StringIO):
    """Standard error that is a terminal, or is not."""

    def __init__(self, terminal):
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return begun(tmp_path_factory, "progress", "iql")


@pytest.fixture
def watch(place, monkeypatch):
    """Trains with the bar of the configuration, and returns what stood on standard error."""

    def run(stage, name, *overrides, terminal=False):
        cfg = place.config(stage, name, *overrides)
        cfg.callbacks.progress_bar = composed("train", f"stage={stage}").callbacks.progress_bar
        cfg.trainer.enable_progress_bar = True
        screen = Screen(terminal)
        monkeypatch.setattr(sys, "stderr", screen)
        monkeypatch.setenv("COLUMNS", "200")
        try:
            train(cfg)
        finally:
            monkeypatch.undo()
            run.screen = screen.getvalue()
        return run.screen

    return run


def lines_of(screen, stage):
    return [line for line in screen.splitlines() if line.startswith(f"{stage}: ")]


def test_without_a_terminal_there_are_plain_lines(place, watch):
    """Two batches a step, a validation after each of them, which has the step's line."""
    place.copy("run", "plain", ["iql"])
    found = lines_of(watch("sft", "plain", "size.accumulate=2", "size.sft_steps=3"), "sft")
    assert found[0] == "sft: optimizer step 0/3, 0:00:00 elapsed"
    assert [re.search(r"step (\d)/3", line).group(1) for line in found] == ["0", "1", "2", "3"]
    form = r"sft: optimizer step 3/3, \d:\d\d:\d\d elapsed, 0:00:00 left, loss [\d.]+, val/loss [\d.]+ \(best [\d.]+\)"
    assert re.fullmatch(form, found[-1])


def test_lines_are_few(place, watch):
    """Thirty updates: a line every three; the one of a validation is the line of its step."""
    found = lines_of(watch("iql", "few", "size.iql_steps=30", "size.iql_val_every=15"), "iql")
    steps = [int(re.search(r"step (\d+)/30", line).group(1)) for line in found]
    assert steps == [0, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30]
    assert "val/fqe_value" not in found[4] and "val/fqe_value" in found[5]


def test_on_a_terminal_there_is_a_bar_and_a_line_for_each_validation(place, watch):
    place.copy("run", "bar", ["iql"])
    screen = watch("sft", "bar", terminal=True)
    assert "optimizer step 6/6" in screen and "(validating)" in screen and "\x1b[" in screen
    assert "0/?" not in screen and "v_num" not in screen
    said = [line for line in re.sub(r"\x1b\[[\d;?]*[A-Za-z]|\r", "", screen).splitlines() if "sft: optimizer" in line]
    assert len(said) == 3 and all("(best " in line for line in said)


@pytest.mark.parametrize("mode", ["max", "min"])
def test_the_best_value_is_that_of_the_checkpoint(place, watch, mode):
    """The loss falls: with `mode=max` the first value stays the best, with `mode=min` the last one is it."""
    place.copy("run", mode, ["iql"])
    last = lines_of(watch("sft", mode, f"monitor.mode={mode}"), "sft")[-1]
    saved = torch.load(place.folder / mode / "sft" / "best.ckpt", weights_only=True)["callbacks"]
    best = next(float(state["best_model_score"]) for key, state in saved.items() if key.startswith("ModelCheckpoint"))
    metric, shown = re.search(r"val/loss ([\d.e+]+) \(best ([\d.e+]+)\)", last).groups()
    assert float(shown) == pytest.approx(best, rel=1e-3)
    assert (float(metric) < float(shown)) == (mode == "max")


def test_the_time_left_is_known_right_after_a_resume(place, watch):
    """The checkpoint says that three of six steps took a minute and 40 seconds: as much is still to come."""
    place.copy("run", "cut", ["iql"])
    cut = {"_target_": "tiny_runs.PowerCut", "step": 3}
    with pytest.raises(RuntimeError, match="power cut"):
        watch("sft", "cut", *(f"+callbacks.cut.{key}={value}" for key, value in cut.items()))
    folder = place.folder / "cut" / "sft"
    forget_cut(folder)
    saved = torch.load(folder / "last.ckpt", weights_only=True)
    saved["callbacks"]["Throughput"]["seconds"] = 100.0
    torch.save(saved, folder / "last.ckpt")
    first = lines_of(watch("sft", "cut"), "sft")[0]
    assert re.match(r"sft: optimizer step 3/6, 0:01:40 elapsed, 0:01:40 left, val/loss best [\d.]+$", first)


@pytest.mark.parametrize(("seconds", "shown"), [(2.5, [4, 8, 12, 16]), (30, [*range(2, 20, 2)])])
def test_other_work_has_lines_too_a_tenth_and_ten_seconds_apart(monkeypatch, seconds, shown):
    screen, clock = Screen(terminal=False), [0.0]
    monkeypatch.setattr(sys, "stderr", screen)
    own_clock = SimpleNamespace(
        monotonic=lambda: clock[0]
    )  # `time` is everybody's: a server of other tests would sleep
    monkeypatch.setattr(progress_module, "time", own_clock)
    with progress("playing sft", 20) as advance:
        for _ in range(20):
            clock[0] += seconds
            advance()
    first, *lines = screen.getvalue().splitlines()
    assert first == "playing sft (20)"
    assert [int(re.match(r"playing sft: (\d+)/20, ", line).group(1)) for line in lines] == shown
    if seconds == 30:
        assert lines[0] == "playing sft: 2/20, 0:01:00 elapsed, 0:09:00 left"
