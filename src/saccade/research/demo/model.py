"""What the demo's pages say of their model and its questions."""

from __future__ import annotations

from typing import Any

from saccade.evaluation import Comparison
from saccade.models import Loaded
from saccade.opening.digest import weights_digest
from saccade.system.embedded import EMBEDDED, title_of


def described(loaded: Loaded, found: Comparison) -> dict[str, Any]:
    """A model as plain data: name, what commands call it, what its tower does, weights and sizes."""
    return {
        "name": title_of(loaded.name),
        "called": loaded.name,
        "seen": EMBEDDED[loaded.name].seen if loaded.name in EMBEDDED else "",
        "weights": weights_digest(loaded.model),
        "layers": loaded.shape.layers,
        "parameters": sum(p.numel() for p in loaded.model.parameters()),
        "visual_tokens": round(found.dense.cost["visual_tokens"]),
    }


def posed(found: Comparison, questions: int, samples: int) -> dict[str, Any]:
    """What was asked, as plain data.

    Args:
        found: The answers.
        questions: How many questions there were, as many of each task.
        samples: How many samples chose layers.
    """
    tasks = list(found.dense.tasks)
    each = questions // len(tasks)
    return {"tasks": tasks, "questions": questions, "per_task": each, "calibration_samples": samples}
