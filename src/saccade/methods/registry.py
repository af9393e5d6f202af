"""The one list of methods: it feeds the command line, the docs table, the test matrix and the benchmarks."""

from __future__ import annotations

from saccade.methods.base import Method

METHODS: dict[str, type[Method]] = {}


def register(cls: type[Method]) -> type[Method]:
    """Adds a method class to the registry (used as a decorator).

    Raises:
        ValueError: If the name is taken or not a lower-case identifier, or its paper is no link.
    """
    if not (cls.name.isidentifier() and cls.name == cls.name.lower()):
        raise ValueError(f"method name {cls.name!r} is not a lower-case identifier")
    if cls.name in METHODS and METHODS[cls.name].__qualname__ != cls.__qualname__:
        raise ValueError(f"method name {cls.name!r} is taken")
    if cls.paper is not None and not cls.paper.startswith("https://"):
        raise ValueError(
            f"method {cls.name!r}: paper is a link (https://...), or left out where there is none"
        )
    METHODS[cls.name] = cls
    return cls
