"""Measures what skipping does to one prompt, and the constants that bound it.

Two forwards are compared: the plan, and the same plan with nothing skipped (of a plan that drops no row, the
stock model). Everything is over the rows that are alive.

Shape letters: N rows that are alive in a layer, D hidden width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from saccade.calibration.measures import kl
from saccade.families import Family, Parts
from saccade.research.analysis import bounds
from saccade.research.analysis.attention import attention, layer_heads, mixed, normed
from saccade.research.analysis.capture import Trajectory
from saccade.research.analysis.constants import Constants, Gain, LayerConstants
from saccade.research.analysis.drift import Drift, LayerDrift, Multiple
from saccade.research.analysis.spectral import jacobian_norm, spectral_norm


def skips_ffn(run: Trajectory) -> bool:
    """Whether a forward skipped the FFN of a row that was alive."""
    return any(
        bool((one.alive_BN & ~one.ffn_BN & run.layout.real_BN).any()) for one in run.trace.route.layers
    )


def check_comparable(whole: Trajectory, planned: Trajectory) -> None:
    """Refuses forwards whose rows cannot be compared one by one.

    Raises:
        ValueError: Saying why.
    """
    for run in (whole, planned):
        run.check_positions()
        if any(cut.before > 0 and cut.sources_BNN is not None for cut in run.trace.cuts):
            raise ValueError(
                "the bounds do not follow rows that are merged between layers; leave that method out, "
                "or one that merges before layer 0"
            )
        if any(one.visibility != "causal" for one in run.trace.route.layers):
            raise ValueError("the bounds are of plain causal attention; leave out reading=mask")
    for number in range(whole.depth):
        if not torch.equal(whole.rows(number), planned.rows(number)):
            raise ValueError(
                f"skipping changes which rows are dropped before layer {number}, so the two forwards have "
                "no rows in common to compare; let the rows be dropped before any layer skips"
            )


@torch.no_grad()
def measure(family: Family, parts: Parts, known: Constants, whole: Trajectory, planned: Trajectory) -> Drift:
    """Measures what skipping did, and works out every bound of it.

    Args:
        family: Adapter of the model.
        parts: Its modules, without a plan on them.
        known: Its constants.
        whole: The forward with nothing skipped.
        planned: The forward under the plan.

    Raises:
        ValueError: If the forwards cannot be compared row by row.
    """
    check_comparable(whole, planned)
    skipped_N = torch.zeros(whole.layout.rows, dtype=torch.bool)
    for one in planned.trace.route.layers:
        skipped_N |= (one.alive_BN & ~one.ffn_BN)[0]
    layers = tuple(
        _layer(family, parts.layers[n], known.layers[n], whole, planned, n, skipped_N)
        for n in range(whole.depth)
    )
    last = whole.states[-1][-1:], planned.states[-1][-1:]
    change_V, variance, divergence = next_token(whole, planned)
    return Drift(
        layers=layers,
        logits=float(change_V.norm()),
        logits_rounding=_rounding(whole.states[-1], whole.logits_V),
        logit_range=float(change_V.max() - change_V.min()),
        variance=variance,
        kl=divergence,
        last_row=float(_drift(*last).norm()),
        final_norm=_norm_between(known.final_gain, *last),
        head=known.head,
    )


def next_token(whole: Trajectory, planned: Trajectory) -> tuple[torch.Tensor, float, float]:
    """How the next token differs: the change of its logits, the variance of the whole ones, KL in nats."""
    change_V = (planned.logits_V - whole.logits_V).double()
    variance = float(whole.logits_V.double().var(correction=0))
    return change_V, variance, float(kl(whole.logits_V, planned.logits_V[None])[0])


def _layer(
    family: Family,
    layer: Any,
    known: LayerConstants,
    whole: Trajectory,
    planned: Trajectory,
    number: int,
    skipped_N: torch.Tensor,
) -> LayerDrift:
    rows = whole.rows(number)
    stays = whole.rows(number + 1) if number + 1 < whole.depth else rows
    before, after = (
        _pair(whole.states[number], planned.states[number], rows),
        _pair(whole.states[number + 1], planned.states[number + 1], stays),
    )
    middle = _pair(whole.middles[number], planned.middles[number], rows)
    sets = planned.layer(number)
    asks = sets.query_BN[0, rows].to(before[0].device)
    fed = sets.ffn_BN[0, rows].to(before[0].device)

    # The attention half. The branch's own output is what it adds to the residual stream.
    norms = _norm_between(known.input_gain, *before), _norm_between(known.ffn_gain, *middle)
    x_ND, rotary = normed(family, layer, whole, number, rows)
    seen_NN = whole.seen(number).to(x_ND.device)
    other_ND = normed(family, layer, planned, number, rows)[0]
    local, between = _attention_bounds(family, layer, known, whole, planned, number, x_ND)
    branch = [m.double() - b.double() for m, b in zip(middle, before, strict=True)]

    # The FFN half, on the rows that pass it in both forwards.
    ffn_norm = family.norms(layer)[1]
    z_ND, w_ND = (ffn_norm(one[None])[0] for one in middle)
    output_ND, fed_ND = family.fed(layer, z_ND[None])[0], family.fed(layer, w_ND[None])[0]
    whole_radius = float(z_ND.double().norm(dim=-1).max())
    radius = max(whole_radius, float(w_ND.double().norm(dim=-1).max()))

    def swiglu(size: float) -> float:
        return bounds.lipschitz_ffn(known.up, known.down, gate=known.gate, radius=size, slope=known.slope)

    def ffn(x: torch.Tensor) -> torch.Tensor:
        return family.fed(layer, x[None])[0]

    def attend(x: torch.Tensor) -> torch.Tensor:
        return attention(family, layer.self_attn, x, rotary, seen_NN)

    def mix(x: torch.Tensor) -> torch.Tensor:
        return mixed(family, layer.self_attn, x, rotary, seen_NN)

    drift, left = _drift(*before), _drift(*after)
    return LayerDrift(
        entering=float(drift.norm()),
        leaving=float(left.norm()),
        row_entering=_largest(drift, skipped_N[rows]),
        row_leaving=_largest(left, skipped_N[stays]),
        skip=bounds.skip_error(output_ND[~fed]),
        unasked=float(branch[0][~asks].norm()),
        attention_paper=bounds.lipschitz_attention(known.query, known.key, known.value, known.width, "paper"),
        attention_heads=jacobian_norm(mix, x_ND),
        attention_local=local,
        attention_true=jacobian_norm(attend, x_ND),
        attention_between=norms[0] * between,
        attention_gain=_multiple((branch[1] - branch[0])[asks], drift, middle[0]),
        ffn_paper=bounds.lipschitz_ffn(known.up, known.down, "paper"),
        ffn_swiglu=swiglu(whole_radius),
        ffn_true=jacobian_norm(ffn, z_ND),
        ffn_between=norms[1] * swiglu(radius),
        ffn_gain=_multiple(_drift(output_ND, fed_ND)[fed], _drift(*middle)[fed], output_ND),
        norms=norms,
        norm_gains=(
            _multiple(_drift(x_ND, other_ND), drift, x_ND),
            _multiple(_drift(z_ND, w_ND), _drift(*middle), z_ND),
        ),
        rounding=_rounding(after[0], after[0]),
    )


def _attention_bounds(
    family: Family,
    layer: nn.Module,
    known: LayerConstants,
    whole: Trajectory,
    planned: Trajectory,
    number: int,
    x_ND: torch.Tensor,
) -> tuple[float, float]:
    """LA at the unskipped states, and between the two forwards; the input norm not included."""
    (one, _), (two, _) = (layer_heads(family, layer, run, number) for run in (whole, planned))
    states = float(x_ND.double().square().sum() + (len(x_ND) if known.biased else 0)) ** 0.5
    maps_H = spectral_norm(one.weights()).tolist()
    asked_H = spectral_norm(two.weights()).tolist() if len(two.asks_Q) else [0.0] * len(maps_H)
    queries_H = spectral_norm(two.queries_HQW).tolist()
    keys_G, values_G = spectral_norm(one.keys_GNW).tolist(), spectral_norm(one.values_GNW).tolist()
    local, between = [], []
    for h in range(len(maps_H)):
        g = h // one.groups
        local.append(
            bounds.lipschitz_attention(
                known.lifted_H[h],
                known.lifted_key_G[g],
                known.lifted_value_G[g],
                known.width,
                weights=maps_H[h],
                states=states,
            )
        )
        between.append(
            bounds.lipschitz_attention_between(
                query=known.query_H[h],
                key=known.key_G[g],
                value=known.value_G[g],
                scale=one.scale,
                weights=asked_H[h],
                queries=queries_H[h],
                keys=keys_G[g],
                values=values_G[g],
            )
        )
    return bounds.joint_heads(known.output, local), bounds.joint_heads(known.output, between)


def _pair(
    whole_ND: torch.Tensor, planned_ND: torch.Tensor, rows: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    here = rows.to(whole_ND.device)
    return whole_ND[here], planned_ND[here]


def _drift(whole_ND: torch.Tensor, planned_ND: torch.Tensor) -> torch.Tensor:
    return planned_ND.double() - whole_ND.double()


def _norm_between(gain: Gain, whole_ND: torch.Tensor, planned_ND: torch.Tensor) -> float:
    sums_N = gain.rms(whole_ND) + gain.rms(planned_ND)
    return bounds.lipschitz_rmsnorm(gain.largest, float(sums_N.min()) / 2)


def _largest(drift_ND: torch.Tensor, rows_N: torch.Tensor) -> float:
    norms = drift_ND[rows_N.to(drift_ND.device)].norm(dim=-1)
    return float(norms.max()) if len(norms) else 0.0


def _multiple(output_ND: torch.Tensor, input_ND: torch.Tensor, like_ND: torch.Tensor) -> Multiple | None:
    size = float(input_ND.norm())
    return Multiple(float(output_ND.norm()) / size, _rounding(like_ND, like_ND) / size) if size > 0 else None


def _rounding(kind: torch.Tensor, values: torch.Tensor) -> float:
    """What two roundings of values in two forwards may add up to, in the number format of ``kind``."""
    return 2 * torch.finfo(kind.dtype).eps * float(values.double().norm())
