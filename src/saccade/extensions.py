"""What other parts add to the package, found by entry points: commands, and readers of result files."""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points

COMMANDS = "saccade.commands"
"""Modules with ``register(app)``, by name."""
STUDIES = "saccade.studies"
"""Functions that tell and draw a study's result file: ``(name, data) -> (Markdown, pictures)``."""


@cache
def found(group: str) -> dict[str, EntryPoint]:
    """Entry points of a group, by name, in the order of their names."""
    return {one.name: one for one in sorted(entry_points(group=group), key=lambda one: one.name)}
