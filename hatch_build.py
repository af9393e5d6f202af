"""Says when a wheel is built without the embedded models' weights, as it is from the source distribution."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CustomBuildHook(BuildHookInterface):
    """A wheel holds the weights where they are; the source distribution, which is to be small, does not."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Warns before the wheel is built."""
        if not (Path(self.root) / "src/saccade/gaze/weights/model.safetensors").exists():
            self.app.display_warning(
                "saccade: this wheel will have no embedded models, for the source distribution holds no "
                "weights. Everything works on models of your own. For Gaze and Glance install the released "
                "wheel, or build from a clone with: python -m build --wheel"
            )
