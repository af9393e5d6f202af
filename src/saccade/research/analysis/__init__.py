"""Analysis of a model on samples: FFN magnitudes, attention and its saturation, skipping and its bounds."""

from __future__ import annotations

from saccade.research.analysis.study import PARTS, Analysis, analyze

__all__ = ["PARTS", "Analysis", "analyze"]
