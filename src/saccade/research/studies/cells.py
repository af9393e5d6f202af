"""Fills a store with the answers that are missing: prompts are built once for all plans of a task."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from saccade import models
from saccade.core.layout import Layout
from saccade.evaluation.comparison import check_samples
from saccade.evaluation.ledger import BatchAnswers as Answered
from saccade.evaluation.ledger import Ledger, Spent
from saccade.evaluation.runner import AnswerRun, chunks, generate
from saccade.inputs.samples import Sample, likeness
from saccade.measure.provenance import record
from saccade.research.studies.store import Cell, Key, Store
from saccade.system.journal import Journal

LEAST = 16
"""Smallest batch that is closed early so that the next one has prompts of one length, without padding."""
KEPT_BYTES = 1 << 30
"""Prompts of a task are kept for all its plans while they take no more memory than this."""
MADE_BY = ("versions", "source", "device", "threads")
"""What a cell keeps of the process that made it."""

Step = Callable[[int], None]


@dataclass(frozen=True)
class Column:
    """What is asked of every task: a run, and the key its cell has there.

    Attributes:
        run: The stock model, the stock model blind, or a plan.
        key: Key of the cell.
    """

    run: AnswerRun
    key: Key


def batches(samples: Sequence[Sample], tokenizer: Any, batch_size: int) -> list[list[int]]:
    """Indices of samples in batches of one task, of prompts of one length where there are enough of them."""
    found: list[list[int]] = []
    for whole in chunks(samples, tokenizer, max(1, len(samples))):
        piece: list[int] = []
        last = None
        for index in whole:
            this = likeness(samples[index], tokenizer)
            if len(piece) == batch_size or (this != last and len(piece) >= min(LEAST, batch_size)):
                found.append(piece)
                piece = []
            piece.append(index)
            last = this
        found.append(piece)
    return found


class PromptBatches:
    """The prompts of a task in batches, built when they are first needed.

    Args:
        loaded: The model.
        samples: Questions of one task.
        batch_size: Questions per batch.
    """

    def __init__(self, loaded: models.Loaded, samples: Sequence[Sample], batch_size: int) -> None:
        check_samples(samples)
        self.loaded, self.samples = loaded, samples
        self.indices = batches(samples, loaded.processor.tokenizer, batch_size)
        self._kept: dict[int, Any] = {}
        self._bytes = 0
        self._counts: Counter[tuple[int, int]] | None = None

    def full(self, number: int) -> Any:
        """Inputs of a batch for the stock model and for plans that leave the prompt as it is."""
        if number in self._kept:
            return self._kept[number]
        made = models.inputs(self.loaded, [self.samples[i] for i in self.indices[number]])
        size = sum(part.nbytes for part in made.values() if isinstance(part, torch.Tensor))
        if self._bytes + size <= KEPT_BYTES:
            self._kept[number] = made
            self._bytes += size
        return made

    def under(self, run: AnswerRun, number: int) -> Any:
        """Inputs of a batch as a run wants them."""
        batch = [self.samples[i] for i in self.indices[number]]
        if run.blind:
            return models.inputs(self.loaded, [models.blind(sample) for sample in batch])
        if run.plan is not None and run.plan.shortening:
            return models.inputs(self.loaded, batch, run.plan)
        return self.full(number)

    @property
    def counts(self) -> Counter[tuple[int, int]]:
        """How often each (visual rows, text rows) occurs."""
        if self._counts is None:
            self._counts = Counter()
            for number in range(len(self.indices)):
                inputs = self.full(number)
                visual_BN = self.loaded.family.visual_mask(self.loaded.model, inputs["input_ids"])
                layout = Layout.from_mask(visual_BN, inputs["attention_mask"])
                rows = zip(layout.visual_BN.sum(1).tolist(), layout.text_BN.sum(1).tolist(), strict=True)
                self._counts.update(rows)
        return self._counts


def fill(
    loaded: models.Loaded,
    store: Store,
    samples: Callable[[], Sequence[Sample]],
    columns: Sequence[Column],
    *,
    batch_size: int,
    step: Step = lambda answers: None,
) -> int:
    """Asks a task's questions under every column whose cell is missing and that nobody else is at.

    Args:
        loaded: The model.
        store: Where cells are kept.
        samples: Draws the questions, if a cell is missing.
        columns: What to ask under.
        batch_size: Questions per batch.
        step: Called with the number of answers that have come.

    Returns:
        How many cells were finished here.
    """
    done = 0
    prompts: PromptBatches | None = None
    for column in columns:
        if store.has(column.key):
            continue
        with store.claim(column.key) as mine:
            if mine:
                prompts = prompts or PromptBatches(loaded, samples(), batch_size)
                store.put(ask(loaded, store, prompts, column, step))
                done += 1
    return done


def ask(loaded: models.Loaded, store: Store, prompts: PromptBatches, column: Column, step: Step) -> Cell:
    """Asks all questions under one column; what was answered before an interruption is not asked again."""
    run, key = column.run, column.key
    start, worked = time.perf_counter(), time.process_time()
    texts: dict[int, str] = {}
    spent: list[Spent | None] = []
    with Journal(store.partial(key)) as journal:
        ledger = Ledger(journal, key.to_dict())
        for number, indices in enumerate(prompts.indices):
            ids = [prompts.samples[i].id for i in indices]
            known = ledger.get(run.key, ids)
            if known is None:
                answers, cost = generate(loaded, prompts.under(run, number), run.plan, key.tokens)
                ledger.put(run.key, ids, answers, cost)
                known = Answered(answers, [cost] * len(ids))
            texts.update(zip(indices, known.texts, strict=True))
            spent += known.spent
            step(len(ids))
    origin = record(device=loaded.model.device)
    return Cell(
        key,
        tuple(sample.id for sample in prompts.samples),
        tuple(texts[i] for i in range(len(prompts.samples))),
        _mean(spent),
        tuple((v, t, n) for (v, t), n in sorted(prompts.counts.items())),
        {
            "seconds": round(time.perf_counter() - start, 3),
            "cpu_seconds": round(time.process_time() - worked, 3),
            "batches": len(prompts.indices),
            **{name: origin[name] for name in MADE_BY},
        },
    )


def makers(made: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """By what cells were made (``MADE_BY``), and how many: a store may be older than what judges it."""
    told = Counter(json.dumps({name: one.get(name) for name in MADE_BY}, sort_keys=True) for one in made)
    return [{"cells": number, **json.loads(by)} for by, number in told.most_common()]


def _mean(spent: Sequence[Spent | None]) -> Spent | None:
    known = [cost for cost in spent if cost is not None]
    if not known or len(known) < len(spent):
        return None
    return {name: sum(cost[name] for cost in known) / len(known) for name in known[0]}


def missing(store: Store, columns: Sequence[Column]) -> Iterator[Column]:
    """Columns whose cell is not finished."""
    return (column for column in columns if not store.has(column.key))
