"""Measuring: what a plan saves in time and memory on this machine."""

from __future__ import annotations

from saccade.measure.bench import bench
from saccade.measure.provenance import record
from saccade.measure.results import Bench, Phase, Usage
from saccade.measure.target import Target, shape_of

__all__ = ["Bench", "Phase", "Target", "Usage", "bench", "record", "shape_of"]
