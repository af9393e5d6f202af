"""The reference of commands, from the command line itself."""

from __future__ import annotations

import inspect
import re
from typing import Any

import typer

from saccade.report.markdown import markdown

KINDS = {"int": "N", "integer range": "N", "float": "NUMBER", "str": "TEXT", "text": "TEXT", "Path": "PATH"}
"""What an option without a word of its own takes, by its type."""


def page() -> str:
    """All commands, in the order ``--help`` lists them."""
    from saccade.cli.app import build

    parts = [
        "# Commands",
        "Every command but `serve` takes `--json FILE` (`-` for standard output, and nothing else there). "
        "All show progress on standard error, and end with exit code 2 and one clear line on bad input. Runs "
        "that take long resume: repeat the command.",
    ]
    for words, command in leaves(typer.main.get_command(build())):
        parts += _command(words, command)
    return "\n\n".join(parts) + "\n"


def leaves(group: Any, words: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    """Every command of the tree with its words."""
    found: list[tuple[tuple[str, ...], Any]] = []
    for name, command in group.commands.items():
        inner = hasattr(command, "commands")
        found += leaves(command, (*words, name)) if inner else [((*words, name), command)]
    return found


def _command(words: tuple[str, ...], command: Any) -> list[str]:
    name = " ".join(("saccade", *words))
    text, _, example = inspect.cleandoc(command.help or "").partition("\nExample: ")
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
    usage = " ".join([name, *(_argument(p) for p in arguments), "[OPTIONS]"])
    parts = [f"## `{name}`", _escaped(text.strip()), f"```text\n{usage}\n```"]
    rows = [[f"`{_argument(p)}`", _default(p), _escaped(p.help or "")] for p in arguments]
    rows += [[_flags(p), _default(p), _escaped(p.help or "")] for p in options]
    parts.append(markdown(("argument or option", "default", "meaning"), rows, right_from=9))
    if example:
        parts.append(f"```sh\n{example.strip()}\n```")
    return parts


def _argument(parameter: Any) -> str:
    name = parameter.metavar or parameter.name.upper()
    name = name if parameter.nargs == 1 or name.endswith("...") else f"{name}..."
    return name if parameter.required else f"[{name}]"


def _flags(parameter: Any) -> str:
    names = ", ".join(f"`{name}`" for name in [*parameter.opts, *parameter.secondary_opts])
    if parameter.is_flag:
        return names
    kind = parameter.metavar or KINDS.get(_type(parameter), "VALUE")
    return f"{names} `{kind}`" + (" (repeatable)" if parameter.multiple else "")


def _type(parameter: Any) -> str:
    """Name of an option's type, as the typer that is installed keeps it."""
    told = getattr(parameter, "type_descriptor", None)
    return told.annotation.__name__ if told is not None else parameter.type.name


def _default(parameter: Any) -> str:
    value = parameter.default
    if value is None or value is False or callable(value) or "Sentinel" in type(value).__name__:
        return ""
    return "" if value in ((), []) else f"`{value}`"


def _escaped(text: str) -> str:
    return re.sub(
        r"(?<!`)([<>|])", r"\\\1", text.replace("\n\n", "\0").replace("\n", " ").replace("\0", "\n\n")
    )
