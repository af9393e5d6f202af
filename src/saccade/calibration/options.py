"""What a calibration is asked for: one value, made once by the command line or Python, and passed whole."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from saccade.calibration.drawing import Draw, check_draw, draw
from saccade.calibration.measures import Direction, check_answer_tokens, check_direction
from saccade.calibration.probes import Probe, probe_for
from saccade.inputs.data import Entry
from saccade.inputs.samples import Sample
from saccade.methods import BudgetMethod, Method
from saccade.plans.plan import Plan

ETA = 3e-3
"""VTW's threshold for LLaVA-1.5-7B, and its default; 5e-4 for 13B, 1e-4 for LLaVA-1.6 (official code)."""


@dataclass(frozen=True)
class CalibrationOptions:
    """What is to be chosen, by which score, and on which samples.

    Attributes:
        method: Name, spec string (``"vskip(budget=4)"``) or method whose layers are to be chosen, or whose
            rows are fitted (``"fitprune(flops=0.5)"``, which needs a FLOPs ratio, no budget and no score).
            Reducers beside it (``"fastv(keep=0.5)+vskip(budget=4)"``) come into the plan as they are; layers
            are scored without them.
        budget: How many layers it may touch. VTW needs none: it takes the smallest K under ``eta``.
        flops: FLOPs ratio to reach instead, on the prompts of these samples, with the fewest layers.
        score: How layers are scored (``vig``, ``lc``, ``ffn``, ``cosine``, ``random``, ``withdrawal``); the
            method's own if omitted.
        num_samples: How many of the samples to draw; all of them, in their order, if omitted.
        draw: ``global``, or ``stratified`` by sub-task.
        seed: Of the draw, and of ``score="random"``.
        direction: Of the KL.
        answer_tokens: Over how many tokens of the model's own greedy answer, its end included, a score is
            summed; 1 looks at the first alone, as the papers do. More for tasks with answers of several
            tokens: a layer may matter for the second and not for the first.
        eta: Largest mean KL (nats) at which VTW withdraws.
        check: Also run brute force on the last sample, for the cost ratio and the largest difference.

    Raises:
        ValueError: If a value is none that can be meant.
    """

    method: str | Method = "vskip"
    budget: int | None = None
    flops: float | None = None
    score: str | None = None
    num_samples: int | None = None
    draw: Draw = "global"
    seed: int = 0
    direction: Direction = "perturbed-full"
    answer_tokens: int = 1
    eta: float = ETA
    check: bool = True

    def __post_init__(self) -> None:
        check_draw(self.draw)
        check_direction(self.direction)
        check_answer_tokens(self.answer_tokens)
        if not self.eta >= 0:
            raise ValueError(f"eta is a KL in nats and not negative, got {self.eta}")

    @classmethod
    def of(cls, method: str | Method | CalibrationOptions, settings: dict[str, Any]) -> CalibrationOptions:
        """From options, or from a method and the fields of this class by keyword."""
        return replace(method, **settings) if isinstance(method, cls) else cls(method, **settings)  # type: ignore[arg-type]

    @cached_property
    def wanted(self) -> Wanted:
        """What is asked for of the plan.

        Raises:
            ValueError: If there are several methods to calibrate, its layers are known, there are only
                reducers, or its budget is missing or given twice.
        """
        return _wanted(self.method, self.budget, self.flops)

    @property
    def probe(self) -> Probe:
        """The score that chooses the layers.

        Raises:
            ValueError: As ``wanted``, or if there is no such score, or it does not fit the method.
        """
        return probe_for(self.wanted.method, self.score)

    @property
    def fits(self) -> bool:
        """Whether rows are fitted to attention, rather than layers chosen by a score.

        Raises:
            ValueError: As ``wanted``, or if something is asked for that has no meaning then.
        """
        fitted = self.wanted.method.fitted
        if fitted and (self.score is not None or self.answer_tokens != 1):
            raise ValueError(
                f"{self.wanted.method.name} is fitted to what the prompt attends to: there is no score to "
                "choose, and no answer is looked at; leave score and answer_tokens out"
            )
        return fitted

    def check_fit(self) -> None:
        """Refuses what ``calibrate`` would refuse, before a model is loaded.

        Raises:
            ValueError: As ``wanted`` and ``probe``.
        """
        assert self.fits or self.probe

    @property
    def drawn(self) -> str:
        """How the samples are drawn, as a plan tells it."""
        return self.draw if self.num_samples is not None else "all"

    def choose(self, samples: Iterable[Sample | Entry]) -> list[Sample]:
        """Draws samples, or takes all; of entries of a file only those drawn are decoded.

        Raises:
            ValueError: If there are none, or fewer than asked for.
        """
        pool = list(samples)
        if not pool:
            raise ValueError("there are no samples to calibrate on")
        chosen = pool if self.num_samples is None else draw(pool, self.num_samples, self.draw, self.seed)
        return [item.load() if isinstance(item, Entry) else item for item in chosen]


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
    method: Method

    @property
    def others(self) -> tuple[Method, ...]:
        """The methods beside it."""
        return (*self.plan.methods[: self.place], *self.plan.methods[self.place + 1 :])

    def with_method(self, method: Method) -> Plan:
        """The whole plan with another method in the place of the one that is calibrated."""
        methods = (*self.plan.methods[: self.place], method, *self.plan.methods[self.place + 1 :])
        return Plan(methods)


def _wanted(method: str | Method, budget: int | None, flops: float | None) -> Wanted:
    """The one method that is asked for, alone or beside reducers, which have nothing to calibrate."""
    plan = Plan.of(method)
    places = [i for i, m in enumerate(plan.methods) if isinstance(m, BudgetMethod)]
    if all(plan.methods[i].is_resolved for i in places):
        places = [i for i, m in enumerate(plan.methods) if m.fitted] or places
    if not places and plan.methods:
        raise ValueError(
            f"{plan.spec} has no layers to choose, so there is nothing to calibrate: it decides by what it "
            "sees which rows to keep; compose it with a layer method such as vskip(budget=4), or just run it"
        )
    if len(places) != 1:
        raise ValueError(f"one method is calibrated at a time, got {len(places)}: {plan.spec}")
    chosen = plan.methods[places[0]]
    wanted = (
        _layers_of(chosen, budget, flops)
        if isinstance(chosen, BudgetMethod)
        else _rows_of(chosen, budget, flops)
    )
    found = Wanted(plan, places[0], wanted)
    asks = next((m for m in found.others if m.flops is not None), None)
    if asks is not None:
        raise ValueError(f"{asks}: beside a calibration only {wanted.name} can ask for a FLOPs ratio")
    return found


def _rows_of(wanted: Method, budget: int | None, flops: float | None) -> Method:
    """A method whose rows are fitted, with the FLOPs ratio that is asked for."""
    if budget is not None or None not in (flops, wanted.flops):
        raise ValueError(f"{wanted.name} is fitted to one FLOPs ratio, such as 0.5; give no budget beside it")
    ratio = wanted.flops if flops is None else flops
    if ratio is None or any(key not in ("flops", "of", "position_policy") for key in wanted.parameters()):
        raise ValueError(
            f"{wanted}: give {wanted.name} and a FLOPs ratio to reach; how many rows leave where is what is "
            "looked for"
        )
    return replace(wanted, flops=ratio)


def _layers_of(wanted: BudgetMethod, budget: int | None, flops: float | None) -> BudgetMethod:
    """A method whose layers are chosen, with the budget or FLOPs ratio that is asked for."""
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
    return wanted
