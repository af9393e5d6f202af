"""Runs the ablation of trained models: trains, asks, times, judges."""

from __future__ import annotations

import time
from collections.abc import Callable
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
from saccade.research.studies import outdated
from saccade.research.studies.bench import StudyBench
from saccade.research.studies.cells import makers
from saccade.research.studies.questions import StudyQuestions
from saccade.research.studies.run import heading_of
from saccade.research.studies.skip_vision import STUDY
from saccade.research.studies.store import Store
from saccade.research.studies.trained.ablation import Ablation
from saccade.research.studies.trained.ask import Asked, Way, ask
from saccade.research.studies.trained.claims import findings
from saccade.research.studies.trained.forced import compared, surprise
from saccade.research.studies.trained.judge import evaluation, judge
from saccade.research.studies.trained.make import Note, make, place, start_of
from saccade.research.studies.trained.probe import probe
from saccade.research.studies.trained.rows import FULL, kept_in
from saccade.research.studies.trained.step import compare_steps
from saccade.skip_vision import set_cache
from saccade.system.files import read_json, write_json
from saccade.system.processes import WAIT, Say, together

LONG = ("list", "word")
"""Tasks with answers of several tokens, by which skip KV-cache is judged."""
LEVELS: tuple[Release, ...] = ("small", "middle+small")


def run(
    folder: Path,
    ablation: Ablation,
    questions: StudyQuestions,
    store: Store,
    way: Way | None = None,
    *,
    note: Note = lambda text: None,
    step: Callable[[int], None] = lambda answers: None,
) -> dict[str, Any]:
    """Trains what is missing, asks what is not known, and gives the result.

    Args:
        folder: Folder of the trained models.
        ablation: Its rows, and how much is trained.
        questions: What they are asked.
        store: Where answers are kept.
        way: How they are trained, asked and timed.
        note: Called with a line of text when something begins.
        step: Called with the number of answers that have come.

    Raises:
        ValueError: If there are fewer questions than seeds to share them, another command is still training a
            part, or the folder is of another recipe.
    """
    start, before, way = time.perf_counter(), store.count(), way or Way()
    # Refuses too few questions before anything is trained.
    questions.shares(max(len(ablation.seeds(row)) for row in ablation.rows))
    if way.workers > 1:
        part = partial(_take_part, folder, ablation, questions, store.path, way)
        together(part, way.workers, note)
    if not make(folder, ablation, note):
        raise ValueError(f"another command is still training in {folder}; repeat the command when it is done")
    said = {}
    for row in ablation.rows:
        note(f"asking {row.name}")
        said[row.name] = ask(folder, ablation, row, questions, store, way, step=step)
    times = _timed(folder / "times.json", start_of(folder, ablation), ablation, way, note)
    surprises = _forced(folder, ablation, way, note)
    loaded = models.load(
        str(place(folder, ablation.rows[0], 0) / "model"), dtype=way.dtype, device=way.device or "cpu"
    )
    entries = judge(ablation, said, loaded.shape, round(said[ablation.dense].text))
    made = [one for each in said.values() for one in each.made]
    result = {
        **_told(loaded, ablation, questions, said),
        "plans": [entry | {"times": times.get(entry["name"])} for entry in entries],
        "recipe": asdict(ablation.recipe) | dict(ablation.layout),
        "training": _training(folder, ablation),
        "forced": surprises,
        "ffn": probe(StudyBench(loaded, questions, store, way.tokens, note), ablation),
        "seconds": {
            "this_run": round(time.perf_counter() - start, 1),
            "cells": len(made),
            "cells_of_this_run": store.count() - before,
        },
        "provenance": record(
            model=loaded.model,
            seed=questions.seed,
            answers=makers(made),
            code=outdated.code_of_plans(row.plan for row in ablation.rows if row.plan),
        ),
    }
    return result | {"findings": findings(result)}


def _take_part(
    folder: Path,
    ablation: Ablation,
    questions: StudyQuestions,
    store: Path,
    way: Way,
    number: int,
    say: Say,
) -> None:
    """One process: trains and asks what nobody else is at, until all is there."""
    torch.set_num_threads(max(1, torch.get_num_threads() // way.workers))
    while not make(folder, ablation, say):
        time.sleep(WAIT)
    backwards = number % 2 == 1
    for row in ablation.rows[::-1] if backwards else ablation.rows:
        say(f"asking {row.name}")
        ask(folder, ablation, row, questions, Store(store), way, backwards=backwards)


def _told(
    loaded: models.Loaded, ablation: Ablation, questions: StudyQuestions, said: dict[str, Asked]
) -> dict[str, Any]:
    dense = said[ablation.dense]
    asked = sum(len(answers) for answers in dense.blind.values())
    whole = evaluation(ablation.dense, dense, dense).to_dict()
    return {
        **heading_of(STUDY, loaded, ablation.title, weights_digest(loaded.model)),
        "data": {
            "source": ablation.model.source,
            "tasks": list(questions.tasks),
            "questions": asked,
            "samples_per_task": questions.samples,
            "seed": questions.seed,
        },
        "dense": whole | {"cost": {"visual_tokens": float(ablation.tokens)}},
        "blind": evaluation("blind", dense, dense, blind=True).to_dict() | {"cost": {}},
    }


def _timed(path: Path, base: Path, ablation: Ablation, way: Way, note: Note) -> Any:
    """Times of every row, each taken once per folder and written down, on whatever machine it is then."""
    known = read_json(path) if path.exists() else {}
    todo = [row for row in ablation.rows[1:] if row.name not in known and row.timed]
    if not todo:
        return known
    note("timing training steps, prefill and decoding")
    for name, found in compare_steps(base, ablation, todo, device=way.device):
        known[name] = found
        write_json(path, known)
    return known


def _forced(folder: Path, ablation: Ablation, way: Way, note: Note) -> dict[str, Any]:
    """What skip KV-cache does to the likelihood of right answers, on tasks with long ones."""
    name = FULL + kept_in(row.name for row in ablation.rows)
    full = next((row for row in ablation.rows if row.name == name), None)
    if full is None:
        return {}
    note("teacher forcing under skip KV-cache")
    loaded = models.load(str(place(folder, full, 0) / "model"), device=way.device or "cpu")
    found: dict[str, Any] = {}
    for task in LONG:
        samples = suite.samples(task, ablation.recipe.forced, scale=ablation.model.scale)
        before = surprise(set_cache(loaded, "none"), samples)
        found[task] = {
            level: compared(before, surprise(set_cache(loaded, level), samples)) for level in LEVELS
        }
    return found


def _training(folder: Path, ablation: Ablation) -> dict[str, Any]:
    """Last loss, seconds per step (other work of the machine included) and commit of every training run."""
    found = {}
    for row in ablation.rows:
        for seed in ablation.seeds(row) if row.weights is None else ():
            told = read_json(place(folder, row, seed) / "run.json")
            final = told.get("final") or {}
            found[f"{row.name}, seed {seed}"] = {
                "loss": final.get("loss"),
                "step_seconds": final.get("step_seconds"),
                "source": told.get("provenance", {}).get("source"),
            }
    return found
