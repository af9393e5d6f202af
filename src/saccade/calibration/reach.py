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
    counts = [rows_of(loaded.model, models.inputs(loaded, [sample])) for sample in samples]
    prompts = dict.fromkeys(counts)
    plan = reach_flops(
        wanted.with_method(wanted.method),
        loaded.shape,
        [Layout.single(visual, text, views=loaded.shape.views(visual)) for visual, text in prompts],
        last_layers(loaded.shape.layers),
        [float(counts.count(prompt)) for prompt in prompts],
    )
    done = plan.methods[wanted.place]
    assert isinstance(done, BudgetMethod)
    return wanted.method.with_budget(done.touches(loaded.shape.layers))
