"""The model of a run: loaded, wrapped, its plan and adapters put on, its trained parts chosen; and saved."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from saccade import models
from saccade.engine import Attachment, apply
from saccade.models import Loaded
from saccade.opening import Opening
from saccade.opening.bars import quiet_bars
from saccade.plans.plan import Plan
from saccade.system.files import write_folder
from saccade.training import parts
from saccade.training.config import LoraSettings, TrainingConfig


@dataclass(frozen=True, eq=False)
class Built:
    """A model that is ready to train.

    Attributes:
        loaded: The model with its processor.
        model: What is trained: the model, or the adapters' wrapper around it.
        plan: The plan that is on it while it trains, or None.
        skips: Whether Skip-Vision wraps it.
    """

    loaded: Loaded
    model: nn.Module
    plan: Attachment | None
    skips: bool


def build(config: TrainingConfig) -> Built:
    """Loads the model and makes it ready to train.

    Raises:
        ValueError: If it cannot be loaded, or a plan or adapter does not fit it.
    """
    how = Opening(
        dtype=config.model.dtype, device="cpu", revision=config.model.revision, attn=config.model.attn
    )
    loaded = models.open_as(config.model.name, how)
    settings = check(config)
    from saccade import skip_vision

    if settings is not None:
        loaded = skip_vision.wrap(loaded, settings)
    model, adapters = loaded.model, set()
    if config.lora is not None:
        chosen = parts.linear_names(loaded.model, loaded.family, config.lora.targets)
        model = adapted(loaded, config.lora, chosen)
        adapters = {id(p) for n, p in model.named_parameters() if "lora_" in n}
    trained = [part for part in config.parts if not (part == "decoder" and adapters)]
    parts.choose(model, loaded.family, trained)
    for parameter in model.parameters():
        if id(parameter) in adapters:
            parameter.requires_grad_(True)
    plan = apply(model, config.plan) if config.plan is not None else None
    return Built(loaded, model, plan, skip_vision.wrapped(loaded.model) is not None)


def check(config: TrainingConfig) -> Any:
    """Reads what other rooms will read of the configuration, before anything takes long.

    Returns:
        Settings of Skip-Vision, or None.

    Raises:
        ValueError: If the plan or Skip-Vision's settings cannot be read.
    """
    if config.plan is not None and Plan.of(config.plan).adapter is not None:
        raise ValueError(
            f"plan: {config.plan} brings an adapter, under which nothing trains: merge it into a folder "
            "(saccade heal --merge) and train that under the plan beside it"
        )
    if config.model.skip_vision is None:
        return None
    from saccade import skip_vision

    return skip_vision.SkipVisionConfig.from_dict(dict(config.model.skip_vision))


def adapted(loaded: Loaded, settings: LoraSettings, chosen: Sequence[str]) -> nn.Module:
    """PEFT's wrapper around a model, with adapters on some of its linear modules.

    Args:
        loaded: The model.
        settings: The adapters.
        chosen: Full names of the modules.

    Raises:
        ValueError: If peft is not installed.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise ValueError("lora needs the peft package: pip install peft") from None
    lora = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]
        lora_dropout=settings.dropout,
        target_modules=list(chosen),
    )
    with warnings.catch_warnings():
        # It asks for a property that transformers has renamed.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        return get_peft_model(loaded.model, lora)


def finish(built: Built, weights: Mapping[str, torch.Tensor] | None, config: TrainingConfig) -> Loaded:
    """Takes off what was on the model for training alone, and merges adapters into it.

    Args:
        built: The trained model.
        weights: The whole of its parameters, where the process holds shards only; a fresh model gets them.
        config: The run's configuration.

    Returns:
        The model as users load it, in eval mode.
    """
    if weights is not None:
        built = build(config)
        named = dict(built.model.named_parameters())
        with torch.no_grad():
            for name, parameter in named.items():
                parameter.copy_(weights[name])
    if built.plan is not None:
        built.plan.remove()
    model: Any = built.model
    if config.lora is not None:
        model = model.merge_and_unload()
    recompute_no_more(model)
    return replace(built.loaded, model=model.eval())


def recompute_no_more(model: Any) -> None:
    """Switches gradient checkpointing off."""
    # Methods of two names within the versions we support.
    for off in ("activation_checkpointing_disable", "gradient_checkpointing_disable"):
        if hasattr(model, off):
            getattr(model, off)()
            break


def save(loaded: Loaded, skips: bool, folder: Path) -> Path:
    """Writes a folder that `saccade.models.load` reads; whole, or not at all.

    Args:
        loaded: The finished model.
        skips: Whether Skip-Vision wraps it.
        folder: Where; replaced if present.
    """
    if skips:
        from saccade import skip_vision

        return skip_vision.save(loaded, folder)
    with write_folder(folder) as fresh, quiet_bars():
        loaded.model.save_pretrained(fresh)
        loaded.processor.save_pretrained(fresh)
    return folder
