"""Where the visual rows of a batch are (design: a row is one token of one sample).

Shape letters: B batch, N rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch

from saccade.core.host import on_host

Views = tuple[int, ...]
"""Patches of every view of an image."""


def prefix_of(text: int) -> int:
    """Text rows before the image of a typical prompt: 35 (the vicuna prompt) where there are enough."""
    return min(35, text // 2)


@dataclass(frozen=True, eq=False)
class Layout:
    """Which rows of a forward are visual, of which image, and which are padding.

    Attributes:
        visual_BN: Boolean, True where the row holds an image (or video) placeholder.
        real_BN: Boolean, False where the row is padding.
        image_BN: Integer index of the image inside its sample, -1 for text and padding.
        views: Patches of every view (tile, frame) of every image of every sample, those included that no row
            holds (the padding of anyres tiles); None where it is not known how images are cut.
        block_BN: Block of every row, -1 for none, whose rows the model was told to let see each other both
            ways; None where it was told nothing.
    """

    visual_BN: torch.Tensor
    real_BN: torch.Tensor
    image_BN: torch.Tensor
    views: tuple[tuple[Views, ...], ...] | None = None
    block_BN: torch.Tensor | None = None

    @classmethod
    @on_host
    def from_mask(
        cls,
        visual_BN: torch.Tensor,
        real_BN: torch.Tensor | None = None,
        image_lengths: list[list[int]] | None = None,
    ) -> Layout:
        """Builds a layout from a mask of visual rows.

        Args:
            visual_BN: Boolean (batch, rows).
            real_BN: Boolean (batch, rows), False for padding; all True if omitted.
            image_lengths: Rows of every image of every sample, to tell adjacent images apart;
                if omitted, each unbroken run of visual rows counts as one image.

        Raises:
            ValueError: If shapes differ or the lengths do not add up to the visual rows.
        """
        visual_BN = visual_BN.bool().cpu()
        if visual_BN.ndim != 2:
            raise ValueError(f"a layout needs a (batch, rows) mask, got shape {tuple(visual_BN.shape)}")
        real_BN = torch.ones_like(visual_BN) if real_BN is None else real_BN.bool().cpu()
        if real_BN.shape != visual_BN.shape:
            raise ValueError(
                f"padding mask {tuple(real_BN.shape)} does not fit rows {tuple(visual_BN.shape)}"
            )
        visual_BN = visual_BN & real_BN
        if image_lengths is None:
            before = torch.nn.functional.pad(visual_BN, (1, 0))[:, :-1]
            image_BN = (visual_BN & ~before).long().cumsum(1) - 1
        else:
            if len(image_lengths) != len(visual_BN):
                raise ValueError(
                    f"image lengths of {len(image_lengths)} samples, but {len(visual_BN)} samples"
                )
            image_BN = torch.zeros_like(visual_BN, dtype=torch.long)
            for b, lengths in enumerate(image_lengths):
                ids = torch.repeat_interleave(
                    torch.arange(len(lengths)), torch.tensor(lengths, dtype=torch.long)
                )
                if len(ids) != int(visual_BN[b].sum()):
                    raise ValueError(
                        f"sample {b} has {int(visual_BN[b].sum())} visual rows that its attention mask does "
                        f"not hide, but its images add up to {len(ids)}"
                    )
                image_BN[b, visual_BN[b]] = ids
        return cls(visual_BN, real_BN, image_BN.masked_fill(~visual_BN, -1))

    @classmethod
    @on_host
    def single(cls, visual: int, text: int, prefix: int | None = None, views: Views | None = None) -> Layout:
        """One sample with one image: ``prefix`` text rows, ``visual`` rows, the rest of the text.

        Args:
            visual: Number of visual rows.
            text: Number of text rows in total.
            prefix: Text rows before the image; those of a typical prompt if omitted.
            views: Patches of every view of the image; not known if omitted.

        Raises:
            ValueError: If a count is negative or the prefix is longer than the text.
        """
        prefix = prefix_of(text) if prefix is None else prefix
        if visual < 0 or text < 0 or not 0 <= prefix <= text:
            raise ValueError(
                f"no such prompt: {visual} visual rows, {text} text rows, {prefix} of them before the image"
            )
        mask = torch.zeros(1, visual + text, dtype=torch.bool)
        mask[:, prefix : prefix + visual] = True
        found = cls.from_mask(mask)
        return found if views is None else replace(found, views=((views,) if visual else (),))

    @property
    def batch(self) -> int:
        """Number of samples."""
        return self.visual_BN.shape[0]

    @property
    def rows(self) -> int:
        """Number of rows of each sample, padding included."""
        return self.visual_BN.shape[1]

    @cached_property
    def text_BN(self) -> torch.Tensor:
        """Rows neither visual nor padding: a layer that leaves out visual rows leaves out padding."""
        return ~self.visual_BN & self.real_BN

    @cached_property
    def instruction_BN(self) -> torch.Tensor:
        """Text rows after the last visual row of each sample; every text row where there is none."""
        after_BN = self.visual_BN.flip(1).cumsum(1).flip(1) == 0
        return self.text_BN & after_BN

    @cached_property
    def place_BN(self) -> torch.Tensor:
        """Each visual row's number inside its image, from 0; -1 elsewhere."""
        # Images are numbered in row order, so a new one begins where the number exceeds all before it.
        before = torch.nn.functional.pad(self.image_BN.cummax(1).values, (1, 0), value=-1)[:, :-1]
        number = self.visual_BN.long().cumsum(1) - 1
        first = torch.where(self.image_BN > before, number, 0).cummax(1).values
        return (number - first).masked_fill(~self.visual_BN, -1)

    @cached_property
    def counts(self) -> tuple[tuple[int, ...], ...]:
        """Rows of every image of every sample."""
        return tuple(
            tuple(torch.bincount(images[images >= 0]).tolist()) if bool((images >= 0).any()) else ()
            for images in self.image_BN
        )

    @cached_property
    def padded(self) -> bool:
        """Whether an image has more patches than rows: padding of its tiles, which no row holds."""
        return self.views is not None and any(
            sum(views) > rows
            for sample, counts in zip(self.views, self.counts, strict=True)
            for views, rows in zip(sample, counts, strict=True)
        )

    @cached_property
    def has_visual(self) -> bool:
        """Whether any sample has a visual row."""
        return bool(self.visual_BN.any())
