"""Models under any plan in lmms-eval, Glance as tasks of it, and ``saccade eval --suite lmms:...`` around it.

lmms-eval finds the model by the entry point ``lmms_eval.models``. Nothing here needs lmms-eval installed,
except the class of the model when lmms-eval asks for it.
"""

from __future__ import annotations

from typing import Any

from saccade.lmms.glance import write_tasks

__all__ = ["manifests", "write_tasks"]


def manifests() -> list[Any]:
    """What the entry point hands to lmms-eval: the chat model ``saccade``."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return [ModelManifest(model_id="saccade", chat_class_path="saccade.lmms.model.Saccade")]
