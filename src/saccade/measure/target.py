"""What is measured: a preset shape with random weights, or a model with its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from saccade.core.shapes import SHAPES, ModelShape
from saccade.families import FAMILIES, Family, Parts, find, unwrap
from saccade.opening import Opening
from saccade.opening.opened import note_opened
from saccade.plans.names import check_target, preset_names

if TYPE_CHECKING:
    from saccade.plans.plan import Plan
    from saccade.skip_vision.accounting import Laid

FAMILY_OF = {
    "llava-1.5-7b": "llava",
    "llava-1.5-13b": "llava",
    "llava-llama3-8b": "llava",
    "llava-next-7b": "llava_next",
    "llava-next-13b": "llava_next",
    "llava-next-video-7b": "llava_next_video",
    "qwen2-vl-7b": "qwen2_vl",
    "qwen2.5-vl-7b": "qwen2_5_vl",
    "qwen3-vl-8b": "qwen3_vl",
    "qwen3-vl-30b-a3b": "qwen3_vl_moe",
    "qwen3.5-9b": "qwen3_5",
    "qwen3.5-35b-a3b": "qwen3_5_moe",
    "lfm2.5-vl-1.6b": "lfm2_vl",
    "llava-onevision-7b": "llava_onevision",
    "smolvlm-256m": "idefics3",
    "smolvlm2-2.2b": "smolvlm",
    "mistral-small-3.1-24b": "mistral3",
    "pixtral-12b": "llava+pixtral",
    "glm-4.1v-9b": "glm4v",
    "glm-4.5v": "glm4v_moe",
    "internvl3-8b": "internvl",
    "gemma-3-4b": "gemma3",
    "paligemma2-3b": "paligemma",
    "molmo2-8b": "molmo2",
    "llama-4-scout": "llama4",
}
"""Model type of each preset shape."""

CPU_LAYERS = 4
"""Layers of a preset shape that are built on a CPU unless told otherwise: full width, few layers."""

HEADROOM = 0.9
"""Share of the free memory a bench may plan for."""


@dataclass(frozen=True, eq=False)
class Target:
    """A model to measure.

    Attributes:
        name: What the user called it.
        model: The model, on its device, in eval mode.
        family: Its adapter.
        shape: Sizes of the decoder as it was built.
        depth: Layers of the model it stands for; more than ``shape.layers`` where only a few were built.
        real: Whether the weights are real rather than random.
        loaded: What ``saccade.models.load`` gave, where the weights are real.
        laid: How a Skip-Vision model lays its images out; None for stock models.
    """

    name: str
    model: nn.Module
    family: Family
    shape: ModelShape
    depth: int
    real: bool
    loaded: Any = None
    laid: Laid | None = None

    @property
    def parts(self) -> Parts:
        """Modules of the model."""
        return self.family.parts(self.model)


def shape_of(name: str, opening: Opening | None = None) -> ModelShape:
    """Sizes of a preset shape, of a model folder or of a hub model; no weights are read.

    The visual rows of a Skip-Vision model's folder are those that its layout makes.

    Args:
        name: Which.
        opening: Which revision of a hub model, and whether its code may run.

    Raises:
        ValueError: If it is none of these, or of an unknown family.
    """
    if name in SHAPES:
        return SHAPES[name]
    from saccade.models import load_config

    check_target(name)
    try:
        config = load_config(name, opening)
    except ValueError as error:
        raise ValueError(f"{error} ({preset_names()})") from None
    family = find(config, opening is not None and opening.generic)
    shape, laid = family.shape(config, name), laid_of(name, opening)
    return shape if laid is None else replace(shape, visual=laid.visual)


def preset_print(name: str) -> dict[str, Any]:
    """What a preset shape says of a model's fingerprint, for ``Plan.check_shape``."""
    shape = SHAPES[name]
    sizes = ("layers", "hidden", "heads", "kv_heads", "head_dim", "ffn")
    return {
        "model_type": FAMILY_OF[name].partition("+")[0],
        "text": {size: getattr(shape, size) for size in sizes},
    }


def check_plan(name: str, plan: Plan, opening: Opening | None = None) -> None:
    """Refuses a plan that was made for another shape than that of a preset, a model folder or a hub model.

    Raises:
        ValueError: If it was; no weights are read, so nothing is said of those.
    """
    if not plan.model:
        return
    if name in SHAPES:
        plan.check_shape(preset_print(name), part=True)
        return
    from saccade import skip_vision
    from saccade.models import load_config

    plan.check_shape(skip_vision.identity(name, load_config(name, opening), opening))


def laid_of(name: str, opening: Opening | None = None) -> Laid | None:
    """How a Skip-Vision model lays images out, from its configuration; None for other models.

    Args:
        name: A preset shape, a folder, a hub id or an embedded model.
        opening: Which revision of a hub id.

    Raises:
        ValueError: If its configuration cannot be read.
    """
    from saccade import skip_vision
    from saccade.models import load_config
    from saccade.skip_vision.accounting import laid_out

    folder = None if name in SHAPES else skip_vision.folder_of(name, opening or Opening())
    if folder is None:
        return None
    config = load_config(str(folder))
    return laid_out(skip_vision.read_config(folder), find(config), config)


def of_model(model: nn.Module, name: str = "") -> Target:
    """A target for a model that is loaded already."""
    family = find(model)
    config: Any = unwrap(model).config
    shape, laid = family.shape(config, name), _laid(model, family)
    if laid is not None:
        shape = replace(shape, visual=laid.visual)
    return Target(shape.name, model, family, shape, shape.layers, True, laid=laid)


def build(
    name: str,
    *,
    layers: int | None,
    batch: int,
    rows: int,
    dtype: torch.dtype | None,
    device: torch.device,
    seed: int = 0,
    opening: Opening | None = None,
) -> Target:
    """Builds a preset shape with random weights, or loads a model with its own.

    Args:
        name: A preset shape, a model folder, a hub id or ``glance``.
        layers: Decoder layers to build of a preset shape, see ``layers_to_build``.
        batch: Samples that will run together.
        rows: Rows of each, new tokens included.
        dtype: Number format; random weights are float32 if None; real ones as saved, or as the opening says.
        device: Where to.
        seed: Seed of the random weights.
        opening: How a model with weights is opened; of a preset shape the attention alone is taken.

    Raises:
        ValueError: If it is unknown or does not fit the memory, or ``layers`` is given for real weights.
    """
    if name not in SHAPES:
        refuse_layers(name, layers)
        from saccade.models import open_as

        loaded = open_as(name, opening or Opening(dtype=dtype, device=str(device)))
        shape = loaded.shape
        laid = _laid(loaded.model, loaded.family)
        return Target(name, loaded.model.eval(), loaded.family, shape, shape.layers, True, loaded, laid)
    preset = SHAPES[name]
    dtype = dtype or torch.float32
    wanted = layers_to_build(preset, layers, batch, rows, dtype, device)
    family = FAMILIES[FAMILY_OF[name]]
    with _default(dtype), device, _Bare():
        model: Any = family.model_class()(family.config(preset, wanted))
    opening = Opening(dtype=dtype, attn="sdpa" if opening is None else opening.attn)
    if opening.attn != "sdpa":
        model.set_attn_implementation(opening.attn)
    note_opened(model, opening)
    fill_random(model, seed)
    built = replace(preset, layers=wanted)
    return Target(name, model.eval().requires_grad_(False), family, built, preset.layers, False)


def shape_dtype(opening: Opening, device: torch.device) -> torch.dtype:
    """Number format of a preset shape: bfloat16 on a GPU, float32 on a CPU, unless told otherwise."""
    found = opening.torch_dtype()
    if isinstance(found, torch.dtype):
        return found
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def refuse_opening(name: str, opening: Opening) -> None:
    """Refuses options that open a model of a preset shape, which is built.

    Raises:
        ValueError: If there are others than device, number format and attention.
    """
    if name in SHAPES and opening.but(device=None, dtype=None, attn="sdpa") != Opening():
        raise ValueError(
            f"{name} is a preset shape, built with random weights: of the options that open a model it takes "
            "--device, --dtype and --attn"
        )


def refuse_layers(name: str, layers: int | None) -> None:
    """Refuses a number of layers for a model that is loaded rather than built.

    Raises:
        ValueError: If a number is given.
    """
    if layers is not None:
        raise ValueError(f"--layers builds part of a preset shape; {name} has weights and runs whole")


def layers_to_build(
    shape: ModelShape, layers: int | None, batch: int, rows: int, dtype: torch.dtype, device: torch.device
) -> int:
    """How many decoder layers of a preset shape a bench builds.

    Args:
        shape: The whole model's sizes.
        layers: What the user asked for; if None, on a CPU 4, on a GPU all or what fits.
        batch: Samples that will run together.
        rows: Rows of each, new tokens included.
        dtype: Number format.
        device: Where to.

    Raises:
        ValueError: If the model has fewer layers, or the memory does not hold them; it says what would fit.
    """
    if layers is not None and not 1 <= layers <= shape.layers:
        raise ValueError(f"{shape.name} has {shape.layers} layers, cannot build {layers}")
    first = next((n for n, one in enumerate(shape.each_layer) if one.recurrent is None), 0)
    if layers is not None and layers <= first:
        # A stock cache counts rows in a layer that has attention.
        raise ValueError(
            f"the first {first} layers of {shape.name} are recurrent, and a decoder needs attention: "
            f"build at least {first + 1} (--layers)"
        )
    free = free_memory(device)
    fits = layers_that_fit(shape, batch, rows, dtype.itemsize, free)
    usual = min(shape.layers, CPU_LAYERS) if device.type == "cpu" else fits
    wanted = max(usual if layers is None else layers, first + 1)
    if wanted <= fits:
        return wanted
    need = memory_estimate(shape, wanted, batch, rows, dtype.itemsize) / 2**30
    smaller = "take a smaller --batch or --visual, or a 2-byte --dtype"
    raise ValueError(
        f"{shape.name} with {wanted} layers needs about {need:.1f} GiB (weights, cache, activations), "
        f"{free / 2**30:.1f} GiB are free on {device}; {f'--layers {fits} would fit' if fits else smaller}"
    )


class _Bare(TorchFunctionMode):
    """Skips random initialisation while a model is built, for its weights are filled afterwards."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if name in _DRAWS:
            tensor = args[0] if args else (kwargs or {})["tensor"]
            # Truncated normals redraw what lies outside until nothing does, or (torch 2.11) bend a uniform
            # draw: old memory may never fit, or bend to NaN.
            if name in ("normal_", "uniform_"):
                tensor.detach().zero_()
            return tensor
        return func(*args, **(kwargs or {}))


_DRAWS = {"normal_", "uniform_", "trunc_normal_", "kaiming_uniform_", "kaiming_normal_", "xavier_uniform_"}


@torch.no_grad()
def fill_random(model: nn.Module, seed: int, scale: float = 0.02) -> None:
    """Gives a bare model weights that are good enough to be timed: matrices repeat one block of noise.

    Args:
        model: A model whose parameters are not initialised.
        seed: Seed of the block.
        scale: Standard deviation of the matrices; biases become 0 and gains 1.
    """
    # A prime length, so that no two rows of a matrix are alike.
    noise = torch.randn(4_194_301, generator=torch.Generator().manual_seed(seed)) * scale
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
            continue
        noise = noise.to(parameter.device, parameter.dtype)
        flat = parameter.view(-1)
        for start in range(0, flat.numel(), noise.numel()):
            part = flat[start : start + noise.numel()]
            part.copy_(noise[: part.numel()])


def memory_estimate(shape: ModelShape, layers: int, batch: int, rows: int, size: int) -> float:
    """Bytes that a bench needs at its peak: weights, embeddings and head, KV cache, activations of one layer.

    Args:
        shape: Sizes of the decoder.
        layers: Decoder layers.
        batch: Samples.
        rows: Rows per sample.
        size: Bytes per number.
    """
    d, m = shape.hidden, shape.ffn
    sizes = shape.each_layer[:layers]
    weights = sum(one.weights() for one in sizes) + 2 * shape.vocab * d
    cache = sum(2 * one.kv_width * rows * batch for one in sizes)
    # States are in float32.
    cache += sum(one.recurrent.state * batch * 4 // size for one in sizes if one.recurrent is not None)
    # Measured at 7B width: three FFN-wide and about eight hidden-wide tensors are alive at once.
    activations = batch * rows * (3 * m + 8 * d)
    return float(size * (weights + 2 * cache + activations))


def layers_that_fit(shape: ModelShape, batch: int, rows: int, size: int, free: float) -> int:
    """Most layers, up to the shape's own, whose estimate stays within the headroom; 0 if not even one."""
    for layers in range(shape.layers, 0, -1):
        if memory_estimate(shape, layers, batch, rows, size) <= HEADROOM * free:
            return layers
    return 0


def free_memory(device: torch.device) -> float:
    """Bytes that can still be allocated on a device."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return float(line.split()[1]) * 1024
    except OSError:
        pass
    return float("inf")


@contextmanager
def _default(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _laid(model: nn.Module, family: Family) -> Laid | None:
    from saccade.skip_vision import wrapped
    from saccade.skip_vision.accounting import laid_out

    done = wrapped(model)
    return None if done is None else laid_out(done.config, family, unwrap(model).config)
