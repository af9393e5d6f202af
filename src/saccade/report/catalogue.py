"""The registered methods as plain data: parameters, defaults, what they save, which families they serve."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Collection, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

from saccade.methods import METHODS, Method
from saccade.methods.base import write_value

SHARED = ("flops", "of", "position_policy")
"""Parameters that most methods have alike."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of a method.

    Attributes:
        name: As it stands in a spec string.
        type: In words a user writes.
        default: Its default.
        usual: What it comes to where the default is None and stands for something; else empty.
    """

    name: str
    type: str
    default: Any
    usual: str

    @property
    def value(self) -> str:
        """What the parameter is if it is not given; empty where it is then not used."""
        return self.usual if self.default is None else write_value(self.default)


def described(cls: type[Method]) -> list[Parameter]:
    """Parameters of a method, those of its own first."""
    hints, usual = typing.get_type_hints(cls), cls.usual_values()
    found = [
        Parameter(
            f.name,
            type_name(hints[f.name]),
            None if f.default is MISSING else f.default,
            usual.get(f.name, ""),
        )
        for f in fields(cls)
    ]
    return sorted(found, key=lambda one: one.name in SHARED)


def catalogue(families: Mapping[str, Collection[str]]) -> list[dict[str, Any]]:
    """One entry per registered method.

    Args:
        families: What can be done inside the vision tower of each family (``Family.tower_can``), by its name.
    """
    return [
        {
            "name": name,
            "title": cls.title,
            "paper": cls.paper,
            "summary": summary(cls),
            "saves": list(cls.saves),
            "calibration": cls.score or ("attention" if cls.fitted else None),
            "parameters": [asdict(one) for one in described(cls)],
            "presets": sorted(cls.presets),
            "families": [family for family, can in families.items() if cls().needs in (None, *can)],
        }
        for name, cls in sorted(METHODS.items())
    ]


def summary(cls: type[Method]) -> str:
    """The first line of a method's documentation."""
    return (cls.__doc__ or "").strip().split("\n")[0]


def in_brief(cls: type[Method]) -> str:
    """The first line of a method's documentation as a table shows it: without its name and its papers."""
    text = re.sub(r" \([^()]*arXiv[^()]*\)", "", summary(cls).rstrip(".")).replace("``", "`")
    text = text.split(": ", 1)[-1]
    return text[0].lower() + text[1:] if text[1:2].islower() or text[1:2] == " " else text


def type_name(hint: Any) -> str:
    """A parameter's type in words a user writes: ``number``, ``whole number``, ``layers`` or its choices."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        words = [type_name(h) for h in typing.get_args(hint) if h is not type(None)]
        return "fraction or number of rows" if words == ["whole number", "number"] else " or ".join(words)
    if typing.get_origin(hint) is tuple:
        return "fractions" if typing.get_args(hint)[0] is float else "layers"
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(map(str, typing.get_args(hint)))
    return {int: "whole number", float: "number", str: "name", bool: "true or false"}.get(hint, str(hint))
