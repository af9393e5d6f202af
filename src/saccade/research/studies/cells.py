"""Fills a store with the answers that are missing: prompts are built once for all plans of a task."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch

from saccade import models
from saccade.core.layout import Layout
from saccade.evaluation.comparison import check_samples
from saccade.evaluation.ledger import BatchAnswers as Answered
from saccade.evaluation.ledger import Ledger, Spent
from saccade.evaluation.runner import AnswerRun, answer_batch, chunks, generate
from saccade.helpers import Helpers, spread
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

    @cached_property
    def counts(self) -> Counter[tuple[int, int]]:
        """How often each (visual rows, text rows) occurs."""
        found: Counter[tuple[int, int]] = Counter()
        for number in range(len(self.indices)):
            inputs = self.full(number)
            visual_BN = self.loaded.family.visual_mask(self.loaded.model, inputs["input_ids"])
            layout = Layout.from_mask(visual_BN, inputs["attention_mask"])
            rows = zip(layout.visual_BN.sum(1).tolist(), layout.text_BN.sum(1).tolist(), strict=True)
            found.update(rows)
        return found


def fill(
    loaded: models.Loaded,
    store: Store,
    samples: Callable[[], Sequence[Sample]],
    columns: Sequence[Column],
    *,
    batch_size: int,
    step: Step = lambda answers: None,
    helpers: Helpers[Any] | None = None,
) -> int:
    """Asks a task's questions under every column whose cell is missing and that nobody else is at.

    Args:
        loaded: The model.
        store: Where cells are kept.
        samples: Draws the questions, if a cell is missing.
        columns: What to ask under.
        batch_size: Questions per batch.
        step: Called with the number of answers that have come.
        helpers: Other processes that answer batches too, of the same model.

    Returns:
        How many cells were finished here.
    """
    done = 0
    prompts: PromptBatches | None = None
    with ExitStack() as stack:

        def parts() -> Iterator[Any]:
            nonlocal prompts, done
            for column in columns:
                if store.has(column.key):
                    continue
                held = stack.enter_context(ExitStack())
                if not held.enter_context(store.claim(column.key)):
                    held.close()
                    continue
                prompts = prompts or PromptBatches(loaded, samples(), batch_size)
                cell = OpenCell(store, prompts, column, held, step)
                done += cell.finished()
                yield from cell.parts()

        for (cell, number), found in spread(helpers, answered_there, parts()):
            cell.put(number, found)
            done += cell.finished()
    return done


@dataclass(frozen=True)
class BatchFound:
    """What a batch came to, and what it took.

    Attributes:
        texts: The answers.
        spent: Mean cost of a prompt; None where it was not noted.
        seconds: Time it took.
        cpu_seconds: CPU time it took.
    """

    texts: list[str]
    spent: Spent | None
    seconds: float
    cpu_seconds: float

    @classmethod
    def of(cls, ask: Callable[[], tuple[list[str], Spent | None]]) -> BatchFound:
        """Answers a batch, and notes what that takes."""
        start, worked = time.perf_counter(), time.process_time()
        texts, spent = ask()
        return cls(texts, spent, time.perf_counter() - start, time.process_time() - worked)


class OpenCell:
    """A cell while its batches are answered, here or by helpers; what was answered before is not asked again.

    Args:
        store: Where it is kept.
        prompts: The questions.
        column: What they are asked under.
        held: Holds the claim of the cell, until it is finished.
        step: Called with the number of answers that have come.
    """

    def __init__(
        self, store: Store, prompts: PromptBatches, column: Column, held: ExitStack, step: Step
    ) -> None:
        self.store, self.prompts, self.column, self._held, self._step = store, prompts, column, held, step
        self._journal = held.enter_context(Journal(store.partial(column.key)))
        self._ledger = Ledger(self._journal, column.key.to_dict())
        self._found: dict[int, Answered] = {}
        self._seconds, self._cpu_seconds = 0.0, 0.0
        for number in range(len(prompts.indices)):
            known = self._ledger.get(column.run.key, self._ids(number))
            if known is not None:
                self._found[number] = known
                step(len(known.texts))

    def _ids(self, number: int) -> list[str]:
        return [self.prompts.samples[i].id for i in self.prompts.indices[number]]

    def parts(self) -> Iterator[Any]:
        """The batches that are missing, as ``spread`` takes them."""
        run, tokens = self.column.run, self.column.key.tokens
        for number in [n for n in range(len(self.prompts.indices)) if n not in self._found]:
            batch = [self.prompts.samples[i] for i in self.prompts.indices[number]]
            yield (self, number), (batch, run, tokens), partial(self._here, number)

    def _here(self, number: int) -> BatchFound:
        run, loaded, tokens = self.column.run, self.prompts.loaded, self.column.key.tokens
        return BatchFound.of(lambda: generate(loaded, self.prompts.under(run, number), run.plan, tokens))

    def put(self, number: int, found: BatchFound) -> None:
        """Keeps what a batch came to."""
        self._ledger.put(self.column.run.key, self._ids(number), found.texts, found.spent)
        self._found[number] = Answered(found.texts, [found.spent] * len(found.texts))
        self._seconds += found.seconds
        self._cpu_seconds += found.cpu_seconds
        self._step(len(found.texts))

    def finished(self) -> bool:
        """Whether all is answered; then the cell is put into the store, and let go of."""
        prompts = self.prompts
        if len(self._found) < len(prompts.indices):
            return False
        self._journal.close()
        texts: dict[int, str] = {}
        spent: list[Spent | None] = []
        for number, indices in enumerate(prompts.indices):
            texts.update(zip(indices, self._found[number].texts, strict=True))
            spent += self._found[number].spent
        origin = record(device=prompts.loaded.device)
        made = {
            "seconds": round(self._seconds, 3),
            "cpu_seconds": round(self._cpu_seconds, 3),
            "batches": len(prompts.indices),
            **{name: origin[name] for name in MADE_BY},
        }
        ids = tuple(sample.id for sample in prompts.samples)
        counts = tuple((v, t, n) for (v, t), n in sorted(prompts.counts.items()))
        said = tuple(texts[i] for i in range(len(prompts.samples)))
        self.store.put(Cell(self.column.key, ids, said, _mean(spent), counts, made))
        self._held.close()
        return True


def answered_there(loaded: models.Loaded, batch: Sequence[Sample], run: AnswerRun, tokens: int) -> BatchFound:
    """What a helper does: answers to questions together under one run.

    Args:
        loaded: The model.
        batch: The questions.
        run: What they are asked under.
        tokens: Longest answer.
    """
    return BatchFound.of(lambda: answer_batch(loaded, batch, run, tokens))


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
