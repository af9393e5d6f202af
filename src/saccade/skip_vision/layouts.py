"""Which layouts the images of a family can have, and what to take where they can have none."""

from __future__ import annotations

from saccade.families import FAMILIES, Family
from saccade.skip_vision.config import LayoutName

NEEDS: dict[LayoutName, str] = {
    "cos": "images in one view",
    "llava": "images in one view",
    "llava-hd": "tiles",
}
"""What a layout needs of the images that a model gets."""


def check_layout(family: Family, layout: LayoutName) -> None:
    """Refuses a layout that the images of a family cannot have.

    Raises:
        ValueError: Saying which layouts they can have, or which plan to take where there is none.
    """
    if layout in family.layouts:
        return
    if not family.layouts:
        raise ValueError(
            f"{family.name} cannot take other rows in place of its own. Use "
            "skip_vision(retained=...,split=grid) as a plan, which skips without merging or summaries"
        )
    others = sorted({other.name for other in FAMILIES.values() if layout in other.layouts})
    raise ValueError(
        f"the layout {layout} needs {NEEDS[layout]} ({', '.join(others)}); "
        f"for {family.name} choose {' or '.join(family.layouts)}"
    )
