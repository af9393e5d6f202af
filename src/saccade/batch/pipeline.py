"""Answers as a step of a Ray Data pipeline."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from saccade.batch.shards import answer_records, opened
from saccade.inputs.data import read_record
from saccade.opening.settings import Opening


class AnswerRows:
    """For ``ray.data.Dataset.map_batches``: rows of questions in, the same rows with answers out.

    Rows have the keys of a JSONL line (``id``, ``image`` or ``images``, ``question``). An actor opens the
    model once. A row that cannot be asked has an ``error`` instead.
    """

    def __init__(
        self,
        model: str,
        plan: str | None = None,
        folder: str | os.PathLike = ".",
        tokens: int = 64,
        column: str = "answer",
        **opening: Any,
    ) -> None:
        """Opens the model.

        Args:
            model: A folder that every node sees, a hub id, or an embedded model's name.
            plan: Spec string or plan file; None for the stock model.
            folder: What paths of pictures are relative to.
            tokens: Tokens of the longest answer.
            column: Where answers are written; rows with references in ``answer`` need another.
            **opening: How the model is opened, as ``saccade.load`` takes it.

        Raises:
            ValueError: If the model or the plan cannot be used.
        """
        self.loaded, self.plan = opened(model, Opening.of(**opening), plan)
        self.folder, self.tokens, self.column = folder, tokens, column

    def __call__(self, rows: Mapping[str, Any]) -> dict[str, Any]:
        """Answers a batch of rows.

        Args:
            rows: Columns of the batch, each with an item for every row.

        Raises:
            ValueError: If rows have a column already that would be written.
        """
        columns = {name: list(items) for name, items in rows.items()}
        taken = next((name for name in (self.column, "error") if name in columns), None)
        if taken is not None:
            raise ValueError(
                f"rows have a column {taken!r} already, which would be lost: rename it, or have answers "
                "written elsewhere (column=)"
            )
        records = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        places: list[dict[str, str] | None] = []
        entries = []
        for number, record in enumerate(records):
            try:
                entries.append(read_record(_plain(record), self.folder, f"row {number} of a batch"))
                places.append(None)
            except ValueError as error:
                places.append({"error": str(error)})
        said = iter(answer_records(self.loaded, self.plan, self.tokens, entries) if entries else [])
        told = [next(said) if place is None else place for place in places]
        columns[self.column] = [one.get("answer") for one in told]
        columns["error"] = [one.get("error") for one in told]
        return columns


def _plain(record: Mapping[str, Any]) -> dict[str, Any]:
    """A row without numpy's kinds of values, and without what it has nothing for."""
    plain = {key: value.tolist() if hasattr(value, "tolist") else value for key, value in record.items()}
    return {key: value for key, value in plain.items() if value is not None}
