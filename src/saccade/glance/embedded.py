"""The embedded models by name: where their weights are, and how their pictures are drawn."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from saccade.glance.draw import Look


@dataclass(frozen=True)
class Embedded:
    """A model that ships with the package.

    Attributes:
        name: What commands call it.
        title: What pages call it.
        weights: Folder of its weights, beside this file.
        scale: Pixels of its pictures to a pixel of the plan, each way.
    """

    name: str
    title: str
    weights: str
    scale: int

    @property
    def folder(self) -> Path:
        """Folder of its checkpoint."""
        return Path(__file__).parent / self.weights

    @property
    def look(self) -> Look:
        """How the suite's scenes are drawn for it."""
        from saccade.glance.draw import LARGE, PLAIN

        return PLAIN if self.scale == PLAIN.scale else LARGE

    @property
    def source(self) -> str:
        """What results call its questions."""
        return f"{self.title} suite"


GLANCE = Embedded("glance", "Glance", "weights", 1)
GAZE = Embedded("gaze", "Gaze", "gaze", 2)
EMBEDDED = {one.name: one for one in (GLANCE,)}
"""Those whose weights are there; GAZE is named here when its are."""


def title_of(name: str) -> str:
    """What pages call a model."""
    return EMBEDDED[name].title if name in EMBEDDED else name


def suite_of(model: str) -> Embedded:
    """Whose questions a model is asked: its own, a folder's those of its pictures' size, or else Glance's."""
    if model in EMBEDDED:
        return EMBEDDED[model]
    side = _side(model) if os.path.isdir(model) else None
    return GAZE if side == GAZE.look.side else GLANCE


def _side(folder: str) -> int | None:
    """Patches a side that an embedded model's folder tells of, if it is one."""
    from saccade.glance.draw import PATCH

    try:
        config = json.loads((Path(folder) / "config.json").read_text("utf-8"))
        vision = config["vision_config"]
        alike = config["model_type"] == "llava" and vision["patch_size"] == PATCH
        return vision["image_size"] // PATCH if alike else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
