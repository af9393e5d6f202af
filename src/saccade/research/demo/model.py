"""What the demo's pages say of their model."""

from __future__ import annotations

from typing import Any

from saccade.evaluation import Comparison
from saccade.models import Loaded
from saccade.opening.digest import weights_digest
from saccade.system.embedded import EMBEDDED, title_of


def described(loaded: Loaded, found: Comparison) -> dict[str, Any]:
    """A model as plain data: name, what commands call it, what its tower does, weights and sizes."""
    return {
        "name": title_of(loaded.name),
        "called": loaded.name,
        "seen": EMBEDDED[loaded.name].seen if loaded.name in EMBEDDED else "",
        "weights": weights_digest(loaded.model),
        "layers": loaded.shape.layers,
        "parameters": sum(p.numel() for p in loaded.model.parameters()),
        "visual_tokens": round(found.dense.cost["visual_tokens"]),
    }
