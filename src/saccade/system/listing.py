"""What the modules of a folder say of themselves, read without importing any of them.

Importing takes seconds (torch, the model classes of transformers); a list of names must not.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def files_with(folder: Path, mark: str) -> tuple[str, ...]:
    """Names of a folder's modules whose text holds a mark.

    Args:
        folder: Where they are.
        mark: Regular expression; ``^`` and ``$`` stand for ends of lines.
    """
    marked = re.compile(mark, re.MULTILINE)
    return tuple(sorted(p.stem for p in folder.glob("*.py") if marked.search(p.read_text(encoding="utf-8"))))


def registered(path: Path) -> Iterator[dict[str, Any]]:
    """Attributes that stand as plain values in each class of a module under ``@register``."""
    for node in _body(path):
        if isinstance(node, ast.ClassDef) and any(_is(mark, "register") for mark in node.decorator_list):
            yield dict(filter(None, map(_assigned, node.body)))


def called(path: Path, name: str) -> tuple[list[Any], dict[str, Any]]:
    """Plain arguments of the call that a module's constant is: ``NAME = Class("a", key=True)``.

    Args:
        path: The module.
        name: The constant.

    Returns:
        The first positional arguments, as long as they are plain values, and the keywords that are.

    Raises:
        ValueError: If the module has no such constant.
    """
    for node in _body(path):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and _is(node.targets[0], name):
            plain = [_value(one) for one in node.value.args]
            ends = next((i for i, one in enumerate(plain) if one is None), len(plain))
            keywords = {one.arg: _value(one.value) for one in node.value.keywords if one.arg}
            return plain[:ends], {key: value for key, value in keywords.items() if value is not None}
    raise ValueError(f"{path} has no {name}")


def _body(path: Path) -> list[ast.stmt]:
    return ast.parse(path.read_text(encoding="utf-8")).body


def _is(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _assigned(node: ast.stmt) -> tuple[str, Any] | None:
    target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
    value = getattr(node, "value", None)
    if not isinstance(target, ast.Name) or value is None or _value(value) is None:
        return None
    return target.id, _value(value)


def _value(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None
