"""DART: rows that repeat what a few pivots say are dropped.

Shape letters: B batch, N rows, D hidden, I images of a sample, P pivots.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from saccade.core.layout import Views
from saccade.core.pivots import set_order
from saccade.core.precision import unit, wide
from saccade.core.select import ranks, top
from saccade.core.stages import Choice, Evidence, Look, Stage
from saccade.methods.reducer import DecoderReducer
from saccade.methods.registry import register


@register
@dataclass(frozen=True)
class DART(DecoderReducer):
    """DART (arXiv 2502.11494): what stays is what differs most from a few pivots.

    Pivots are the visual rows of the image and the text rows after the last image whose keys in layer K-1
    (rotated, all heads) have the largest L1 norm. One pivot after another takes an equal share of the rows
    left: those least like it by the cosine of final-normed hidden states. Their order decides who takes what,
    and is the authors': that in which Python walks over a set of their row numbers (``core/pivots.py``), put
    in visual first, strongest first. Where the text has fewer pivots, visual ones take their shares.

    Attributes:
        keep: What the pivots take together: a fraction up to 1, or a number of rows, divided by the number of
            pivots and rounded down; the visual pivots themselves stay on top of it, as in the authors' count.
        layer: K, the first layer that runs with the rest.
        pivots: Pivots of each kind.
    """

    name = "dart"
    version = 2
    title = "DART"
    paper = "https://arxiv.org/abs/2502.11494"
    usual = 0.222
    look = Look(keys=True, rotary=True)

    layer: int = 5
    pivots: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self.pivots) is not int or self.pivots < 1:
            raise ValueError(f"dart: pivots is a number from 1, got {self.pivots!r}")

    def kept(self, stage: Stage, found: int, start: int, original: int, views: Views = ()) -> int:
        whole = original if self.of == "original" else found
        if self.amount == 1:
            return found
        wanted = self.amount if isinstance(self.amount, int) else whole * self.amount + 1e-9
        return min(found, self.pivots + 2 * self.pivots * int(wanted / (2 * self.pivots)))

    def choose(self, stage: Stage, evidence: Evidence) -> Choice:
        norm: Any = evidence.norm
        alive_BN, image_BN = evidence.alive_BN, evidence.image_BN
        size_BN = key_sizes(evidence)
        images = max(1, max((len(sample) for sample in evidence.found), default=1))
        share = tuple(
            # An image that keeps every row takes them all in one share.
            tuple(f if k == f else (k - self.pivots) // (2 * self.pivots) for f, k in zip(*pair, strict=True))
            for pair in zip(evidence.found, evidence.keep, strict=True)
        )

        instruction_BN = evidence.layout.instruction_BN.to(alive_BN.device, non_blocking=True)
        visual_BIP, _ = self._strongest(size_BN, alive_BN, image_BN, images)
        text_B1P, is_text_B1P = self._strongest(size_BN, instruction_BN, instruction_BN.long() - 1, 1)
        text_BIP = torch.where(is_text_B1P, text_B1P, visual_BIP)
        pivots_BIP = torch.cat([visual_BIP, text_BIP.expand_as(visual_BIP)], 2)
        # The authors have no padding: rows are counted from the first real one.
        first_B = evidence.layout.real_BN.int().argmax(1).to(alive_BN.device, non_blocking=True)
        pivots_BIP = pivots_BIP.gather(2, set_order((pivots_BIP - first_B[:, None, None]).clamp(min=0)))

        with torch.no_grad():
            likeness_BIPN = cosines(norm(evidence.hidden_BND), pivots_BIP)
        at = image_BN.clamp(min=0)[:, None, None].expand(-1, 1, likeness_BIPN.shape[2], -1)
        likeness_BPN = likeness_BIPN.gather(1, at)[:, 0]

        first = tuple(tuple(self.pivots for _ in sample) for sample in evidence.found)
        chosen_BN = top(size_BN, alive_BN, image_BN, first)
        for pivot in range(likeness_BPN.shape[1]):
            chosen_BN = chosen_BN | top(-likeness_BPN[:, pivot], alive_BN & ~chosen_BN, image_BN, share)
        return Choice(chosen_BN)

    def _strongest(
        self, size_BN: torch.Tensor, candidates_BN: torch.Tensor, group_BN: torch.Tensor, groups: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows with the largest norms of every group, (B, groups, pivots), and which of them there are."""
        place_BN = ranks(size_BN, candidates_BN, group_BN)
        rows = torch.arange(size_BN.shape[1], device=size_BN.device).expand_as(place_BN)
        spare = groups * self.pivots
        slot_BN = torch.where(place_BN < self.pivots, group_BN * self.pivots + place_BN, spare)
        table = torch.full((len(size_BN), spare + 1), -1, device=size_BN.device).scatter(1, slot_BN, rows)
        found = table[:, :-1].unflatten(1, (groups, self.pivots))
        return found.clamp(min=0), found >= 0


def key_sizes(evidence: Evidence) -> torch.Tensor:
    """L1 norms (B, N) of the rotated keys, all heads, as if the first real row of every sample stood at 0.

    The norm depends on absolute positions, and those of a left-padded sample may count its padding.
    """
    given: Any = evidence.keys_BGNW
    keys: torch.Tensor = wide(given)
    first_B = evidence.layout.real_BN.int().argmax(1).to(keys.device, non_blocking=True)
    rotary: Any = evidence.rotary
    cos, sin = (
        wide(part).expand(len(keys), -1, -1).gather(1, first_B[:, None, None].expand(-1, 1, part.shape[-1]))
        for part in rotary
    )
    turn: Any = evidence.turn
    back_BGNW: torch.Tensor = turn(keys, (cos, -sin))
    return back_BGNW.abs().sum((1, 3))


def cosines(states_BND: torch.Tensor, rows_BIP: torch.Tensor) -> torch.Tensor:
    """Cosine similarity, in float32 at least, of some rows to all: (B, I, P, N)."""
    unit_BND = unit(states_BND)
    index = rows_BIP.flatten(1)[..., None].expand(-1, -1, unit_BND.shape[-1])
    alike: torch.Tensor = unit_BND.gather(1, index) @ unit_BND.transpose(1, 2)
    return alike.view(*rows_BIP.shape, -1)
