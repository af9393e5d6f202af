"""What the committed measurement of a training step says of skipped FFNs."""

from __future__ import annotations

import json

import pytest


def test_skipped_ffns_save_in_time_what_they_save_in_flops(root):
    """Forward and backward at batch 4, 576 visual and 64 text rows each: every efficiency is 0.90 or more.

    Efficiency is the ratio of FLOPs over the ratio of times. A plan that saves nothing has 1 too, so each of
    these must save a quarter of the FLOPs.
    """
    found = json.loads((root / "benchmarks" / "results" / "skip_ffn_step.json").read_text("utf-8"))
    assert (found["batch"], found["visual"], found["text"]) == (4, 576, 64)
    assert {run["plan"].partition("(")[0] for run in found["runs"]} == {"skip_vision", "ffn_skip"}
    for run in found["runs"]:
        assert run["efficiency"] == pytest.approx(run["flops_ratio"] / run["time_ratio"])
        assert run["efficiency"] >= 0.90 and run["flops_ratio"] <= 0.75, run["plan"]
