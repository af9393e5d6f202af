"""Another plan of the same model on an engine that runs: for measurements in one process."""

from __future__ import annotations

import functools
from typing import Any

from saccade.plans.plan import Plan, PlanLike
from saccade.vllm.inside.asked import serving_of
from saccade.vllm.serving import check_serving
from saccade.vllm.work import PlanWork, ServedModel, work_of


def exchange(llm: Any, plan: PlanLike) -> None:
    """Serves another plan from now on, under the checks that an engine is started with.

    Args:
        llm: An engine (``vllm.LLM``) that was started under a plan.
        plan: The plan; ``"dense"`` for none.

    Raises:
        ValueError: If the engine was started without a plan, or may not serve this one.
    """
    config, processor = llm.llm_engine.vllm_config, llm.llm_engine.renderer.mm_processor
    if not hasattr(processor, "saccade"):
        raise ValueError("this engine was started without a plan; start it under one to exchange it")
    work = work_of(Plan.of(plan), ServedModel.of(config.model_config.hf_config))
    check_serving(work, serving_of(config))
    processor.saccade = processor.info.saccade = work
    llm.apply_model(functools.partial(_take, work))


def _take(work: PlanWork, model: Any) -> None:
    model.use_plan(work)
