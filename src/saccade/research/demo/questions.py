"""Questions that show a difference, and their pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from saccade import models
from saccade.core.layout import Layout
from saccade.evaluation import Comparison
from saccade.inputs.samples import Sample
from saccade.plans.plan import Plan
from saccade.report import route_map
from saccade.research.demo.plans import Lineup

MOST = 3


def pick(found: Comparison, questions: Sequence[Sample], names: Sequence[str]) -> list[int]:
    """Indices of up to three questions that divide the plans most, of different tasks, right under dense.

    One that the first plan gets right while others fail comes first, then one that it fails, if any.
    """
    right = {name: [p.correct for p in found.plans[name].predictions] for name in names}
    main = names[0]
    solved = [i for i, p in enumerate(found.dense.predictions) if p.correct] or list(range(len(questions)))

    def failed(index: int) -> int:
        return sum(not right[name][index] for name in names)

    wishes = (
        [i for i in solved if right[main][i] and failed(i)],
        [i for i in solved if not right[main][i]],
        [i for i in solved if not failed(i)],
        solved,
    )
    chosen: list[int] = []
    for wish in wishes:
        tasks = {questions[i].task for i in chosen}
        fresh = [i for i in wish if questions[i].task not in tasks]
        if fresh and len(chosen) < MOST:
            chosen.append(max(fresh, key=lambda i: (failed(i), -i)))
    return chosen


def shown(
    loaded: models.Loaded,
    chosen: Sequence[int],
    questions: Sequence[Sample],
    found: Comparison,
    plans: Lineup,
) -> tuple[dict[str, bytes], list[dict[str, Any]]]:
    """Pictures of the chosen questions by name, and what they say as plain data."""
    pictures, told = {}, []
    named = {e.name: e for e in plans.entries}
    columns = [("dense", "dense", "dense", Plan())]
    columns += [
        (n, named[n].method, f"{named[n].title} {named[n].budget}", named[n].plan) for n in plans.layers
    ]
    for number, index in enumerate(chosen, start=1):
        sample = questions[index]
        inputs = models.inputs(loaded, [sample])
        visual = loaded.family.visual_mask(loaded.model, inputs["input_ids"])
        layout = Layout.from_mask(visual, inputs["attention_mask"])
        rows = []
        for name, method, title, plan in columns:
            said = (found.dense if name == "dense" else found.plans[name]).predictions[index]
            rows.append(
                {
                    "method": method,
                    "title": title,
                    "said": said.text,
                    "correct": said.correct,
                    "map": route_map.route_map(plan.route(layout, loaded.shape.layers)),
                }
            )
        pictures[f"question-{number}"] = route_map.question(
            sample.images[0], sample.question, sample.answer, rows
        )
        told.append(
            {
                "id": sample.id,
                "task": sample.task,
                "question": sample.question,
                "answer": sample.answer,
                "said": {row["title"]: row["said"] for row in rows},
                "caption": f"Task “{sample.task}”, sample {sample.id}.",
            }
        )
    return pictures, told
