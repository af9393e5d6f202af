"""An independent, slow account of the reducers before the decoder, for one view; it uses nothing of saccade.

Everything starts from the whole attention map of the tower's layer and its keys. Row 0 of the map and of the keys
is CLS, also where the tower is treated as one that has none (its rows are then left out).

A token is a dictionary: ``home``, the patch whose place it takes where places are kept (None for CLS); ``kind``;
``weights``, of the patches in it; ``feature``, before the projector.
"""

from __future__ import annotations

import math
from typing import Any

import torch

Token = dict[str, Any]


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
        tokens.append({"home": t, "kind": "contextual", "weights": weights, "feature": mix(weights, features)})
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
        home = pruned[-1]
        tokens.append({"home": home, "kind": "extra", "weights": weights, "feature": mix(weights, features)})
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


def mix(weights: dict[int, float], features: torch.Tensor) -> torch.Tensor:
    """The weighted sum."""
    total = torch.zeros(features.shape[1])
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
