"""Chain-of-Sight: a resampler whose tokens look at windows of several sizes, coarse to fine.

Shape letters: B batch, P patches, C tower width, W windows, Q queries of a window, K patches of a window,
D decoder width, S tokens of a scale, N tokens of all scales.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt

import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True)
class Scale:
    """Tokens of one window size.

    Attributes:
        window: Side of a window in patches.
        queries: Tokens of all windows together.
    """

    window: int
    queries: int

    def windows(self, grid: int) -> int:
        """Windows on a grid of so many patches a side.

        Raises:
            ValueError: If windows do not tile the grid, or tokens do not share out over windows.
        """
        if self.window < 1 or grid % self.window:
            raise ValueError(f"windows of {self.window} patches do not tile a grid of {grid} a side")
        count = (grid // self.window) ** 2
        if self.queries < count or self.queries % count:
            raise ValueError(
                f"{self.queries} tokens do not share out evenly over {count} windows of {self.window} patches"
            )
        return count


class WindowBlock(nn.Module):
    """Cross attention of a window's tokens to its own patches, then an MLP; pre-norm, residual."""

    def __init__(self, width: int, heads: int) -> None:
        """Creates it for a tower of this width."""
        super().__init__()
        self.heads = heads
        self.norm_tokens, self.norm_patches = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, tokens_WQC: torch.Tensor, patches_WKC: torch.Tensor) -> torch.Tensor:
        """Tokens after one look; windows of all images stand in the first dimension."""
        q = self.query(self.norm_tokens(tokens_WQC))
        k, v = self.key_value(self.norm_patches(patches_WKC)).chunk(2, dim=-1)
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        tokens_WQC = tokens_WQC + self.out(mixed)
        return tokens_WQC + self.mlp(self.norm_mlp(tokens_WQC))


class Queries(nn.ParameterList):
    """Learned queries of every scale, got by a call: what moves weights to where they are used (accelerate's
    offloading, shards) does so around the call of the module that holds them."""

    __call__ = nn.Module.__call__

    def forward(self) -> list[nn.Parameter]:
        """The queries, scale by scale."""
        return list(self)


class ChainOfSight(nn.Module):
    """The resampler (arXiv 2407.15819, as Skip-Vision uses it).

    Every scale has its own learned queries, shared out over its windows, and one block for every feature
    level of the tower, taken one after another; a token sees the patches of its own window alone. Scales are
    joined coarse to fine and share one norm and one projection. Inside a scale the order is window by window.
    """

    def __init__(
        self, scales: Sequence[Scale], grid: int, levels: int, width: int, out: int, heads: int | None = None
    ) -> None:
        """Creates it.

        Args:
            scales: Window sizes, coarse to fine.
            grid: Patches along a side of the square image.
            levels: Feature levels; their features stand side by side in the input.
            width: Width C of the tower.
            out: Width D of the decoder.
            heads: Attention heads; of width 64 if omitted.

        Raises:
            ValueError: If a scale does not fit the grid, or heads do not divide the width.
        """
        super().__init__()
        if not scales:
            raise ValueError("Chain-of-Sight needs at least one scale")
        heads = max(width // 64, 1) if heads is None else heads
        if width % heads:
            raise ValueError(f"{heads} heads do not divide a width of {width}")
        self.scales, self.grid, self.levels = tuple(scales), grid, levels
        self.windows = tuple(scale.windows(grid) for scale in self.scales)
        self.queries = Queries(
            nn.init.trunc_normal_(nn.Parameter(torch.empty(1, scale.queries, width)), std=0.02)
            for scale in self.scales
        )
        self.blocks = nn.ModuleList(
            nn.ModuleList(WindowBlock(width, heads) for _ in range(levels)) for _ in self.scales
        )
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, out)

    @property
    def each(self) -> tuple[int, ...]:
        """Tokens of one window, of every scale."""
        return tuple(s.queries // count for s, count in zip(self.scales, self.windows, strict=True))

    def forward(self, features_BPC: torch.Tensor) -> torch.Tensor:
        """Tokens (B, N, D) of all scales, from the features (B, P, levels * C) of square images.

        Raises:
            ValueError: If the features are of another grid or number of levels.
        """
        batch, patches, wide = features_BPC.shape
        width = self.norm.weight.shape[0]
        if isqrt(patches) != self.grid or patches != self.grid**2 or wide != self.levels * width:
            raise ValueError(
                f"this resampler takes {self.grid} x {self.grid} patches of {self.levels} levels of {width}, "
                f"got {patches} patches of {wide} numbers"
            )
        levels = features_BPC.split(width, dim=-1)
        found = []
        for scale, count, queries, blocks in zip(
            self.scales, self.windows, self.queries(), self.blocks, strict=True
        ):
            tokens = queries.unflatten(1, (count, -1)).expand(batch, -1, -1, -1).flatten(0, 1)
            for level, block in zip(levels, blocks, strict=True):  # type: ignore[call-overload]
                tokens = block(tokens, _windows(level, self.grid, scale.window))
            found.append(tokens.unflatten(0, (batch, count)).flatten(1, 2))
        return self.project(self.norm(torch.cat(found, dim=1)))

    @torch.no_grad()
    def inflate_from(self, source: ChainOfSight) -> None:
        """Starts from a resampler with fewer tokens (80 in pre-training, up to 16 times more afterwards).

        A scale comes from one of the source with as many tokens per window: from the same scale if the source
        has it; else the coarsest from the coarsest such, the others from the finest such. Queries of a window
        are repeated over the new windows that it covers; blocks, norm and projection are copied.

        Raises:
            ValueError: If widths or levels differ, or the source has no scale with as many tokens per window.
        """
        if source.levels != self.levels or source.project.weight.shape != self.project.weight.shape:
            raise ValueError("a resampler is inflated from one of the same levels and widths")
        self.norm.load_state_dict(source.norm.state_dict())
        self.project.load_state_dict(source.project.state_dict())
        for place, target in enumerate(self.queries):
            origin = _origin(place, self, source)
            self.blocks[place].load_state_dict(source.blocks[origin].state_dict())
            target.copy_(_repeated(source.queries[origin], source.windows[origin], self.windows[place]))


def _origin(place: int, target: ChainOfSight, source: ChainOfSight) -> int:
    """Which of the source's scales one starts from: a window keeps its tokens."""
    wanted, each = target.scales[place], target.each[place]
    fitting = [n for n, own in enumerate(source.each) if own == each]
    if not fitting:
        raise ValueError(
            f"windows of {' or '.join(map(str, sorted(set(source.each))))} tokens cannot become windows of "
            f"{each}; keep tokens per window as they are"
        )
    same = [n for n in fitting if source.scales[n] == wanted]
    if same:
        return place if place in same else same[0]
    return fitting[0] if place == 0 else fitting[-1]


def _repeated(queries: torch.Tensor, windows: int, wanted: int) -> torch.Tensor:
    """Queries (1, S, C) of a square of windows, repeated over a square of more or fewer windows."""
    own, side, new = queries.unflatten(1, (windows, -1))[0], isqrt(windows), isqrt(wanted)
    at = (torch.arange(new) * side) // new
    return own.unflatten(0, (side, side))[at][:, at].flatten(0, 2)[None]


def _windows(features_BPC: torch.Tensor, grid: int, window: int) -> torch.Tensor:
    """Patches of every window: (B * W, K, C), windows and patches line by line."""
    across = grid // window
    x = features_BPC.unflatten(1, (across, window, across, window))
    return x.transpose(2, 3).flatten(3, 4).flatten(0, 2)
