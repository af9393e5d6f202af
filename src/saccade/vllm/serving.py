"""Which engines of vLLM cannot serve a plan, in words; what there is to know of one is plain data."""

from __future__ import annotations

from dataclasses import dataclass

from saccade.vllm.work import PlanWork

TESTED = "0.32.0"
"""The vLLM that this was tested with."""
RANGE = "0.32"
"""What versions begin with that are taken."""

UNTESTED_ON_CUDA = "saccade: plans inside vLLM were tested on CPU; on this device they are untested"
"""Said at start on any other device."""
TRANSFERS = "leave --kv-transfer-config and --kv-offloading-size out"


@dataclass(frozen=True)
class Serving:
    """What an engine was started with.

    Attributes:
        pipeline: Pipeline-parallel ranks.
        data: Data-parallel ranks.
        context: Ranks that share the rows of a prompt (decode or prefill context parallel).
        speculative: Whether tokens are guessed ahead.
        lora: Whether adapters are served.
        prefix_caching: Whether blocks of earlier prompts are used again.
        transfers: Whether keys and values go to, or come from, other engines or other memory.
        full_graphs: Whether whole forwards are captured as CUDA graphs.
        broken_graphs: Whether forwards are captured as CUDA graphs that break at attention.
        tower_graphs: Whether the vision tower is captured as CUDA graphs.
        tower_compiled: Whether the vision tower is compiled.
        tower_shared_out: Whether ranks run the vision tower on different pictures.
        microbatches: Whether a step is split into micro-batches.
        ready_embeddings: Whether requests may bring embeddings of pictures in place of pictures.
        ready_prompts: Whether they may bring embeddings of whole prompts.
        cache_dtype: Data type of the KV cache; ``auto`` is the model's.
        prunes_videos: Whether vLLM drops rows of videos by itself.
        task: What the engine does: ``generate``, or ``pooling``.
        transformers: Whether it runs transformers' own model code.
    """

    pipeline: int = 1
    data: int = 1
    context: int = 1
    speculative: bool = False
    lora: bool = False
    prefix_caching: bool = False
    transfers: bool = False
    full_graphs: bool = False
    broken_graphs: bool = False
    tower_graphs: bool = False
    tower_compiled: bool = False
    tower_shared_out: bool = False
    microbatches: bool = False
    ready_embeddings: bool = False
    ready_prompts: bool = False
    cache_dtype: str = "auto"
    prunes_videos: bool = False
    task: str = "generate"
    transformers: bool = False


def check_version(version: str) -> None:
    """Refuses a vLLM that was not tested.

    Raises:
        ValueError: Naming the range.
    """
    if version != RANGE and not version.startswith(f"{RANGE}."):
        raise ValueError(
            f"saccade serves plans inside vLLM {RANGE}.x (tested with {TESTED}), and this is {version}: "
            f"install 'vllm=={TESTED}', or leave the plan out"
        )


def check_serving(work: PlanWork, engine: Serving) -> None:
    """Refuses an engine that would not run a plan exactly.

    Raises:
        ValueError: In one line, with what to do.
    """
    spec, drops = work.plan.spec, work.first_without is not None
    reasons = (
        (engine.transformers, "runs in vLLM's own model code: leave --model-impl out"),
        (engine.task != "generate", f"is for generation, and this engine does {engine.task}"),
        (engine.pipeline > 1, "needs all layers in one place: leave --pipeline-parallel-size at 1"),
        (engine.data > 1, "was not tried with data parallel ranks: start one engine each"),
        (engine.context > 1, "needs whole rows: leave context parallelism at 1"),
        (engine.speculative, "does not fit tokens that are guessed ahead: leave --speculative-config out"),
        (engine.lora, "was not tried with adapters: merge them into the model, and leave --enable-lora out"),
        (engine.full_graphs, "is not replayed by whole CUDA graphs: take cudagraph_mode PIECEWISE or NONE"),
        (
            engine.broken_graphs,
            "is not replayed by CUDA graphs of whole forwards, which break at attention: leave "
            "VLLM_USE_BREAKABLE_CUDAGRAPH at 0 (VLLM_BATCH_INVARIANT sets it), or take --enforce-eager",
        ),
        (
            engine.ready_prompts,
            "goes by which rows are of pictures, and a prompt of embeddings does not say it: leave "
            "--enable-prompt-embeds out",
        ),
        (engine.microbatches, "needs a step in one piece: leave --enable-dbo out"),
        (
            engine.cache_dtype != "auto",
            "needs a KV cache of the model's type: leave --kv-cache-dtype at auto",
        ),
        (
            drops and engine.prefix_caching,
            "leaves fewer rows in some layers than in others, so that blocks of one prompt do not serve "
            "another: start with --no-enable-prefix-caching",
        ),
        (drops and engine.transfers, f"leaves fewer rows in some layers: {TRANSFERS}"),
        (
            bool(work.stages) and engine.tower_graphs,
            "chooses rows after the vision tower: leave cudagraph_mm_encoder out",
        ),
        (
            bool(work.looks) and engine.tower_compiled,
            "looks into the vision tower: leave compile_mm_encoder out",
        ),
        (
            bool(work.looks) and engine.tower_shared_out,
            "looks into the vision tower, all of it on every rank: leave --mm-encoder-tp-mode at weights",
        ),
        (
            bool(work.stages) and engine.ready_embeddings,
            "chooses rows of pictures, not of ready embeddings: leave --enable-mm-embeds out",
        ),
        (bool(work.stages) and engine.prunes_videos, "drops rows itself: leave --video-pruning-rate out"),
        (
            work.gaps and engine.transfers,
            f"leaves gaps in positions that are not kept with keys and values: {TRANSFERS}",
        ),
    )
    reason = next((why for holds, why in reasons if holds), None)
    if reason is not None:
        raise ValueError(f"saccade: {spec} {reason}")
