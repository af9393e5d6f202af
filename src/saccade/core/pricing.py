"""What a route costs, in closed form: FLOPs, KV bytes, equivalent tokens (pure).

Two FLOPs figures (2 per multiply-accumulate):

* ``paper``: the rectangle of the papers, ``4 d dk |A| + 4 d dq |Q| + 4 dq |Q| |A| + 6 d m |F|`` per layer
  (V-Skip, arXiv 2606.08511, Table 3; with dq = dk = d it is ``8nd^2 + 4n^2d + 6ndm``). Of a sparse FFN m is
  the width of the experts that a row passes, and the router's ``2 d e |F|`` come on top. It knows no sliding
  window. A gate beside the queries adds ``2 d dq |Q|``; a recurrent layer counts its projections and a step
  of its state for every row of A, for rows that do not ask write it too.
* ``executed``: what the engine dispatches, call by call, as ``torch.utils.flop_counter`` counts it; of a
  recurrent layer in the stock model's own chunks.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import torch

from saccade.core.calls import blocks
from saccade.core.host import on_host
from saccade.core.layout import Layout
from saccade.core.route import LayerRoute, Route
from saccade.core.rows import RowIndex
from saccade.core.shapes import LayerShape, ModelShape
from saccade.core.stages import Scoring


@dataclass(frozen=True)
class Cost:
    """Cost of one prefill under a route, over the whole batch.

    Attributes:
        tflops: Decoder layers, the papers' rectangle, in TFLOPs.
        dense_tflops: The same with every row in every set.
        ratio: ``tflops / dense_tflops``.
        executed_tflops: What the engine dispatches, score rows included.
        dense_executed_tflops: What the stock model dispatches.
        executed_ratio: Their ratio.
        kv_bytes: KV cache that decoding starts from, at ``dtype_bytes`` per number; states of recurrent
            layers are of one size under any plan, and not counted.
        dense_kv_bytes: The same of the stock model.
        kv_ratio: Their ratio.
        equivalent_tokens: Visual rows alive, averaged over layers, per sample.
        visual_tokens: Visual rows per sample.
        text_tokens: Other rows per sample, padding excluded.
        decode_gflops: Decoder layers for the next token of every sample, in GFLOPs.
        dense_decode_gflops: The same of the stock model.
        layer_tflops: The papers' rectangle, layer by layer.
        score_tflops: Score rows of decisions on the way; beside ``tflops``, within ``executed_tflops``.
    """

    tflops: float
    dense_tflops: float
    ratio: float
    executed_tflops: float
    dense_executed_tflops: float
    executed_ratio: float
    kv_bytes: int
    dense_kv_bytes: int
    kv_ratio: float
    equivalent_tokens: float
    visual_tokens: float
    text_tokens: float
    decode_gflops: float
    dense_decode_gflops: float
    layer_tflops: tuple[float, ...]
    score_tflops: float = 0.0

    def to_dict(self) -> dict:
        """Plain dictionary for JSON."""
        return asdict(self) | {"layer_tflops": list(self.layer_tflops)}


def paper_flops(shape: LayerShape, alive: float, query: float, ffn: float) -> float:
    """FLOPs of one layer of one sample by the papers' rectangle (V-Skip, Table 3)."""
    if shape.recurrent is not None:
        return (shape.kept_flops + shape.recurrent.step_flops()) * alive + shape.ffn_flops * ffn
    scores = 4 * shape.query_width * query * alive
    return shape.kept_flops * alive + shape.asking_flops * query + scores + shape.ffn_flops * ffn


def closed_form(shape: ModelShape, visual: float, text: float, skipped: dict[str, int]) -> float:
    """FLOPs of a prefill whose row sets are all visual rows or none; row counts may be fractional averages.

    Args:
        shape: Sizes of the decoder.
        visual: Visual rows.
        text: Other rows.
        skipped: Layers without visual rows in ``"query"``, ``"ffn"``, ``"query+ffn"`` or ``"alive"``;
            the rest are dense. Layers are taken for alike.
    """
    one = shape.each_layer[0]
    n = visual + text
    forms = {
        "query": (n, text, n),
        "ffn": (n, n, text),
        "query+ffn": (n, text, text),
        "alive": (text, text, text),
    }
    dense = shape.layers - sum(skipped.values())
    return dense * paper_flops(one, n, n, n) + sum(
        k * paper_flops(one, *forms[f]) for f, k in skipped.items()
    )


def executed_flops(shape: LayerShape, layer: LayerRoute, layout: Layout) -> int:
    """FLOPs that the engine dispatches for one layer of one batch (matrix products alone).

    Args:
        shape: Sizes of the layer.
        layer: Row sets of the layer.
        layout: Where the visual rows are.
    """
    kept = shape.kept_flops * _computed(layer.alive_BN) + shape.ffn_dispatched * int(layer.ffn_BN.sum())
    if shape.recurrent is not None:
        return kept + layout.batch * shape.recurrent.chunk_flops(_longest(layer.alive_BN))
    dq, batch = shape.query_width, layout.batch
    asking, narrow = layer.query_BN, 0
    if _is_narrow(layer, layout):
        # Visual queries are a call of their own, over text keys; their own key is an element-wise product.
        text, visual = _longest(layout.text_BN), _longest(layout.visual_BN)
        asking, narrow = layout.text_BN, batch * visual * (shape.asking_flops + 4 * dq * text)
    alive, query = RowIndex.from_mask(layer.alive_BN), RowIndex.from_mask(asking)
    same = layer.alive_BN is asking or bool((layer.alive_BN == asking).all())
    stock = same and bool(asking.all())
    # The stock layer masks what is not seen; a routed one with padding among its rows needs a mask too.
    hidden = right_padded(layout.real_BN) or (same and not bool((asking & ~layout.real_BN).any()))
    calls = None
    if hidden and not stock:
        calls = blocks(query, alive, same=same, sight=shape.rule.sight(layout))
    scores = (
        query.count * alive.count
        if calls is None
        else sum((c.stop - c.start) * (c.keys - c.first) for c in calls)
    )
    return kept + shape.asking_flops * _computed(asking) + 4 * dq * batch * scores + narrow


def mixing_flops(shape: LayerShape, layer: LayerRoute, layout: Layout) -> int:
    """Of ``executed_flops`` what is no product of rows by weights: attention, or the state's chunks."""
    alive, query, ffn = (int(s.sum()) for s in (layer.alive_BN, layer.query_BN, layer.ffn_BN))
    fixed = shape.kept_flops * alive + shape.asking_flops * query + shape.ffn_dispatched * ffn
    return executed_flops(shape, layer, layout) - fixed


def held_rows(shape: LayerShape, layer: LayerRoute, layout: Layout) -> torch.Tensor:
    """Rows of every sample (B) that a layer's cache holds once a prompt is over, padding not counted."""
    alive_BN, held_BN = layer.alive_BN & layout.real_BN, layer.held_BN & layout.real_BN
    if shape.recurrent is not None:
        return torch.zeros(layout.batch, dtype=torch.long)
    if shape.rule.span is not None:
        later = alive_BN.flip(1).cumsum(1).flip(1)
        held_BN = held_BN & (later < shape.rule.span)
    return held_BN.sum(1)


def scoring_flops(shape: ModelShape, scoring: Scoring, batch: int = 1) -> int:
    """FLOPs of the score rows of one decision: their queries, their scores and, where need be, the keys."""
    d, dk, dq = shape.hidden, shape.kv_width, shape.query_width
    keys = 2 * d * dk * scoring.keys if scoring.projects_keys else 0
    # A gate is projected with its query.
    wide = 2 * dq if shape.gated else dq
    return batch * (keys + 2 * d * wide * scoring.asking + 2 * dq * scoring.asking * scoring.keys)


def _paper_layer(shape: LayerShape, layer: LayerRoute, layout: Layout) -> float:
    """The papers' rectangle of one layer, padding not counted, summed over the batch."""
    real = layout.real_BN
    sets = ((s & real).sum(1).tolist() for s in (layer.alive_BN, layer.query_BN, layer.ffn_BN))
    flops = sum(paper_flops(shape, *counts) for counts in zip(*sets, strict=True))
    if _is_narrow(layer, layout):
        unseen = sum(v * (v - 1) for v in layout.visual_BN.sum(1).tolist())
        flops -= 4 * shape.query_width * unseen
    return flops


def _is_narrow(layer: LayerRoute, layout: Layout) -> bool:
    """Whether visual rows ask, and see only text and themselves."""
    return layer.visibility == "text_and_self" and bool((layer.query_BN & layout.visual_BN).any())


def _longest(mask_BN: torch.Tensor) -> int:
    return int(mask_BN.sum(1).max()) if mask_BN.numel() else 0


def _computed(mask_BN: torch.Tensor) -> int:
    """Rows that go through a projection: all of the longest sample's, for a ragged batch is padded."""
    return _longest(mask_BN) * mask_BN.shape[0]


def right_padded(real_BN: torch.Tensor) -> bool:
    """Whether no padding stands before a real row, so that causality alone hides it."""
    return not bool((real_BN[:, 1:] & ~real_BN[:, :-1]).any())


@on_host
def cost(shape: ModelShape, route: Route, dtype_bytes: int = 2) -> Cost:
    """Prices a route.

    Args:
        shape: Sizes of the decoder.
        route: The program of its layers.
        dtype_bytes: Bytes per number in the KV cache.

    Raises:
        ValueError: If the route has another depth than the shape.
    """
    if len(route.layers) != shape.layers:
        raise ValueError(f"the route has {len(route.layers)} layers, {shape.name} has {shape.layers}")
    layout, real, sizes = route.layout, route.layout.real_BN, shape.each_layer
    full = Route.dense(layout, 1).layers[0]
    memo: dict[tuple[int, int], tuple[float, int, torch.Tensor]] = {}
    for layer, one in (*((full, one) for one in sizes), *zip(route.layers, sizes, strict=True)):
        if (id(layer), id(one)) not in memo:
            held = held_rows(one, layer, layout).double()
            paper_form = _paper_layer(one, layer, layout)
            memo[id(layer), id(one)] = (paper_form, executed_flops(one, layer, layout), held)
    found = [memo[id(layer), id(one)] for layer, one in zip(route.layers, sizes, strict=True)]
    stock = [memo[id(full), id(one)] for one in sizes]
    paper = [one[0] for one in found]
    scores = sum(scoring_flops(shape, scoring, layout.batch) for scoring in route.scorings)
    ran = sum(one[1] for one in found) + scores
    rows, dense_rows = (torch.stack([one[2] for one in each]) for each in (found, stock))
    dense_executed = sum(one[1] for one in stock)
    kv = 2 * shape.kv_width * dtype_bytes
    total = sum(one[0] for one in stock)
    visible = torch.stack([(layer.alive_BN & layout.visual_BN).sum() for layer in route.layers]).double()
    return Cost(
        tflops=sum(paper) / 1e12,
        dense_tflops=total / 1e12,
        ratio=sum(paper) / total if total else 1.0,
        executed_tflops=ran / 1e12,
        dense_executed_tflops=dense_executed / 1e12,
        executed_ratio=ran / dense_executed if dense_executed else 1.0,
        kv_bytes=int(kv * rows.sum()),
        dense_kv_bytes=int(kv * dense_rows.sum()),
        kv_ratio=float(rows.sum() / dense_rows.sum()) if dense_rows.sum() else 1.0,
        equivalent_tokens=float(visible.mean()) / layout.batch,
        visual_tokens=float(layout.visual_BN.sum()) / layout.batch,
        text_tokens=float((layout.text_BN & real).sum()) / layout.batch,
        decode_gflops=float(decode_flops(shape, rows.sum(1), layout.batch)) / 1e9 if layout.batch else 0.0,
        dense_decode_gflops=float(decode_flops(shape, dense_rows.sum(1), layout.batch)) / 1e9,
        layer_tflops=tuple(p / 1e12 for p in paper),
        score_tflops=scores / 1e12,
    )


def decode_flops(shape: ModelShape, cached_L: torch.Tensor, samples: int = 1) -> torch.Tensor:
    """FLOPs of the layers for one new token, given the rows cached in each layer.

    Args:
        shape: Sizes of the decoder.
        cached_L: Cached rows of every layer, summed over samples.
        samples: Number of samples that decode together.
    """
    sizes = shape.each_layer
    fixed = sum(
        one.kept_flops
        + one.asking_flops
        + one.ffn_dispatched
        + (0 if one.recurrent is None else one.recurrent.token_flops())
        for one in sizes
    )
    widths_L = torch.tensor([4 * one.query_width for one in sizes], device=cached_L.device)
    return samples * fixed + (widths_L * (cached_L + samples)).sum()


def against(found: Cost, full: Cost) -> Cost:
    """A cost beside another one's stock model: of a prompt that was shortened, beside the full prompt."""
    executed = full.dense_executed_tflops
    return replace(
        found,
        dense_tflops=full.dense_tflops,
        ratio=found.tflops / full.dense_tflops if full.dense_tflops else 1.0,
        dense_executed_tflops=executed,
        executed_ratio=found.executed_tflops / executed if executed else 1.0,
        dense_kv_bytes=full.dense_kv_bytes,
        kv_ratio=found.kv_bytes / full.dense_kv_bytes if full.dense_kv_bytes else 1.0,
        visual_tokens=full.visual_tokens,
        dense_decode_gflops=full.dense_decode_gflops,
    )


def blend(first: Cost, second: Cost, share: float) -> Cost:
    """Weighted mean of two costs; ratios are taken anew from the mixed totals."""
    a, b = first.to_dict(), second.to_dict()
    mixed = {k: (1 - share) * a[k] + share * b[k] for k in a if k != "layer_tflops"}
    mixed["layer_tflops"] = tuple(
        (1 - share) * x + share * y for x, y in zip(a["layer_tflops"], b["layer_tflops"], strict=True)
    )
    mixed["kv_bytes"], mixed["dense_kv_bytes"] = round(mixed["kv_bytes"]), round(mixed["dense_kv_bytes"])
    mixed["ratio"] = mixed["tflops"] / mixed["dense_tflops"]
    mixed["executed_ratio"] = mixed["executed_tflops"] / mixed["dense_executed_tflops"]
    mixed["kv_ratio"] = mixed["kv_bytes"] / mixed["dense_kv_bytes"]
    return Cost(**mixed)
