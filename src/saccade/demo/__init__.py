"""The demonstration on the embedded model: calibrate, skip, judge, time, explain."""

from saccade.demo.family_study import family_study, write_family
from saccade.demo.study import Study, study
from saccade.demo.write import write

__all__ = ["Study", "family_study", "study", "write", "write_family"]
