"""Answers and what they cost, written down as they come, so that an interrupted run goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from saccade.samples import Sample


def settings_hash(settings: dict[str, Any]) -> str:
    """Short digest of settings that answers depend on."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:16]


def sample_digest(samples: Sequence[Sample]) -> str:
    """Digest of questions, answers and pixels."""
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(json.dumps([sample.id, sample.task, sample.question, sample.answer]).encode())
        for image in sample.images:
            digest.update(str(image.size).encode() + image.tobytes())
    return digest.hexdigest()[:16]


Spent = dict[str, float]
"""What a prompt cost, by name."""


@dataclass(frozen=True)
class Cell:
    """What a batch of questions came to.

    Attributes:
        texts: The answers.
        spent: What each prompt cost, a batch's mean; None where it was not noted.
    """

    texts: list[str]
    spent: list[Spent | None]


class Ledger:
    """A JSONL file of answers by (plan, sample id); in memory alone if it has no path.

    The first line holds the hash of the settings: a file of other settings is started anew. A line torn by
    an interruption is dropped.
    """

    def __init__(self, path: str | os.PathLike | None, settings: dict[str, Any]) -> None:
        self.path = None if path is None else Path(path)
        self._answers: dict[str, dict[str, str]] = {}
        self._spent: dict[str, dict[str, Spent]] = {}
        self._stream: TextIO | None = None
        if self.path is None:
            return
        header = json.dumps({"settings": settings_hash(settings)})
        lines = self._read(header)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(f".{self.path.name}.part")
        temporary.write_text("".join(line + "\n" for line in [header, *lines]), encoding="utf-8")
        os.replace(temporary, self.path)
        self._stream = self.path.open("a", encoding="utf-8")

    def _read(self, header: str) -> list[str]:
        if self.path is None or not self.path.is_file():
            return []
        first, *rest = self.path.read_text(encoding="utf-8", errors="replace").split("\n")
        if first != header:
            return []
        kept = []
        for line in rest:
            try:
                entry = json.loads(line)
                answers = {str(k): str(v) for k, v in entry["answers"].items()}
                spent = {str(k): float(v) for k, v in entry.get("spent", {}).items()}
                self._note(entry["plan"], answers, spent)
            except (json.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError):
                continue
            kept.append(line)
        return kept

    def _note(self, plan: str, answers: dict[str, str], spent: Spent) -> None:
        self._answers.setdefault(plan, {}).update(answers)
        if spent:
            self._spent.setdefault(plan, {}).update(dict.fromkeys(answers, spent))

    def get(self, plan: str, ids: list[str]) -> Cell | None:
        """Answers of a plan to these samples and what they cost, or None unless all are known."""
        known, spent = self._answers.get(plan, {}), self._spent.get(plan, {})
        if not all(i in known for i in ids):
            return None
        return Cell([known[i] for i in ids], [spent.get(i) for i in ids])

    def put(self, plan: str, ids: list[str], answers: list[str], spent: Spent | None = None) -> None:
        """Writes a finished cell down at once.

        Args:
            plan: What the answers are filed under.
            ids: Sample ids.
            answers: Their answers.
            spent: Mean cost of a prompt of this batch.
        """
        cell = dict(zip(ids, answers, strict=True))
        self._note(plan, cell, spent or {})
        if self._stream is not None:
            entry = {"plan": plan, "answers": cell} | ({"spent": spent} if spent else {})
            self._stream.write(json.dumps(entry) + "\n")
            self._stream.flush()

    def close(self) -> None:
        """Closes the file and leaves it; whoever writes the result removes it then."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
