"""Where a result comes from: what every result file carries beside its numbers."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import transformers

from saccade._version import __version__
from saccade.opening.opened import how_opened

PACKAGE = Path(__file__).resolve().parents[1]
GIT_SECONDS = 2.0
"""Longest wait for git, which takes some hundredths of one."""


def record(
    command: str | None = None,
    *,
    model: Any = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | str | None = None,
    seed: int | None = None,
    **extra: Any,
) -> dict[str, Any]:
    """Provenance of a result.

    Args:
        command: How to get it again; the process's own command line if omitted.
        model: The model that it is of: its device and number format, where these are not given, and how it
            was opened.
        device: Where it was computed; its name is recorded.
        dtype: Number format of the weights.
        seed: Seed of what was drawn.
        **extra: Further fields, as they are.

    Returns:
        Plain dictionary: command, date (UTC), versions, source (``checkout``), device, dtype, opening (of a
        model, ``how_opened``), threads, seed and the extra fields.
    """
    if model is not None:
        device, dtype = device or model.device, dtype or model.dtype
        extra = {"opening": how_opened(model)} | extra
    return {
        "command": command or command_line(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "saccade": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "source": checkout(PACKAGE),
        "device": device_name(device),
        "dtype": None if dtype is None else str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "seed": seed,
        **extra,
    }


@lru_cache(maxsize=8)
def checkout(package: Path) -> dict[str, Any] | None:
    """The git commit that a package runs from; asked once per process.

    Args:
        package: Folder of the package.

    Returns:
        ``commit``, its full name, and ``dirty``, whether files of the package differ from it or are not in
        it; None where the package is no ``src/`` folder of a checkout, or git cannot tell.
    """
    root = package.parents[1]
    # A package that is installed may lie within a checkout of something else.
    if package.parent.name != "src" or not (root / ".git").exists():
        return None
    git = ["git", "--no-optional-locks", f"--git-dir={root / '.git'}", f"--work-tree={root}"]
    ask = ["-c", "core.fsmonitor=false", "status", "--porcelain=v2", "--branch", "--untracked-files=normal"]
    try:
        told = subprocess.run(
            [*git, *ask, "--", str(package)],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=GIT_SECONDS,
            check=True,
        ).stdout.splitlines()
    except (OSError, subprocess.SubprocessError, UnicodeError):
        return None
    commits = [line.split()[-1] for line in told if line.startswith("# branch.oid ")]
    if not commits or commits[0] == "(initial)":
        return None
    return {"commit": commits[0], "dirty": any(not line.startswith("#") for line in told)}


def command_line() -> str:
    """The process's command line, with the program's bare name instead of its path."""
    program = os.path.basename(sys.argv[0] or "python")
    if program in ("__main__.py", "saccade"):
        program = "saccade"
    return shlex.join([program, *sys.argv[1:]])


def device_name(device: torch.device | str | None = None) -> str:
    """The name a reader knows a device by: the GPU's, or the processor's with its cores."""
    device = torch.device(device or "cpu")
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor()}, {os.cpu_count()} cores"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.lower().startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or "unknown processor"
