"""Methods, one per file; importing this package registers them all.

The files of this folder are found by name, so that adding a method is adding a file.
"""

from __future__ import annotations

import importlib
import pkgutil

from saccade.methods.base import BudgetMethod, LayerMethod, Method
from saccade.methods.reducer import DecoderReducer, KeepReducer, Reducer
from saccade.methods.registry import METHODS, register

for _module in sorted(m.name for m in pkgutil.iter_modules(__path__)):
    importlib.import_module(f"{__name__}.{_module}")

__all__ = [
    "METHODS",
    "BudgetMethod",
    "DecoderReducer",
    "KeepReducer",
    "LayerMethod",
    "Method",
    "Reducer",
    "register",
]
