"""What a batch job is: its records in shards, the folder of its answers, and what both depend on."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from saccade.inputs.data import Entry, read_jsonl
from saccade.inputs.pictures import is_pipe
from saccade.opening.settings import Opening
from saccade.plans.plan import Plan
from saccade.system.files import read_json, write_json
from saccade.system.locks import locked

MANIFEST = "batch.json"
WAIT = 0.5
"""Seconds between looks at what other processes do."""
MOST_WAIT = 60
"""Seconds that looking at the folder of a job may take another process."""


@dataclass(frozen=True)
class BatchJob:
    """A job. A shard is so many records that follow each other in the file, and one file of answers.

    Attributes:
        model: The model.
        opening: How it is opened.
        data: JSONL file of the records.
        plan: Spec string or plan file, or None for the stock model.
        out: Folder of the answers.
        tokens: Tokens of the longest answer.
        shard: Records of a shard.
        batch: Records that are asked together.
        force: Whether a plan of another model is taken.
        strict: Whether a plan for other weights is refused.
        threads: CPU threads of a process.
        named: What the folder of answers calls the model, and how it is opened, where that is not what this
            process calls them.
    """

    model: str
    opening: Opening
    data: Path
    plan: str | None
    out: Path
    tokens: int = 64
    shard: int = 256
    batch: int = 8
    force: bool = False
    strict: bool = False
    threads: int | None = None
    named: dict[str, Any] | None = None

    @cached_property
    def entries(self) -> Sequence[Entry]:
        """The records, checked, their pictures not yet decoded.

        Raises:
            ValueError: If the file cannot be used, or two records have one id.
        """
        if is_pipe(self.data):
            # Read once it is empty: another pipe would pass for the same records when the job is repeated.
            raise ValueError(
                f"{self.data} is no file: every process reads the records, and a repeated command knows them "
                "by it; write them to a file"
            )
        return read_jsonl(self.data)

    @cached_property
    def digest(self) -> str:
        """Of the file of the records; looked at once, as they are."""
        return hashlib.sha256(self.data.read_bytes()).hexdigest()

    @property
    def shards(self) -> int:
        """How many shards there are."""
        return -(-len(self.entries) // self.shard)

    def records(self, number: int) -> Sequence[Entry]:
        """The records of a shard."""
        return self.entries[number * self.shard : (number + 1) * self.shard]

    def answers(self, number: int) -> Path:
        """The file of a shard's answers."""
        return self.out / f"part-{number:05d}-of-{self.shards:05d}.jsonl"

    def told(self, number: int) -> list[dict[str, str]]:
        """What the file of a shard's answers holds.

        Raises:
            ValueError: If that is not what was written there.
        """
        place = self.answers(number)
        try:
            # Not by `splitlines`: text may hold separators of lines that JSON leaves as they are.
            found = [json.loads(line) for line in place.read_text("utf-8").split("\n") if line]
        except (ValueError, RecursionError):
            found = [None]
        if not all(isinstance(one, dict) and "id" in one for one in found):
            raise ValueError(
                f"{place} holds something else than the answers that were written there: take it away, and "
                "its records are asked again"
            )
        return found

    def partial(self, number: int) -> Path:
        """Where finished answers of a shard are kept until its file is written."""
        return self.out / f".part-{number:05d}.partial.jsonl"

    def stamps(self, number: int) -> Path:
        """Where it stands what the files of a shard's records held when they were asked about."""
        return self.out / f".part-{number:05d}.files.json"

    def lock(self, number: int) -> Path:
        """The lock of whoever answers a shard."""
        return self.out / f".part-{number:05d}.lock"

    def missing(self) -> list[int]:
        """Shards without their file."""
        return [number for number in range(self.shards) if not self.answers(number).exists()]

    def names(self) -> dict[str, Any]:
        """What the model is called, and how it is opened."""
        told = {name: value for name, value in self.opening.told().items() if name != "trust_remote_code"}
        return self.named or {"model": self.model, "opening": told}

    def settings(self) -> dict[str, Any]:
        """What answers depend on, as far as it is known before the model is loaded."""
        return {
            "data": self.digest,
            "records": len(self.entries),
            "shard": self.shard,
            **self.names(),
            "plan": "" if self.plan is None else Plan.of(self.plan).key,
            "tokens": self.tokens,
        }

    def claim(self, **known: Any) -> None:
        """Notes in the folder what its answers depend on, or compares it with what stands there.

        What a job noted that ended before it had answered anything holds up no other: a driver, which knows
        nothing more yet, takes such a folder.

        Args:
            **known: More of it, such as a digest of the weights, by who is about to answer.

        Raises:
            ValueError: If the folder holds answers of another job, or another is answering there.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        mine = self.settings() | known
        with _alone(self.out / ".batch.lock"):
            place = self.out / MANIFEST
            found = read_json(place) if place.exists() else {}
            if not isinstance(found, dict) or (not found and any(self.out.glob("part-*.jsonl"))):
                raise ValueError(f"{self.out} holds answers of which nothing is known; give another folder")
            if not known and not self._begun():
                found = {}
            other = sorted(name for name in mine if name in found and found[name] != mine[name])
            if other:
                raise ValueError(
                    f"{self.out} holds answers of another job (other {', '.join(other)}): "
                    "repeat that one to go on with it, or give another folder"
                )
            if found | mine != found:
                write_json(place, found | mine)

    def _begun(self) -> bool:
        """Whether anything was answered in the folder, or somebody is about to."""
        for kind in ("part-*.jsonl", ".part-*.partial.jsonl"):
            if any(self.out.glob(kind)):
                return True
        for place in self.out.glob(".part-*.lock"):
            # A killed process leaves its lock behind, which is nobody's then.
            with locked(place) as free:
                if not free:
                    return True
        return False


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Waits for a lock that others hold for moments only."""
    limit = time.monotonic() + MOST_WAIT
    while True:
        with locked(path) as mine:
            if mine:
                yield
                return
        if time.monotonic() > limit:
            raise ValueError(f"{path} stays locked by another process; look what holds it")
        time.sleep(0.01)
