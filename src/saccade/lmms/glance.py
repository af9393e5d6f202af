"""Glance as tasks of lmms-eval: a folder of data and task files, and the functions those files name."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from saccade.glance import suite
from saccade.glance.tasks import check_tasks
from saccade.inputs.samples import Sample
from saccade.scoring import is_match

TASKS_FOLDER = Path(__file__).parent / "tasks" / "glance"
"""The task files; ``write_tasks`` puts them beside data."""


def write_tasks(
    folder: str | os.PathLike, n: int = 100, *, split: str = "test", seed: int = 0, tasks: Sequence[str] = ()
) -> Path:
    """Makes a folder for lmms-eval's ``--include_path``: Glance's tasks, and questions for them.

    Args:
        folder: Where to; it is made if it is not there, and files of the same names are replaced.
        n: Questions of each task.
        split: Of Glance's suite.
        seed: Another seed gives other scenes of the same split.
        tasks: Names of Glance's tasks; all if empty. The group ``glance`` is written for all only.

    Raises:
        ValueError: If there is no such task or split, or a number is out of range.
    """
    folder = Path(folder)
    names = list(tasks) or list(suite.TASKS)
    check_tasks(names)
    if n < 1:
        raise ValueError(f"each task needs at least one question, got {n}")
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for name in names:
        lines = [json.dumps(to_doc(sample)) for sample in suite.samples(name, n, split, seed)]
        (folder / "data" / f"{name}.jsonl").write_text(
            "".join(line + "\n" for line in lines), encoding="utf-8"
        )
        shutil.copy(TASKS_FOLDER / f"glance_{name}.yaml", folder)
    shutil.copy(TASKS_FOLDER / "_glance.yaml", folder)
    if set(names) == set(suite.TASKS):
        shutil.copy(TASKS_FOLDER / "glance.yaml", folder)
    return folder


def to_doc(sample: Sample) -> dict[str, Any]:
    """A question as a line of a data file; its image goes with it, as PNG in base64."""
    (image,) = sample.images
    stream = io.BytesIO()
    image.save(stream, format="PNG")
    return {
        "id": sample.id,
        "subtask": sample.subtask,
        "question": sample.question,
        "answer": sample.answer,
        "picture": base64.b64encode(stream.getvalue()).decode("ascii"),
    }


def doc_to_visual(doc: Mapping[str, Any]) -> list[Image.Image]:
    """The image of a question."""
    return [Image.open(io.BytesIO(base64.b64decode(doc["picture"]))).convert("RGB")]


def doc_to_text(doc: Mapping[str, Any]) -> str:
    """The question, as Glance was trained to be asked."""
    return doc["question"]


def doc_to_messages(doc: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The chat: the image, then the question."""
    content: list[dict[str, Any]] = [{"type": "image", "url": image} for image in doc_to_visual(doc)]
    return [{"role": "user", "content": [*content, {"type": "text", "text": doc_to_text(doc)}]}]


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Exact match, by the rule of ``saccade eval``."""
    return {"accuracy": float(is_match(results[0], doc["answer"]))}
