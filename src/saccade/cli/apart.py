"""What a command writes is nothing that it reads, and no two results are one file."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import typer

WRITTEN = ("json", "out", "output", "predictions")
"""Parameters of commands that name files which are written."""
READ = ("data", "image", "more", "video", "plan", "order", "method", "results", "config", "adapter", "model")
"""Parameters that name files, or folders with files, which are read."""


def guard(app: typer.Typer) -> None:
    """Lets every command of an application refuse to write over what it reads."""
    for info in app.registered_commands:
        assert info.callback is not None
        info.callback = _guarded(info.callback)
    for group in app.registered_groups:
        assert group.typer_instance is not None
        guard(group.typer_instance)


def check_apart(given: Mapping[str, Any]) -> None:
    """Refuses a result that would take the place of an input, or of another result.

    Args:
        given: The values of a command's parameters, by name.

    Raises:
        ValueError: Naming the file and both options.
    """
    seen: dict[Path, str] = {}
    for name, path in _paths(given, WRITTEN):
        if path.exists() and not path.is_file():
            continue  # a folder, or a device that takes whatever is written
        other = seen.setdefault(path, name)
        if other != name:
            raise ValueError(f"--{other} and --{name} both write {path}; give each a file of its own")
        for source, taken in _paths(given, READ):
            if taken == path or (taken.is_dir() and path.exists() and path.parent == taken):
                raise ValueError(
                    f"--{name} would write over {path}, which the command reads ({source}); name another file"
                )


def _paths(given: Mapping[str, Any], names: tuple[str, ...]) -> Iterator[tuple[str, Path]]:
    for name in names:
        value = given.get(name)
        for one in value if isinstance(value, (list, tuple)) else [value]:
            text = "" if one is None else str(one)
            if text and text != "-" and len(text) < 4096 and "\0" not in text:
                yield name, Path(text).resolve()


def _guarded(command: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(command)
    def run(**given: Any) -> Any:
        check_apart(given)
        return command(**given)

    return run
