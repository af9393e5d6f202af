"""A guess of how much a plan loses, fitted to those that were measured; it proposes, never reports (pure).

The logarithm of the loss is taken to be linear in what the layers skip, in the share of the rows that is
alive in every layer, and in the sum of the losses that the skips have one by one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from saccade.tuning.space import DENSE, State, label, share_of

FLOOR = 1e-3
"""Loss that counts as none, in nats: differences below it are not worth a move."""

RIDGE = 0.5
"""Strength of the pull to 0, in measurements."""

Marginals = Mapping[tuple[int, str], float]
"""Loss of every skip alone, by layer and operation."""


def alive_shares(state: State) -> list[float]:
    """Share of an image's rows that is alive in every layer."""
    layers = len(state.skips)
    share = state.scale**2 * (1.0 if state.reducer is None else share_of(state.reducer))
    cuts = {drop.layer: share_of(drop) for drop in state.drops}  # type: ignore[attr-defined]
    found = []
    for layer in range(layers):
        share *= cuts.get(layer, 1.0)
        found.append(0.0 if state.last is not None and layer >= state.last else share)
    return found


class Surrogate:
    """Learns from measured states and orders others by what it expects of them."""

    def __init__(self, layers: int, marginals: Marginals) -> None:
        self.layers, self.marginals = layers, marginals
        self._columns: dict[str, int] = {}
        self._rows: list[dict[str, float]] = []
        self._values: list[float] = []
        self._weights: list[float] = []
        self._coefficients: np.ndarray | None = None

    def learn(self, state: State, loss: float, samples: int) -> None:
        """Takes a measured loss in, weighed by the samples it is a mean of."""
        self._rows.append(self._features(state))
        self._values.append(math.log(loss + FLOOR))
        self._weights.append(float(samples))
        self._coefficients = None

    def guess(self, states: Sequence[State]) -> list[float]:
        """Expected logarithms of the losses; of 0 measurements those of the skips alone."""
        rows = [self._features(state) for state in states]
        if not self._rows:
            return [row["alone"] for row in rows]
        if self._coefficients is None:
            self._fit()
        assert self._coefficients is not None
        matrix = self._matrix(rows)
        return list((matrix @ self._coefficients).tolist())

    def _fit(self) -> None:
        for row in self._rows:
            for name in row:
                self._columns.setdefault(name, len(self._columns))
        matrix, values = self._matrix(self._rows), np.array(self._values)
        weights = np.array(self._weights) / max(self._weights)
        penalty = RIDGE * np.eye(matrix.shape[1])
        penalty[self._columns["one"], self._columns["one"]] = 1e-6
        weighed = matrix * weights[:, None]
        self._coefficients = np.linalg.solve(weighed.T @ matrix + penalty, weighed.T @ values)

    def _matrix(self, rows: Sequence[Mapping[str, float]]) -> np.ndarray:
        found = np.zeros((len(rows), len(self._columns)))
        for number, row in enumerate(rows):
            for name, value in row.items():
                if name in self._columns:
                    found[number, self._columns[name]] = value
        return found

    def _features(self, state: State) -> dict[str, float]:
        alone = sum(self.marginals.get((n, skip), 0.0) for n, skip in enumerate(state.skips) if skip)
        found = {"one": 1.0, "alone": math.log(alone + FLOOR)}
        for layer, skip in enumerate(state.skips):
            if skip == DENSE:
                continue
            parts = ("attention", "ffn") if skip == "freeze" else (skip,)
            for part in parts:
                found[f"{part} {layer}"] = 1.0
        for layer, share in enumerate(alive_shares(state)):
            found[f"alive {layer}"] = math.log(share + 0.02) / math.sqrt(self.layers)
        if state.reducer is not None:
            kind = label(state.reducer)
            found[kind] = 1.0
            found[f"{kind}: rows"] = math.log(share_of(state.reducer) + 0.02)
        for drop in state.drops:
            found[f"drop by {drop.name}"] = found.get(f"drop by {drop.name}", 0.0) - math.log(
                share_of(drop) + 0.02
            )
        if state.scale != 1:
            found["resized"] = 1 - state.scale
        return found
