"""What a picture costs before the decoder, in closed form: the vision tower and the projector (pure).

FLOPs are 2 per multiply-accumulate, of matrix products alone, as ``torch.utils.flop_counter`` counts them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from saccade.core.layout import Layout, Views
    from saccade.core.stages import TowerLayer

TowerAbility = Literal["merge_rows", "merge_patches", "leave_patches"]
"""What can be done to patches inside a vision tower: tokens merge, and rows of the decoder with them; they
merge, and every patch is put back before rows are made; patches leave before it."""

Cells = tuple[float, float]
"""Lines and columns of a view, in rows that its patches are joined to; fractional where only their number is
known: the sides of a square of as many."""

Tiling = tuple[Cells, ...]
"""The views of one image."""


@dataclass(frozen=True)
class TowerShape:
    """Sizes of a vision tower, and of what makes rows of the decoder of its patches.

    Attributes:
        layers: Layers.
        width: Width of the residual stream.
        ffn: Inner width of the FFN.
        heads: Heads.
        inputs: Numbers of a patch: channels by pixels, by frames that it spans.
        projector: Matrices (in, out) that every joined row passes on the way to the decoder, DeepStack's too.
        side: Joined rows along a side of a view, where views have one size; None where they are as large as
            the picture.
        gated: Whether the FFN is gated: three matrices, not two.
        cls: Rows beside the patches in every view (CLS).
        merge: Patches that are joined in one row.
        window: Joined rows along a side of an attention window; None where every layer sees its whole view.
        full: Layers that see the whole view where the others see windows.
        made: Layers that run before the features are taken; all of them if None. The rest runs as well.
        reads: Whether a layer reads the features, which a method may look at beside the one that made them.
        projects_cls: Whether the row beside the patches passes the projector too.
        pooled: Whether a head pools every view at the end (SigLIP), though nothing reads it.
        fused: Whether queries, keys and values are one matrix, which a look at two of them runs whole.
        crop: Patches of every view, where views overlap so that their rows do not tell.
        patchwise: Matrices (in, out) that every patch of a joined row passes beside, after the tower.
    """

    layers: int
    width: int
    ffn: int
    heads: int
    inputs: int
    projector: tuple[tuple[int, int], ...]
    side: int | None = None
    gated: bool = False
    cls: int = 0
    merge: int = 1
    window: int | None = None
    full: tuple[int, ...] = ()
    made: int | None = None
    reads: bool = False
    projects_cls: bool = False
    pooled: bool = False
    fused: bool = False
    crop: int | None = None
    patchwise: tuple[tuple[int, int], ...] = ()

    @property
    def parameters(self) -> int:
        """Numbers in the matrices of the tower and the projector: what is read of the memory."""
        layer = (4 * self.width + self._ffn) * self.width
        projector = sum(i * o for i, o in self.projector + self.patchwise)
        return self.inputs * self.width + self.layers * layer + projector

    @property
    def _makers(self) -> int:
        return self.layers if self.made is None else self.made

    @property
    def _ffn(self) -> int:
        return (3 if self.gated else 2) * self.ffn

    def tower_flops(self, view: Cells, r: int = 0, part: float = 1.0, spread: bool = False) -> float:
        """FLOPs of the tower over one view.

        Args:
            view: Its lines and columns.
            r: Tokens that merge in every layer that makes the features (``TowerMerge``).
            part: Share of the patches that enter the first layer; all of them are embedded.
            spread: Whether every patch is put back once the features are made.
        """
        d, total = self.width, 2.0 * self.inputs * self.width * self._patches(view)
        cells = self._cells(view)
        rows = self._patches(view) * part + self.cls
        for number in range(self.layers):
            if r:
                rows = sum(count * tokens for count, tokens in cells)
                pairs = self._pairs_of(cells, number, rows)
            else:
                pairs = self._pairs(view, number, rows) * self._windowed(number, part)
            total += 8 * d * d * rows + 4 * d * pairs
            if r and number < self._makers:
                after = [(count, tokens - merged_away(int(tokens), r, self.cls)) for count, tokens in cells]
                total += sum(
                    count * self._merging(int(tokens), int(tokens - left))
                    for (count, tokens), (_, left) in zip(cells, after, strict=True)
                )
                cells, rows = after, sum(count * tokens for count, tokens in after)
            total += 2 * d * self._ffn * rows
            if spread and number == self._makers - 1:
                cells = self._cells(view)
        rows = sum(count * tokens for count, tokens in cells) if r else rows
        if self.pooled:
            total += 4 * d * d * (1 + rows) + 4 * d * rows + 4 * d * self.ffn
        return total

    def _windowed(self, number: int, part: float) -> float:
        """Share of a window's pairs that is left of it; in other layers the rows say it already."""
        return 1.0 if self.window is None or number in self.full else part**2

    def tokens(self, view: Cells, r: int = 0) -> list[float]:
        """Tokens of one view that enter the layers which make the features, and that leave the last one."""
        found = [self._patches(view) + self.cls]
        for _ in range(self._makers):
            found.append(found[-1] - (merged_away(int(found[-1]), r, self.cls) if r else 0))
        return found

    def _patches(self, view: Cells) -> float:
        return view[0] * view[1] * self.merge if self.crop is None else self.crop

    def _pairs(self, view: Cells, number: int, rows: float) -> float:
        """Pairs of tokens that attend to each other in a layer."""
        if self.window is None or number in self.full:
            return rows * rows
        return self.merge**2 * _squares(view[0], self.window) * _squares(view[1], self.window)

    def _cells(self, view: Cells) -> list[tuple[int, float]]:
        """Parts of a view inside which tokens merge: how many there are of a size, and its tokens."""
        if self.window is None:
            return [(1, self._patches(view) + self.cls)]
        lines, columns = (_parts(length, self.window) for length in view)
        return [(n * m, a * b * self.merge) for n, a in lines for m, b in columns if n * m and a * b]

    def _pairs_of(self, cells: Sequence[tuple[int, float]], number: int, rows: float) -> float:
        """The same where tokens have merged in these."""
        if self.window is None or number in self.full:
            return rows * rows
        return sum(count * tokens**2 for count, tokens in cells)

    def _merging(self, rows: int, gone: int) -> float:
        """Similarities of one half with the other, and sums over what merges: of rows, and of sizes twice."""
        if not gone:
            return 0.0
        others = rows // 2
        alike = 2.0 * (rows - others) * others * (self.width // self.heads)
        # Where patches are packed sizes are added up once, else before the merge too.
        return alike + 2 * others * gone * (self.width + (1 if self.side is None else 2))

    def projector_flops(self, view: Cells, r: int = 0, part: float = 1.0) -> float:
        """FLOPs of what makes rows of the decoder of one view's features."""
        rows = self.tokens(view, r)[-1] - self.cls if r else view[0] * view[1]
        rows += self.cls if self.projects_cls else 0
        patches = sum(2.0 * i * o for i, o in self.patchwise) * self.merge
        return (sum(2.0 * i * o for i, o in self.projector) + patches) * rows * part

    def looking_flops(self, view: Cells, looks: int, r: int = 0) -> float:
        """FLOPs of a look at the attention of so many layers: heads apart, and as one of full width.

        From the CLS row, or where there is none from every row of its view. A layer in which tokens merge has
        its queries and keys already, and what is seen of it is merged as its tokens are.
        """
        d, entering = self.width, self.tokens(view, r)
        rows, looks = entering[-1], min(looks, 2 if self.reads else 1)
        asking = 1 if self.cls else rows
        pairs = rows if self.cls else self._pairs(view, self._makers - 1, rows)
        one = (6 * d * d * rows if self.fused else 2 * d * d * (rows + asking)) + 4 * d * pairs
        if not looks or not r or not self._makers:
            return looks * one
        rows, gone = entering[-2], entering[-2] - entering[-1]
        merged = 4 * d * (rows if self.cls else rows * rows) + 2 * (rows // 2) * gone * (d + 3)
        return merged + (looks - 1) * one

    def receiving_flops(self, view: Cells, layers: Iterable[TowerLayer]) -> float:
        """FLOPs of the attention that patches get of all rows of their view in some layers."""
        d, rows, total = self.width, self._patches(view) + self.cls, 0.0
        for number in {self.number(layer) for layer in layers}:
            total += (6 if self.fused else 4) * d * d * rows + 2 * d * self._pairs(view, number, rows)
        return total

    def number(self, layer: TowerLayer) -> int:
        """Index of a layer, from 0; of one that the tower does not have the nearest."""
        if layer == "made":
            return max(self._makers - 1, 0)
        number = layer if isinstance(layer, int) else round(layer * self.layers)
        return min(max(number, 1), self.layers) - 1

    def views(self, rows: float, cut: Views | None = None) -> Tiling:
        """Views of an image as far as numbers tell: squares.

        Args:
            rows: Its rows in the decoder.
            cut: Rows that every view had before some of them were dropped as padding, if that is known.
        """
        if cut is None or len(cut) < 2:
            if self.side is None or rows <= self.side**2 + self.cls:
                return (_square(rows - (self.cls if self.projects_cls else 0)),) if rows else ()
            return ((float(self.side), float(self.side)),) * max(round(rows / self.side**2), 1)
        return tuple(_square(each) for each in cut)


def merged_away(tokens: int, r: int, protected: int) -> int:
    """Tokens that merge in one layer, of which r are meant to and so many never do."""
    return min(r, (tokens - protected) // 2)


def pictures_of(tower: TowerShape, layout: Layout) -> list[Tiling]:
    """Images of all samples of a batch as far as their rows tell."""
    if layout.views is None:
        return [tower.views(rows) for sample in layout.counts for rows in sample]
    return [
        tower.views(rows, cut)
        for counts, views in zip(layout.counts, layout.views, strict=True)
        for rows, cut in zip(counts, views, strict=True)
    ]


def shrunk(picture: Tiling, fewer: int) -> Tiling:
    """An image that has fewer rows: an only view shrinks, of several there are fewer."""
    rows = sum(lines * columns for lines, columns in picture)
    if not rows or fewer >= rows:
        return picture
    if len(picture) > 1:
        return picture[: max(round(len(picture) * fewer / rows), 1)]
    side = sqrt(fewer / rows)
    return tuple((lines * side, columns * side) for lines, columns in picture)


def every(pictures: Sequence[Tiling]) -> Iterator[Cells]:
    """All views of some images."""
    for picture in pictures:
        yield from picture


def _square(rows: float) -> Cells:
    side = sqrt(max(rows, 0))
    return side, side


def _parts(length: float, part: int) -> list[tuple[int, float]]:
    """A length cut into equal parts, the last of which may be shorter: how many of which length."""
    whole = max(ceil(length / part) - 1, 0)
    return [(whole, part), (1, length - whole * part)]


def _squares(length: float, part: int) -> float:
    """Sum of squares of a length cut so."""
    return sum(count * each**2 for count, each in _parts(length, part))
