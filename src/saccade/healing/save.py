"""The files of a healing: the adapter, the plan that brings it, and a model with it in its weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saccade import skip_vision
from saccade.engine.healed import put_on
from saccade.models import Loaded
from saccade.opening.deltas import write_deltas
from saccade.opening.digest import weights_digest
from saccade.plans.adapter import AdapterRef, bound_to
from saccade.plans.plan import Plan
from saccade.system.files import disk_trouble, write_folder
from saccade.training.build import save
from saccade.training.config import LoraSettings

PLAN, ADAPTER = "plan.json", "adapter"
MODEL, MODEL_PLAN = "model", "model.plan.json"
"""Folder of the merged model, and the plan that goes on it."""

KEPT = "the run is kept in its checkpoints; make room and repeat the command"


def write_adapter(
    model: Any, loaded: Loaded, plan: Plan, lora: LoraSettings, made_for: Mapping[str, str], folder: Path
) -> str:
    """Writes a trained adapter in PEFT's format, bound to its plan and weights.

    Args:
        model: PEFT's wrapper with the adapter.
        loaded: The model under it.
        plan: The plan that it was trained under.
        lora: Its settings.
        made_for: ``weights_hash`` and ``dtype`` of the model.
        folder: Folder of the run.

    Returns:
        The adapter's digest.
    """
    from peft import get_peft_model_state_dict

    with disk_trouble(f"the adapter to {folder / ADAPTER}", KEPT), write_folder(folder / ADAPTER) as fresh:
        config = model.peft_config["default"]
        config.base_model_name_or_path, config.inference_mode = loaded.name, True
        config.save_pretrained(str(fresh))
        tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
        return write_deltas(fresh, tensors, lora.alpha / lora.rank, bound_to(plan.spec), made_for)


def healed_plan(
    loaded: Loaded,
    plan: Plan,
    digest: str,
    made_for: Mapping[str, str],
    facts: Mapping[str, Any],
    folder: Path,
) -> Plan:
    """Writes the plan with its adapter.

    How its layers were chosen stays noted; what the unhealed plan was sure of does not.

    Args:
        loaded: The model.
        plan: The plan that was healed.
        digest: Of the adapter.
        made_for: ``weights_hash`` and ``dtype`` of the model.
        facts: How it was healed.
        folder: Folder of the run.
    """
    before = dict(plan.calibration)
    if "tuned" in before:
        before["tuned"] = {key: value for key, value in before["tuned"].items() if key != "unsure"}
    healed = Plan(
        plan.methods,
        loaded.family.identity(loaded.model),
        {**before, **made_for, "healed": dict(facts)},
        adapter=AdapterRef(str(folder.resolve() / ADAPTER), digest),
    )
    healed.save(folder / PLAN)
    return healed


def merge(loaded: Loaded, healed: Plan, folder: Path) -> dict[str, Path]:
    """Writes a model folder with the adapter in its weights, and beside it the plan that goes on it.

    Without a plan that model answers otherwise than the dense one: its weights are those of the healed plan.

    Args:
        loaded: The model.
        healed: The plan with its adapter.
        folder: Folder of the run.

    Returns:
        What was written, by name.
    """
    assert healed.adapter is not None
    target = folder / MODEL
    back = put_on(loaded.model, healed.adapter, saved=True)
    try:
        with disk_trouble(f"the model to {target}", KEPT):
            save(loaded, skip_vision.wrapped(loaded.model) is not None, target)
        facts = {**healed.calibration, "weights_hash": weights_digest(loaded.model)}
    finally:
        back()
    Plan(healed.methods, healed.model, facts).save(folder / MODEL_PLAN)
    return {"model": target, "model_plan": folder / MODEL_PLAN}
