"""Answers and what they cost, written down as they come, so that an interrupted run goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from saccade.inputs.samples import Sample
from saccade.system.journal import Journal


def sample_digest(samples: Sequence[Sample]) -> str:
    """Digest of questions, answers, pixels and videos."""
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(json.dumps([sample.id, sample.task, sample.question, sample.answer]).encode())
        for image in sample.images:
            digest.update(str(image.size).encode() + image.tobytes())
        for video in sample.videos:
            digest.update(video.digest.encode())
    return digest.hexdigest()[:16]


Spent = dict[str, float]
"""What a prompt cost, by name."""


@dataclass(frozen=True)
class BatchAnswers:
    """What a batch of questions came to.

    Attributes:
        texts: The answers.
        spent: What each prompt cost, a batch's mean; None where it was not noted.
    """

    texts: list[str]
    spent: list[Spent | None]


class Ledger:
    """Answers by (plan, sample id), kept in a section of a journal as they come.

    Args:
        journal: Where they are kept; the caller closes it.
        settings: What they depend on, beside the plan.
    """

    def __init__(self, journal: Journal, settings: Mapping[str, Any]) -> None:
        self._answers: dict[str, dict[str, str]] = {}
        self._spent: dict[str, dict[str, Spent]] = {}
        self._section = journal.section(settings)
        for entry in self._section.entries:
            with suppress(KeyError, TypeError, ValueError, AttributeError):
                answers = {str(k): str(v) for k, v in entry["answers"].items()}
                spent = {str(k): float(v) for k, v in entry.get("spent", {}).items()}
                self._note(entry["plan"], answers, spent)

    def _note(self, plan: str, answers: dict[str, str], spent: Spent) -> None:
        self._answers.setdefault(plan, {}).update(answers)
        if spent:
            self._spent.setdefault(plan, {}).update(dict.fromkeys(answers, spent))

    def get(self, plan: str, ids: list[str]) -> BatchAnswers | None:
        """Answers of a plan to these samples and what they cost, or None unless all are known."""
        known, spent = self._answers.get(plan, {}), self._spent.get(plan, {})
        if not all(i in known for i in ids):
            return None
        return BatchAnswers([known[i] for i in ids], [spent.get(i) for i in ids])

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
        self._section.append({"plan": plan, "answers": cell} | ({"spent": spent} if spent else {}))
