"""Answers to many questions of several tasks: like with like in batches, in the order they were asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from saccade import models
from saccade.core.tower import Tiling
from saccade.evaluation.comparison import check_plans
from saccade.evaluation.ledger import Spent
from saccade.evaluation.runner import generate, mean_cost, real_cost, row_counts, stock_cost
from saccade.evaluation.whole import pictures, with_whole
from saccade.lmms.conversation import ChatMessages, inputs
from saccade.lmms.generation import Generation, StopsAt
from saccade.plans.plan import Plan


@dataclass(frozen=True)
class SuiteQuestion:
    """One question that is read only when its turn has come.

    Attributes:
        task: Its task; a batch never mixes tasks.
        length: How long its text is, in any unit; like goes with like.
        generation: How it wants to be answered.
        load: Gives the conversation, with its images.
    """

    task: str
    length: int
    generation: Generation
    load: Callable[[], ChatMessages]


def batches(questions: Sequence[SuiteQuestion], size: int) -> Iterator[list[int]]:
    """Indices of questions, longest first, so that what does not fit into memory shows at once."""
    groups: dict[tuple[str, Generation], list[int]] = {}
    for index, question in enumerate(questions):
        groups.setdefault((question.task, question.generation), []).append(index)
    for indices in groups.values():
        indices.sort(key=lambda i: (-questions[i].length, i))
        for start in range(0, len(indices), size):
            yield indices[start : start + size]


@dataclass
class Asker:
    """A model under a plan, asked in batches.

    Attributes:
        loaded: The model.
        plan: A resolved plan; None, or one without methods, asks the stock model.
        blind: Whether it is shown plain grey images.
        batch_size: Questions per batch.
    """

    loaded: models.Loaded
    plan: Plan | None = None
    blind: bool = False
    batch_size: int = 1
    _prompts: Counter[tuple[int, int]] = field(default_factory=Counter)
    _spent: list[Spent | None] = field(default_factory=list)
    _seen: Counter[Tiling] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        if self.plan is not None:
            check_plans(self.loaded, {self.plan.spec: self.plan})
            self.plan = self.plan if self.plan.methods else None

    def ask(
        self, questions: Sequence[SuiteQuestion], done: Callable[[int], Any] = lambda count: None
    ) -> list[str]:
        """Answers in the order of the questions.

        Args:
            questions: What is asked.
            done: Called after every batch with the number of its questions.
        """
        texts = [""] * len(questions)
        for indices in batches(questions, self.batch_size):
            conversations = [questions[i].load() for i in indices]
            for index, text in zip(
                indices, self._answer(conversations, questions[indices[0]].generation), strict=True
            ):
                texts[index] = text
            done(len(indices))
        return texts

    def _answer(self, conversations: list[ChatMessages], wanted: Generation) -> list[str]:
        if self.blind:
            conversations = [conversation.blind() for conversation in conversations]
        prompts = inputs(self.loaded, conversations)
        self._prompts.update(row_counts(self.loaded, prompts))
        self._seen.update(pictures(self.loaded, prompts))
        if self.plan is not None and self.plan.shortening:
            prompts = inputs(self.loaded, conversations, self.plan)
        how = dict(wanted.how)
        if wanted.until:
            rows = prompts["input_ids"].shape[1]
            how["stopping_criteria"] = [StopsAt(self.loaded.processor.tokenizer, wanted.until, rows)]
        texts, spent = generate(self.loaded, prompts, self.plan, wanted.max_new_tokens, **how)
        self._spent += [spent] * len(texts)
        return [wanted.cut(text) for text in texts]

    def cost(self) -> tuple[int, dict[str, float]]:
        """How many prompts there were, and the mean cost of one, by the routes that really ran."""
        count = sum(self._prompts.values())
        if not count:
            return 0, {}
        plan = self.plan or Plan()
        if self.plan is None:
            spent = stock_cost(self.loaded, self._prompts, self._spent)
        else:
            stock = mean_cost(self.loaded, Plan(), self._prompts)
            spent = real_cost(stock, self._spent) or mean_cost(self.loaded, plan, self._prompts)
        return count, with_whole(self.loaded, plan, spent, self._seen, count)
