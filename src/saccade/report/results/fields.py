"""Reading fields of a result file, with errors that name the file and the field (pure)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Fields:
    """An object of a JSON file, and where it stands.

    Attributes:
        data: The object.
        where: The file, and the way to the object within it.
    """

    data: Mapping[str, Any]
    where: str

    @classmethod
    def of(cls, value: Any, where: str) -> Fields:
        """An object.

        Raises:
            ValueError: If it is something else.
        """
        if not isinstance(value, dict):
            raise ValueError(f"{where} is {_kind(value)}; an object was expected")
        return cls(value, where)

    def number(self, key: str) -> float:
        """A number.

        Raises:
            ValueError: If it is missing or something else.
        """
        found = self.maybe(key)
        if found is None:
            raise ValueError(f"{self.where} has no number {key!r}")
        return found

    def maybe(self, key: str) -> float | None:
        """A number; None where it is missing, null or not finite.

        Raises:
            ValueError: If it is something else.
        """
        value = self.data.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{self.where}: {key} is {_kind(value)}; a number was expected")
        return float(value) if math.isfinite(value) else None

    def count(self, key: str, most: int = 10**6) -> int:
        """A whole number of things, from 1.

        Raises:
            ValueError: If it is missing, something else, or more than there can be.
        """
        found = self.number(key)
        if not 1 <= found <= most or found != int(found):
            raise ValueError(f"{self.where}: {key} is {found:g}; a whole number up to {most} was expected")
        return int(found)

    def text(self, key: str, default: str | None = None) -> str:
        """A text.

        Raises:
            ValueError: If it is something else, or missing and there is no default.
        """
        value = self.data.get(key)
        value = default if value is None else value
        if not isinstance(value, str):
            raise ValueError(f"{self.where}: {key} is {_kind(value)}; a text was expected")
        return value

    def part(self, key: str) -> Fields:
        """An object within; empty where it is missing.

        Raises:
            ValueError: If it is something else.
        """
        value = self.data.get(key)
        return Fields.of({} if value is None else value, f"{self.where}: {key}")

    def parts(self, key: str) -> list[Fields]:
        """A list of objects; empty where it is missing.

        Raises:
            ValueError: If it is something else.
        """
        return [Fields.of(one, f"{self.where}: {key}[{i}]") for i, one in enumerate(self.items(key))]

    def named(self, key: str) -> dict[str, Fields]:
        """Objects by name; none where they are missing.

        Raises:
            ValueError: If it is something else.
        """
        inner = self.part(key)
        return {name: Fields.of(one, f"{inner.where}.{name}") for name, one in inner.data.items()}

    def items(self, key: str) -> list[Any]:
        """A list; empty where it is missing.

        Raises:
            ValueError: If it is something else.
        """
        value = self.data.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise ValueError(f"{self.where}: {key} is {_kind(value)}; a list was expected")
        return value

    def numbers(self, key: str) -> list[float]:
        """A list of finite numbers; empty where it is missing.

        Raises:
            ValueError: If it is something else.
        """
        found = self.items(key)
        for i, value in enumerate(found):
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"{self.where}: {key}[{i}] is {_kind(value)}; a number was expected")
        return [float(value) for value in found]


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "missing"}
    return names.get(type(value), "a number")
