"""Spec strings: ``"vskip(layers=12-31)+vtw(layer=28)"`` to methods and back (stable public surface)."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields
from typing import Any, get_args, get_origin

from saccade.core.text import quoted
from saccade.methods import METHODS, Method
from saccade.methods.base import MOST_LAYERS
from saccade.plans.names import calls, check_method

_SHARE = re.compile(r"[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]{1,3})?|\.[0-9]+")
_RANGE = re.compile(r"([0-9]{1,4})(?:-([0-9]{1,4}))?")


def parse(spec: str) -> tuple[Method, ...]:
    """Reads a spec string.

    Args:
        spec: ``name(key=value,...)``, joined by ``+``; layers are written ``0,3,5-7`` (``/`` serves too).

    Returns:
        The methods, in order. The empty string and ``"dense"`` give none.

    Raises:
        ValueError: If the text cannot be read, naming the part and what is allowed.
    """
    return tuple(_read_call(name, inner) for name, inner in calls(spec))


def write(methods: Sequence[Method]) -> str:
    """The spec string of methods; ``parse(write(m)) == m``."""
    return "+".join(str(m) for m in methods) or "dense"


def _read_call(name: str, inner: str) -> Method:
    check_method(name, METHODS)
    cls = METHODS[name]
    hints = typing.get_type_hints(cls)
    known = {f.name: hints[f.name] for f in fields(cls)}
    values: dict[str, str] = {}
    key = None
    for piece in inner.split(","):
        if "=" in piece:
            key, piece = (side.strip() for side in piece.split("=", 1))
            if key not in known:
                raise ValueError(f"{name} has no parameter {quoted(key)}; it has: {', '.join(known)}")
            if key in values:
                raise ValueError(f"{name}: {key} is given twice")
            values[key] = piece
        elif key is not None:
            values[key] += "," + piece.strip()
        elif piece.strip():
            raise ValueError(
                f"{name}: {quoted(piece.strip())} has no name; write key=value ({', '.join(known)})"
            )
    return cls(**{k: read_value(v, known[k], f"{name}: {k}") for k, v in values.items()})


def read_value(text: str, hint: Any, where: str) -> Any:
    """Reads one value of a spec by the type of its field.

    Raises:
        ValueError: If the text is not of that type.
    """
    text = text.strip()
    options = [h for h in get_args(hint) if h is not type(None)] if _is_union(hint) else [hint]
    if text.lower() == "none" and options != [hint] and tuple not in [get_origin(o) for o in options]:
        return None
    errors = []
    for option in options:
        try:
            return _read_one(text, option)
        except ValueError as error:
            errors.append(str(error))
    raise ValueError(f"{where}: {quoted(text)} is {' and '.join(errors)}")


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (typing.Union, types.UnionType)


def _read_one(text: str, hint: Any) -> Any:
    if get_origin(hint) is tuple:
        return _read_shares(text) if get_args(hint)[0] is float else _read_layers(text)
    if get_origin(hint) is typing.Literal:
        if text not in get_args(hint):
            raise ValueError(f"not one of {', '.join(map(str, get_args(hint)))}")
        return text
    if hint is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError("not true or false")
        return text.lower() == "true"
    if hint is str:
        if not re.fullmatch(r"[\w.\-/]+", text):
            raise ValueError("not a plain name")
        return text
    # Python also reads digits of other scripts, and underscores among them.
    if text.isascii() and "_" not in text:
        with suppress(ValueError):
            return hint(text)
    raise ValueError(f"not {'a whole number' if hint is int else 'a number'}")


def _read_shares(text: str) -> tuple[float, ...]:
    if text.lower() in ("", "none"):
        return ()
    found = []
    for piece in re.split(r"[,/]", text):
        if _SHARE.fullmatch(piece.strip()) is None:
            raise ValueError("not a list of numbers such as 0.9/0.75/0.5")
        found.append(float(piece))
        if len(found) > MOST_LAYERS:
            raise ValueError(f"not a list of at most {MOST_LAYERS} numbers")
    return tuple(found)


def _read_layers(text: str) -> tuple[int, ...]:
    if text.lower() in ("", "none"):
        return ()
    numbers: list[int] = []
    for piece in re.split(r"[,/]", text):
        match = _RANGE.fullmatch(piece.strip())
        if match is None or (match[2] and int(match[2]) < int(match[1])):
            raise ValueError("not a list of layers such as 0,3,5-7")
        numbers += range(int(match[1]), int(match[2] or match[1]) + 1)
        if len(numbers) > MOST_LAYERS:
            raise ValueError(f"not a list of at most {MOST_LAYERS} layers")
    return tuple(numbers)
