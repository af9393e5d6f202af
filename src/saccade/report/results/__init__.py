"""Result files of any kind as one self-contained page."""

from saccade.report.results.page import render
from saccade.report.results.read import read

__all__ = ["read", "render"]
