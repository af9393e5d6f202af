"""What reducers share that keep rows view by view: whether a number is of every view or of the image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

from saccade.core.layout import Views
from saccade.core.stages import Evidence, Stage, Vision
from saccade.methods.reducer import KeepReducer, Reducer, rows_of
from saccade.methods.towerwise import Groups, as_alive, by_view, by_whole_view


@dataclass(frozen=True)
class ViewReducer(Reducer, ABC):
    """A reducer of views.

    Attributes:
        share: What the numbers are of. ``view``, as the authors do: of every view (tile, frame). All keep the
            same number out of all their patches, the padding of a tile among them, which the model itself
            never shows its decoder; where rows are interpolated between patches, out of those rows. An image
            whose views would keep all of their patches, or as many as it has rows, stays as it is. ``frame``
            is another word for it, for videos. ``image``: of the image (or video), split over its views in
            proportion to the patches that are rows. Where an image is one view, or it is not known how it was
            cut, both are the same.
    """

    share: Literal["view", "frame", "image"] = "view"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.share not in ("view", "frame", "image"):
            raise ValueError(f"{self.name}: share is view, frame or image, got {self.share!r}")

    @abstractmethod
    def count(self, rows: int) -> int:
        """Rows that stay of so many, of a view or of an image."""

    def base(self, found: int, original: int) -> int:
        """Rows of an image that a fraction is of."""
        return original if self.of == "original" else found

    def kept(self, stage: Stage, found: int, start: int, original: int, views: Views = ()) -> int:
        if self.share == "image" or not views:
            return min(found, self.count(self.base(found, original)))
        of = found if self.of == "found" else original
        sizes = [as_alive(patches, of, original) for patches in views]
        if all(self.count(size) >= size for size in sizes):
            return found  # nothing is pruned, so rows that are no patch (newlines) stay too
        return min(found, sum(min(self.count(size), size) for size in sizes))

    def groups(self, evidence: Evidence, vision: Vision) -> Groups:
        """Views of images that lose rows, and what each keeps. Waits for the device."""
        if self.share == "image" or evidence.layout.views is None:
            return by_view(evidence, vision)
        return by_whole_view(evidence, vision, self.count, whole=self.of == "original")


@dataclass(frozen=True)
class KeepViewReducer(ViewReducer, KeepReducer):
    """A reducer of views with one number, ``keep``."""

    def count(self, rows: int) -> int:
        return rows_of(self.amount, rows, self.rounds)
