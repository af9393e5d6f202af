"""Runs the ablation of trained models: trains, asks, times, judges."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from saccade import models
from saccade.glance import suite
from saccade.measure import record
from saccade.methods.skip_vision import Release
from saccade.opening.digest import weights_digest
from saccade.research.studies.bench import StudyBench
from saccade.research.studies.cells import makers
from saccade.research.studies.lineup import KEPT
from saccade.research.studies.questions import StudyQuestions
from saccade.research.studies.skip_vision import STUDY
from saccade.research.studies.store import Store
from saccade.research.studies.trained.ask import Asked, Way, ask
from saccade.research.studies.trained.claims import findings
from saccade.research.studies.trained.forced import compared, surprise
from saccade.research.studies.trained.judge import evaluation, judge
from saccade.research.studies.trained.make import Note, make, place, seeds_of
from saccade.research.studies.trained.probe import probe
from saccade.research.studies.trained.rows import DENSE, FULL, ROWS, SCALES, AblationRecipe, AblationRow
from saccade.research.studies.trained.step import compare_steps
from saccade.skip_vision import set_cache
from saccade.system.files import read_json, write_json
from saccade.system.processes import WAIT, Say, together

LONG = ("list", "word")
"""Tasks with answers of several tokens, by which skip KV-cache is judged."""
LEVELS: tuple[Release, ...] = ("small", "middle+small")


def run(
    folder: Path,
    recipe: AblationRecipe,
    questions: StudyQuestions,
    store: Store,
    way: Way | None = None,
    *,
    note: Note = lambda text: None,
    step: Callable[[int], None] = lambda answers: None,
    rows: Sequence[AblationRow] = ROWS,
) -> dict[str, Any]:
    """Trains what is missing, asks what is not known, and gives the result.

    Args:
        folder: Folder of the trained models.
        recipe: How much is trained.
        questions: What they are asked.
        store: Where answers are kept.
        way: How they are trained, asked and timed.
        note: Called with a line of text when something begins.
        step: Called with the number of answers that have come.
        rows: Rows of the ablation.

    Raises:
        ValueError: If there are fewer questions than seeds to share them, another command is still training a
            part, or the folder is of another recipe.
    """
    start, before, way = time.perf_counter(), store.count(), way or Way()
    # Refuses too few questions before anything is trained.
    questions.shares(max(len(seeds_of(row, recipe)) for row in rows))
    if way.workers > 1:
        part = partial(_take_part, folder, recipe, questions, store.path, way, tuple(rows))
        together(part, way.workers, note)
    if not make(folder, recipe, note, rows):
        raise ValueError(f"another command is still training in {folder}; repeat the command when it is done")
    said = {}
    for row in rows:
        note(f"asking {row.name}")
        said[row.name] = ask(folder, row, seeds_of(row, recipe), questions, store, way, step=step)
    base = folder / "base" / "model"
    times = _timed(folder / "times.json", base, rows, recipe, way, note)
    surprises = _forced(folder, recipe, rows, way, note)
    loaded = models.load(
        str(place(folder, rows[0], 0) / "model"), dtype=way.dtype, device=way.device or "cpu"
    )
    entries = judge(rows, said, loaded.shape, round(said[DENSE].text))
    made = [one for each in said.values() for one in each.made]
    result = {
        **_told(loaded, questions, said),
        "plans": [entry | {"times": times.get(entry["name"])} for entry in entries],
        "recipe": asdict(recipe) | {"scales": [list(scale) for scale in SCALES]},
        "training": _training(folder, recipe, rows),
        "forced": surprises,
        "ffn": probe(StudyBench(loaded, questions, store, way.tokens, note)),
        "seconds": {
            "this_run": round(time.perf_counter() - start, 1),
            "cells": len(made),
            "cells_of_this_run": store.count() - before,
        },
        "provenance": record(model=loaded.model, seed=questions.seed, answers=makers(made)),
    }
    return result | {"findings": findings(result)}


def _take_part(
    folder: Path,
    recipe: AblationRecipe,
    questions: StudyQuestions,
    store: Path,
    way: Way,
    rows: tuple[AblationRow, ...],
    number: int,
    say: Say,
) -> None:
    """One process: trains and asks what nobody else is at, until all is there."""
    torch.set_num_threads(max(1, torch.get_num_threads() // way.workers))
    while not make(folder, recipe, say, rows):
        time.sleep(WAIT)
    backwards = number % 2 == 1
    for row in rows[::-1] if backwards else rows:
        say(f"asking {row.name}")
        seeds = seeds_of(row, recipe)
        ask(folder, row, seeds, questions, Store(store), way, backwards=backwards)


def _told(loaded: models.Loaded, questions: StudyQuestions, said: dict[str, Asked]) -> dict[str, Any]:
    dense = said[DENSE]
    asked = sum(len(answers) for answers in dense.blind.values())
    whole = evaluation(DENSE, dense, dense).to_dict()
    return {
        "schema": 1,
        "study": STUDY.name,
        "title": STUDY.title,
        "question": STUDY.question,
        "model": {
            "name": "Glance with Chain-of-Sight",
            "weights": weights_digest(loaded.model),
            "layers": loaded.shape.layers,
            "parameters": sum(p.numel() for p in loaded.model.parameters()),
        },
        "data": {
            "source": "Glance suite",
            "tasks": list(questions.tasks),
            "questions": asked,
            "samples_per_task": questions.samples,
            "seed": questions.seed,
        },
        "dense": whole | {"cost": {"visual_tokens": float(sum(n for _, n in SCALES))}},
        "blind": evaluation("blind", dense, dense, blind=True).to_dict() | {"cost": {}},
    }


def _timed(
    path: Path, base: Path, rows: Sequence[AblationRow], recipe: AblationRecipe, way: Way, note: Note
) -> Any:
    """Times of every row, each taken once per folder and written down, on whatever machine it is then."""
    known = read_json(path) if path.exists() else {}
    # What is trained for longer takes what its twin takes.
    todo = [row for row in rows if row.name not in (DENSE, *known) and row.longer == 1]
    if not todo:
        return known
    note("timing training steps, prefill and decoding")
    for name, found in compare_steps(base, todo, recipe, device=way.device):
        known[name] = found
        write_json(path, known)
    return known


def _forced(
    folder: Path, recipe: AblationRecipe, rows: Sequence[AblationRow], way: Way, note: Note
) -> dict[str, Any]:
    """What skip KV-cache does to the likelihood of right answers, on tasks with long ones."""
    full = next((row for row in rows if row.name == FULL + KEPT), None)
    if full is None:
        return {}
    note("teacher forcing under skip KV-cache")
    loaded = models.load(str(place(folder, full, 0) / "model"), device=way.device or "cpu")
    found: dict[str, Any] = {}
    for task in LONG:
        samples = suite.samples(task, recipe.forced)
        before = surprise(set_cache(loaded, "none"), samples)
        found[task] = {
            level: compared(before, surprise(set_cache(loaded, level), samples)) for level in LEVELS
        }
    return found


def _training(folder: Path, recipe: AblationRecipe, rows: Sequence[AblationRow]) -> dict[str, Any]:
    """Last loss, seconds per step (other work of the machine included) and commit of every training run."""
    found = {}
    for row in rows:
        for seed in seeds_of(row, recipe) if row.weights is None else ():
            told = read_json(place(folder, row, seed) / "run.json")
            final = told.get("final") or {}
            found[f"{row.name}, seed {seed}"] = {
                "loss": final.get("loss"),
                "step_seconds": final.get("step_seconds"),
                "source": told.get("provenance", {}).get("source"),
            }
    return found
