"""What FFNs do for rows of the dense model, before anything is trained to go without."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from saccade import models
from saccade.inputs.samples import Sample
from saccade.models import Loaded
from saccade.research.analysis.capture import record
from saccade.research.analysis.probes import probe_layers
from saccade.research.analysis.study import UNTOUCHED, over
from saccade.research.studies.bench import StudyBench
from saccade.research.studies.trained.ablation import Ablation, AblationRow

SCORE = "ffn"
"""How much the answer changes without one layer's FFN on visual rows, as FFN-Skip is calibrated."""
PROBED = 4
"""Samples of each task on which FFNs are probed."""
GROUPS = ("skipped", "retained", "text")


def probe(bench: StudyBench, ablation: Ablation) -> dict[str, Any]:
    """What FFNs of the dense model add to rows, and how much its answer misses that, layer by layer."""
    few = [s for task in bench.tasks for s in bench.questions.calibration(task, PROBED)]
    return {"added": added(bench.loaded, few, ablation), "score": bench.calibrated([SCORE])[SCORE].to_dict()}


def added(loaded: Loaded, samples: Sequence[Sample], ablation: Ablation) -> dict[str, Any]:
    """Norm of an FFN's output over that of the row it is added to (probe P3), layer by layer.

    Args:
        loaded: The dense model; nothing is skipped.
        samples: Questions about one picture each.
        ablation: What says which rows would be skipped.

    Returns:
        By group of rows its ``mean`` over rows and samples and its ``sd`` over samples, per layer; and the
        number of ``samples``.
    """
    (method,) = ablation.config(AblationRow("SF", 2)).methods(ablation.tokens)
    layers = loaded.family.parts(loaded.model).layers
    found: dict[str, list[Sequence[float | None]]] = {group: [] for group in GROUPS}
    for sample in samples:
        run = record(loaded.model, models.inputs(loaded, [sample]), UNTOUCHED)
        layout = run.layout
        apart = method.layer_route(layout, torch.ones_like(layout.visual_BN), 0)
        probed = probe_layers(loaded.family, layers, run, apart)
        for group in GROUPS:
            found[group].append(probed[group]["p3"]["mean"])
    return {"samples": len(samples)} | {group: over(rows) for group, rows in found.items()}
