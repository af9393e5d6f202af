"""Names of methods, and how a spec string is put together, known without importing any of them.

A mistyped name is refused before torch is imported, which takes longer than the answer.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from saccade.core.shapes import SHAPES
from saccade.core.text import quoted, short
from saccade.system.embedded import EMBEDDED
from saccade.system.listing import files_with

LONGEST_SPEC = 20_000
"""Characters of a spec string; more is likelier a mistake than a plan."""

_PACKAGE = Path(__file__).resolve().parents[1]
_CALL = re.compile(r"\s*([A-Za-z_]\w*)\s*(?:\(([^()]*)\))?\s*")


@cache
def method_names() -> tuple[str, ...]:
    """Methods by name: each is the one registered class of the file that is called so."""
    return files_with(_PACKAGE / "methods", r"^@register$")


def looks_like_file(text: str) -> bool:
    """Whether a plan is meant as a file rather than as a spec string."""
    return text.endswith(".json") or (os.sep in text and "(" not in text) or os.path.isfile(text)


def calls(spec: str) -> list[tuple[str, str]]:
    """The parts of a spec string: names of methods, and what stands in their brackets.

    Args:
        spec: ``name(key=value,...)``, joined by ``+``; ``dense`` and nothing give no parts.

    Raises:
        ValueError: If the text cannot be taken apart.
    """
    if not isinstance(spec, str):
        raise ValueError(f"a spec is a string, name(key=value,...), got {type(spec).__name__}")
    if len(spec) > LONGEST_SPEC:
        raise ValueError(f"a spec has at most {LONGEST_SPEC} characters, got {len(spec)}: {quoted(spec)}")
    if spec.strip() in ("", "dense"):
        return []
    return [_call(part) for part in _split(spec)]


def check_plans(plans: Iterable[str]) -> None:
    """Refuses plans that cannot be, before anything is imported: files that are not there, unknown methods.

    Raises:
        ValueError: Naming the first of them.
    """
    for plan in plans:
        if not plan.strip():
            raise ValueError("the plan is empty; leave it out for the stock model")
        if not looks_like_file(plan):
            for name, _ in calls(plan):
                check_method(name, method_names())
        elif not os.path.exists(plan):
            raise ValueError(f"no such file: {short(plan)}")


def check_target(name: str) -> None:
    """Refuses what is neither a preset shape nor can be a model: a folder, an embedded one or a hub id.

    Raises:
        ValueError: If it is none of these.
    """
    if name in SHAPES or name in EMBEDDED or os.path.isdir(name):
        return
    path_like = name.startswith((".", "~", os.sep))
    if path_like or name.count("/") != 1:
        raise ValueError(
            f"no model {quoted(name)}: not a folder, nor a hub id (owner/name); {preset_names()}"
        )


def preset_names() -> str:
    """Preset shapes, for errors."""
    return f"preset shapes are {', '.join(SHAPES)}"


def check_method(name: str, known: Iterable[str]) -> None:
    """Refuses a method that is not among those known.

    Raises:
        ValueError: If it is not.
    """
    if name not in known:
        raise ValueError(f"no method {quoted(name)}; known: {', '.join(sorted(known))}")


def _split(spec: str) -> list[str]:
    parts, depth, start = [], 0, 0
    for i, char in enumerate(spec):
        depth += (char == "(") - (char == ")")
        if char == "+" and depth == 0:
            parts.append(spec[start:i])
            start = i + 1
    return [*parts, spec[start:]]


def _call(text: str) -> tuple[str, str]:
    match = _CALL.fullmatch(text)
    if match is None:
        raise ValueError(
            f"cannot read {quoted(text.strip())} in a spec; write name(key=value,...), joined by +"
        )
    name, inner = match.groups()
    return name, inner or ""
