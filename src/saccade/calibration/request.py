"""What a calibration is asked for: one method, its budget, its samples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from saccade import models
from saccade.calibration.draw import Draw, check_draw
from saccade.calibration.draw import draw as draw_samples
from saccade.calibration.measures import check_direction
from saccade.calibration.probes import probe_for
from saccade.calibration.run import rows_of
from saccade.core.layout import Layout
from saccade.inputs.data import Entry
from saccade.inputs.samples import Sample
from saccade.methods import BudgetMethod, Method
from saccade.plans.budget import last_layers, reach_flops
from saccade.plans.plan import Plan


def check_request(
    method: str | Method,
    budget: int | None,
    flops: float | None,
    score: str | None,
    direction: str,
    draw: str,
) -> None:
    """Refuses what ``calibrate`` would refuse, before a model is loaded.

    Raises:
        ValueError: Saying what does not fit.
    """
    probe_for(wanted_method(method, budget, flops).method, score)
    check_direction(direction)
    check_draw(draw)


@dataclass(frozen=True)
class Wanted:
    """What a calibration is asked to choose the layers of.

    Attributes:
        plan: All methods, as they were given.
        place: Which of them is calibrated.
        method: That one, with its budget or FLOPs ratio but without layers.
    """

    plan: Plan
    place: int
    method: BudgetMethod

    @property
    def others(self) -> tuple[Method, ...]:
        """The methods beside it."""
        return (*self.plan.methods[: self.place], *self.plan.methods[self.place + 1 :])

    def with_method(self, method: Method) -> Plan:
        """The whole plan with another method in the place of the one that is calibrated."""
        methods = (*self.plan.methods[: self.place], method, *self.plan.methods[self.place + 1 :])
        return Plan(methods)


def wanted_method(method: str | Method, budget: int | None, flops: float | None) -> Wanted:
    """The one method that is asked for, alone or beside reducers, which have nothing to calibrate.

    Raises:
        ValueError: If there are several, its layers are known, there are only reducers, or its budget is
            missing or given twice.
    """
    plan = Plan.of(method)
    places = [i for i, m in enumerate(plan.methods) if isinstance(m, BudgetMethod)]
    if not places and plan.methods:
        raise ValueError(
            f"{plan.spec} has no layers to choose, so there is nothing to calibrate: it decides by what it "
            "sees which rows to keep; compose it with a layer method such as vskip(budget=4), or just run it"
        )
    if len(places) != 1:
        raise ValueError(f"one method is calibrated at a time, got {len(places)}: {plan.spec}")
    wanted = plan.methods[places[0]]
    assert isinstance(wanted, BudgetMethod)
    if wanted.is_resolved or wanted.published is not None:
        raise ValueError(f"{wanted} knows its layers already; give {wanted.name} with a budget or flops")
    if budget is not None or flops is not None:
        if sum(given is not None for given in (wanted.budget, wanted.flops, budget, flops)) > 1:
            raise ValueError(f"{wanted.name}: give one budget or one FLOPs ratio")
        wanted = (
            wanted.with_budget(budget) if budget is not None else replace(wanted, budget=None, flops=flops)
        )
    if wanted.needs_budget and wanted.budget is None and wanted.flops is None:
        raise ValueError(f"{wanted.name}: give a budget (how many layers) or a FLOPs ratio to reach")
    found = Wanted(plan, places[0], wanted)
    asks = next((m for m in found.others if m.flops is not None), None)
    if asks is not None:
        raise ValueError(f"{asks}: beside a calibration only {wanted.name} can ask for a FLOPs ratio")
    return found


def reach(loaded: models.Loaded, wanted: Wanted, samples: Sequence[Sample]) -> BudgetMethod:
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


def choose(samples: Iterable[Sample | Entry], num_samples: int | None, draw: Draw, seed: int) -> list[Sample]:
    """Draws samples, or takes all; of entries of a file only those drawn are decoded.

    Raises:
        ValueError: If there are none, or fewer than asked for.
    """
    pool = list(samples)
    if not pool:
        raise ValueError("there are no samples to calibrate on")
    drawn = pool if num_samples is None else draw_samples(pool, num_samples, draw, seed)
    return [item.load() if isinstance(item, Entry) else item for item in drawn]
