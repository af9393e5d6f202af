"""YAML read strictly: an unknown key, a wrong type or a missing field is an error that names the key."""

from __future__ import annotations

import dataclasses
import os
import re
import types
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from saccade.system.files import read_text

T = TypeVar("T")

MOST_VALUES = 100_000
"""Values that a configuration may hold, what aliases name counted wherever it stands."""


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice and reads ``1e-3`` as the number it is."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        # Here, because what a merge key (<<) brings in may be given again.
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            where = f"line {key.start_mark.line + 1}"
            if not isinstance(key, yaml.ScalarNode):
                raise ValueError(f"{where}: a key is a word, not a list or a mapping")
            if key.value in seen:
                raise ValueError(f"{where}: key {key.value!r} is given twice")
            seen.add(key.value)
        return node


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def load_yaml(path: str | os.PathLike) -> dict[str, Any]:
    """Reads a YAML file that holds a mapping.

    Raises:
        ValueError: If it is missing, not YAML, holds a key twice, or holds no mapping.
    """
    data = _parse(read_text(path, "a YAML file"), str(path))
    if not isinstance(data, dict):
        raise ValueError(f"{path}: a mapping of sections is needed, got {_kind(data)}")
    return data


def override(data: dict[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """A copy with ``key.path=value`` settings applied; values are YAML, list items go by number.

    Raises:
        ValueError: If a setting has no ``=``, or its path leads through something that is no section.
    """
    data = _own(data)
    for setting in settings:
        path, equals, text = setting.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise ValueError(f"--set takes key=value, such as optimisation.steps=20; got {setting!r}")
        _put(data, keys, _parse(text, f"--set {path}"), setting)
    return data


def _own(data: Any) -> Any:
    """A copy in which nothing stands at two places, as what a YAML alias names does.

    Raises:
        ValueError: If it would hold more values than any configuration does: aliases of aliases multiply.
    """
    left = MOST_VALUES

    def own(data: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise ValueError(
                f"it holds more than {MOST_VALUES:,} values, where what aliases name counts again"
            )
        if isinstance(data, dict):
            return {key: own(value) for key, value in data.items()}
        return [own(value) for value in data] if isinstance(data, list | tuple) else data

    return own(data)


def _put(data: Any, keys: list[str], value: Any, setting: str) -> None:
    for number, key in enumerate(keys):
        last = number == len(keys) - 1
        if isinstance(data, list):
            if not key.isdigit() or int(key) >= len(data):
                raise ValueError(f"--set {setting}: {'.'.join(keys[:number])} has items 0 to {len(data) - 1}")
            slot: Any = int(key)
        elif isinstance(data, dict):
            slot = key
        else:
            raise ValueError(f"--set {setting}: {'.'.join(keys[:number])} is no section")
        if last:
            data[slot] = value
        else:
            if isinstance(data, dict) and data.get(slot) is None:
                data[slot] = {}
            data = data[slot]


def _parse(text: str, where: str) -> Any:
    try:
        return _own(yaml.load(text, Loader=_Loader))
    except RecursionError:
        raise ValueError(f"{where} is nested too deeply, or a part of it stands in itself") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{where} is not YAML: {' '.join(str(error).split())}") from None
    except ValueError as error:
        raise ValueError(f"{where}, {error}") from None
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:
        raise ValueError(f"{where}: a tag does not fit its value ({error!r})") from None


def read(cls: type[T], data: Any, path: str = "") -> T:
    """Builds a dataclass from plain data.

    Args:
        cls: A frozen dataclass whose fields are plain types, other such dataclasses, or unions of dataclasses
            told apart by a ``kind`` field.
        data: A mapping, as YAML or JSON gives it.
        path: Key path of the mapping, for errors.

    Raises:
        ValueError: Naming the key that is unknown, missing, of a wrong type, or out of range.
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"{path or 'configuration'}: a mapping is needed, got {_kind(data)}")
    hints = get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in data:
        if key not in fields:
            raise ValueError(f"unknown key {_join(path, str(key))}; known here: {', '.join(fields)}")
    values = {}
    for name, field in fields.items():
        where = _join(path, name)
        if name in data:
            values[name] = _value(hints[name], data[name], where)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ValueError(f"missing key {where}")
    try:
        return cls(**values)
    except ValueError as error:
        raise ValueError(f"{path}.{error}" if path else str(error)) from None


def _value(hint: Any, data: Any, where: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _union(arguments, data, where)
    if origin is Literal:
        if data not in arguments or isinstance(data, bool):
            raise ValueError(f"{where} is one of {', '.join(map(str, arguments))}; got {data!r}")
        return data
    if origin is tuple:
        if not isinstance(data, list | tuple):
            raise ValueError(f"{where} is a list, got {_kind(data)}")
        if arguments[-1] is not Ellipsis and len(data) != len(arguments):
            raise ValueError(f"{where} is a list of {len(arguments)}, got {len(data)}")
        inner = arguments[:1] * len(data) if arguments[-1] is Ellipsis else arguments
        return tuple(_value(h, d, f"{where}.{n}") for n, (h, d) in enumerate(zip(inner, data, strict=True)))
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(data, Mapping):
            raise ValueError(f"{where} is a mapping, got {_kind(data)}")
        return {str(k): _value(arguments[1], v, _join(where, str(k))) for k, v in data.items()}
    if dataclasses.is_dataclass(hint):
        return read(hint, data, where)  # type: ignore[arg-type]
    if hint is Any:
        return data
    return _plain(hint, data, where)


def _plain(hint: type, data: Any, where: str) -> Any:
    if hint is float and isinstance(data, int) and not isinstance(data, bool):
        try:
            return float(data)
        except OverflowError:
            raise ValueError(f"{where} is a number too large to count with") from None
    if not isinstance(data, hint) or (isinstance(data, bool) and hint is not bool):
        names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
        raise ValueError(f"{where} is {names[hint]}, got {_kind(data)}")
    return data


def _union(options: Sequence[Any], data: Any, where: str) -> Any:
    if data is None and type(None) in options:
        return None
    options = [o for o in options if o is not type(None)]
    if len(options) == 1:
        return _value(options[0], data, where)
    kinds: dict[str, Any] = {}
    for option in options:
        if dataclasses.is_dataclass(option):
            kinds[get_args(get_type_hints(option)["kind"])[0]] = option
    if kinds:
        kind = data.get("kind") if isinstance(data, Mapping) else None
        if not isinstance(kind, str) or kind not in kinds:
            raise ValueError(f"{_join(where, 'kind')} is one of {', '.join(kinds)}; got {kind!r}")
        return read(kinds[kind], data, where)
    if int in options and isinstance(data, int) and not isinstance(data, bool):
        return data
    return _plain(float if float in options else options[0], data, where)


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _kind(data: Any) -> str:
    names = {dict: "a mapping", list: "a list", str: "text", type(None): "nothing", bool: "true or false"}
    return f"{names.get(type(data), type(data).__name__)} ({data!r})"[:80]
