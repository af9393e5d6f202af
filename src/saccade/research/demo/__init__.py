"""The demonstration on the embedded model: calibrate, skip, judge, time, explain."""

from saccade.research.demo.family_study import family_study, write_family
from saccade.research.demo.study import DemoFindings, study
from saccade.research.demo.write import write

__all__ = ["DemoFindings", "family_study", "study", "write", "write_family"]
