"""What every stage of a plan kept, merged and dropped of every image, and how to say it (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL.Image import Image

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in the picture, each 0 to 1."""
Made = dict[int, dict[int, float]]
"""For every row that is alive: the original rows it is made of, with their weights."""


@dataclass(frozen=True, eq=False)
class View:
    """An image as the model saw it, and where its rows lie in it.

    Attributes:
        picture: What the model saw, RGB.
        boxes: Of every visual row of the image, by its number in the prompt: where its patch is, or None
            where the row is no patch (newline rows).
        planes: Of every row that is a patch: its plane (0: the whole picture, 1: the tiles together).
    """

    picture: Image
    boxes: Mapping[int, Box | None]
    planes: Mapping[int, int]

    @property
    def patches(self) -> list[int]:
        """Rows that are patches."""
        return list(self.planes)


@dataclass(frozen=True, eq=False)
class Left:
    """What a stage left of one image. Patches are named by their row in the prompt.

    Attributes:
        found: Rows that were alive when the stage was reached; of what the model saw: those without the plan.
        found_patches: Patches that some row held then.
        found_others: Rows then that held no patch.
        made: Rows that are alive now, and what they are made of.
        kept: Patches that a row holds unmixed.
        into: Merged patches, each with the row that holds most of it.
        centres: Rows that hold several patches, each with the patch it is drawn at.
        dropped: Patches that no row holds any more since this stage.
        gone: Patches that were dropped before.
        others: Rows that are alive and hold no patch: newlines, or rows made of something else.
    """

    found: int
    found_patches: int
    found_others: int
    made: Made
    kept: tuple[int, ...]
    into: Mapping[int, int]
    centres: Mapping[int, int]
    dropped: tuple[int, ...]
    gone: tuple[int, ...]
    others: int

    @property
    def counts(self) -> dict[str, int]:
        """Rows found and left, and what became of the patches."""
        return {
            "found": self.found,
            "left": len(self.made),
            "patches_kept": len(self.kept),
            "patches_merged": len(self.into),
            "merged_rows": len(self.centres),
            "patches_dropped": len(self.dropped),
            "patches_gone_before": len(self.gone),
            "others_found": self.found_others,
            "others_left": self.others,
        }

    def to_dict(self, view: View) -> dict[str, Any]:
        """Plain dictionary for JSON; boxes in the order of ``kept``, null where a row holds no patch."""
        held = {row: patch_of(weights, row, view) for row, weights in self.made.items()}
        return {
            "counts": self.counts,
            "kept": list(self.made),
            "boxes": [None if patch is None else view.boxes[patch] for patch in held.values()],
            "merged": {str(row): list(parts.items()) for row, parts in self.made.items() if len(parts) > 1},
        }


@dataclass(frozen=True, eq=False)
class Moment:
    """One stage of a plan, or, without a method, what the model saw.

    Attributes:
        before: First layer that runs with what is left.
        method: Spec of the method that decided; empty before any did.
        images: What is left of every image.
    """

    before: int
    method: str
    images: tuple[Left, ...]

    @property
    def where(self) -> str:
        """The boundary, in words."""
        if not self.method:
            return "what the model saw"
        return f"before layer {self.before}" if self.before else "before the decoder"


def caption(moment: Moment, left: Left) -> str:
    """What a stage left of an image, in words, without the boundary."""
    others = left.found_others
    if not moment.method:
        shorter = f", of {left.found} rows at full resolution" if left.found != len(left.made) else ""
        rest = f" and {_plural(others, 'newline or other row')}" if others else ""
        return f"{_plural(len(left.kept), 'patch')}{rest}{shorter}"
    if left.into or left.found != left.found_patches + others:
        into = f"merged into {_plural(len(left.centres), 'row')}"
        became = ((left.kept, "kept"), (left.into, into), (left.dropped, "dropped"))
        parts = [f"{_plural(len(patches), 'patch')} {what}" for patches, what in became if patches]
        if others:
            parts.append(f"{left.others} of {_plural(others, 'newline or other row')} kept")
        text = f"{len(left.made)} of {left.found} rows left by {moment.method}"
        return f"{text}: {', '.join(parts)}" if parts else text
    text = f"{len(left.kept)} of {_plural(left.found_patches, 'patch')} kept by {moment.method}"
    return f"{text}; {left.others} of {_plural(others, 'newline or other row')} kept" if others else text


def patch_of(weights: Mapping[int, float], row: int, view: View) -> int | None:
    """The patch that a row is most made of, itself where several are level; None if of none."""
    parts = [(weight, patch == row, -patch) for patch, weight in weights.items() if patch in view.planes]
    return -max(parts)[2] if parts else None


def _plural(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}{'es' if what.endswith('ch') else 's'}"
