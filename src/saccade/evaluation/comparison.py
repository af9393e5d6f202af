"""Evaluates plans against the stock model on the same questions."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from saccade.engine import apply
from saccade.evaluation.asked import name_plans
from saccade.evaluation.options import EvaluationOptions
from saccade.evaluation.results import Comparison, Evaluation, score
from saccade.evaluation.runner import (
    BLIND,
    DENSE,
    AnswerRun,
    Answers,
    answer,
    mean_cost,
    real_cost,
    stock_cost,
)
from saccade.evaluation.whole import with_whole
from saccade.helpers import Helpers
from saccade.inputs.samples import Sample
from saccade.models import Loaded, wrap
from saccade.plans.plan import Plan, PlanLike
from saccade.system.journal import Journal


def evaluate(
    model: Any,
    processor: Any,
    samples: Sequence[Sample],
    plan: PlanLike | None = None,
    options: EvaluationOptions | None = None,
    **settings: Any,
) -> Evaluation:
    """Scores a model under a plan by each sample's rule, paired with the stock model on the same questions.

    Args:
        model: A stock VLM.
        processor: Its processor.
        samples: Questions with reference answers and distinct ids.
        plan: What to skip; None scores the stock model.
        options: How questions are asked.
        **settings: Fields of `EvaluationOptions` instead: ``batch_size``, ``max_new_tokens``, ``blind``.

    Raises:
        ValueError: If there are no samples, an id repeats, an answer is missing or the plan is unresolved.
    """
    plans = {} if plan is None else {"plan": plan}
    found = compare(model, processor, samples, plans, options, **settings)
    return found.dense if plan is None else found.plans["plan"]


def compare(
    model: Any,
    processor: Any,
    samples: Sequence[Sample],
    plans: Mapping[str, PlanLike] | Sequence[PlanLike],
    options: EvaluationOptions | None = None,
    *,
    ledger: Journal | str | os.PathLike | None = None,
    helpers: Helpers[Any] | None = None,
    **settings: Any,
) -> Comparison:
    """Scores several plans; the stock model and the blind one answer once for all of them.

    Args:
        model: A stock VLM.
        processor: Its processor.
        samples: Questions with reference answers and distinct ids.
        plans: Plans by name, or plans alone, which are then named by their spec (and adapter).
        options: How questions are asked.
        ledger: Journal, or its file, that keeps finished cells, so that an interrupted call resumes; the
            caller finishes it, or removes the file, once the result is safe.
        helpers: Other processes that answer too, of the same model (`saccade.helpers`).
        **settings: Fields of `EvaluationOptions` instead: ``batch_size``, ``max_new_tokens``, ``blind``.

    Raises:
        ValueError: If there are no samples, an id repeats, an answer is missing or a plan is unresolved.
    """
    how = replace(options or EvaluationOptions(), **settings)
    check_samples(samples)
    loaded = wrap(model, processor)
    named = name_plans(plans)
    check_plans(loaded, named)
    found = answer(loaded, samples, runs_of(named, how.blind), how, ledger=ledger, helpers=helpers)
    return tally(loaded, named, found)


def runs_of(plans: Mapping[str, Plan], blind: bool) -> list[AnswerRun]:
    """Columns to run: dense, blind if asked, and each distinct plan once (an empty plan is dense)."""
    runs = [AnswerRun(DENSE)] + [AnswerRun(BLIND, blind=True)] * blind
    distinct = {plan.key: plan for plan in plans.values() if plan.methods}
    return runs + [AnswerRun(key, plan) for key, plan in distinct.items()]


def tally(loaded: Loaded, plans: Mapping[str, Plan], found: Answers) -> Comparison:
    """Scores answers of the runs that ``runs_of`` named.

    Costs are those of the routes that ran; of answers that were kept without them, those of the closed form.
    """
    dense, blind = found.predictions[DENSE], found.predictions.get(BLIND)
    stock = stock_cost(loaded, found.prompts, found.spent.get(DENSE, ()))

    def price(plan: Plan) -> dict[str, float]:
        ran = real_cost(stock, found.spent.get(plan.key, ())) if plan.methods else stock
        spent = mean_cost(loaded, plan, found.prompts) if ran is None else ran
        return with_whole(loaded, plan, spent, found.seen, sum(found.prompts.values()))

    plain = price(Plan())
    return Comparison(
        score(DENSE, DENSE, dense, dense, blind, plain),
        None if blind is None else score(BLIND, DENSE, blind, dense, blind, plain),
        {
            name: score(name, plan.spec, found.predictions[plan.key], dense, blind, price(plan))
            for name, plan in plans.items()
        },
    )


def check_plans(loaded: Loaded, plans: Mapping[str, Plan]) -> None:
    """Refuses what cannot be applied before anything runs.

    Raises:
        ValueError: If a plan is unresolved, for another model, or does not fit the depth.
    """
    for name, plan in plans.items():
        if not plan.is_resolved:
            raise ValueError(f"plan {name!r} does not know its layers: calibrate it, or give layers=...")
        apply(loaded.model, plan).remove()


def check_samples(samples: Sequence[Sample]) -> None:
    """Refuses samples that cannot be scored.

    Raises:
        ValueError: If there are none, one has no answer, or an id repeats.
    """
    if not samples:
        raise ValueError("there are no samples to evaluate")
    nameless = next((s.id for s in samples if not s.answer.strip()), None)
    if nameless is not None:
        raise ValueError(f"sample {nameless!r} has no answer; evaluation needs one for every sample")
    ids = [s.id for s in samples]
    if len(set(ids)) < len(ids):
        raise ValueError(f"sample ids repeat: {len(ids)} samples, {len(set(ids))} distinct ids")
