"""The embedded models by name: where their weights are, and how large their pictures are."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Embedded:
    """A model that ships with the package.

    Attributes:
        name: What commands call it, and the folder of the package that holds its weights.
        title: What pages call it.
        scale: Pixels of its pictures to a pixel of the plan that scenes are drawn by, each way.
        image_size: Side of its pictures in pixels.
        seen: What its vision tower does, in a sentence.
    """

    name: str
    title: str
    scale: int
    image_size: int
    seen: str = ""

    @property
    def rows(self) -> int:
        """Visual rows of a picture: its patches, 8 pixels wide."""
        return (self.image_size // 8) ** 2

    @property
    def folder(self) -> Path:
        """Folder of its checkpoint."""
        return _PACKAGE / self.name / "weights"

    def checkpoint(self) -> Path:
        """Folder of its checkpoint, with its weights.

        Raises:
            ValueError: If this installation has no weights, as one built from the source distribution.
        """
        if not (self.folder / "model.safetensors").exists():
            raise ValueError(
                f"this installation has no weights of {self.title}, for it was built from the source "
                "distribution: install the released wheel, build one from a clone, or train "
                f"{self.title} with `saccade train {self.name}`"
            )
        return self.folder

    @property
    def source(self) -> str:
        """What results call its questions."""
        return f"{self.title} suite"


GLANCE = Embedded(
    "glance",
    "Glance",
    1,
    80,
    "Its vision tower does not mix patches, so that looking happens in the decoder.",
)
GAZE = Embedded(
    "gaze",
    "Gaze",
    2,
    160,
    "Its vision tower mixes patches, and things are several patches wide, as in real pictures.",
)
EMBEDDED = {one.name: one for one in (GAZE, GLANCE)}


def title_of(name: str) -> str:
    """What pages call a model."""
    return EMBEDDED[name].title if name in EMBEDDED else name


def of_result(name: str) -> Embedded:
    """Whose place a result has, by what it calls its model: Gaze's, or else Glance's."""
    return GAZE if name.split(" ")[0] == GAZE.title else GLANCE  # "Gaze with Chain-of-Sight" too


def suite_of(model: str) -> Embedded:
    """Whose questions a model is asked: its own, a folder's those of its pictures' size, or else Glance's."""
    if model in EMBEDDED:
        return EMBEDDED[model]
    side = _image_size(model) if os.path.isdir(model) else None
    return GAZE if side == GAZE.image_size else GLANCE


def _image_size(folder: str) -> int | None:
    """Side of a folder's pictures, if it holds a LLaVA with patches of 8 pixels, as embedded ones are."""
    within = Path(folder) / "base"  # of a Skip-Vision model, whose own config.json is a guard
    try:
        place = within if (Path(folder) / "skip_vision.json").is_file() else Path(folder)
        config = json.loads((place / "config.json").read_text("utf-8"))
        vision = config["vision_config"]
        alike = config["model_type"] == "llava" and vision["patch_size"] == 8
        return vision["image_size"] if alike else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
