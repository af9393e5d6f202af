"""Quantising the weights as they are read: by torchao, or by bitsandbytes for what only it has."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from transformers import PreTrainedConfig

from saccade.families import find
from saccade.opening.settings import Opening

GROUP = 32
"""Weights of int4 that share a scale; the widths of every family divide by it."""


def config_of(opening: Opening, config: PreTrainedConfig, device: torch.device) -> Any:
    """The quantisation of an opening, as from_pretrained takes it; None without one.

    The decoder's layers alone are quantised: the head and what sees are small beside them, and some methods
    read scores in the tower. ``config`` is the model's.

    Raises:
        ValueError: If what it takes is not installed, or the device cannot run it.
    """
    if opening.quantize is None:
        return None
    kept = ["lm_head", *find(config, opening.generic).tower_modules]
    if opening.quantize == "nf4":
        wanted = opening.torch_dtype()
        known: Any = config.dtype or getattr(config.get_text_config(), "dtype", None)
        return _bitsandbytes(wanted if isinstance(wanted, torch.dtype) else known or torch.bfloat16, kept)
    if importlib.util.find_spec("torchao") is None:
        raise ValueError(f"quantize {opening.quantize} needs torchao: pip install torchao")
    return _torchao(opening.quantize, device, kept)


def _bitsandbytes(dtype: torch.dtype, kept: list[str]) -> Any:
    from transformers import BitsAndBytesConfig

    if importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError("quantize nf4 needs bitsandbytes: pip install bitsandbytes")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=kept,
    )


def _torchao(kind: str, device: torch.device, kept: list[str]) -> Any:
    from torchao import quantization
    from transformers import TorchAoConfig

    how: Any
    if kind == "int8":
        how = quantization.Int8WeightOnlyConfig()
    elif kind == "fp8":
        how = quantization.Float8WeightOnlyConfig()
    elif device.type == "cuda":
        # The one format of torchao whose kernel is torch's own.
        how = quantization.Int4WeightOnlyConfig(GROUP, int4_packing_format="tile_packed_to_4d")
    else:
        # No kernel on a CPU packs two in a byte: the numbers are of 4 bits, each in a byte of its own.
        four: Any = getattr(torch, "int4")  # noqa: B009
        how = quantization.IntxWeightOnlyConfig(four, quantization.PerGroup(GROUP))
    return TorchAoConfig(how, modules_to_not_convert=kept)
