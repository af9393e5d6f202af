"""Checking a user's own model: what plans do on it equals an account written apart from the engine."""

from __future__ import annotations

from saccade.check.prompts import Prompts
from saccade.check.report import Outcome, Report, Row
from saccade.check.run import run

__all__ = ["Outcome", "Prompts", "Report", "Row", "run"]
