"""A search made ready: what may be used on a model, what it costs, and what every skip loses alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from saccade import models
from saccade.calibration.api import score_samples
from saccade.calibration.options import CalibrationOptions
from saccade.calibration.probes import find_probe
from saccade.engine import attached
from saccade.evaluation.runner import count_prompts, generate, mean_cost, refusal, row_counts
from saccade.helpers import Helpers
from saccade.inputs.samples import Sample
from saccade.methods import Method
from saccade.methods.reducer import Reducer
from saccade.models import Loaded
from saccade.plans.plan import Plan
from saccade.system.journal import Journal
from saccade.tuning.judge import Judge
from saccade.tuning.meters import meter_of
from saccade.tuning.price import Pricer, Prompts, typical
from saccade.tuning.questions import Questions
from saccade.tuning.search import Effort, Search
from saccade.tuning.settings import Settings
from saccade.tuning.singles import ORDERED_BY
from saccade.tuning.space import Menu, keeping
from saccade.vllm.work import ServedModel, work_of

PART = 13
"""Samples of a part: the fewest that a plan is measured on, and those on which every skip is tried alone."""


@dataclass(frozen=True)
class Watch:
    """How a tuning says what it does.

    Attributes:
        say: Called with a line of text.
        begin: Called when a part begins, with its name and how many prompts it will run.
        step: Called with the prompts that were run meanwhile.
    """

    say: Callable[[str], None] = field(default_factory=lambda: _silent)
    begin: Callable[[str, int], None] = field(default_factory=lambda: _silent)
    step: Callable[[int], None] = field(default_factory=lambda: _silent)


def _silent(*told: object) -> None:
    """Says nothing."""


def prepared(
    loaded: Loaded,
    questions: Questions,
    settings: Settings,
    journal: Journal,
    watch: Watch,
    helpers: Helpers[Any] | None = None,
) -> Search:
    """A search that is ready to run: what may be used, what it costs, and what every skip loses alone."""
    models.try_longest(loaded, [*questions.search, *questions.held_out])
    layers = loaded.shape.layers
    first = next((sample for sample in questions.search if sample.visual), None)
    if first is None:
        raise ValueError("none of the samples has an image or a video: there is nothing to tune")

    served = ServedModel.of(loaded.model.config) if settings.engine == "vllm" else None

    def runs(method: Method) -> bool:
        try:
            plan = Plan((method,)).resolve(layers)
            if served is not None:
                work_of(plan, served)
        except ValueError:
            return False
        if refusal(loaded, plan, first):
            return False
        return not isinstance(method, Reducer) or foretold(loaded, Plan((keeping(method, 0.5),)), first)

    menu = Menu.of(
        layers,
        settings.allow,
        engine=settings.engine,
        compacts=loaded.family.compact_positions,
        runs=runs,
        recurrent=loaded.shape.recurrent_layers,
    )
    own = attached(loaded.model)
    pricer = Pricer(
        meter_of(loaded, settings, first, journal),
        loaded.shape,
        typical(count_prompts(loaded, questions.search)),
        own.plan if own is not None and own.resident else Plan(),
        shorter_of(loaded, questions.search),
    )
    parts = max(1, len(questions.search) // PART)
    judge = Judge(
        loaded,
        questions.search,
        parts=parts,
        batch_size=settings.batch,
        tokens=settings.tokens,
        journal=journal,
        progress=watch.step,
        helpers=helpers,
    )
    few = judge.parts[0][:PART]
    watch.begin("every skip alone", len(few) * len(menu.skips))
    marginals: dict[tuple[int, str], float] = {}
    for skip in menu.skips:
        done = [0]

        def step(now: int, total: int, done: list[int] = done) -> None:
            watch.step(now - done[0])
            done[0] = now

        found = score_samples(
            loaded,
            few,
            find_probe(ORDERED_BY[skip]),
            CalibrationOptions(answer_tokens=settings.tokens, direction="full-perturbed", check=False),
            checkpoint=journal,
            progress=step,
            helpers=helpers,
        )
        marginals |= {(layer, skip): value for layer, value in enumerate(found.mean)}
    return Search(
        judge, menu, pricer, Effort(settings.passes), marginals, saturated, lambda text: watch.say(text)
    )


def shorter_of(loaded: Loaded, samples: Sequence[Sample]) -> Callable[[Plan], Prompts]:
    """Counts the prompts of samples as plans make them that shrink pictures, once for every size."""
    known: dict[float, Prompts] = {}

    def shorter(plan: Plan) -> Prompts:
        scale = models.image_scale(plan)
        if scale not in known:
            known[scale] = typical(count_prompts(loaded, samples, plan))
        return known[scale]

    return shorter


OFF = 0.05
"""Share of the cache by which what a method leaves may differ from its price, for counts are rounded."""


def foretold(loaded: Loaded, plan: Plan, sample: Sample) -> bool:
    """Whether what a plan leaves of a prompt is what its price says, so that a search can rely on it.

    Of methods that merge inside the tower the price hangs on how deep towers usually are.

    Args:
        loaded: The model.
        plan: The plan; it makes no pictures smaller.
        sample: A question with an image.
    """
    plan = plan.resolve(loaded.shape.layers)
    inputs = models.inputs(loaded, [sample])
    _, spent = generate(loaded, inputs, plan, 1)
    priced = mean_cost(loaded, plan, Counter(row_counts(loaded, inputs)))
    return spent is None or abs(spent["kv_bytes"] - priced["kv_bytes"]) <= OFF * priced["dense_kv_bytes"]


def saturated(kl: float) -> float:
    """What the search makes small on average: the chance that an answer is another, 1 - exp(-KL).

    The mean KL itself is ruled by a few answers that are lost anyway, once rows that they need are dropped.
    """
    return 1 - math.exp(-kl)
