"""A result says where it comes from."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from datetime import datetime, timedelta

import pytest
import torch
import transformers

import saccade
from saccade.measure import record
from saccade.measure.provenance import checkout
from saccade.report.results import read


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


@pytest.fixture
def package(tmp_path):
    """A package in a repository of one commit."""
    folder = tmp_path / "src" / "thing"
    folder.mkdir(parents=True)
    (folder / "a.py").write_text("one")
    (tmp_path / "result.json").write_text("{}")
    checkout.cache_clear()
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "-c", "user.name=x", "-c", "user.email=x@y", "commit", "-qm", "first")
    yield folder
    checkout.cache_clear()


def git(folder, *words: str) -> str:
    return subprocess.run(
        ["git", *words], cwd=folder, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_a_checkout_is_named_by_its_commit_and_is_dirty_once_the_package_differs(package):
    commit = git(package, "rev-parse", "HEAD")
    (package.parents[1] / "result.json").write_text("[]")  # results lie beside the package
    assert checkout(package) == {"commit": commit, "dirty": False}
    (package / "a.py").write_text("two")
    assert checkout(package)["dirty"] is False  # asked once per process
    checkout.cache_clear()
    assert checkout(package) == {"commit": commit, "dirty": True}
    git(package, "checkout", "-q", ".")
    (package / "b.py").write_text("new")
    checkout.cache_clear()
    assert checkout(package) == {"commit": commit, "dirty": True}


def test_a_worktree_is_a_checkout_too(package, tmp_path):
    git(package, "worktree", "add", "-q", "--detach", str(tmp_path / "other"))
    assert checkout(tmp_path / "other" / "src" / "thing")["dirty"] is False


@pytest.mark.parametrize("where", ["venv/lib/thing", "other/src/thing"])
def test_a_package_that_is_installed_within_a_checkout_of_something_else_has_no_commit(
    package, tmp_path, where
):
    (tmp_path / where).mkdir(parents=True)
    assert checkout(tmp_path / where) is None


def test_without_git_or_a_whole_repository_there_is_no_commit(package, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert checkout(package) is None
    monkeypatch.undo()
    checkout.cache_clear()
    (tmp_path / ".git" / "HEAD").unlink()
    assert checkout(package) is None


@pytest.mark.parametrize("source", [None, {"commit": "0" * 40, "dirty": True}])
def test_the_report_reads_results_with_and_without_a_commit(tmp_path, source):
    path = tmp_path / "found.json"
    dense = {"name": "dense", "spec": "dense", "mean": {"accuracy": 0.5, "n": 2}, "tasks": {}, "cost": {}}
    path.write_text(json.dumps({"dense": dense, "plans": [], "provenance": record() | {"source": source}}))
    assert read(path).provenance["source"] == source
