"""The environment of lmms-eval: torch and transformers as in ours, and a torchvision that can be imported."""

from __future__ import annotations

import runpy
import subprocess
import sys

import pytest

VISION = """
import torch


@torch.library.register_fake("torchvision::nms")
def nms(dets, scores, iou_threshold):
    return dets.new_empty(0)
"""


def pins(path) -> dict[str, str]:
    lines = path.read_text("utf-8").splitlines()
    names = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {name.lower().replace("_", "-"): version for name, version in names}


def test_both_sets_of_versions_agree(root):
    ours, theirs = pins(root / "constraints.txt"), pins(root / "constraints-lmms.txt")
    assert {
        name: (ours[name], theirs[name]) for name in ours.keys() & theirs if ours[name] != theirs[name]
    } == {}
    assert {"torch", "torchvision", "transformers", "accelerate", "lmms-eval", "datasets"} <= set(theirs)


@pytest.mark.e2e
def test_a_torchvision_without_its_operators_can_be_imported(root, tmp_path):
    tool = runpy.run_path(str(root / "tools" / "torchvision_for_cpu.py"))
    packages, shim = tmp_path / "packages", tmp_path / "shim"
    (packages / "torchvision").mkdir(parents=True)
    (packages / "torchvision" / "__init__.py").write_text(VISION)
    shim.mkdir()
    written = tool["install"](shim)
    assert sorted(path.suffix for path in written) == [".pth", ".py"]

    def start(before: str, cuda: str | None = None) -> subprocess.CompletedProcess:
        # Whichever build of torch the tests run on.
        build = f"import torch; torch.version.cuda, torch.version.hip = {cuda!r}, None"
        code = (
            f"import site, sys; sys.path.insert(0, {str(packages)!r}); {build}; {before}; import torchvision"
        )
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)

    broken = start("pass")
    assert broken.returncode != 0 and "torchvision::nms does not exist" in broken.stderr
    mend = f"site.addsitedir({str(shim)!r})"
    mended = start(mend)
    assert mended.returncode == 0, mended.stderr
    # Beside a CUDA build the operators are torchvision's own to declare.
    assert start(mend, cuda="13.2").returncode != 0
