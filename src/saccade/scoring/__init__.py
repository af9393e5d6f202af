"""What an answer is worth: exact match, contains, ANLS, an option's letter, yes or no, a number (pure)."""

from __future__ import annotations

from saccade.scoring.rules import RULES, Rule, best, parse, read
from saccade.scoring.text import is_match, normalise

__all__ = ["RULES", "Rule", "best", "is_match", "normalise", "parse", "read"]
