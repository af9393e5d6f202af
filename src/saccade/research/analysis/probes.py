"""How much the FFN adds to a row, layer by layer: four magnitude probes for four groups of rows.

``a`` is the residual stream entering the FFN half, ``F = FFN(norm(a))``. The probes are those that the code
of Skip-Vision (arXiv 2503.21817) tried (P1, P2), and two that say the same more robustly (P3, P4).

Shape letters: N rows, D hidden width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from saccade.core.layout import Layout
from saccade.core.precision import wide
from saccade.core.route import LayerRoute
from saccade.families import Family
from saccade.research.analysis.capture import Trajectory

PROBES = {
    "p1": "mean |F| / |a| over channels",
    "p2": "norm of a",
    "p3": "norm of F / norm of a",
    "p4": "norm of (a + F) / norm of a",
}
"""Each probe by name, and what it is; P3, the relative error of skipping (eq. 16), is the main one."""

GROUPS = ("visual", "retained", "skipped", "text")

MASSIVE, OVER_MEDIAN = 100.0, 1000.0
"""An activation is massive above both: its size, and its ratio to the median (arXiv 2402.17762)."""


def probe_rows(entering_ND: torch.Tensor, output_ND: torch.Tensor) -> dict[str, torch.Tensor]:
    """The four probes of every row, each (N,) in float32 at least.

    Args:
        entering_ND: Residual stream entering the FFN half (a).
        output_ND: FFN output, its norm included (F).
    """
    a_ND, f_ND = wide(entering_ND), wide(output_ND)
    size_N = a_ND.norm(dim=-1)
    # A row of zeros has no ratio; the printed P1 adds the same number to each channel.
    safe_N = size_N.clamp_min(torch.finfo(torch.float32).tiny)
    return {
        "p1": (f_ND.abs() / (a_ND.abs() + 1e-6)).mean(-1),
        "p2": size_N,
        "p3": f_ND.norm(dim=-1) / safe_N,
        "p4": (a_ND + f_ND).norm(dim=-1) / safe_N,
    }


def massive_rows(entering_ND: torch.Tensor) -> torch.Tensor:
    """Boolean (N,): rows that hold a massive activation, as attention sinks do."""
    sizes_ND = wide(entering_ND).abs()
    return sizes_ND.amax(-1) > max(MASSIVE, OVER_MEDIAN * float(sizes_ND.median()))


def group_rows(layout: Layout, layer: LayerRoute) -> dict[str, torch.Tensor]:
    """Rows (N,) of each group in a layer, on the host; of the one sample of a layout.

    Visual rows are those that are alive; of them the retained pass the FFN and the skipped do not. Text is
    what stands after the first image: question and answer, not the system prompt.
    """
    alive_N, visual_N = layer.alive_BN[0], layer.alive_BN[0] & layout.visual_BN[0]
    text_N = layout.text_BN[0] & alive_N & (layout.visual_BN[0].cumsum(0) > 0)
    ffn_N = layer.ffn_BN[0]
    return {"visual": visual_N, "retained": visual_N & ffn_N, "skipped": visual_N & ~ffn_N, "text": text_N}


@torch.no_grad()
def probe_layers(
    family: Family, layers: nn.ModuleList, run: Trajectory, apart: LayerRoute | None = None
) -> dict[str, Any]:
    """The probes of every group in every layer of a forward; skipped rows by what the FFN would have added.

    The first row of the prompt and rows with massive activations are in no group.

    Args:
        family: Adapter of the model.
        layers: Its decoder layers, without a plan on them.
        run: The forward.
        apart: Row sets that tell groups apart in every layer, as another plan would; the forward's own if
            omitted.

    Returns:
        By group: ``rows`` (per layer), and by probe ``mean`` and ``median`` (per layer, None where the
        group has no rows); and ``left_out``, rows with massive activations, per layer.
    """
    found: dict[str, Any] = {
        group: {"rows": [], **{probe: {"mean": [], "median": []} for probe in PROBES}} for group in GROUPS
    }
    left_out = []
    layer: Any
    for number, layer in enumerate(layers):
        entering_ND = run.middles[number]
        output_ND = family.fed(layer, family.norms(layer)[1](entering_ND[None]))[0]
        values = {name: value.cpu() for name, value in probe_rows(entering_ND, output_ND).items()}
        # Rows that were dropped hold zeros, against whose median every other would be massive.
        rows, odd_N = run.rows(number), torch.zeros(len(entering_ND), dtype=torch.bool)
        odd_N[rows] = massive_rows(entering_ND[rows.to(entering_ND.device)]).cpu()
        odd_N[0] = True
        left_out.append(int((odd_N & run.layer(number).alive_BN[0])[1:].sum()))
        for group, rows_N in group_rows(run.layout, apart or run.layer(number)).items():
            kept_N = rows_N & ~odd_N
            found[group]["rows"].append(int(kept_N.sum()))
            for name, value_N in values.items():
                for key, value in summarise(value_N[kept_N]).items():
                    found[group][name][key].append(value)
    return found | {"left_out": left_out}


def summarise(values: torch.Tensor) -> dict[str, float | None]:
    """Mean and median of some numbers (of an even count the mean of the middle two); None of none."""
    if not values.numel():
        return {"mean": None, "median": None}
    return {"mean": float(values.double().mean()), "median": float(values.double().quantile(0.5))}
