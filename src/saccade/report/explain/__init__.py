"""A picture of what a plan kept, merged and dropped at every stage, over the image itself."""

from saccade.report.explain.api import Explanation, explain, of_trace, targets

__all__ = ["Explanation", "explain", "of_trace", "targets"]
