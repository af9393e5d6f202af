"""Answers of a model under plans: greedy generation in batches of like prompts."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from saccade import models
from saccade.core.layout import Layout
from saccade.core.pricing import Cost, cost
from saccade.core.route import Route
from saccade.core.tower import Tiling
from saccade.engine import apply, attached
from saccade.evaluation.ledger import BatchAnswers, Ledger, Spent, sample_digest
from saccade.evaluation.options import EvaluationOptions
from saccade.evaluation.results import Prediction
from saccade.evaluation.whole import pictures
from saccade.helpers import Helpers, spread
from saccade.identity import code_of, model_digest
from saccade.inputs.samples import Sample, in_batches, likeness
from saccade.plans.budget import price_prompt
from saccade.plans.plan import Plan
from saccade.scoring import best, parse
from saccade.system.journal import Journal, opened

DENSE = "dense"
BLIND = "blind"


@dataclass(frozen=True)
class AnswerRun:
    """One column of a comparison: the stock model, the stock model blind, or a plan.

    Attributes:
        key: What its answers are filed under.
        plan: The plan, or None for the stock model.
        blind: Whether images are replaced by plain grey ones.
    """

    key: str
    plan: Plan | None = None
    blind: bool = False


@dataclass(frozen=True)
class Answers:
    """What ``answer`` found.

    Attributes:
        predictions: Answers of every run by its key, in the order of the samples.
        prompts: How often each (visual rows, text rows) occurred.
        spent: What every prompt cost under a run, in the same order; None where it was not noted.
        seen: How often each image occurred, by its views; none where the tower's sizes are not known.
    """

    predictions: dict[str, tuple[Prediction, ...]]
    prompts: Counter[tuple[int, int]]
    spent: dict[str, tuple[Spent | None, ...]] = field(default_factory=dict)
    seen: Counter[Tiling] = field(default_factory=Counter)


def chunks(samples: Sequence[Sample], tokenizer: Any, batch_size: int) -> Iterator[list[int]]:
    """Indices of samples in batches of one task and of like prompt lengths.

    A batch never mixes tasks, so that long answers do not hold up short ones.
    """
    by_task: dict[str, list[int]] = {}
    for index, sample in enumerate(samples):
        by_task.setdefault(sample.task, []).append(index)
    for indices in by_task.values():
        indices.sort(key=lambda i: (likeness(samples[i], tokenizer), i))
        yield from in_batches(samples, indices, batch_size)


def answer(
    loaded: models.Loaded,
    samples: Sequence[Sample],
    runs: Sequence[AnswerRun],
    options: EvaluationOptions,
    *,
    ledger: Journal | str | os.PathLike | None = None,
    label: str = "evaluating",
    helpers: Helpers[Any] | None = None,
) -> Answers:
    """Asks every question under every run; prompts are built once per batch for all runs.

    Args:
        loaded: The model.
        samples: Questions with reference answers and distinct ids.
        runs: Columns of the comparison, with resolved plans.
        options: How they are asked; which runs there are is said already.
        ledger: Journal where finished cells are kept for resuming, or its file; None keeps none.
        label: Text of the progress bar.
        helpers: Other processes that answer batches too, of the same model.

    Returns:
        The answers; what was kept of them stays for the caller to forget once the result is written.
    """
    models.try_longest(loaded, samples)
    settings = {
        "weights": model_digest(loaded),
        "dtype": str(loaded.model.dtype),  # weights saved in 16 bits have one digest in either format
        "samples": sample_digest(samples),
        "tokens": options.max_new_tokens,
    }
    found: dict[str, dict[int, str]] = {run.key: {} for run in runs}
    spent: dict[str, dict[int, Spent | None]] = {run.key: {} for run in runs}
    prompts: Counter[tuple[int, int]] = Counter()
    seen: Counter[Tiling] = Counter()
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True, markup=False)
    with (
        opened(ledger) as journal,
        Progress(*columns, console=console, transient=console.is_terminal) as progress,
    ):
        book = Ledger(journal, settings)
        bar = progress.add_task(label, total=len(samples) * len(runs))

        filed = {run.key: filed_under(loaded, run) for run in runs}

        def settle(run: AnswerRun, indices: Sequence[int], cell: BatchAnswers) -> None:
            found[run.key].update(zip(indices, cell.texts, strict=True))
            spent[run.key].update(zip(indices, cell.spent, strict=True))
            progress.advance(bar, len(indices))

        def missing() -> Iterator[Any]:
            for indices in chunks(samples, loaded.processor.tokenizer, options.batch_size):
                batch = [samples[i] for i in indices]
                inputs = models.inputs(loaded, batch)
                prompts.update(row_counts(loaded, inputs))
                seen.update(pictures(loaded, inputs))
                for run in runs:
                    known = book.get(filed[run.key], [sample.id for sample in batch])
                    if known is not None:
                        settle(run, indices, known)
                        continue
                    told = batch, run, options.max_new_tokens
                    yield (run, indices), told, partial(answer_batch, loaded, *told, inputs=inputs)

        for (run, indices), (texts, each) in spread(helpers, answer_batch, missing()):
            book.put(filed[run.key], [samples[i].id for i in indices], texts, each)
            settle(run, indices, BatchAnswers(texts, [each] * len(indices)))
    predictions = {
        key: tuple(prediction(sample, texts[i]) for i, sample in enumerate(samples))
        for key, texts in found.items()
    }
    costs = {key: tuple(each[i] for i in range(len(samples))) for key, each in spent.items()}
    return Answers(predictions, prompts, costs, seen)


def answer_batch(
    loaded: models.Loaded,
    batch: Sequence[Sample],
    run: AnswerRun,
    max_new_tokens: int,
    inputs: Any = None,
) -> tuple[list[str], Spent | None]:
    """Answers to questions together under one run, and the mean cost of a prompt.

    Args:
        loaded: The model.
        batch: The questions.
        run: What they are asked under.
        max_new_tokens: Longest answer.
        inputs: The prompts as they are without a plan, if they are at hand.
    """
    if run.blind:
        inputs = models.inputs(loaded, [models.blind(s) for s in batch])
    elif run.plan is not None and run.plan.shortening:
        inputs = models.inputs(loaded, batch, run.plan)
    elif inputs is None:
        inputs = models.inputs(loaded, batch)
    return generate(loaded, inputs, run.plan, max_new_tokens)


def filed_under(loaded: models.Loaded, run: AnswerRun) -> str:
    """What answers are kept under: the run, and the versions of the code that made them (``code_of``)."""
    code = code_of(loaded, run.plan)
    return f"{run.key} [{code}]" if code else run.key


def count_prompts(
    loaded: models.Loaded, samples: Sequence[Sample], plan: Plan | None = None, most: int | None = None
) -> Counter[tuple[int, int]]:
    """How often each (visual rows, text rows) occurs among the prompts of these samples.

    Args:
        loaded: The model.
        samples: The samples.
        plan: A plan that may make the prompts themselves shorter.
        most: Of more samples than these so many are drawn, always the same: files are sorted by task, and
            the first of them are not like the rest.
    """
    if most is not None and most < len(samples):
        samples = random.Random(0).sample(samples, most)
    found: Counter[tuple[int, int]] = Counter()
    for sample in samples:
        found.update(row_counts(loaded, models.inputs(loaded, [sample], plan)))
    return found


def generate(
    loaded: models.Loaded, inputs: Any, plan: Plan | None, max_new_tokens: int, **how: Any
) -> tuple[list[str], Spent | None]:
    """Answers to a prepared batch under a plan, or of the stock model (plan None), greedy by default.

    Args:
        loaded: The model.
        inputs: The prompts.
        plan: A resolved plan, or None.
        max_new_tokens: Longest answer in tokens.
        how: More arguments of the model's ``generate``.

    Returns:
        The answers, and the mean cost of a prompt by the route that really ran; None for a stock model that
        has no plan of its own.
    """
    own = attached(loaded.model)
    if plan is None and own is not None and own.resident:
        plan = Plan()  # Over the plan that belongs to the model it changes nothing, and the route is told.

    def ask() -> list[str]:
        output_ids = models.ask(loaded, inputs, max_new_tokens, **how)
        return models.answers(loaded, output_ids, inputs["input_ids"].shape[1])

    with torch.inference_mode():
        if plan is None:
            return ask(), None
        with apply(loaded.model, plan) as handle, handle.tracing(sources=False) as traces:
            texts = ask()
    if traces:
        return texts, _spent(loaded, traces[0].route)
    # Prompts without images: nothing was dropped.
    visual_BN = loaded.family.visual_mask(loaded.model, inputs["input_ids"])
    layout = Layout.from_mask(visual_BN, inputs["attention_mask"])
    return texts, _spent(loaded, Route.dense(layout, loaded.shape.layers))


def _spent(loaded: models.Loaded, route: Route) -> Spent:
    """Mean cost of the prompts of a batch."""
    found, batch = cost(loaded.shape, route, loaded.model.dtype.itemsize), route.layout.batch
    return {
        "gflops": found.tflops * 1e3 / batch,
        "kv_bytes": found.kv_bytes / batch,
        "equivalent_tokens": found.equivalent_tokens,
    }


def refusal(loaded: models.Loaded, plan: Plan, sample: Sample) -> str:
    """Why a plan cannot run on a question; empty where it can."""
    try:
        generate(loaded, models.inputs(loaded, [sample], plan), plan, 1)
    except ValueError as error:
        return str(error)
    return ""


def mean_cost(loaded: models.Loaded, plan: Plan, prompts: Mapping[tuple[int, int], int]) -> dict[str, float]:
    """Mean closed-form cost of a prompt under a plan; ratios are of totals, KV bytes of the model's format.

    Args:
        loaded: The model.
        plan: A resolved plan.
        prompts: How often each (visual rows, text rows) occurred.
    """
    shape, size = loaded.shape, loaded.model.dtype.itemsize
    found: list[tuple[int, Cost]] = [
        (count, price_prompt(plan, shape, visual, text, size)) for (visual, text), count in prompts.items()
    ]
    total = sum(count for count, _ in found)

    def add(name: str) -> float:
        return sum(count * getattr(cost, name) for count, cost in found) / total

    return {
        "gflops": add("tflops") * 1e3,
        "dense_gflops": add("dense_tflops") * 1e3,
        "flops_ratio": add("tflops") / add("dense_tflops"),
        "kv_bytes": round(add("kv_bytes")),
        "dense_kv_bytes": round(add("dense_kv_bytes")),
        "kv_ratio": add("kv_bytes") / add("dense_kv_bytes"),
        "equivalent_tokens": add("equivalent_tokens"),
        "visual_tokens": add("visual_tokens"),
        "text_tokens": add("text_tokens"),
    }


def stock_cost(
    loaded: models.Loaded, prompts: Mapping[tuple[int, int], int], spent: Sequence[Spent | None] = ()
) -> dict[str, float]:
    """Mean cost of a prompt of the stock model; that of one with a plan of its own is what ran under it.

    Args:
        loaded: The model.
        prompts: How often each (visual rows, text rows) occurred.
        spent: What every prompt cost without a plan of the user's, where it was noted.
    """
    plain = mean_cost(loaded, Plan(), prompts)
    ran = real_cost(plain, spent)
    if ran is None:
        return plain
    whole = {"dense_gflops": ran["gflops"], "dense_kv_bytes": ran["kv_bytes"]}
    return ran | whole | {"flops_ratio": 1.0, "kv_ratio": 1.0}


def real_cost(stock: Mapping[str, float], spent: Sequence[Spent | None]) -> dict[str, float] | None:
    """Mean cost of a prompt by the routes that really ran, or None where one was not noted.

    Args:
        stock: Mean cost of the same prompts under the stock model, from ``stock_cost``.
        spent: What every prompt cost.
    """
    known = [each for each in spent if each is not None]
    if not known or len(known) < len(spent):
        return None
    mean = {key: sum(each[key] for each in known) / len(known) for key in known[0]}
    return {
        **stock,
        **mean,
        "kv_bytes": round(mean["kv_bytes"]),
        "flops_ratio": mean["gflops"] / stock["dense_gflops"],
        "kv_ratio": mean["kv_bytes"] / stock["dense_kv_bytes"],
    }


def row_counts(loaded: models.Loaded, inputs: Any) -> list[tuple[int, int]]:
    """Visual and text rows of every prompt of a batch, padding aside."""
    visual_BN = loaded.family.visual_mask(loaded.model, inputs["input_ids"])
    real_BN = inputs["attention_mask"].bool()
    visual = (visual_BN & real_BN).sum(1).tolist()
    return [(v, n - v) for v, n in zip(visual, real_BN.sum(1).tolist(), strict=True)]


def prediction(sample: Sample, text: str) -> Prediction:
    """An answer with what it is worth by its sample's rule."""
    worth = best(parse(sample.score), text, sample.references)
    return Prediction(sample.id, sample.task, sample.answer, text, worth == 1, worth)
