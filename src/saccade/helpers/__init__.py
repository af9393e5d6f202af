"""Other processes that do parts of long work, each with a model of its own: of this machine, or Ray actors.

`crew` hands parts out and takes what they come to, whoever does them; `local` and `cluster` are the two kinds
of helpers; `there` is what runs in one.
"""

from __future__ import annotations

from saccade.helpers.crew import Helpers, helping, spread
from saccade.helpers.there import Once

__all__ = ["Helpers", "Once", "helping", "spread"]
