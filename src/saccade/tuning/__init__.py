"""The plan that fits a model, some samples and a budget: searched, measured, judged on samples not seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from saccade.system.lazy import attributes

if TYPE_CHECKING:
    from saccade.tuning.prepare import Watch
    from saccade.tuning.result import Tuned
    from saccade.tuning.run import tune
    from saccade.tuning.settings import Settings

__all__ = ["Settings", "Tuned", "Watch", "tune"]

# A wrong setting is refused before transformers is imported.
__getattr__ = attributes(
    __name__,
    {
        "Settings": "saccade.tuning.settings",
        "Tuned": "saccade.tuning.result",
        "Watch": "saccade.tuning.prepare",
        "tune": "saccade.tuning.run",
    },
)
