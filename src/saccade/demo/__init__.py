"""The demonstration on the embedded model: calibrate, skip, judge, time, explain."""

from saccade.demo.study import Study, study
from saccade.demo.write import write

__all__ = ["Study", "study", "write"]
