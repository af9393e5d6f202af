"""FitPrune: rows leave layer by layer, as many as a recipe that was fitted to attention says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any

import torch

from saccade.core.layout import Views
from saccade.core.select import top
from saccade.core.stages import Choice, Evidence, Look, Stage
from saccade.core.text import short
from saccade.methods.reducer import rows_of
from saccade.methods.registry import register
from saccade.methods.staged import PUBLISHED_DEPTH, StagedReducer

PUBLISHED_ROWS = 576
"""Visual rows that the published recipes are of."""

PUBLISHED: tuple[tuple[float, tuple[int, ...]], ...] = tuple(
    (keep, tuple(map(int, gone.split())))
    for keep, gone in (
        (0.9, "0 0 1 2 1 0 1 4 5 5 11 4 2 2 0 0 1 1 2 4 2 10 1 1 1 2 1 1 0 1 0"),
        (0.8, "0 0 3 3 1 1 4 16 14 15 24 4 2 3 2 0 6 0 5 13 4 19 2 1 1 1 1 1 2 1 0"),
        (0.7, "0 0 7 6 4 5 16 40 24 21 24 4 2 3 4 0 16 0 11 26 6 32 3 1 0 1 2 2 4 0 0"),
        (0.6, "0 1 21 13 14 11 41 53 29 15 14 5 1 4 5 1 26 1 13 28 6 27 2 1 0 0 1 1 2 0 0"),
        (0.5, "3 7 49 24 29 17 59 41 26 8 10 6 2 5 7 2 30 3 13 27 5 23 2 1 0 0 1 1 2 0 0"),
        (0.45, "6 17 69 31 34 19 59 30 23 6 8 7 2 5 8 2 29 4 12 25 4 19 2 1 0 0 1 0 1 0 0"),
        (0.4, "14 33 89 36 36 20 55 21 18 4 7 5 2 5 7 4 26 5 11 24 4 18 2 1 0 0 1 0 1 0 0"),
        (0.3, "48 79 118 41 33 17 36 9 9 2 3 2 1 3 4 8 18 7 8 20 4 13 2 1 0 0 1 0 1 0 0"),
        (0.2, "128 127 118 35 26 8 13 3 2 1 0 0 0 2 1 8 7 8 5 11 2 6 1 1 0 0 0 1 0 0 0"),
        (0.1, "262 153 80 19 13 1 2 0 0 0 0 0 0 0 0 1 1 2 1 2 0 1 0 0 0 0 0 1 0 0 0"),
    )
)
"""The recipes in the authors' code: what is kept of the visual rows' FLOPs, and how many leave in each layer.

Of 576 rows and 32 layers (LLaVA-1.5-7B); the last layer, in which nothing leaves, is left out.
"""


@register
@dataclass(frozen=True)
class FitPrune(StagedReducer):
    """FitPrune (arXiv 2409.10197): in every layer the rows that least is looked at leave, by a fitted recipe.

    A row's score is the product of the attention it gets in the layer that just ran, the largest over heads,
    from the rows of its own image and from the text after the last image, each added up; where no such text
    follows, the image's own decides. How many leave in which layer says a recipe: the one that ``saccade
    calibrate --method fitprune --flops RATIO`` finds (``saccade.calibration.fitting``), or, without one, that
    of the authors' code for LLaVA-1.5-7B, in fractions of the image's rows and of the depth.

    The authors drop rows inside a layer, between attention and FFN; here they leave at the layer's end, which
    changes nothing for the rows that stay: their FFN is all that the dropped rows still cost. In the authors'
    code a picture is 576 rows and the text begins at row 611; here images of any size, and several of them,
    are cut each by its own share, and attention between images is not counted. They have attention maps at
    hand; here the score rows of all rows of an image are computed anew in every layer in which rows leave,
    which executed FLOPs count: recipes that drop little save nothing.

    Attributes:
        keep: The authors' recipe to take: about this share of the visual rows' FLOPs is left (theirs are 0.9
            to 0.1; between two of them rows are interpolated). 0.4 if neither this nor a recipe is given.
        layers: A recipe of one's own: first layers with fewer rows. The authors' if left out.
        left: What is left from each of these layers on of the rows that the first one found, as fractions
            that never rise, for example ``0.9/0.72/0.5``; rounded to the nearest number of rows.
    """

    name = "fitprune"
    title = "FitPrune"
    paper = "https://arxiv.org/abs/2409.10197"
    published = tuple(range(1, PUBLISHED_DEPTH))
    look = Look(ask="readers")
    dial = "keep"
    fitted = True
    usual = 0.4

    keep: float | None = None
    left: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        given = None if self.layers is None else tuple(self.layers)
        super().__post_init__()
        if self.keep is not None:
            if not _is_fraction(self.keep):
                raise ValueError(
                    f"fitprune: keep is a fraction of the visual rows' FLOPs, from 0 to 1, got {self.keep!r}"
                )
            object.__setattr__(self, "keep", float(self.keep))
        if (self.layers is None) != (self.left is None):
            raise ValueError("fitprune: a recipe has both layers and left, one fraction for each layer")
        if self.layers is None or self.left is None:
            return
        if self.keep is not None or self.flops is not None:
            raise ValueError(
                "fitprune: layers and left say how many rows stay; leave out keep and flops, which choose "
                "among the authors' recipes"
            )
        left = tuple(self.left)
        if given != self.layers:
            raise ValueError(f"fitprune: layers ascend, as what is left of the rows falls: {short(given)}")
        if len(left) != len(self.layers) or not all(map(_is_fraction, left)):
            raise ValueError(
                f"fitprune: left has a fraction from 0 to 1 for each of the {len(self.layers)} layers, got "
                f"{short(left)}"
            )
        if any(later > earlier for earlier, later in pairwise(left)):
            raise ValueError(f"fitprune: rows that left do not come back, so left never rises: {short(left)}")
        object.__setattr__(self, "left", tuple(map(float, left)))

    def recipe(self, num_layers: int) -> tuple[tuple[int, float], ...]:
        """First layers with fewer rows, and the share that is left from each of them on.

        Raises:
            ValueError: If the model does not have such a layer.
        """
        if self.layers is not None and self.left is not None:
            layers = (self.check_layer(layer, num_layers) for layer in self.layers)
            return tuple(zip(layers, self.left, strict=True))
        return shortest(published_left(self.usual if self.keep is None else self.keep, num_layers))

    @classmethod
    def usual_values(cls) -> dict[str, str]:
        return super().usual_values() | {"layers": "the authors', scaled", "keep": f"{cls.usual}"}

    def befores(self, num_layers: int) -> tuple[int, ...]:
        return tuple(layer for layer, _ in self.recipe(num_layers))

    def kept(self, stage: Stage, found: int, start: int, original: int, views: Views = ()) -> int:
        _, share = self.recipe(self.depth)[stage.number]
        return min(found, rows_of(share, original if self.of == "original" else start, "nearest"))

    def choose(self, stage: Stage, evidence: Evidence) -> Choice:
        scores_BN = weighed(evidence).prod(1)
        return Choice(top(scores_BN, evidence.alive_BN, evidence.image_BN, evidence.keep))


def weighed(evidence: Evidence) -> torch.Tensor:
    """What rows get of their own image and of the instruction, (B, 2, N); 1 where there is no instruction."""
    read_B2N: Any = evidence.read_B2N
    said_B1 = evidence.layout.instruction_BN.any(1, keepdim=True).to(read_B2N.device, non_blocking=True)
    own_BN, text_BN = read_B2N.unbind(1)
    return torch.stack((own_BN, torch.where(said_B1, text_BN, 1)), dim=1)


@lru_cache(maxsize=4096)
def published_left(keep: float, num_layers: int) -> tuple[float, ...]:
    """Share of the rows that is left before each layer from layer 1 on, by the authors' recipes.

    Args:
        keep: Share of the visual rows' FLOPs; between two recipes, and towards none and all, interpolated.
        num_layers: Depth of the model; a recipe is read at the same share of it.
    """
    depth = PUBLISHED_DEPTH
    curves = [(1.0, (1.0,) * depth)]
    for part, gone in PUBLISHED:
        left = tuple(1 - lost / PUBLISHED_ROWS for lost in accumulate(gone))
        # A stronger recipe never leaves more rows anywhere.
        curves.append((part, (1.0, *map(min, left, curves[-1][1][1:]))))
    curves.append((0.0, (1.0, *(0.0,) * (depth - 1))))
    (above, more), (below, fewer) = next(
        pair for pair in pairwise(curves) if pair[0][0] >= keep >= pair[1][0]
    )
    share = (keep - below) / (above - below)
    curve = [share * a + (1 - share) * b for a, b in zip(more, fewer, strict=True)]
    found = []
    for layer in range(1, num_layers):
        at = layer * depth / num_layers
        low = min(int(at), depth - 1)
        high, rest = min(low + 1, depth - 1), at - low
        found.append(round((1 - rest) * curve[low] + rest * curve[high], 6))
    return tuple(found)


def shortest(left: Sequence[float]) -> tuple[tuple[int, float], ...]:
    """The layers before which rows leave, and what is left, from what is left before each from layer 1 on."""
    return tuple(
        (layer, share)
        for layer, (before, share) in enumerate(pairwise((1.0, *left)), start=1)
        if share < before
    )


def with_recipe(left: Sequence[float], **like: Any) -> FitPrune:
    """The method with a recipe, from what is left before each layer from layer 1 on.

    Args:
        left: Shares that never rise.
        **like: Its other parameters.
    """
    found = shortest(left)
    if not found:
        return FitPrune(keep=1.0, **like)
    return FitPrune(layers=tuple(n for n, _ in found), left=tuple(share for _, share in found), **like)


def _is_fraction(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and 0 <= value <= 1
