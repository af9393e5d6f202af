"""Names that modules had before 0.2: they lead to where the modules are now, until 0.3."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_CORE = ("layout", "rows", "route", "stages", "program", "pricing", "select", "merge", "bipartite", "cluster")
_TRAINING = ("train", "main", "progress", "quick", "recipe", "network", "pointing", "glimpse", "data")
MOVED = {
    **{name: f"core.{name}" for name in (*_CORE, "pivots", "precision", "shapes", "text")},
    **{name: f"plans.{name}" for name in ("plan", "spec", "names", "budget")},
    **{name: f"system.{name}" for name in ("files", "locks", "journal", "threads", "environment")},
    **{name: f"inputs.{name}" for name in ("samples", "data", "pictures", "prompts")},
    **{name: f"research.{name}" for name in ("studies", "analysis", "demo")},
    **{f"glance.{name}": f"research.embedded.{name}" for name in (*_TRAINING, "checkpoint")},
    "plan_file": "plans.schema",
    "weights": "opening.digest",
    "evaluation.scoring": "scoring",
    "evaluation.identity": "identity",
}
"""Where modules are now, by where they were, both under the package."""


def home(name: str) -> str | None:
    """Where a module is now, or None of one that has not moved."""
    parts = name.split(".")
    for end in (3, 2):
        moved = MOVED.get(".".join(parts[1:end]))
        if parts[0] == "saccade" and moved is not None:
            return ".".join(("saccade", moved, *parts[end:]))
    return None


class FormerNames(MetaPathFinder, Loader):
    """Imports a module by its former name as the module that it is now, and no second copy of it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return None if home(fullname) is None else ModuleSpec(fullname, self)

    def exec_module(self, module: ModuleType) -> None:
        where = home(module.__name__)
        assert where is not None
        sys.modules[module.__name__] = importlib.import_module(where)


def lead() -> None:
    """Lets former names be imported."""
    if not any(isinstance(one, FormerNames) for one in sys.meta_path):
        sys.meta_path.insert(0, FormerNames())
