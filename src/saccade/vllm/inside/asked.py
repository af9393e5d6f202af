"""Which plan a model is to be served under, and whether its engine can: asked where it is set up."""

from __future__ import annotations

from typing import Any

from vllm.compilation.breakable_cudagraph import is_breakable_cudagraph_enabled
from vllm.config import CUDAGraphMode, VllmConfig
from vllm.logger import init_logger
from vllm.platforms import current_platform
from vllm.version import __version__

from saccade.families import FAMILIES, find
from saccade.models import image_scale
from saccade.plans.plan import Plan
from saccade.vllm.counter import RowCounter, place
from saccade.vllm.environment import VARIABLE, from_environment
from saccade.vllm.inside.metrics import tell
from saccade.vllm.inside.pictures import Pictures
from saccade.vllm.serving import UNTESTED_ON_CUDA, Serving, check_serving, check_version
from saccade.vllm.work import PlanWork, ServedModel, work_of

KEY = "saccade"
"""What ``--hf-overrides`` calls the plan, and where it then stands in the model's configuration."""

logger = init_logger("vllm.saccade")


def asked(model_config: Any) -> Plan | None:
    """The plan that a model is to be served under; None for none.

    Raises:
        ValueError: If what is said is no plan.
    """
    said = getattr(model_config.hf_config, KEY, None)
    if isinstance(said, dict):
        return Plan.from_dict(said, f"--hf-overrides {KEY}")
    if said is not None and not isinstance(said, str):
        raise ValueError(f"--hf-overrides: {KEY} is a plan file or a spec string, got {type(said).__name__}")
    what = said if said is not None else from_environment()
    if said is not None and not said.strip():
        raise ValueError(f"--hf-overrides: {KEY} is empty; leave it out for the stock model")
    found = Plan.of(what) if what else Plan()
    return found if found.methods else None


def work_for(model_config: Any) -> PlanWork | None:
    """What the plan of a model comes to; None where it has none.

    Raises:
        ValueError: If it was made for another model, or cannot be served.
    """
    plan = asked(model_config)
    if plan is None:
        return None
    config = model_config.hf_config
    family = find(config)
    plan.check_shape(family.fingerprint(config))
    for method in plan.methods:
        if method.needs is not None and method.needs not in family.tower_can:
            raise ValueError(f"{method} is not defined on {family.name}")
    return work_of(plan, ServedModel.of(config))


def settle(vllm_config: VllmConfig, served: bool) -> None:
    """Looks at an engine that is being set up: the plan is put where every process of it finds it.

    Args:
        vllm_config: What the engine is set up with.
        served: Whether plans are served on models of this architecture.

    Raises:
        ValueError: If there is a plan, and this engine cannot serve it.
    """
    model_config: Any = vllm_config.model_config
    plan = asked(model_config)
    if plan is None:
        return
    check_version(__version__)
    kind = getattr(model_config.hf_config, "model_type", None)
    if not served or kind not in FAMILIES:
        raise ValueError(
            f"saccade serves no plan on {model_config.architecture} (model type {kind!r}) inside vLLM: "
            f"leave the plan ({VARIABLE}, or {KEY} of --hf-overrides) out"
        )
    work = work_for(model_config)
    assert work is not None
    check_serving(work, serving_of(vllm_config))
    if image_scale(work.plan) != 1 and Pictures(model_config.hf_config).one_size:
        raise ValueError(
            f"saccade: {work.plan.spec} makes pictures smaller, and vLLM gives this model "
            "pictures of one size"
        )
    if not current_platform.is_cpu():
        logger.warning(UNTESTED_ON_CUDA)
    if vllm_config.compilation_config.cudagraph_mode is None and current_platform.is_cuda_alike():
        vllm_config.compilation_config.cudagraph_mode = CUDAGraphMode.PIECEWISE
    setattr(model_config.hf_config, KEY, work.plan.to_dict())
    tell(RowCounter(place(vllm_config.instance_id), len(work.layers), create=True))
    logger.info("saccade: serving under %s", work.plan.spec)


def serving_of(vllm_config: VllmConfig) -> Serving:
    """What an engine was started with."""
    model, parallel = vllm_config.model_config, vllm_config.parallel_config
    graphs, pictures, cache = (
        vllm_config.compilation_config,
        model.multimodal_config,
        vllm_config.cache_config,
    )
    mode = graphs.cudagraph_mode
    return Serving(
        pipeline=parallel.pipeline_parallel_size,
        data=parallel.data_parallel_size,
        context=parallel.decode_context_parallel_size * parallel.prefill_context_parallel_size,
        speculative=vllm_config.speculative_config is not None,
        lora=vllm_config.lora_config is not None,
        prefix_caching=bool(cache.enable_prefix_caching),
        # The size alone is what a user says; vLLM makes a transfer of it once it has looked at the model.
        transfers=vllm_config.kv_transfer_config is not None or cache.kv_offloading_size is not None,
        full_graphs=mode is not None and mode.has_full_cudagraphs(),
        broken_graphs=is_breakable_cudagraph_enabled()
        and mode is not CUDAGraphMode.NONE
        and not model.enforce_eager,
        tower_graphs=bool(graphs.cudagraph_mm_encoder),
        tower_compiled=bool(graphs.compile_mm_encoder),
        tower_shared_out=pictures is not None and pictures.mm_encoder_tp_mode == "data",
        microbatches=bool(parallel.enable_dbo),
        ready_embeddings=bool(pictures is not None and pictures.enable_mm_embeds),
        ready_prompts=bool(model.enable_prompt_embeds),
        cache_dtype=str(cache.cache_dtype),
        prunes_videos=bool(pictures is not None and pictures.is_multimodal_pruning_enabled()),
        task=str(model.runner_type),
        transformers=model.model_impl == "transformers",
    )
