"""Evaluations too large to hold all images at once: task by task, resumable in the middle of one."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from saccade.evaluation.comparison import check_plans, check_samples, runs_of, tally
from saccade.evaluation.ledger import Spent
from saccade.evaluation.results import Comparison, Prediction
from saccade.evaluation.runner import Answers, answer
from saccade.models import Loaded
from saccade.plan import Plan
from saccade.samples import Sample


def compare_by_task(
    loaded: Loaded,
    tasks: Sequence[str],
    draw: Callable[[str], Sequence[Sample]],
    plans: Mapping[str, Plan],
    *,
    batch_size: int = 64,
    max_new_tokens: int = 24,
    blind: bool = True,
    folder: Path | None = None,
) -> Comparison:
    """Scores plans on many questions of several tasks.

    Args:
        loaded: The model.
        tasks: Names of the tasks.
        draw: Gives the questions of a task.
        plans: Resolved plans by name.
        batch_size: Questions per batch.
        max_new_tokens: Longest answer in tokens.
        blind: Whether to run the stock model on plain grey images too.
        folder: Where finished cells are kept for resuming, a file per task; the caller removes it
            (``forget``) once the result is written.

    Raises:
        ValueError: If a plan or a sample cannot be evaluated.
    """
    check_plans(loaded, plans)
    runs = runs_of(plans, blind)
    predictions: dict[str, list[Prediction]] = {run.key: [] for run in runs}
    spent: dict[str, list[Spent | None]] = {run.key: [] for run in runs}
    prompts: Counter[tuple[int, int]] = Counter()
    for number, task in enumerate(tasks, start=1):
        samples = draw(task)
        check_samples(samples)
        found, ledger = answer(
            loaded,
            samples,
            runs,
            batch_size=batch_size,
            max_new_tokens=max_new_tokens,
            ledger_path=None if folder is None else folder / f"{task}.jsonl",
            label=f"{task} ({number} of {len(tasks)})",
        )
        ledger.close()
        prompts.update(found.prompts)
        for key, answers in found.predictions.items():
            predictions[key].extend(answers)
            spent[key].extend(found.spent[key])
    told = {key: tuple(answers) for key, answers in predictions.items()}
    return tally(loaded, plans, Answers(told, prompts, {key: tuple(each) for key, each in spent.items()}))


def forget(folder: Path) -> None:
    """Removes what was kept for resuming."""
    shutil.rmtree(folder, ignore_errors=True)
