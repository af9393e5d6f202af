"""The comma-separated ``--model_args`` of lmms-eval: what is read from them, and how they are written (pure).

lmms-eval splits at every comma that is not inside quotes or brackets of the kinds ``{`` and ``[``, and leaves
the quotes in the value. A spec such as ``vskip(layers=1,2)`` has commas in round brackets, so it is written
either in quotes, ``plan="vskip(layers=1,2)"``, or with semicolons, ``plan=vskip(layers=1;2)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_QUOTES = ('"', "'")


def read_text(value: Any) -> str:
    """A value as lmms-eval hands it over: numbers become text again, quotes around it go."""
    text = str(value).strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in _QUOTES:
        return text[1:-1]
    return text


def read_spec(value: Any) -> str:
    """A plan file or spec string; in a spec that was not quoted, semicolons stand for commas."""
    text = read_text(value)
    return text.replace(";", ",") if "(" in text else text


def read_count(value: Any, what: str) -> int:
    """A whole number of at least 1.

    Raises:
        ValueError: If it is none; lmms-eval's ``auto`` is not supported.
    """
    text = read_text(value)
    if not text.isdigit() or int(text) < 1:
        raise ValueError(f"{what} is a whole number of at least 1, got {text!r}")
    return int(text)


def read_flag(value: Any, what: str) -> bool:
    """True or false.

    Raises:
        ValueError: If it is neither.
    """
    text = read_text(value).lower()
    if text not in ("true", "false"):
        raise ValueError(f"{what} is true or false, got {text!r}")
    return text == "true"


def write_arguments(values: Mapping[str, str]) -> str:
    """``--model_args`` that lmms-eval splits back into these values; each value is quoted that needs it.

    Raises:
        ValueError: If a value has both kinds of quotes, or a backslash before one, and so cannot be written.
    """
    return ",".join(f"{key}={_quoted(value)}" for key, value in values.items())


def _quoted(value: str) -> str:
    if not any(mark in value for mark in (",", "{", "}", "[", "]", *_QUOTES)) and value == value.strip():
        return value
    quote = next((mark for mark in _QUOTES if mark not in value), None)
    if quote is None or value.endswith("\\"):
        raise ValueError(f"lmms-eval cannot be given {value!r}: it mixes quotes; rename the file or folder")
    return f"{quote}{value}{quote}"
