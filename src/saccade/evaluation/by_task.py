"""Evaluations too large to hold all images at once: task by task, resumable in the middle of one."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from saccade.core.tower import Tiling
from saccade.evaluation.comparison import check_plans, check_samples, runs_of, tally
from saccade.evaluation.ledger import Spent
from saccade.evaluation.options import EvaluationOptions
from saccade.evaluation.results import Comparison, Prediction
from saccade.evaluation.runner import Answers, answer
from saccade.inputs.samples import Sample
from saccade.models import Loaded
from saccade.plans.plan import Plan
from saccade.system.journal import Journal, opened


def compare_by_task(
    loaded: Loaded,
    tasks: Sequence[str],
    draw: Callable[[str], Sequence[Sample]],
    plans: Mapping[str, Plan],
    options: EvaluationOptions | None = None,
    *,
    ledger: Journal | str | os.PathLike | None = None,
    **settings: Any,
) -> Comparison:
    """Scores plans on many questions of several tasks.

    Args:
        loaded: The model.
        tasks: Names of the tasks.
        draw: Gives the questions of a task.
        plans: Resolved plans by name.
        options: How questions are asked.
        ledger: Journal, or its file, that keeps finished cells for resuming; the caller finishes it once the
            result is written.
        **settings: Fields of `EvaluationOptions` instead: ``batch_size``, ``max_new_tokens``, ``blind``.

    Raises:
        ValueError: If a plan or a sample cannot be evaluated.
    """
    how = replace(options or EvaluationOptions(batch_size=64), **settings)
    check_plans(loaded, plans)
    runs = runs_of(plans, how.blind)
    predictions: dict[str, list[Prediction]] = {run.key: [] for run in runs}
    spent: dict[str, list[Spent | None]] = {run.key: [] for run in runs}
    prompts: Counter[tuple[int, int]] = Counter()
    seen: Counter[Tiling] = Counter()
    with opened(ledger) as journal:
        for number, task in enumerate(tasks, start=1):
            samples = draw(task)
            check_samples(samples)
            found = answer(
                loaded,
                samples,
                runs,
                how,
                ledger=journal,
                label=f"{task} ({number} of {len(tasks)})",
            )
            prompts.update(found.prompts)
            seen.update(found.seen)
            for key, answers in found.predictions.items():
                predictions[key].extend(answers)
                spent[key].extend(found.spent[key])
    told = {key: tuple(answers) for key, answers in predictions.items()}
    costs = {key: tuple(each) for key, each in spent.items()}
    return tally(loaded, plans, Answers(told, prompts, costs, seen))
