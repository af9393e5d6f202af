"""Low-rank changes of weights that belong to a plan: PEFT's files, with a note of what they are bound to."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from saccade.core.text import short
from saccade.opening.checks import read_object
from saccade.opening.errors import reason

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
NOTE = "saccade"
"""Field of the tensors' file that says what they are bound to."""

_NAME = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")


@dataclass(frozen=True, eq=False)
class Deltas:
    """An adapter as it is read.

    Attributes:
        pairs: For every linear module by its name, matrices (rank, in) and (out, rank).
        scale: What their product is multiplied with.
        plan: Digest of the plan that they were trained under.
        made_for: ``weights_hash`` and ``dtype`` of the model that they were trained on.
    """

    pairs: Mapping[str, tuple[torch.Tensor, torch.Tensor]]
    scale: float
    plan: str
    made_for: Mapping[str, str]


def digest_of(tensors: Mapping[str, torch.Tensor], scale: float) -> str:
    """A digest of an adapter's numbers, all of them."""
    digest = hashlib.sha256(repr(float(scale)).encode())
    for name, tensor in sorted(tensors.items()):
        flat = tensor.detach().cpu().float().contiguous()
        digest.update(f"{name}{tuple(flat.shape)}".encode() + flat.numpy().tobytes())
    return digest.hexdigest()[:16]


def write_deltas(
    folder: Path, tensors: Mapping[str, torch.Tensor], scale: float, plan: str, made_for: Mapping[str, str]
) -> str:
    """Writes the tensors of an adapter, by PEFT's names, with what they are bound to.

    Args:
        folder: Where PEFT's configuration of it lies, or will.
        tensors: The matrices.
        scale: What their products are multiplied with.
        plan: Digest of the plan.
        made_for: ``weights_hash`` and ``dtype`` of the model.

    Returns:
        The adapter's digest.
    """
    kept = {name: tensor.detach().cpu().float().contiguous() for name, tensor in tensors.items()}
    note = json.dumps({"plan": plan, **made_for})
    save_file(kept, folder / WEIGHTS, metadata={"format": "pt", NOTE: note})
    return digest_of(kept, scale)


def read_deltas(folder: str, digest: str) -> Deltas:
    """Reads the adapter of a plan.

    Args:
        folder: Its folder.
        digest: What its numbers must come to.

    Raises:
        ValueError: If it is missing, damaged, or not the one that was meant.
    """
    path = Path(folder) / WEIGHTS
    if not path.is_file():
        raise ValueError(f"the plan needs its adapter, and {short(path)} is not there: keep both together")
    status = path.stat()
    return _read(Path(folder), digest, (status.st_mtime_ns, status.st_size))


@lru_cache(maxsize=4)
def _read(folder: Path, digest: str, stamp: tuple[int, int]) -> Deltas:
    path = folder / WEIGHTS
    try:
        config = read_object(folder / CONFIG)
        scale = float(config["lora_alpha"]) / int(config["r"])
        with safe_open(path, framework="pt") as held:
            note: dict[str, Any] = json.loads((held.metadata() or {}).get(NOTE, "null"))
            tensors = {name: held.get_tensor(name) for name in held.keys()}  # noqa: SIM118
        pairs: dict[str, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():
            place = _NAME.fullmatch(name)
            if place is None:
                raise ValueError(f"it holds {name}, which is of no linear layer")
            pairs.setdefault(place[1], {})[place[2]] = tensor
        both = {name: (pair["A"], pair["B"]) for name, pair in pairs.items()}
        found = Deltas(both, scale, str(note["plan"]), {k: str(v) for k, v in note.items() if k != "plan"})
    except Exception as error:  # a torn file makes its readers raise whatever comes up first
        raise ValueError(f"the adapter {short(folder)} of the plan is damaged: {reason(error)}") from None
    if digest_of(tensors, scale) != digest:
        raise ValueError(f"the adapter {short(folder)} is not the one that the plan was healed with")
    return found
