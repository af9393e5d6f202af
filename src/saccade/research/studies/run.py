"""Runs a study: what it wants, what is missing of it, and the result as data, pictures and a page."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saccade.measure import record
from saccade.models import Loaded
from saccade.report.text import counted, interval, percent
from saccade.research.names import stem_of
from saccade.research.studies import outdated
from saccade.research.studies.base import Study
from saccade.research.studies.bench import StudyBench
from saccade.research.studies.cells import makers, missing
from saccade.research.studies.lines import Book, columns
from saccade.research.studies.workers import Progress, fill_all
from saccade.system.embedded import of_result, title_of
from saccade.system.files import write_bytes, write_json, write_text

SCHEMA = 1


def run(
    study: Study, bench: StudyBench, batch_size: int = 32, progress: Progress = lambda done, total: None
) -> dict[str, Any]:
    """Runs a study as far as it has not run yet, and gives its result.

    Args:
        study: The study.
        bench: The model, the questions, the store, and who helps.
        batch_size: Questions per batch.
        progress: Called with the number of answers that have come, and of all.

    Returns:
        Plain data: what all studies tell, and what this one makes of it.

    Raises:
        ValueError: If the model is too shallow, a question cannot be asked, a plan cannot be applied, or the
            store holds something else.
    """
    if bench.depth < study.layers:
        raise ValueError(
            f"study {study.name} needs a model of at least {study.layers} layers; "
            f"{bench.loaded.name} has {bench.depth}"
        )
    bench.questions.check(study.each_task)
    start = time.perf_counter()
    bench.note(f"{study.name}: choosing plans")
    design = study.design(bench)
    wanted = columns(bench, design.lines)
    sizes = {task: len(bench.asked(task)) for task in bench.tasks}
    cells = [(task, column) for task in bench.tasks for column in wanted[task]]
    total = sum(sizes[task] for task, _ in cells)
    lacking = {task: list(missing(bench.store, wanted[task])) for task in bench.tasks}
    there = total - sum(sizes[task] * len(left) for task, left in lacking.items())
    new = sum(map(len, lacking.values()))
    bench.note(
        f"{study.name}: {len(cells)} cells (a plan on a task), {len(cells) - new} of them known; "
        f"{total - there} answers to get"
    )
    if new:
        progress(there, total)
        come = there

        def step(answers: int) -> None:
            nonlocal come
            come += answers
            progress(min(come, total), total)

        fill_all(
            bench.loaded, bench.store, bench.questions, wanted,
            batch_size=batch_size, step=step, helpers=bench.helpers,
        )  # fmt: skip
    book = Book(bench, design.lines)
    result = {
        **heading_of(study, bench.loaded, title_of(bench.loaded.name), bench.weights),
        "data": {
            "source": bench.questions.source,
            "tasks": list(bench.tasks),
            "questions": sum(sizes.values()),
            "samples_per_task": max(sizes.values()),
            "max_new_tokens": bench.tokens,
            "seed": bench.questions.seed,
        },
        **book.whole(),
        "plans": book.entries(),
        **design.facts,
    }
    result |= study.judge(book, design)
    made = [book.cell(task, column.run.key).made for task, column in cells]
    result["seconds"] = {
        "this_run": round(time.perf_counter() - start, 1),
        "of_all_cells": round(sum(each.get("seconds", 0.0) for each in made), 1),
        "cpu_of_all_cells": round(sum(each.get("cpu_seconds", 0.0) for each in made), 1),
        "cells": len(cells),
        "cells_of_this_run": new,
    }
    specs = [entry["spec"] for entry in result["plans"] if entry.get("spec")]
    result["provenance"] = record(
        model=bench.loaded.model,
        seed=bench.questions.seed,
        answers=makers(made),
        code=outdated.code_of_plans(specs),
    )
    return result


def heading_of(study: Study, loaded: Loaded, title: str, weights: str) -> dict[str, Any]:
    """What a result begins with: the study, and the model.

    Args:
        study: The study.
        loaded: The model.
        title: What pages call it.
        weights: Digest of its weights.
    """
    return {
        "schema": SCHEMA,
        "study": study.name,
        "title": study.title,
        "question": study.question,
        "model": {
            "name": title,
            "weights": weights,
            "layers": loaded.shape.layers,
            "parameters": sum(p.numel() for p in loaded.model.parameters()),
        },
    }


def write(study: Study, result: dict[str, Any], folder: Path) -> dict[str, Path]:
    """Writes ``study_NAME.json``, its pictures and its Markdown page, each file whole or not at all.

    Another embedded model than Glance is named after the study, so that results of both lie side by side.

    Returns:
        Paths by what they are: ``data``, ``page``, and the pictures by name.
    """
    stem = stem_of(study.name, of_result(result["model"]["name"]))
    paths = {"data": write_json(folder / f"{stem}.json", result)}
    for name, picture in study.draw(result).items():
        paths[name] = write_bytes(folder / f"{stem}_{name}.png", picture)
    paths["page"] = write_text(folder / f"{stem}.md", page(study, result))
    return paths


def page(study: Study, result: dict[str, Any]) -> str:
    """The study in Markdown: what was asked, what it says of claims, the tables, how to run it again."""
    parts = [
        f"# {result['title']}",
        summary(result),
        study.tell(result),
        f"Run again: `{result['provenance']['command']}`",
    ]
    return "\n\n".join(parts) + "\n"


def summary(result: Mapping[str, Any]) -> str:
    """What a study asked of what, and what it says of each claim, in Markdown."""
    dense, data, model = result["dense"]["mean"], result["data"], result["model"]
    head = (
        f"{data['questions']} held-out questions of {counted(len(data['tasks']), 'task')}, {model['name']} "
        f"({model['layers']} layers, weights `{model['weights']}`); dense {interval(dense, 'accuracy')}, "
        f"blind {percent(dense['blind'])}; 95 % intervals; seed {data['seed']}."
    )
    claims = [
        f"- **{f['claim']}** ({f['source']}): *{f['verdict']}*. {f['found']}" for f in result["findings"]
    ]
    parts = [result["question"], head, outdated.told(result), "\n".join(claims)]
    return "\n\n".join(filter(None, parts))
