"""What the commands share: options, tables on standard output, progress on standard error, JSON files."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import torch
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    from saccade.journal import Journal

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="A model folder, a hub id, or 'glance' (the embedded model).")
]
Plan = Annotated[
    str | None,
    typer.Option("--plan", metavar="PLAN", help="A plan file or a spec such as 'vskip(layers=12-31)'."),
]
Force = Annotated[bool, typer.Option("--force", help="Use a plan even if it was made for another model.")]
Seed = Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, help="Seed of everything that is drawn.")]
Device = Annotated[
    str | None, typer.Option("--device", help="cpu, cuda, cuda:1, ...; cuda where there is one if omitted.")
]
Dtype = Annotated[str | None, typer.Option("--dtype", help="float32, bfloat16 or float16.")]
Json = Annotated[
    str | None,
    typer.Option(
        "--json",
        metavar="FILE",
        help="Write results as JSON; '-' for standard output, and nothing else there.",
    ),
]


class Interrupted(Exception):
    """A run that was interrupted, and what to do to go on with it."""


@contextmanager
def resumable(hint: str | Callable[[], str]) -> Iterator[None]:
    """Turns Ctrl-C into exit code 130 with a line that says how to resume.

    Args:
        hint: What to do to go on; a function is asked at the time of the interruption.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(hint if isinstance(hint, str) else hint()) from None


_holding: ContextVar[ExitStack | None] = ContextVar("holding", default=None)


@contextmanager
def holding() -> Iterator[None]:
    """A command, at whose end the files and folders go that it held (``hold``)."""
    with ExitStack() as stack:
        before = _holding.set(stack)
        try:
            yield
        finally:
            _holding.reset(before)


def hold(path: str | os.PathLike | None, *, folder: bool = False) -> None:
    """Keeps a file or a folder for this command to its end.

    Args:
        path: What is written, or None or ``-`` for nothing.
        folder: Whether it is a folder.

    Raises:
        ValueError: If another command holds it, saying which.
    """
    stack = _holding.get()
    if stack is not None and path is not None and str(path) != "-":
        from saccade.files import alone

        stack.enter_context(alone(path, folder=folder))


def keep(path: str | os.PathLike | None) -> Journal:
    """The journal in which this command keeps finished parts; nothing is kept without a path.

    Raises:
        ValueError: If another command holds it, or something else is there.
    """
    from saccade.journal import Journal

    journal, stack = Journal(path), _holding.get()
    return journal if stack is None else stack.enter_context(journal)


def partial_of(target: str | os.PathLike | None) -> Path | None:
    """Where finished parts are kept until a result is written; None where that is no file."""
    return None if target is None or str(target) == "-" else Path(f"{target}.partial.jsonl")


class Output:
    """Where a command's results go.

    Attributes:
        target: The value of ``--json``.
        console: Where tables go: standard output, or standard error when JSON has it.
    """

    def __init__(self, target: str | None) -> None:
        self.target = target
        self.console: Console = _console(stderr=target == "-")
        if target not in (None, "-"):
            check_writable(str(target))

    def note(self, text: str) -> None:
        """Prints a line on standard error, if there is one."""
        if text:
            progress_console().print(text, markup=False, highlight=False, soft_wrap=True)

    def line(self, text: str) -> None:
        """Prints a line beside the tables."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def table(self, table: Table) -> None:
        """Prints a table."""
        self.console.print(table)

    def finish(self, data: dict[str, Any]) -> None:
        """Writes the JSON results, whole or not at all, if they were asked for."""
        data = plain(data)
        if self.target == "-":
            json.dump(data, sys.stdout, indent=1, allow_nan=False)
            sys.stdout.write("\n")
            sys.stdout.flush()
        elif self.target is not None:
            from saccade.files import write_json

            write_json(self.target, data)
            self.note(f"wrote {self.target}")


def _console(stderr: bool) -> Console:
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    # Piped tables must not be folded to the 80 columns that rich assumes.
    return Console(stderr=stderr, width=None if stream.isatty() else 160)


def progress_console() -> Console:
    """The console of progress and notes: standard error."""
    return _console(stderr=True)


def progress() -> Progress:
    """A progress bar on standard error, with elapsed and remaining time."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=progress_console(),
    )


def check_writable(path: str | os.PathLike) -> None:
    """Refuses a result path before the work is done rather than after it.

    Raises:
        ValueError: If it is a folder, or its folder cannot be written to.
    """
    target = Path(path)
    if target.is_dir():
        raise ValueError(f"cannot write {path}: it is a folder")
    if target.exists() and not target.is_file():
        if not os.access(target, os.W_OK):
            raise ValueError(f"cannot write {path}: no permission")
        return
    folder = target.parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise ValueError(f"cannot write {path}: {folder} is not a folder")
    if not os.access(folder, os.W_OK):
        raise ValueError(f"cannot write {path}: no permission to write in {folder}")


def plain(data: Any) -> Any:
    """Data that JSON can hold: tuples become lists, numbers that are not finite become null."""
    if isinstance(data, dict):
        return {str(key): plain(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [plain(value) for value in data]
    if isinstance(data, float) and not math.isfinite(data):
        return None
    return data


def read_dtype(name: str | None) -> torch.dtype | None:
    """A torch dtype by name.

    Raises:
        ValueError: If there is no such floating-point type.
    """
    from saccade import models

    return None if name is None else models.read_dtype(name)


def read_device(name: str | None) -> torch.device:
    """A torch device that is really there; cuda where there is one if omitted.

    Raises:
        ValueError: If the name is not a device, or this machine has none of it.
    """
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"no device {name!r}; write cpu, cuda or cuda:0") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device {name} is not there: this machine has {torch.cuda.device_count()} CUDA devices"
        )
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device {name!r} is not supported; write cpu or cuda")
    return device


def human_bytes(count: float) -> str:
    """Bytes with a binary unit, as tables show them."""
    for unit in ("B", "KiB", "MiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"


def numbers(layers: list[int]) -> str:
    """Layers with runs as ranges, as spec strings write them."""
    from saccade.methods.base import write_value

    return write_value(tuple(layers))
