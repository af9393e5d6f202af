"""What vLLM is told at its start: our classes for the models that run plans, and a look at every engine.

Where a plan is asked for that will not be run, the engine does not start: an architecture that is not ours, a
vLLM that was not tested, settings that do not fit. vLLM has a table of what to check for which architecture,
and this adds to it.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from saccade.vllm.environment import from_environment
from saccade.vllm.serving import check_version

MODELS = {
    "LlavaForConditionalGeneration": "PlannedLlava",
    "LlavaNextForConditionalGeneration": "PlannedLlavaNext",
    "InternVLForConditionalGeneration": "PlannedInternVL",
    "Qwen2_5_VLForConditionalGeneration": "PlannedQwen25VL",
    "Qwen3VLForConditionalGeneration": "PlannedQwen3VL",
    "Qwen3_5ForConditionalGeneration": "PlannedQwen35",
    "Qwen3_5MoeForConditionalGeneration": "PlannedQwen35Moe",
}
"""Our class for each architecture of vLLM that runs plans."""


def attach() -> None:
    """Registers models and looks; may be called again.

    Raises:
        ValueError: If the environment says a plan, and this vLLM was not tested.
    """
    from vllm import ModelRegistry
    from vllm.version import __version__

    try:
        check_version(__version__)
    except ValueError:
        if from_environment():
            raise
        # One that is asked for otherwise is refused by the look, as long as this vLLM has that table.
        with suppress(ImportError, AttributeError):
            _look()
        return
    for architecture, ours in MODELS.items():
        ModelRegistry.register_model(architecture, f"saccade.vllm.inside.models:{ours}")
    _look()


def _look() -> None:
    from vllm import ModelRegistry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP

    for architecture in {*ModelRegistry.get_supported_archs(), *MODELS}:
        held = MODELS_CONFIG_MAP.get(architecture)
        if not getattr(held, "looks_for_plans", False):
            MODELS_CONFIG_MAP[architecture] = _looking(held, architecture in MODELS)


def _looking(held: Any, served: bool) -> Any:
    """A check of an engine that looks for a plan after what was checked before."""
    from vllm.model_executor.models.config import VerifyAndUpdateConfig

    class Looking(held or VerifyAndUpdateConfig):
        """What vLLM checks of an engine of this architecture, and whether it serves its plan."""

        looks_for_plans = True

        @staticmethod
        def verify_and_update_config(vllm_config: Any) -> None:
            """Checks and settles an engine."""
            if held is not None:
                held.verify_and_update_config(vllm_config)
            config = getattr(vllm_config.model_config, "hf_config", None)
            if hasattr(config, "saccade") or from_environment():
                from saccade.vllm.inside.asked import settle

                settle(vllm_config, served)

    return Looking
