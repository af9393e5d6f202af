"""Quantising the weights as they are read: by torchao, or by bitsandbytes for what only it has."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch

from saccade.opening.settings import Opening

KEPT = ("lm_head", "vision_tower", "visual", "multi_modal_projector")
"""Modules that stay as they are: the head, and what sees; a tower is small beside its decoder, and the scores
that some methods read in it are of its own precision."""


def config_of(opening: Opening, device: torch.device) -> Any:
    """The quantisation configuration of an opening, as from_pretrained takes it; None without one.

    Raises:
        ValueError: If what it takes is not installed, or the device cannot run it.
    """
    if opening.quantize is None:
        return None
    if opening.quantize == "nf4":
        return _bitsandbytes()
    if importlib.util.find_spec("torchao") is None:
        raise ValueError(f"quantize {opening.quantize} needs torchao: pip install torchao")
    return _torchao(opening.quantize, device)


def _bitsandbytes() -> Any:
    from transformers import BitsAndBytesConfig

    if importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError("quantize nf4 needs bitsandbytes: pip install bitsandbytes")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=list(KEPT),
    )


def _torchao(kind: str, device: torch.device) -> Any:
    from torchao import quantization
    from transformers import TorchAoConfig

    if kind == "int8":
        how = quantization.Int8WeightOnlyConfig()
    elif kind == "int4":
        how = quantization.Int4WeightOnlyConfig(group_size=128)
    else:
        how = quantization.Float8WeightOnlyConfig()
    return TorchAoConfig(how, modules_to_not_convert=list(KEPT))
