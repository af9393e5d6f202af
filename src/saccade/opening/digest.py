"""Telling a model's weights from others of the same shape, from a few numbers of every tensor."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

SPREAD = 64
"""Numbers that are looked at of every tensor, spread out over it."""

_KNOWN: WeakKeyDictionary[nn.Module, tuple[Any, dict[torch.dtype | None, str]]] = WeakKeyDictionary()


def weights_digest(model: nn.Module, dtype: torch.dtype | None = None) -> str:
    """A digest that changes with the weights: shapes and up to 64 spread-out numbers of every tensor.

    Args:
        model: The model, with its weights on any device.
        dtype: Digest the weights as they were in this type; as they are if omitted.

    Returns:
        16 hexadecimal digits.
    """
    named = model.state_dict()
    away = {name for name, tensor in named.items() if tensor.device.type == "meta"}
    return digest_of(named | {name: one for name, one in _offloaded(model) if name in away}, dtype)


def _offloaded(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Weights that accelerate keeps on the host or the disk and brings to a module when it runs, by name."""
    hooked = [(at, module, module.__dict__.get("_hf_hook")) for at, module in model.named_modules()]
    if all(hook is None for *_, hook in hooked):
        return
    from accelerate.hooks import AlignDevicesHook, SequentialHook

    for at, module, hook in hooked:
        for one in hook.hooks if isinstance(hook, SequentialHook) else (hook,):
            if isinstance(one, AlignDevicesHook) and one.weights_map is not None:
                for name in module.state_dict():
                    if one.place_submodules or "." not in name:
                        yield f"{at}.{name}" if at else name, one.weights_map[name]


def digest_of(named: Mapping[str, torch.Tensor], dtype: torch.dtype | None = None) -> str:
    """The digest of some tensors by name, as ``weights_digest`` makes it of a model's."""
    tensors = [(name, part) for name, one in sorted(named.items()) for part in _plain(one)]
    taken = []
    for _, tensor in tensors:
        flat = tensor.detach().reshape(-1)
        spread = flat[:: max(1, flat.numel() // SPREAD)][:SPREAD]
        taken.append((spread if dtype is None else spread.to(dtype)).float())
    digest = hashlib.sha256()
    for (name, tensor), numbers in zip(tensors, _on_host(taken), strict=True):
        digest.update(f"{name}{tuple(tensor.shape)}".encode() + numbers.numpy().tobytes())
    return digest.hexdigest()[:16]


def _plain(tensor: Any) -> Iterator[torch.Tensor]:
    """The tensor itself, or those that a quantised one is made of."""
    if not hasattr(tensor, "__tensor_flatten__"):
        yield tensor
        return
    names, _ = tensor.__tensor_flatten__()
    for name in names:
        yield from _plain(getattr(tensor, name))


def _on_host(parts: list[torch.Tensor]) -> list[torch.Tensor]:
    """The same on the CPU, with one transfer per device."""
    found: dict[int, torch.Tensor] = {}
    for device in dict.fromkeys(part.device for part in parts):
        here = [number for number, part in enumerate(parts) if part.device == device]
        whole = torch.cat([parts[number] for number in here]).cpu()
        found |= zip(here, whole.split([parts[number].numel() for number in here]), strict=True)
    return [found[number] for number in range(len(parts))]


def differ(model: nn.Module, made_for: Mapping[str, Any]) -> tuple[str, str] | None:
    """Both digests, where a model's weights are certainly others than those that something was made for.

    Args:
        model: The model, without wrappers.
        made_for: Provenance with ``weights_hash`` and, where it is known, the ``dtype`` they had.

    Returns:
        The digest it was made for and the model's own; None where they are the same.

    Raises:
        LookupError: If it cannot be told: nothing was noted, or they are rounded, sharded or elsewhere.
    """
    wanted = made_for.get("weights_hash")
    if not isinstance(wanted, str):
        raise LookupError("it notes no weights")
    if not _readable(model):
        raise LookupError("they are quantised, sharded or not in memory")
    if any(".base_layer." in name for name, _ in model.named_parameters()):
        raise LookupError("adapters lie over them")
    mine = _digest(model, None)
    if mine == wanted:
        return None
    here = next(model.parameters()).dtype
    then = getattr(torch, str(made_for.get("dtype")), None)
    if not isinstance(then, torch.dtype):
        raise LookupError("the number format they had is not noted")
    if then == here:
        return wanted, mine
    if here != torch.float32:
        raise LookupError(f"they were {made_for['dtype']}, and are {str(here).removeprefix('torch.')} here")
    # Rounding once more what was rounded before changes nothing, so these are the same numbers or others.
    mine = _digest(model, then)
    return None if mine == wanted else (wanted, mine)


def _digest(model: nn.Module, dtype: torch.dtype | None) -> str:
    """The digest, kept while the weights stay as they are."""
    try:
        stamp = tuple((p.data_ptr(), p._version) for p in model.parameters())
    except RuntimeError:  # tensors of inference mode count no changes
        return weights_digest(model, dtype)
    before, known = _KNOWN.get(model, (None, {}))
    if before != stamp:
        known = {}
        _KNOWN[model] = (stamp, known)
    if dtype not in known:
        known[dtype] = weights_digest(model, dtype)
    return known[dtype]


def _readable(model: nn.Module) -> bool:
    """Whether all weights are plain numbers that are here: not sharded, quantised, offloaded or empty."""
    return all(
        type(p) is nn.Parameter
        and p.is_floating_point()
        and p.dtype.itemsize > 1
        and p.device.type != "meta"
        and not hasattr(p, "ds_id")
        for p in model.parameters()
    )
