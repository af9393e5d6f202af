"""The adapter that belongs to a healed plan: where it lies, and what binds the two together (pure)."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class AdapterRef:
    """Low-rank changes of weights that a plan brings with it: on with the plan, off with it.

    Attributes:
        folder: Their folder; as a plan file has it, relative to that file.
        digest: Of the numbers in it.
        any_weights: Whether they go on weights that they were not made for.
    """

    folder: str
    digest: str
    any_weights: bool = False

    def beside(self, path: str | os.PathLike) -> AdapterRef:
        """As it is found from a plan file at this path."""
        return replace(self, folder=str(Path(path).resolve().parent / self.folder))

    def to_dict(self, path: str | os.PathLike | None = None) -> dict[str, Any]:
        """Plain dictionary for JSON, the folder seen from a plan file at this path."""
        folder = self.folder if path is None else os.path.relpath(self.folder, Path(path).resolve().parent)
        return {"folder": Path(folder).as_posix(), "digest": self.digest}


def bound_to(spec: str) -> str:
    """What an adapter notes of the plan that it was trained under: a digest of its spec string."""
    return hashlib.sha256(spec.encode()).hexdigest()[:16]
