"""The registry of tasks: what each measures, on which scenes, and who writes its questions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from saccade.glance.questions import figures, objects, reading
from saccade.glance.questions.base import Question
from saccade.glance.scenes import Scene


@dataclass(frozen=True)
class Task:
    """A small sister of a benchmark family.

    Attributes:
        name: Name used everywhere.
        family: The benchmark family it is modelled on.
        describe: What a model must do.
        long_answer: Whether answers commonly have five tokens and more.
        subtasks: Groups of questions; suites take them in equal parts.
        writers: Per scene type, the function that writes questions from the scene's facts.
    """

    name: str
    family: str
    describe: str
    long_answer: bool
    subtasks: tuple[str, ...]
    writers: tuple[tuple[str, Callable], ...]

    @property
    def kinds(self) -> tuple[str, ...]:
        """Scene types this task asks about."""
        return tuple(kind for kind, _ in self.writers)

    def questions(self, scene: Scene, rng: np.random.Generator) -> list[Question]:
        """This task's questions about a scene; possibly none."""
        asked = [q for kind, write in self.writers if kind == scene.kind for q in write(scene.facts, rng)]
        return [q for q in asked if q.task == self.name]


_TASKS = (
    Task("exist", "POPE", "Tell whether an object is there; absent ones are near misses.", False,
         ("object", "shape"), (("objects", objects.exist),)),
    Task("attribute", "GQA", "Name the colour, shape or size of the one object meant.", False,
         ("color", "shape", "size"), (("objects", objects.attribute),)),
    Task("count", "counting (CountBench, TallyQA)", "Count objects of a colour, of a shape, or all.", False,
         ("color", "shape", "all"), (("objects", objects.count),)),
    Task("relation", "relations (VSR)", "Say where an object is from another, or what is next.", False,
         ("where", "is", "next"), (("objects", objects.relation),)),
    Task("compare", "comparison (NLVR2, MMStar)", "Find the larger of two groups, or of two bars.", False,
         ("more", "taller"), (("objects", objects.compare), ("chart", figures.taller))),
    Task("place", "grounding (RefCOCO)", "Translate between objects and rows and columns.", False,
         ("what", "row", "column"), (("objects", objects.place),)),
    Task("list", "dense description", "List all objects in reading order.", True,
         ("3 objects", "4 objects", "5 objects"), (("objects", objects.listing),)),
    Task("word", "OCRBench, TextVQA", "Spell a word of random letters, found by colour or place.", True,
         ("color", "place"), (("text", reading.text),)),
    Task("number", "OCRBench, DocVQA", "Read a printed number, found by colour or place.", True,
         ("color", "place"), (("text", reading.text),)),
    Task("digit", "handwriting (OCRBench, MNIST)", "Read handwritten digits by row, column or colour.", False,
         ("place", "color", "row", "largest"), (("digits", reading.digits),)),
    Task("chart", "ChartQA", "Read values, colours and extremes of a bar chart.", False,
         ("value", "color", "letter", "tallest", "shortest"), (("chart", figures.chart),)),
    Task("diagram", "AI2D", "Follow arrows between labelled boxes: one, two, or backwards.", False,
         ("follow", "twice", "back"), (("diagram", figures.diagram),)),
    Task("unanswerable", "VizWiz", "Answer, or say that the thing asked about is not in the image.", False,
         ("answerable", "absent"),
         (("objects", objects.unanswerable), ("chart", figures.unanswerable_chart))),
)  # fmt: skip

TASKS: dict[str, Task] = {task.name: task for task in _TASKS}
TASK_NAMES = tuple(TASKS)


def check_tasks(names: Iterable[str]) -> None:
    """Refuses tasks that are not in the suite.

    Raises:
        ValueError: Naming the first of them.
    """
    unknown = [name for name in names if name not in TASKS]
    if unknown:
        raise ValueError(f"unknown task {unknown[0]!r}; choose from {', '.join(TASKS)}")


# To the front of a row go long answers, or short ones would leave no room for them, and what is learned last.
_SOONER = frozenset({"list", "word", "number", "relation", "place", "compare"})


def training_questions(scene: Scene, rng: np.random.Generator, rounds: int = 3) -> list[Question]:
    """All tasks' questions about a scene from several rounds of drawing, none twice, in random order."""
    by_text: dict[str, Question] = {}
    writers = {write: None for task in TASKS.values() for kind, write in task.writers if kind == scene.kind}
    for write in list(writers) * rounds:
        for question in write(scene.facts, rng):
            # A question the unanswerable task shares with another keeps its first owner.
            by_text.setdefault(question.question, question)
    asked = list(by_text.values())
    keys = [rng.random() * (0.5 if q.task in _SOONER else 1.0) for q in asked]
    return [asked[i] for i in np.argsort(keys)]
