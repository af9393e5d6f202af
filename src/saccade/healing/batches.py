"""Questions with the dense model's own answers, and batches of them as both sides of a healing read them.

Shape letters: B batch, N rows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from saccade import models
from saccade.asking import stop_tokens
from saccade.evaluation.runner import chunks
from saccade.identity import code_of, model_digest
from saccade.inputs.data import Entry
from saccade.inputs.samples import Sample
from saccade.models import Loaded
from saccade.plans.plan import Plan
from saccade.system.journal import Journal
from saccade.training.collate import Batch, Counts
from saccade.training.encode import IGNORE
from saccade.tuning.judge import said

DENSE_INPUTS = "dense"
"""Under which name a batch holds the dense model's inputs, where the plan's are others."""

CHOSEN = "chosen"
"""Under which name a batch holds the tokens that its rows choose."""

VERSION = 1
"""Raised when answers come out otherwise; what was kept of the former is then not used again."""


@dataclass(frozen=True)
class AnsweredQuestion:
    """A question and what the dense model says to it.

    Attributes:
        sample: The question.
        target: Tokens of the answer, with what ends it.
    """

    sample: Sample
    target: tuple[int, ...]


def loaded_sample(item: Sample | Entry) -> Sample:
    """The sample, its pictures read."""
    return item.load() if isinstance(item, Entry) else item


def own_answers(
    loaded: Loaded,
    questions: Sequence[Sample | Entry],
    tokens: int,
    journal: Journal,
    batch_size: int = 32,
    progress: Callable[[int], None] = lambda done: None,
) -> list[tuple[int, ...]]:
    """What the dense model says to every question, greedily; what the journal holds is not run again.

    Args:
        loaded: The model, without a plan but its own.
        questions: The questions, with distinct ids.
        tokens: Longest answer.
        journal: Keeps what was said.
        batch_size: Prompts that run together.
        progress: Called with the questions that were answered.

    Raises:
        ValueError: If a question cannot be asked.
    """
    section = journal.section(
        {
            "heal": VERSION,
            "weights": model_digest(loaded),
            "code": code_of(loaded),
            "dtype": str(loaded.model.dtype),
            "tokens": tokens,
        }
    )
    known: dict[str, tuple[int, ...]] = {}
    for entry in section.entries:
        known |= {key: tuple(words) for key, words in entry["said"].items()}
    found: list[tuple[int, ...]] = [()] * len(questions)
    for start in range(0, len(questions), WINDOW):
        # Pictures of a few batches are in memory at a time.
        window = [loaded_sample(item) for item in questions[start : start + WINDOW]]
        names = [_name(sample) for sample in window]
        for indices in chunks(window, loaded.processor.tokenizer, batch_size):
            left = [i for i in indices if names[i] not in known]
            if left:
                inputs = models.inputs(loaded, [window[i] for i in left])
                _, targets = said(loaded, inputs, tokens)
                more = dict(zip((names[i] for i in left), targets, strict=True))
                known |= more
                section.append({"said": {name: list(words) for name, words in more.items()}})
            for i in indices:
                found[start + i] = known[names[i]]
            progress(len(indices))
    return found


WINDOW = 512
"""Questions whose pictures are in memory together while the dense model answers them."""


def _name(sample: Sample) -> str:
    """A digest of a question and its pictures."""
    digest = hashlib.sha256(json.dumps([sample.id, sample.question]).encode())
    for image in sample.images:
        digest.update(str(image.size).encode() + image.tobytes())
    for video in sample.videos:
        digest.update(video.digest.encode())
    return digest.hexdigest()[:32]


class AnsweredPool:
    """Questions with answers, as the trainer draws records.

    Attributes:
        name: As in `saccade.training.sources.RecordPool`.
        weight: Likewise.
        refused: Likewise; nothing is ever refused.
    """

    def __init__(self, questions: Sequence[Sample | Entry], targets: Sequence[tuple[int, ...]]) -> None:
        self.name, self.weight = "questions", 1.0
        self.refused: list[str] = []
        self._questions, self._targets = list(questions), list(targets)

    def __len__(self) -> int:
        return len(self._questions)

    @property
    def ids(self) -> list[str]:
        """Names of the questions."""
        return [item.id for item in self._questions]

    def load(self, index: int, epoch: int) -> Any:
        """One question with its pictures and its answer."""
        return AnsweredQuestion(loaded_sample(self._questions[index]), self._targets[index])

    def describe(self) -> dict[str, Any]:
        """Name, size, and a hash of the questions and answers."""
        told = [
            [item.id, item.question, target]
            for item, target in zip(self._questions, self._targets, strict=True)
        ]
        digest = hashlib.sha256(json.dumps(told).encode()).hexdigest()
        return {"name": self.name, "records": len(self), "refused": 0, "weight": 1.0, "sha256": digest}


class AnswerCollator:
    """Makes batches: prompts as serving has them, the answers behind them, padding on the right.

    Attributes:
        loaded: The model and its processor.
        plan: What the prompts are read under.
    """

    def __init__(self, loaded: Loaded, plan: Plan) -> None:
        self.loaded, self.plan = loaded, plan
        tokenizer = loaded.processor.tokenizer
        ends = (tokenizer.pad_token_id, tokenizer.eos_token_id, *stop_tokens(loaded.model))
        self._pad = next((token for token in ends if token is not None), 0)

    def __call__(self, asked: Sequence[AnsweredQuestion]) -> Batch:
        """A batch; ``dense`` holds the inputs of the dense model where the plan shrinks pictures."""
        samples, targets = [one.sample for one in asked], [one.target for one in asked]
        kind = self.loaded.family.answer_type
        inputs = joined(models.inputs(self.loaded, samples, self.plan), targets, self._pad, kind)
        if self.plan.shortening:
            inputs[DENSE_INPUTS] = joined(models.inputs(self.loaded, samples), targets, self._pad, kind)
        images = sum(len(sample.images) + len(sample.videos) for sample in samples)
        rows, labels = int(inputs["attention_mask"].sum()), sum(map(len, targets))
        return Batch(inputs, Counts(len(samples), images, rows, labels), ())


def joined(
    prompts: Mapping[str, Any], targets: Sequence[tuple[int, ...]], pad: int, answer_type: int = 0
) -> dict[str, Any]:
    """Prompts with answers behind them, on the CPU.

    Args:
        prompts: Inputs of the prompts, padded on the left.
        targets: Tokens of every answer, with what ends it.
        pad: What stands in padding.
        answer_type: What ``token_type_ids`` say of an answer's rows.

    Returns:
        The inputs, padded on the right, and ``chosen`` (B, N): the token of the answer that each row chooses,
        `IGNORE` where none.
    """
    mask_BN = prompts["attention_mask"].bool().cpu()
    lengths = mask_BN.sum(1).tolist()
    # What ends an answer is chosen by the row before it, and never read.
    rows = max(length + len(target) - 1 for length, target in zip(lengths, targets, strict=True))
    found: dict[str, Any] = {}
    for key, value in prompts.items():
        here = value.cpu() if isinstance(value, torch.Tensor) else value
        # What has a value for every row is laid out anew; in an answer it is what it is in text.
        if isinstance(here, torch.Tensor) and here.shape == mask_BN.shape:
            laid_BN = torch.full((len(targets), rows), pad if key == "input_ids" else 0, dtype=here.dtype)
            for b, length in enumerate(lengths):
                laid_BN[b, :length] = here[b, mask_BN[b]]
            here = laid_BN
        found[key] = here
    chosen_BN = torch.full((len(targets), rows), IGNORE)
    for b, (length, target) in enumerate(zip(lengths, targets, strict=True)):
        words, end = torch.tensor(target, dtype=torch.long), length + len(target) - 1
        found["input_ids"][b, length:end], found["attention_mask"][b, length:end] = words[:-1], 1
        if "token_type_ids" in found:
            found["token_type_ids"][b, length:end] = answer_type
        chosen_BN[b, length - 1 : end] = words
    return found | {CHOSEN: chosen_BN}


def asked_rows(chosen_BN: torch.Tensor) -> torch.Tensor:
    """Rows (B, N) of the prompts: up to the one that chooses the first token of the answer."""
    return (chosen_BN != IGNORE).cumsum(1) <= 1
