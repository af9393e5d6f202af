"""An independent, slow account of the reducers before the decoder; it uses nothing of saccade.

Everything starts from the queries and keys of one layer of the tower, which make a whole attention map.

A token is a dictionary: ``kind``; ``home``, the patch whose place it takes where places are kept, and
``row``, the row of that place; ``weights``, of the patches in it; ``feature``, before the projector.

Shape letters: P patches of a view, Q rows of the tower (P, with row 0 before them), H heads, K head width,
V tower width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch

Token = dict[str, Any]


@dataclass
class View:
    """What the tower computed for one view, and the rows of the sample that its patches have.

    Row 0 is CLS; where the tower is treated as one without (``cls_V`` is None), it is left out.

    Attributes:
        queries_HQK: Queries of the looked-at layer.
        keys_QV: Keys of that layer, heads side by side.
        features_PV: Features of the patches.
        cls_V: Features of the CLS row, or None.
        rows: The patches that have rows, with these, as (patch, row), in row order.
    """

    queries_HQK: torch.Tensor
    keys_QV: torch.Tensor
    features_PV: torch.Tensor
    cls_V: torch.Tensor | None
    rows: list[tuple[int, int]] = field(default_factory=list)

    @property
    def heads(self) -> int:
        return len(self.queries_HQK)

    def full_attention(self, single: bool = False) -> torch.Tensor:
        """The whole map (H, Q, Q), or as one head of full width (1, Q, Q)."""
        keys_HQK = self.keys_QV.unflatten(-1, (self.heads, -1)).transpose(0, 1)
        queries_HQK = self.queries_HQK
        if single:
            queries_HQK = queries_HQK.transpose(0, 1).flatten(1)[None]
            keys_HQK = self.keys_QV[None]
        return (queries_HQK @ keys_HQK.transpose(1, 2) / queries_HQK.shape[-1] ** 0.5).softmax(-1)

    def middle(self) -> View:
        """Another layer of the tower: it attends otherwise."""
        return replace(self, keys_QV=self.keys_QV.flip(0))

    def received(self) -> dict[int, float]:
        """Attention that the patches with rows get of all rows, CLS being one of them; mean over heads."""
        full_HQQ = self.full_attention()
        heads, asking, _ = full_HQQ.shape
        return {
            p: sum(float(full_HQQ[h, q, p + 1]) for h in range(heads) for q in range(asking)) / heads
            for p, _ in self.rows
        }

    def attention(self, single: bool = False) -> dict[int, float]:
        """Attention that the patches with rows get."""
        found = scores(self.full_attention(single), self.cls_V is not None)
        return {patch: found[patch] for patch, _ in self.rows}


Pair = tuple[View, Token]


def scores(full_HQQ: torch.Tensor, has_cls: bool) -> list[float]:
    """Attention of CLS to every patch, mean over heads; without CLS what each patch gets of all patches."""
    heads, rows, _ = full_HQQ.shape
    found = []
    for patch in range(1, rows):
        asking = [0] if has_cls else range(1, rows)
        found.append(sum(float(full_HQQ[h, q, patch]) for h in range(heads) for q in asking) / heads)
    return found


def best(values: dict[int, float], count: int) -> list[int]:
    """Keys of the highest values, ties by key, highest first."""
    return sorted(values, key=lambda key: (-values[key], key))[:count]


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() @ b.double()) / max(float(a.double().norm() * b.double().norm()), 1e-12))


def fastervlm(attention: dict[int, float], keep: int) -> list[int]:
    """Patches kept, in order. ``attention`` is that of the patches that have rows."""
    return sorted(best(attention, keep))


def vispruner(
    attention: dict[int, float], features: torch.Tensor, keep: int, important: float = 0.5
) -> list[int]:
    """The int(keep * important) most attended, and what duplicate removal leaves of the rest."""
    first = best(attention, int(keep * important + 1e-9))
    left = [p for p in best(attention, len(attention)) if p not in first]
    goal = keep - len(first)
    while len(left) > goal:
        even, odd = left[0::2], left[1::2]
        alike = [max((cosine(features[e], features[o]) for o in odd), default=-2.0) for e in even]
        ranked = sorted(range(len(even)), key=lambda i: (-alike[i], i))
        gone = min(8, len(left) - goal, len(even))
        left = [even[i] for i in ranked[gone:]] + odd
    return sorted(first + left)


def visionzip(
    attention: dict[int, float],
    keys: torch.Tensor,
    heads: int,
    features: torch.Tensor,
    cls: torch.Tensor | None,
    dominant: int,
    contextual: int,
) -> list[Token]:
    """CLS, dominant patches in spatial order, contextual tokens. Keys and features are indexed by patch."""
    tokens: list[Token] = []
    patches = dominant
    if cls is not None and dominant > 0:
        tokens.append({"home": None, "kind": "cls", "weights": {}, "feature": cls})
        patches = dominant - 1
    chosen = sorted(best(attention, patches))
    tokens += [{"home": p, "kind": "dominant", "weights": {p: 1.0}, "feature": features[p]} for p in chosen]
    rest = [p for p in sorted(attention) if p not in chosen]
    step = max(1, len(rest) // contextual) if contextual else 1
    targets = rest[::step][:contextual]
    width = keys.shape[1] // heads
    metric = {p: sum(keys[p, h * width : (h + 1) * width] for h in range(heads)) / heads for p in rest}
    members: dict[int, list[int]] = {t: [] for t in targets}
    for p in rest:
        if targets and p not in targets:
            like = [cosine(metric[p], metric[t]) for t in targets]
            members[targets[like.index(max(like))]].append(p)
    for t in targets:
        weights = {t: 1.0} | {p: 1 / len(members[t]) for p in members[t]}
        made = mix(weights, features)
        tokens.append({"home": t, "kind": "contextual", "weights": weights, "feature": made})
    return tokens


def prumerge(
    attention: dict[int, float], keys: torch.Tensor, features: torch.Tensor, chosen: list[int]
) -> list[Token]:
    """The chosen patches with their 32 nearest, and the extra token."""
    tokens = []
    for p in chosen:
        near = sorted((q for q in attention if q != p), key=lambda q: (-cosine(keys[p], keys[q]), q))[:32]
        weights = {q: attention[q] for q in near} | {p: 1.0}
        tokens.append({"home": p, "kind": "kept", "weights": weights, "feature": mix(weights, features)})
    pruned = [p for p in sorted(attention) if p not in chosen]
    if pruned:
        weights = {p: attention[p] for p in pruned}
        made = mix(weights, features)
        tokens.append({"home": pruned[-1], "kind": "extra", "weights": weights, "feature": made})
    return tokens


def outliers(attention: dict[int, float]) -> list[int]:
    """Patches above the third quartile plus 1.5 interquartile ranges, at least one; highest first."""
    low, high = quantile(list(attention.values()), 0.25), quantile(list(attention.values()), 0.75)
    above = [p for p, a in attention.items() if a > high + 1.5 * (high - low)]
    return best(attention, max(1, len(above)))


def with_grid(attention: dict[int, float]) -> list[int]:
    """PruMerge+: the outliers, then every n-th patch that is not one."""
    first, patches = outliers(attention), sorted(attention)
    stride = max(1, int(int(len(patches) / len(first)) / 3))
    return first + [patches[i] for i in range(0, len(patches) - 1, stride) if patches[i] not in first]


def evenly_beside(attention: dict[int, float], keep: int) -> list[int]:
    """PruMerge+ with a fixed number: half by attention, rounded up, the others evenly from what is left."""
    first = best(attention, keep - keep // 2)
    rest = [p for p in sorted(attention) if p not in first]
    return first + [rest[j * len(rest) // (keep // 2)] for j in range(keep // 2)]


def quantile(values: list[float], share: float) -> float:
    """Linear between the two nearest."""
    values = sorted(values)
    at = share * (len(values) - 1)
    low = math.floor(at)
    high = min(low + 1, len(values) - 1)
    return values[low] + (at - low) * (values[high] - values[low])


def divprune(x: torch.Tensor, keep: int) -> list[int]:
    """Rows picked greedily, in order of rows."""
    count = len(x)
    apart = [[1 - cosine(x[i], x[j]) for j in range(count)] for i in range(count)]
    nearest = {i: min((apart[i][j] for j in range(count) if j != i), default=math.inf) for i in range(count)}
    picked = best(nearest, min(1, keep))
    while len(picked) < keep:
        gap = {i: min(apart[i][j] for j in picked) for i in range(count) if i not in picked}
        picked += best(gap, 1)
    return sorted(picked)


def cdpruner(x: torch.Tensor, words: torch.Tensor, keep: int, theta: float | None = None) -> list[int]:
    """Rows whose kernel has the largest determinant, picked one by one, in order of rows.

    The gain of a row is the determinant with it over that without: each is computed anew.
    """
    plain = [sum(cosine(row, word) for word in words) / len(words) for row in x]
    low, high = min(plain), max(plain)
    relevance = [(r - low + 1e-6) / (high - low + 1e-6) for r in plain]
    if theta is not None:
        relevance = [math.exp(theta / (2 * (1 - theta)) * r) for r in relevance]
    unit = torch.nn.functional.normalize(x.double(), dim=-1)
    weighed = unit * torch.tensor(relevance, dtype=torch.float64)[:, None]

    def gain(row: int, before: list[int]) -> float:
        # What is left of the row beside all that is spanned by those before.
        if not before:
            return relevance[row] ** 2
        basis, values, _ = torch.linalg.svd(weighed[before].T, full_matrices=False)
        basis = basis[:, values > 1e-9 * values.max()]
        rest = weighed[row] - basis @ (basis.T @ weighed[row])
        return float(rest @ rest)

    picked: list[int] = []
    while len(picked) < keep:
        others = [i for i in range(len(x)) if i not in picked]
        gains = {i: gain(i, picked) for i in others}
        useful = {i: g for i, g in gains.items() if g > 1e-5}
        picked += best(useful or {i: relevance[i] for i in others}, 1)
    return sorted(picked)


def hiprune(
    middle: dict[int, float],
    last: dict[int, float],
    places: dict[int, tuple[int, int]],
    keep: int,
    alpha: float,
) -> list[int]:
    """Anchors, the patches beside them, and registers, in order. Places are lines and columns of patches."""
    anchors = best(middle, round(keep * alpha / 5))
    beside = set()
    for anchor in anchors:
        line, column = places[anchor]
        around = {(line, column - 1), (line, column + 1), (line - 1, column), (line + 1, column)}
        beside |= {p for p, place in places.items() if place in around and p not in anchors}
    buffers = best({p: middle[p] for p in beside}, keep - len(anchors))
    held = anchors + buffers
    registers = best({p: a for p, a in last.items() if p not in held}, keep - len(held))
    return sorted(held + registers)


def mix(weights: dict[int, float], features: torch.Tensor) -> torch.Tensor:
    """The weighted sum."""
    total = torch.zeros_like(features[0])
    for patch, weight in weights.items():
        total = total + weight * features[patch]
    return total


def shares(total: int, sizes: list[int]) -> list[int]:
    """A budget over views in proportion to their patches: largest remainders, ties to the earlier."""
    whole = sum(sizes)
    total = min(total, whole)
    if not whole:
        return [0 for _ in sizes]
    found = [total * size // whole for size in sizes]
    rests = sorted(range(len(sizes)), key=lambda i: (-(total * sizes[i] % whole), i))
    for i in rests[: total - sum(found)]:
        found[i] += 1
    return found


def rows_fastervlm(views: list[View], keep: int) -> list[int]:
    """Rows that an image keeps."""
    kept = []
    for view, budget in zip(views, shares(keep, [len(v.rows) for v in views]), strict=True):
        kept += [dict(view.rows)[p] for p in fastervlm(view.attention(), budget)]
    return sorted(kept)


def rows_vispruner(views: list[View], keep: int, important: float) -> list[int]:
    """Rows that an image keeps."""
    kept = []
    for view, budget in zip(views, shares(keep, [len(v.rows) for v in views]), strict=True):
        picked = vispruner(view.attention(), view.features_PV, budget, important)
        kept += [dict(view.rows)[p] for p in picked]
    return sorted(kept)


def tokens_visionzip(views: list[View], keep: int, contextual: int) -> list[Pair]:
    """Tokens of an image in the official order.

    The first view as it is; of all others the dominant patches by row, then their CLS, then their contextual.
    """
    budgets = shares(keep, [len(v.rows) for v in views])
    pairs: list[list[Pair]] = []
    for view, budget, part in zip(views, budgets, shares(contextual, budgets), strict=True):
        keys = view.keys_QV[1:]
        args = (view.attention(), keys, view.heads, view.features_PV, view.cls_V, budget - part, part)
        tokens = visionzip(*args)
        homes = {token["home"] for token in tokens}
        for token in tokens:
            # CLS takes the place of the first patch that is dropped.
            free = [row for patch, row in view.rows if patch not in homes]
            token["row"] = free[0] if token["kind"] == "cls" else dict(view.rows)[token["home"]]
        pairs.append([(view, token) for token in tokens])
    others = [pair for of_view in pairs[1:] for pair in of_view]
    dominant = [pair for pair in others if pair[1]["kind"] == "dominant"]
    dominant.sort(key=lambda pair: pair[1]["row"])
    last = [pair for kind in ("cls", "contextual") for pair in others if pair[1]["kind"] == kind]
    return pairs[0] + dominant + last


def tokens_prumerge(views: list[View], keep: int | None, plus: bool) -> list[Pair]:
    """Tokens of an image in the official order, view by view; ``keep`` fixes their number."""
    found: list[Pair] = []
    budgets = [None] * len(views) if keep is None else shares(keep, [len(v.rows) for v in views])
    for view, budget in zip(views, budgets, strict=True):
        attention = view.attention(single=True)
        if view.cls_V is None:
            whole = sum(attention.values())
            attention = {p: a / whole for p, a in attention.items()}
        if budget is None:
            chosen = with_grid(attention) if plus else outliers(attention)
        elif budget == 0:
            continue
        else:
            chosen = evenly_beside(attention, budget - 1) if plus else best(attention, budget - 1)
        for token in prumerge(attention, view.keys_QV[1:], view.features_PV, chosen):
            token["row"] = dict(view.rows)[token["home"]]
            found.append((view, token))
    return found
