"""What the commands share: options, tables on standard output, progress on standard error, JSON files."""

from __future__ import annotations

import json
import math
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saccade.cli import streams
from saccade.cli.terminal import console
from saccade.core.text import printable
from saccade.system.processes import MOST_PROCESSES, check_helpers

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    from saccade.inputs.videos import Video
    from saccade.opening.settings import Opening
    from saccade.plans.plan import Plan as PlanOf
    from saccade.system.journal import Journal

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="A model folder, a hub id, or an embedded model: glance, gaze.")
]
Plan = Annotated[
    str | None,
    typer.Option("--plan", metavar="PLAN", help="A plan file or a spec such as 'vskip(layers=12-31)'."),
]
Tasks = Annotated[
    list[str] | None, typer.Option("--task", metavar="NAME", help="A task of Glance's suite; repeatable.")
]
Force = Annotated[bool, typer.Option("--force", help="Use a plan even if it was made for another model.")]
Strict = Annotated[
    bool,
    typer.Option(
        "--strict",
        help="Refuse a plan or adapter that was made for other weights of this shape, or a plan file that "
        "does not say for which, instead of warning of it.",
    ),
]
Seed = Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, help="Seed of everything that is drawn.")]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        min=1,
        max=1024,
        help="CPU threads; if omitted as many as there are cores that nothing else keeps busy.",
    ),
]
Processes = Annotated[
    int,
    typer.Option(
        "--processes",
        min=1,
        max=MOST_PROCESSES,
        help="Processes that share the work, this one among them, each with the model.",
    ),
]
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        help="Ray cluster that gives the other --processes: auto, HOST:PORT, or local for one here.",
    ),
]
Videos = Annotated[
    list[Path] | None,
    typer.Option(
        "--video",
        metavar="PATH",
        help="A video file, or a folder of frames; repeat for several. They stand behind the images.",
    ),
]
Frames = Annotated[
    int | None,
    typer.Option(
        "--frames",
        min=1,
        max=768,
        help="Frames that are shown of each video; if omitted as many as the model's processor chooses.",
    ),
]
Json = Annotated[
    str | None,
    typer.Option(
        "--json",
        metavar="FILE",
        help="Write results as JSON; '-' for standard output, and nothing else there.",
    ),
]


# The largest numbers that options take: more is a mistyped number, and would end in a crash or never.
MOST_SAMPLES = 1_000_000
MOST_BATCH = 65_536
MOST_ROWS = 4_000_000
MOST_TOKENS = 1_000_000
MOST_LAYERS = 10_000
MOST_THREADS = 1024
MOST_REPEATS = 1_000_000
MOST_STEPS = 1_000_000_000


def finite(value: float | None) -> float | None:
    """A callback of options that are numbers with a fraction: refuses ``nan``, which no range does.

    Raises:
        typer.BadParameter: If the number is none.
    """
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number")
    return value


def say_uncalibrated(out: Output, plan: PlanOf) -> None:
    """Says of a plan whose layers nothing has chosen that the last ones were taken."""
    if any(method.needs_order and method.score for method in plan.methods):
        out.line(
            f"{plan.spec} names no layers: the last ones are taken here; saccade calibrate chooses them, and "
            "its plan file brings them along"
        )


def open_videos(paths: Sequence[Path], frames: int | None) -> tuple[Video, ...]:
    """Opens what ``--video`` and ``--frames`` say.

    Raises:
        ValueError: If there are frames of no video, or one cannot be read.
    """
    if frames is not None and not paths:
        raise ValueError("--frames is of videos: give --video PATH")
    from saccade.inputs.videos import open_video

    return tuple(open_video(path, frames=frames) for path in paths)


def check_names(
    model: str | None = None,
    plans: Sequence[str] = (),
    tasks: Sequence[str] = (),
    opening: Opening | None = None,
    files: Sequence[str | Path | None] = (),
) -> None:
    """Refuses names that cannot be before what takes long is imported.

    Args:
        model: A folder, a hub id or ``glance``.
        plans: Plan files and spec strings; they are read, for which torch is imported but no model class.
        tasks: Tasks of Glance's suite.
        opening: How the model will be opened.
        files: Files that will be read; those that are None are not.

    Raises:
        ValueError: Naming the first of them.
    """
    from saccade.opening.source import check_name
    from saccade.plans.names import check_plans
    from saccade.system.embedded import EMBEDDED

    if model is not None and model not in EMBEDDED:
        check_name(str(model), opening.revision if opening is not None else None)
    if opening is not None and opening.adapter is not None:
        check_name(str(opening.adapter))
    check_plans(plans)
    if tasks:
        from saccade.glance.tasks import check_tasks

        check_tasks(tasks)
    accepted = None if opening is None else opening.accepted
    missing = next((one for one in (*files, accepted) if one is not None and not Path(one).exists()), None)
    if missing is not None:
        raise ValueError(f"no such file: {missing}")
    if plans:
        from saccade.plans.plan import Plan

        for plan in plans:
            Plan.of(plan)
    if opening is not None and opening.device not in (None, "auto", "cpu"):
        opening.torch_device()


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
        from saccade.system.files import alone

        stack.enter_context(alone(path, folder=folder))


def keep(path: str | os.PathLike | None) -> Journal:
    """The journal in which this command keeps finished parts; nothing is kept without a path.

    Raises:
        ValueError: If another command holds it, or something else is there.
    """
    from saccade.system.journal import Journal

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
        if target == "-" and streams.closed(sys.stdout):
            raise ValueError("--json - writes to standard output, which is closed; give a file")
        self.target = target
        self.console: Console = console(stderr=target == "-")
        if target not in (None, "-"):
            check_writable(str(target))

    def note(self, text: str) -> None:
        """Prints a line on standard error, if there is one."""
        if text:
            progress_console().print(text, highlight=False, soft_wrap=True)

    def line(self, text: str) -> None:
        """Prints a line beside the tables."""
        self.console.print(text, highlight=False, soft_wrap=True)

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
            from saccade.system.files import write_json

            write_json(self.target, data)
            self.note(f"wrote {self.target}")


def progress_console() -> Console:
    """The console of progress and notes: standard error."""
    return console(stderr=True)


def progress() -> Progress:
    """A progress bar on standard error, with elapsed and remaining time."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Description(ProgressColumn):
        # Bars are drawn past the console's own cleaning, and names of tasks are the user's.
        def render(self, task: Task) -> Text:
            return Text(printable(task.description))

    class QuietProgress(Progress):
        # Where nobody watches a refusal is one line: how far it came is not told too.
        def __exit__(self, kind: Any, *more: Any) -> None:
            if kind is None or self.console.is_terminal:
                return super().__exit__(kind, *more)
            self.live.transient = True
            self.live.stop()

    return QuietProgress(
        Description(),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=progress_console(),
    )


@contextmanager
def threads_kept() -> Iterator[None]:
    """Puts torch's number of threads back, for a caller that goes on after the command."""
    torch: Any = sys.modules.get("torch")
    before = None if torch is None else torch.get_num_threads()
    try:
        yield
    finally:
        if before is not None:
            torch.set_num_threads(before)


def use_threads(threads: int | None) -> None:
    """Sets how many threads torch computes with, for this command."""
    from saccade.system import threads as cores

    cores.use(threads)


def shared_threads(processes: int, ray: str | None = None) -> int | None:
    """CPU threads of each of several processes, which would else take all cores each; None for one alone.

    On a cluster each takes one, for who else computes on its node is not known here.
    """
    from saccade.system.threads import allowed

    if processes == 1:
        return None
    return 1 if ray is not None else max(1, len(allowed()) // processes)


def reach(ray: str | None, processes: int) -> None:
    """Connects this command to a Ray cluster, if one is given, before anything is read or opened.

    Raises:
        ValueError: If nothing is asked of it, Ray is missing, or no cluster is there.
    """
    check_helpers(processes, ray)
    stack = _holding.get()
    if ray is not None and stack is not None:
        from saccade.system.cluster import connected

        stack.enter_context(connected(ray))


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


def human_bytes(count: float) -> str:
    """Bytes with a binary unit, as tables show them."""
    for unit in ("B", "KiB", "MiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"


@dataclass(frozen=True)
class Unit:
    """A unit of FLOPs.

    Attributes:
        name: ``TFLOPs``, ``GFLOPs``, ...
        size: FLOPs in one.
    """

    name: str
    size: float


def flops_unit(most: float) -> Unit:
    """The unit in which the largest FLOPs of a column show their digits."""
    for name, size in (("TFLOPs", 1e12), ("GFLOPs", 1e9), ("MFLOPs", 1e6)):
        if most >= 0.1 * size:
            return Unit(name, size)
    return Unit("kFLOPs", 1e3)


def command(*words: str) -> str:
    """A command of this program as a shell takes it."""
    return shlex.join(["saccade", *map(str, words)])


def given(*options: tuple[str, Any]) -> list[str]:
    """Words of the options that were given, for a command to type next; a list gives its option once each."""
    words: list[str] = []
    for name, value in options:
        values = value if isinstance(value, (list, tuple)) else [] if value is None else [value]
        words += [word for one in values for word in (name, str(one))]
    return words


def numbers(layers: list[int]) -> str:
    """Layers with runs as ranges, as spec strings write them."""
    from saccade.methods.base import write_value

    return write_value(tuple(layers))
