"""Random generators across a resume: where they were, for every process, on as many devices as there are."""

import random
from types import SimpleNamespace

import numpy as np
import torch
from tiny_runs import scramble

from callbacks import RngState

RANK_0 = SimpleNamespace(global_rank=0)


def draws():
    return torch.rand(3).tolist(), random.random(), np.random.rand(3).tolist()


def test_generators_go_on_where_they_were_saved(tmp_path):
    scramble()
    draws()
    torch.save(RngState().state_dict(), tmp_path / "state")
    expected = draws()
    draws()
    restored = RngState()
    restored.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    kept = torch.get_rng_state()
    assert torch.equal(kept, torch.get_rng_state())  # not yet: what is built before training may draw
    restored.on_train_start(RANK_0, None)
    assert draws() == expected
    restored.on_train_start(RANK_0, None)
    assert draws() != expected  # once


def test_a_run_from_a_machine_with_more_gpus_goes_on_with_fewer(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    given = []
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: given.append((state, device)))
    restored = RngState()
    restored.load_state_dict({"ranks": [RngState().state_dict()["ranks"][0] | {"cuda": ["first", "second"]}]})
    restored.on_train_start(RANK_0, None)
    assert given == [("first", 0)]


def test_each_process_takes_its_own_generators_and_a_new_one_keeps_what_it_has():
    saved = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        saved += RngState().state_dict()["ranks"]
    firsts = []
    for rank in (0, 1, 2):
        torch.manual_seed(3)
        restored = RngState()
        restored.load_state_dict({"ranks": saved})
        restored.on_train_start(SimpleNamespace(global_rank=rank), None)
        firsts.append(torch.rand(1).item())
    for seed, first in zip((1, 2, 3), firsts, strict=True):
        torch.manual_seed(seed)
        assert torch.rand(1).item() == first
