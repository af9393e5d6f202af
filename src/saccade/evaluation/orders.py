"""Layers for plans that ask for a budget or a FLOPs ratio: from a quick calibration or from plan files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from saccade.core.layout import Layout
from saccade.evaluation.runner import count_prompts
from saccade.inputs.samples import Sample
from saccade.models import Loaded
from saccade.plans.budget import reach_flops
from saccade.plans.plan import Plan
from saccade.system.journal import Journal

CALIBRATION_SAMPLES = 20
"""Samples of a quick calibration, the number of the papers."""
PRICED = 64
"""Prompts over which FLOPs ratios are taken, at most."""


def wanted_scores(plans: Mapping[str, Plan]) -> list[str]:
    """Names of the scores whose order of layers these plans need, each once."""
    needed = [
        method.score
        for plan in plans.values()
        for method in plan.methods
        if method.needs_order and method.score
    ]
    return list(dict.fromkeys(needed))


def calibrated(
    loaded: Loaded,
    samples: Sequence[Sample],
    scores: Sequence[str],
    *,
    seed: int = 0,
    ledger: Journal | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Scores of all layers by name, on samples drawn evenly over sub-tasks.

    Args:
        loaded: The model.
        samples: Where to draw from; all of them are taken if there are no more than 20.
        scores: Names of the scores.
        seed: Seed of the draw.
        ledger: Keeps finished samples, so that an interrupted call resumes; the caller finishes it.
        progress: Called with samples done and of all, over all scores.

    Returns:
        A ``saccade.calibration.Scores`` for every name.
    """
    from saccade.calibration import scores as score_layers

    count = min(CALIBRATION_SAMPLES, len(samples))
    found = {}
    for number, name in enumerate(scores):

        def step(done: int, total: int, before: int = number) -> None:
            if progress is not None:
                progress(before * total + done, len(scores) * total)

        found[name] = score_layers(
            loaded.model,
            loaded.processor,
            samples,
            name,
            num_samples=count,
            draw="stratified",
            seed=seed,
            check=False,
            checkpoint=ledger,
            progress=step,
        )
    return found


def resolve_all(
    loaded: Loaded, plans: Mapping[str, Plan], orders: Mapping[str, Sequence[int]], samples: Sequence[Sample]
) -> dict[str, Plan]:
    """Plans with their layers; FLOPs ratios are those of the prompts of these samples.

    Raises:
        ValueError: If an order is missing or a ratio cannot be reached, naming the plan.
    """
    wants_flops = any(m.flops is not None for plan in plans.values() for m in plan.methods)
    prompts = count_prompts(loaded, samples, most=PRICED) if wants_flops else {}
    layouts = [Layout.single(visual, text, views=loaded.shape.views(visual)) for visual, text in prompts]
    weights = [float(count) for count in prompts.values()]
    found = {}
    for name, plan in plans.items():
        found[name] = reach_flops(plan, loaded.shape, layouts, dict(orders), weights)
    return found
