"""Where the time goes, operator by operator: the stock model beside the plan."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from saccade.engine import Attachment
from saccade.measure.runs import Runner


def compare_profiles(
    runner: Runner, attach: Callable[[], Attachment], repeats: int = 3
) -> list[dict[str, Any]]:
    """Self time of every operator in one prefill, stock and planned.

    Args:
        runner: The prompt and the model.
        attach: Puts the plan on the model.
        repeats: Prefills of each side that are averaged, after one that is not.

    Returns:
        Entries ``{op, dense_ms, plan_ms, saved_ms, dense_calls, plan_calls}``, the largest difference first.
        Time is the device's on a GPU and the processor's otherwise.
    """
    dense = _profile(runner, None, repeats)
    with attach() as handle:
        plan = _profile(runner, handle, repeats)
    rows = []
    for op in sorted({*dense, *plan}):
        (slow, slow_calls), (fast, fast_calls) = dense.get(op, (0.0, 0.0)), plan.get(op, (0.0, 0.0))
        rows.append(
            {
                "op": op,
                "dense_ms": slow,
                "plan_ms": fast,
                "saved_ms": slow - fast,
                "dense_calls": slow_calls,
                "plan_calls": fast_calls,
            }
        )
    return sorted(rows, key=lambda row: -abs(row["saved_ms"]))


def _profile(runner: Runner, handle: Attachment | None, repeats: int) -> dict[str, tuple[float, float]]:
    cuda = runner.device.type == "cuda"
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if cuda:
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    runner.prefill(handle)
    with torch.profiler.profile(activities=kinds) as profile:
        for _ in range(repeats):
            runner.prefill(handle)
        if cuda:
            torch.cuda.synchronize(runner.device)
    found = {}
    for event in profile.key_averages():
        if cuda and event.device_type == torch.autograd.DeviceType.CUDA:
            continue  # a kernel, whose time its operator has already
        time_us = event.self_device_time_total if cuda else event.self_cpu_time_total
        if time_us > 0:
            found[event.key] = (time_us / 1e3 / repeats, event.count / repeats)
    return found
