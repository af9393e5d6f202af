"""The plan that the environment says: the one file of the package that reads it.

vLLM hands a plug-in nothing at its start, and not every way to start it takes ``--hf-overrides``.
"""

from __future__ import annotations

import os

VARIABLE = "SACCADE_PLAN"
"""A plan file or a spec string, where ``--hf-overrides`` does not say one."""


def from_environment() -> str:
    """The plan that the environment says, empty where it says none."""
    return os.environ.get(VARIABLE, "").strip()
