"""The command tree and its one rule for errors: one clear line, exit code 2."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from typing import Annotated, Any

import typer

from saccade import extensions
from saccade._version import __version__
from saccade.cli import streams
from saccade.cli.apart import guard
from saccade.cli.common import Interrupted, holding, threads_kept
from saccade.cli.terminal import plain_warnings
from saccade.core.text import short

COMMANDS = (
    *("methods", "cost", "bench", "calibrate", "tune", "heal", "evaluate"),
    *("generate", "explain", "serve", "batch", "check", "report", "plan", "train", "clips"),
)
"""Modules of this package that register commands, in the order ``--help`` lists them."""

PROGRAM = "saccade"

LONGEST = 1000
"""Characters of the longest line of an error."""


def build() -> typer.Typer:
    """The application with every command registered."""
    app = typer.Typer(
        name=PROGRAM,
        help="Make stock Hugging Face vision-language models skip redundant visual computation, "
        "and measure what it saved and what it cost.",
        epilog="A first look, in about two minutes: saccade demo",
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    )
    app.callback(invoke_without_command=True)(_root)
    for name in COMMANDS:
        importlib.import_module(f"saccade.cli.{name}").register(app)
    for added in extensions.found(extensions.COMMANDS).values():
        added.load().register(app)
    guard(app)
    return app


def _root(
    context: typer.Context,
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)
    ] = False,
) -> None:
    if show_version:
        typer.echo(f"{PROGRAM} {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: Words after the program's name; those of the process if omitted. ``--traceback`` anywhere
            among them lets exceptions through, for reports of bugs.

    Returns:
        Exit code: 0, 1 where ``check`` found something wrong, 2 for bad input, 130 when interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    with streams.usable(), plain_warnings(PROGRAM, LONGEST):
        return _guarded(words)


def _guarded(words: list[str]) -> int:
    if "--traceback" in words:
        words.remove("--traceback")
        return _run(words)
    try:
        code = _run(words)
        sys.stdout.flush()  # here, where what fails is one line
        return code
    except Interrupted as stopped:
        return _say(f"interrupted; {stopped}", 130)
    except (KeyboardInterrupt, typer.Abort):
        return _say("interrupted", 130)
    except BrokenPipeError:
        streams.discard(sys.stdout)
        return 1
    except (ValueError, OSError) as error:
        if isinstance(error, OSError):
            streams.discard_unwritable(sys.stdout)
        return _say(_one_line(error), 2)
    except MemoryError:
        return _say("out of memory; take fewer layers, samples or rows", 2)
    except Exception as error:
        if hasattr(error, "format_message"):  # usage errors of typer, whichever click it carries
            return _say(f"{_one_line(error.format_message())} (see {PROGRAM} {_command(words)}--help)", 2)
        if type(error).__name__ == "OutOfMemoryError":
            return _say(f"out of device memory; take fewer layers, samples or rows ({_one_line(error)})", 2)
        raise


def _run(words: list[str]) -> int:
    with threads_kept(), holding():
        code = _tree()(words, prog_name=PROGRAM, standalone_mode=False)
    if code == 130:
        raise KeyboardInterrupt
    return code if isinstance(code, int) else 0


@cache
def _tree() -> Any:
    """The commands as they are run: put together once, for whoever calls `main` again and again."""
    return typer.main.get_command(build())


def _say(line: str, code: int) -> int:
    kind = "error: " if code == 2 else ""
    with suppress(OSError):  # nobody listens
        print(f"{PROGRAM}: {kind}{line}", file=sys.stderr, flush=True)
    return code


def _command(words: list[str]) -> str:
    return (
        f"{words[0]} "
        if words and words[0] in {"eval", *COMMANDS, *extensions.found(extensions.COMMANDS)}
        else ""
    )


def _one_line(error: object) -> str:
    if isinstance(error, OSError) and error.strerror:
        named = f": {error.filename}" if error.filename else ""
        return short(f"{error.strerror}{named}", LONGEST)
    return short(error, LONGEST) or type(error).__name__
