"""Checking a user's own model: what plans do on it equals an account written apart from the engine."""

from __future__ import annotations

from saccade.check.prompts import Prompts
from saccade.check.proving import prove_on_use, prove_whole
from saccade.check.report import CheckedPlan, ProbeOutcome, Report
from saccade.check.run import run

__all__ = ["CheckedPlan", "ProbeOutcome", "Prompts", "Report", "prove_on_use", "prove_whole", "run"]
