"""One store of answers for all studies: a cell is what a model said to a task's questions under a plan.

A cell is a file, written whole or not at all, named after everything its answers depend on. Several processes
may share a store: a lock that dies with its process says who is at a cell.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from saccade.evaluation.ledger import Spent
from saccade.system.files import locked, read_json, write_json
from saccade.system.journal import settings_hash

SCHEMA = 1


@dataclass(frozen=True)
class Key:
    """Everything that answers depend on.

    Attributes:
        weights: Digest of the model's weights.
        dtype: Number format they are in.
        plan: The resolved plan as a spec string; ``dense`` or ``blind`` for the stock model.
        samples: Digest of the questions and pictures.
        tokens: Longest answer in tokens.
        setup: Digest of what else of the model they depend on (``setup_digest``); empty for the shipped
            Glance.
        code: Versions of the code that made them, as far as one was ever raised (``code_of``); else empty.
    """

    weights: str
    dtype: str
    plan: str
    samples: str
    tokens: int
    setup: str = ""
    code: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary for JSON and digests; what is empty is left out, for cells older than it."""
        return {name: value for name, value in asdict(self).items() if name not in ("setup", "code") or value}


@dataclass(frozen=True)
class Cell:
    """Answers of one task under one plan.

    Attributes:
        key: What they depend on.
        ids: Sample ids.
        texts: The answers, in the same order.
        spent: Mean cost of a prompt by the routes that really ran; None for the stock model.
        prompts: (visual rows, text rows, how often) of the prompts of the stock model.
        made: How they were made: seconds, device, batch, versions.
    """

    key: Key
    ids: tuple[str, ...]
    texts: tuple[str, ...]
    spent: Spent | None
    prompts: tuple[tuple[int, int, int], ...]
    made: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary for JSON."""
        return {"schema": SCHEMA, **asdict(self), "key": self.key.to_dict()}

    @classmethod
    def from_dict(cls, data: Any, source: str) -> Cell:
        """Reads what ``to_dict`` wrote.

        Raises:
            ValueError: If it is something else.
        """
        try:
            if data["schema"] != SCHEMA:
                raise ValueError(f"schema {data['schema']}")
            ids, texts = tuple(map(str, data["ids"])), tuple(map(str, data["texts"]))
            if len(ids) != len(texts):
                raise ValueError(f"{len(ids)} ids and {len(texts)} answers")
            prompts = tuple((int(v), int(t), int(n)) for v, t, n in data["prompts"])
            return cls(Key(**data["key"]), ids, texts, data["spent"], prompts, data["made"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{source} is not a cell of a study: {error}; delete it to run it anew"
            ) from None


class Store:
    """A folder of finished cells and of what was measured of calibration samples.

    Args:
        path: The folder; it is made when something is kept.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)

    def place(self, key: Key) -> Path:
        """The file of a cell."""
        return self.path / "cells" / key.samples / f"{settings_hash(key.to_dict())}.json"

    def partial(self, key: Key) -> Path:
        """Where the answers of a cell that is not finished are kept."""
        return self.place(key).with_suffix(".partial.jsonl")

    def has(self, key: Key) -> bool:
        """Whether a cell is finished."""
        return self.place(key).is_file()

    def count(self) -> int:
        """How many cells are finished, of all models and questions."""
        return sum(1 for _ in self.path.glob("cells/*/*.json"))

    def get(self, key: Key) -> Cell | None:
        """A finished cell.

        Raises:
            ValueError: If its file holds something else.
        """
        if not self.has(key):
            return None
        cell = Cell.from_dict(read_json(self.place(key)), str(self.place(key)))
        if cell.key != key:
            raise ValueError(f"{self.place(key)} holds another cell; delete it to run it anew")
        return cell

    def put(self, cell: Cell) -> None:
        """Keeps a finished cell; what was kept of it on the way goes."""
        write_json(self.place(cell.key), cell.to_dict())
        self.partial(cell.key).unlink(missing_ok=True)

    def settle(self, keys: Iterable[Key]) -> None:
        """Removes what was kept on the way of cells that are finished: a kill may have come between."""
        for key in keys:
            if self.has(key):
                self.partial(key).unlink(missing_ok=True)

    @contextmanager
    def claim(self, key: Key) -> Iterator[bool]:
        """Says whether this process may work on a cell; False where another does, or it is finished."""
        with locked(self.place(key).with_suffix(".lock")) as mine:
            # Finished by another between our look and our lock.
            yield mine and not self.has(key)

    def measured(self, settings: Mapping[str, Any]) -> list[Any] | None:
        """What was measured of samples under these settings, one entry per sample, if it was kept.

        Raises:
            ValueError: If its file holds something else.
        """
        place = self._measured(settings)
        if not place.is_file():
            return None
        found = read_json(place)
        if not isinstance(found, dict) or found.get("settings") != dict(settings):
            raise ValueError(f"{place} holds other measurements; delete it to make them anew")
        if not isinstance(found.get("values"), list):
            raise ValueError(f"{place} holds no values; delete it to measure them anew")
        return list(found["values"])

    def measuring(self, settings: Mapping[str, Any]) -> Path:
        """Where measurements that are not finished are kept."""
        return self._measured(settings).with_suffix(".partial.jsonl")

    def put_measured(self, settings: Mapping[str, Any], values: Sequence[Any]) -> None:
        """Keeps what was measured of samples."""
        write_json(self._measured(settings), {"settings": dict(settings), "values": list(values)})

    def _measured(self, settings: Mapping[str, Any]) -> Path:
        return self.path / "scores" / f"{settings_hash(dict(settings))}.json"
