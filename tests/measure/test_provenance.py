"""A result says where it comes from."""

from __future__ import annotations

import json
import platform
import sys
from datetime import datetime, timedelta

import torch
import transformers

import saccade
from saccade.measure import record


def test_a_record_names_versions_device_and_time():
    found = record("saccade cost", device="cpu", dtype=torch.bfloat16, seed=7, samples=3)
    assert found["versions"] == {
        "saccade": saccade.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    assert (found["command"], found["dtype"], found["seed"], found["samples"]) == (
        "saccade cost",
        "bfloat16",
        7,
        3,
    )
    assert found["threads"] == torch.get_num_threads()
    assert "cores" in found["device"]
    assert abs(datetime.now().astimezone() - datetime.fromisoformat(found["date"])) < timedelta(minutes=1)
    assert json.loads(json.dumps(found)) == found


def test_the_command_line_is_quoted_and_without_the_path_of_the_program(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/saccade", "cost", "--plan", "vskip(budget=3)"])
    assert record()["command"] == "saccade cost --plan 'vskip(budget=3)'"
    monkeypatch.setattr(sys, "argv", ["/somewhere/saccade/__main__.py", "methods"])
    assert record()["command"] == "saccade methods"
