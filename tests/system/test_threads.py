"""Threads: as many as there are free cores, and never a number that no machine has."""

from __future__ import annotations

import pytest
import torch

from saccade.system import threads


@pytest.mark.parametrize(
    ("after", "mine", "free"),
    [
        ({0: (100, 100), 1: (100, 100)}, {0, 1}, 2),
        ({0: (100, 100), 1: (5, 100)}, {0, 1}, 1),
        ({0: (10, 100), 1: (5, 100)}, {0, 1}, 0),
        ({0: (60, 100), 1: (60, 100)}, {0, 1}, 1),
        ({0: (10, 100), 1: (100, 100)}, {1}, 1),
        ({0: (100, 100)}, {0, 1}, None),
        ({}, {0}, None),
    ],
)
def test_idle_cores(after, mine, free):
    before = dict.fromkeys(after, (0, 0))
    assert threads.idle_cores(before, after, mine) == free


def test_busy_cores_leave_one_thread_and_idle_ones_all(monkeypatch):
    monkeypatch.setattr(threads, "allowed", lambda: {0, 1, 2, 3})
    looks = iter([{n: (0, 0) for n in range(4)}, {n: (1, 100) for n in range(4)}])
    monkeypatch.setattr(threads, "_times", lambda: next(looks))
    assert threads.free_cores(0) == 1
    monkeypatch.setattr(threads, "_times", dict)
    assert threads.free_cores(0) == 4  # a system that does not say
    monkeypatch.setattr(threads, "allowed", lambda: {3})
    assert threads.free_cores(0) == 1


def test_use_is_bounded_by_torch_and_by_sense(monkeypatch):
    before = torch.get_num_threads()
    try:
        monkeypatch.setattr(threads, "free_cores", lambda: 64)
        assert threads.use() == before  # never more than torch would take
        assert threads.use(2) == 2 == torch.get_num_threads()
        for wrong in (0, -1, threads.MOST_THREADS + 1, 1_000_000):
            with pytest.raises(ValueError, match="threads are 1 to 1024"):
                threads.use(wrong)
    finally:
        torch.set_num_threads(before)
