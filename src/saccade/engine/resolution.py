"""Plans that make pictures smaller at the processor: a model does not see it, so that it may be forgotten."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping
from typing import Any

from torch import nn

from saccade.families import Family, core_of, unwrap
from saccade.plans.plan import Plan

_SHRUNK = "saccade_shrunk"
"""Attribute of a core whose pictures a processor was told to make smaller."""


def note_shrunk(model: nn.Module) -> None:
    """Notes that pictures for this model are made smaller: where any size will do, nothing else tells."""
    core_of(model).__dict__[_SHRUNK] = True


class FullSize:
    """Warns, once, of pictures at their full size under a plan whose prompts should be shorter."""

    def __init__(self, model: nn.Module, family: Family, plan: Plan) -> None:
        """Prepares it for a plan on a model."""
        self.model, self.family, self.spec = model, family, plan.spec
        methods = plan.shortening
        config: Any = unwrap(model).config
        rows = family.typical_visual(config)
        self._silent = functools.reduce(lambda n, method: method.visual_rows(n), methods, rows) == rows

    def check(self, named: Mapping[str, Any]) -> None:
        """Looks at the arguments of ``get_image_features``."""
        pixels = named.get("pixel_values")
        if self._silent or pixels is None:
            return
        full = self.family.full_size(self.model, pixels)
        if full is None:
            full = not core_of(self.model).__dict__.get(_SHRUNK, False)
        if full:
            self._silent = True
            warnings.warn(
                f"{self.spec} makes pictures smaller at the processor, and these are as large as ever, so "
                "nothing is saved: make the inputs with saccade.models.inputs(..., plan=plan), or shrink "
                "pictures with saccade.models.shrink",
                stacklevel=2,
            )
