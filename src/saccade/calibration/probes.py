"""What each score does to a layer, and how it reads the damage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from saccade.calibration.measures import Direction, cosine_distance, kl
from saccade.methods import METHODS, Method


@dataclass(frozen=True)
class Probe:
    """A score of layers: the method applied at one layer, and the distance of the next-token logits.

    Attributes:
        name: What users write.
        title: What reports write.
        method: Registry name of the method that is tried at each layer; None if no forward is needed.
        parameter: The method's parameter that takes the layer.
        distance: ``kl``, ``cosine`` or None.
    """

    name: str
    title: str
    method: str | None
    parameter: str = "layers"
    distance: str | None = "kl"

    def at(self, layer: int, like: Method | None = None) -> Method:
        """The method as it is tried at one layer.

        Args:
            layer: The layer, or the first of those from which on rows are withdrawn.
            like: A method of the same kind, whose further options are kept (V-Skip's ``reading``).
        """
        assert self.method is not None
        value: Any = (layer,) if self.parameter == "layers" else layer
        cls = METHODS[self.method]
        base = like if like is not None and type(like) is cls else cls()
        changes: dict[str, Any] = {"budget": None, "flops": None, "preset": None, self.parameter: value}
        return replace(base, **changes)

    def read(self, full_TV: torch.Tensor, tried_LTV: torch.Tensor, direction: Direction) -> list[float]:
        """Scores of every layer from the logits that choose the tokens of an answer.

        The sum over tokens: by the chain rule that is how far the whole answer's distribution moves along the
        one path that is looked at, and for an answer of one token it is the papers' score.
        """
        if self.distance == "cosine":
            return cosine_distance(full_TV, tried_LTV).sum(-1).tolist()
        return kl(full_TV, tried_LTV, direction).sum(-1).tolist()


PROBES: dict[str, Probe] = {
    p.name: p
    for p in (
        Probe("vig", "VIG: KL when visual rows bypass attention at one layer", "vskip"),
        Probe("lc", "layer contribution: KL when visual rows are frozen at one layer", "shortv"),
        Probe("ffn", "KL when visual rows bypass the FFN at one layer", "ffn_skip"),
        Probe("withdrawal", "KL when visual rows are withdrawn from one layer on", "vtw", "layer"),
        Probe("cosine", "cosine distance of logits, visual rows as for vig", "vskip", distance="cosine"),
        Probe("random", "a seeded permutation of the layers", None, distance=None),
    )
}
"""Every score by name."""


def find_probe(name: str) -> Probe:
    """A score by name.

    Raises:
        ValueError: If there is none of that name.
    """
    if name not in PROBES:
        raise ValueError(f"no score {name!r}; known: {', '.join(PROBES)}")
    return PROBES[name]


def probe_for(method: Method, name: str | None = None) -> Probe:
    """The score that chooses a method's layers: the named one, or the method's own.

    Raises:
        ValueError: If the method has none, or the named one does not fit it.
    """
    name = name or method.score
    if name is None:
        raise ValueError(f"{method.name} has no layers to choose")
    probe = find_probe(name)
    withdraws = method.score == "withdrawal"
    if withdraws != (probe.name == "withdrawal"):
        fit = [p for p in PROBES if (p == "withdrawal") == withdraws]
        raise ValueError(f"score {name} does not fit {method.name}; those that do: {', '.join(fit)}")
    return probe


Progress = Callable[[int, int], None]
"""Called with (samples done, samples in all)."""
