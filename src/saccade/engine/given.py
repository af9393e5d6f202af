"""A layout that was given for merged embeddings, fitted to the forward that runs.

Shape letters: B batch, N rows, T views.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from saccade.core.layout import Layout
from saccade.core.stages import Grid, Vision


@dataclass(frozen=True, eq=False)
class Given:
    """What was said of embeddings.

    Attributes:
        layout: Where the visual rows are.
        vision: What a vision tower would know of them, or None.
        grid: Where they lie in the picture, on the host, or None.
    """

    layout: Layout
    vision: Vision | None = None
    grid: Grid | None = None

    def fitted(self, batch: int, new: int, past: int) -> Given:
        """The same for a forward of so many samples and rows.

        A batch that is a multiple holds each sample several times in turn, as ``generate`` lays out beams and
        several sequences of a prompt; a forward on a cache that comes to the layout's rows is their end.

        Raises:
            ValueError: If the forward has another shape.
        """
        layout = self.layout
        end = past > 0 and past + new == layout.rows and self.vision is None and self.grid is None
        if not (layout.rows == new or end) or not layout.batch or batch % layout.batch:
            raise ValueError(
                f"the layout is of {layout.batch} x {layout.rows} rows, the forward of {batch} x {new}"
            )
        found = self if layout.rows == new else Given(_after(layout, past))
        return found if batch == layout.batch else found._repeated(batch // layout.batch)

    def _repeated(self, times: int) -> Given:
        def each(x: torch.Tensor) -> torch.Tensor:
            return x.repeat_interleave(times, dim=0)

        layout = _with(self.layout, each)
        if layout.views is not None:
            layout = replace(layout, views=tuple(one for one in layout.views for _ in range(times)))
        grid = None if self.grid is None else _with(self.grid, each)
        return Given(layout, None if self.vision is None else _copies(self.vision, times), grid)


def _with(what: Any, change: Any) -> Any:
    """The same with its tensors, which are of samples, changed."""
    held = {f.name: getattr(what, f.name) for f in fields(what)}
    return replace(what, **{key: change(x) for key, x in held.items() if isinstance(x, torch.Tensor)})


def _after(layout: Layout, past: int) -> Layout:
    """The rows from one on; an image that begins before it counts from there."""
    image_BN = layout.image_BN[:, past:]
    first_B1 = torch.where(image_BN < 0, layout.rows, image_BN).amin(1, keepdim=True)
    image_BN = torch.where(image_BN < 0, image_BN, image_BN - first_B1)
    return Layout(layout.visual_BN[:, past:], layout.real_BN[:, past:], image_BN)


def _copies(vision: Vision, times: int) -> Vision:
    """The views of every copy of a sample count as views of their own."""
    views = int(vision.view_BN.max()) + 1 if vision.cls_TV is None else len(vision.cls_TV)
    cls_TV = None if vision.cls_TV is None else vision.cls_TV.repeat(times, 1)
    received = tuple(x.repeat_interleave(times, dim=0) for x in vision.received_BN)
    made: Vision = _with(
        replace(vision, cls_TV=None, into_BN=None, sizes_BN=None, received_BN=received),
        lambda x: x.repeat_interleave(times, dim=0),
    )
    copy_B1 = torch.arange(times, device=made.view_BN.device).repeat(len(vision.view_BN))[:, None]
    view_BN = torch.where(made.view_BN < 0, made.view_BN, made.view_BN + copy_B1 * views)
    into, sizes = (
        None if x is None else x.repeat_interleave(times, dim=0) for x in (vision.into_BN, vision.sizes_BN)
    )
    return replace(made, view_BN=view_BN, cls_TV=cls_TV, into_BN=into, sizes_BN=sizes)
