"""The budget with which a method reaches a FLOPs ratio on the prompts of some samples."""

from __future__ import annotations

from collections.abc import Sequence

from saccade import models
from saccade.calibration.options import Wanted
from saccade.calibration.run import rows_of
from saccade.core.layout import Layout
from saccade.inputs.samples import Sample
from saccade.methods import BudgetMethod
from saccade.plans.budget import last_layers, reach_flops


def budget_for(loaded: models.Loaded, wanted: Wanted, samples: Sequence[Sample]) -> BudgetMethod:
    """Turns a FLOPs ratio into a budget; what a route costs does not hang on which layers it touches.

    Raises:
        ValueError: If no budget reaches the ratio.
    """
    method = wanted.method
    assert isinstance(method, BudgetMethod)
    layouts, weights = prompts_of(loaded, samples)
    orders = last_layers(loaded.shape.layers)
    plan = reach_flops(wanted.with_method(method), loaded.shape, layouts, orders, weights)
    done = plan.methods[wanted.place]
    assert isinstance(done, BudgetMethod)
    return method.with_budget(done.touches(loaded.shape.layers))


def prompts_of(loaded: models.Loaded, samples: Sequence[Sample]) -> tuple[list[Layout], list[float]]:
    """The prompts of some samples, each kind once, as prices take them, and how often each occurs."""
    counts = [rows_of(loaded.model, models.inputs(loaded, [sample])) for sample in samples]
    prompts = dict.fromkeys(counts)
    layouts = [Layout.single(visual, text, views=loaded.shape.views(visual)) for visual, text in prompts]
    return layouts, [float(counts.count(prompt)) for prompt in prompts]
