"""Peak memory is what was alive at once, not what was allocated in all."""

from __future__ import annotations

import pytest
import torch

from saccade.measure.memory import peak_memory

MIB = 2**20
MODEL = torch.nn.Linear(2, 2)


def block() -> torch.Tensor:
    """One MiB."""
    return torch.zeros(MIB // 4)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_storages_count_while_they_live(mode):
    def one_after_the_other():
        for _ in range(5):
            held = block()
            del held

    def at_once():
        return [block() for _ in range(5)]

    with mode():
        assert peak_memory(MODEL, one_after_the_other)[0] == MIB
        assert peak_memory(MODEL, at_once)[0] == 5 * MIB


def test_views_in_place_and_outer_tensors_cost_nothing():
    outer = block()

    def call():
        view = outer[10:].view(-1).t()
        outer.add_(1)
        return view

    assert peak_memory(MODEL, call)[0] == 0


def test_the_peak_may_lie_in_the_middle():
    def call():
        large = [block() for _ in range(3)]
        total = sum(part.sum() for part in large)
        del large
        return total, block()

    peak, source = peak_memory(MODEL, call)
    assert 3 * MIB <= peak < 3 * MIB + 100
    assert "storages" in source


def test_agrees_with_torchs_own_profiler():
    layer = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.GELU(), torch.nn.Linear(256, 64))
    x = torch.randn(512, 64)
    kinds = [torch.profiler.ProfilerActivity.CPU]
    with torch.inference_mode():
        layer(x)
        found = peak_memory(layer, lambda: layer(x))[0]
        with torch.profiler.profile(activities=kinds, profile_memory=True) as profile:
            y = layer(x)
    held = peak = 0
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    assert y.shape == (512, 64)
    assert found == pytest.approx(peak, rel=0.01)
