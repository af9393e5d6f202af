"""What works under a plan and what is refused: the check of a forward, and the table for the docs."""

from __future__ import annotations

import inspect
import sys
from dataclasses import dataclass
from types import FrameType
from typing import Any, Literal

import torch
from torch import nn
from transformers import GenerationMixin
from transformers.cache_utils import Cache

from saccade.engine.cache import CACHE_LAYERS
from saccade.families import Family
from saccade.families.base import ADVICE

_GENERATE, _PREFILL, _ASSISTED = (
    inspect.unwrap(one).__code__.co_qualname
    for one in (GenerationMixin.generate, GenerationMixin._prefill, GenerationMixin._assisted_decoding)
)
"""What ``generate`` is made of, as a stack of calls names it."""

Status = Literal["supported", "supported, untested on GPU", "refused"]


def check_supported(
    family: Family, decoder: nn.Module, kwargs: dict[str, Any], rows: torch.Tensor, cache: Cache | None
) -> int:
    """Refuses what a routed forward cannot honour.

    Returns:
        Rows of the full sequence before this forward.

    Raises:
        ValueError: Naming what is not supported and what to do.
    """
    if cache is not None:
        wrong = next((layer for layer in cache.layers if type(layer) not in CACHE_LAYERS), None)
        if wrong is not None:
            raise ValueError(
                f"saccade plans need a dynamic KV cache, this one has a {type(wrong).__name__}; "
                "leave cache_implementation unset"
            )
    if cache is not None and decoder.training and getattr(decoder, "gradient_checkpointing", False):
        raise ValueError(
            "gradient checkpointing in training mode keeps no KV cache, so that tokens would be made without "
            "their prompt: call model.eval() first, or leave the cache out (use_cache=False)"
        )
    past = cache.get_seq_length() if cache is not None else 0
    config: Any = decoder.config
    if kwargs.get("output_attentions") or getattr(config, "output_attentions", False):
        raise ValueError("output_attentions is not available under a plan; remove the plan, or leave it off")
    mask = kwargs.get("attention_mask")
    if isinstance(mask, dict) or (isinstance(mask, torch.Tensor) and mask.ndim != 2):
        raise ValueError("a plan takes no ready-made attention mask; give the 2-D padding mask")
    positions = kwargs.get("position_ids")
    if mask is None and past == 0 and positions is not None and (positions.ndim == 2 or len(positions) == 4):
        text = positions if positions.ndim == 2 else positions[0]
        if bool((text.diff(dim=-1) != 1).any()):
            raise ValueError("packed sequences are not supported under a plan; give one sequence per sample")
    total = past + rows.shape[1]
    if mask is not None and tuple(mask.shape) != (rows.shape[0], total):
        raise ValueError(
            f"the attention mask is {tuple(mask.shape)}, but rows, cached ones included, are "
            f"{rows.shape[0]} x {total}; give the mask of the full sequence"
        )
    for number in range(config.num_hidden_layers):
        window = family.sliding_window(decoder, number)
        if window is not None and total >= window:
            raise ValueError(
                f"layer {number} sees a sliding window of {window} rows and the sequence has {total}; "
                "plans support sequences shorter than the window"
            )
    return past


def refuse_replicas(module: nn.Module) -> None:
    """Refuses the copies that ``DataParallel`` makes of a model: their layers would run those of the model.

    Raises:
        ValueError: Saying what to take instead.
    """
    if getattr(module, "_is_replica", False):
        raise ValueError(f"a model with a saccade plan is not run by DataParallel: {ADVICE}")


def refuse_split_prompts(spec: str, looks_at_end: bool) -> None:
    """Refuses a prompt that ``generate`` shows in pieces, with guessed tokens after it, or for every token.

    Nothing that a core is given tells, so whoever called it is asked: it may be another model than the one
    that the plan was put on.

    Args:
        spec: The plan, for the message.
        looks_at_end: Whether the end of the prompt counts, where assisted decoding puts guessed tokens and
            decoding without a cache those that were said.

    Raises:
        ValueError: Saying what to leave out.
    """
    caller: FrameType | None = sys._getframe(1)
    while caller is not None:
        by = caller.f_code.co_qualname
        if by == _GENERATE:
            # An assistant's own generation is no part of the one that it assists.
            return
        if by == _PREFILL:
            config = caller.f_locals.get("generation_config")
            if getattr(config, "prefill_chunk_size", None) is not None:
                raise ValueError(
                    f"{spec} chooses rows by the whole prompt, so it needs the prompt in one piece: "
                    "leave prefill_chunk_size unset"
                )
            if looks_at_end and not caller.f_locals["model_kwargs"].get("use_cache", True):
                raise ValueError(
                    f"{spec} decides once, at the end of the prompt, and without a cache generate would have "
                    "it decide anew for every token: leave use_cache on"
                )
        if by == _ASSISTED and looks_at_end:
            raise ValueError(
                f"{spec} chooses rows by the whole prompt, so assisted decoding is not supported with it"
            )
        caller = caller.f_back


def chunked_prompt() -> torch.Tensor | None:
    """Token ids of the whole prompt where ``generate`` shows it in chunks just now; None elsewhere."""
    caller: FrameType | None = sys._getframe(1)
    while caller is not None and caller.f_code.co_qualname != _GENERATE:
        config = caller.f_locals.get("generation_config")
        if caller.f_code.co_qualname == _PREFILL and getattr(config, "prefill_chunk_size", None) is not None:
            return caller.f_locals["input_ids"]
        caller = caller.f_back
    return None


@dataclass(frozen=True)
class Support:
    """One row of the support table.

    Attributes:
        feature: What a user may want to do with a model that has a plan.
        status: Whether it works; ``refused`` means a ``ValueError`` that says what to do.
        note: What to know about it, in a few words.
        test: The test that holds it, as ``file::function`` under ``tests``.
    """

    feature: str
    status: Status
    note: str
    test: str


SUPPORT: tuple[Support, ...] = (
    Support(
        "greedy decoding, with and without a cache",
        "supported",
        "equal to full recompute of the sequence for every token",
        "engine/test_uncached.py::test_without_a_cache_the_tokens_are_the_same",
    ),
    Support(
        "`use_cache=False` under a method that decides at the prompt's end, or frees rows of its cache",
        "refused",
        "FastV and its kin, and a skip KV-cache, would decide anew for every token; a forward is served",
        "engine/test_uncached.py::test_what_would_decide_anew_for_every_token_is_refused_and_a_forward_is_not",
    ),
    Support(
        "a prompt, or what comes before a caption, that ends with an image",
        "supported",
        "the next token is read at the last row that is left, as in a prompt that really is shorter",
        "engine/test_ending.py::test_every_dropped_row_shows_the_last_one_left_before_it",
    ),
    Support(
        "an image that the attention mask hides",
        "supported",
        "it is padding: nothing is decided about it",
        "engine/test_hidden.py::test_a_hidden_image_is_as_good_as_none",
    ),
    Support(
        "sampling, several sequences per prompt",
        "supported",
        "as the repeated prompt samples",
        "engine/test_generate.py::test_sampling_with_several_sequences_equals_repeated_prompts",
    ),
    Support(
        "beam search",
        "supported",
        "as without a cache",
        "engine/test_generate.py::test_beam_search_on_a_cache_equals_beam_search_without",
    ),
    Support(
        "assisted (speculative) decoding",
        "supported",
        "tokens of greedy; the assistant may have a plan of its own",
        "engine/test_generate.py::test_assisted_decoding_gives_the_tokens_of_greedy",
    ),
    Support(
        "prompt lookup decoding",
        "supported",
        "tokens of greedy",
        "engine/test_generate.py::test_prompt_lookup_gives_the_tokens_of_greedy",
    ),
    Support(
        "chunked prefill of images",
        "supported",
        "chunks may cut through an image",
        "engine/test_generate.py::test_chunked_prefill_of_images_gives_the_tokens_of_greedy",
    ),
    Support(
        "chunked prefill of text on an image cache",
        "supported",
        "as in one piece",
        "engine/test_generate.py::test_chunked_text_on_an_image_cache_gives_the_tokens_of_greedy",
    ),
    Support(
        "chunked prefill under a method that decides on the way",
        "refused",
        "it needs the prompt, and its images, in one piece; also where the plan is on the core alone",
        "engine/test_stages.py::test_a_prompt_in_chunks_is_refused",
    ),
    Support(
        "assisted and prompt lookup decoding under a method that looks at the prompt's end",
        "refused",
        "FastV and its kin, and skip KV-cache, would see guessed tokens; others are served",
        "engine/test_stages.py::test_assisted_decoding_is_refused_where_the_end_of_the_prompt_decides",
    ),
    Support(
        "a second turn, a new image on an existing cache",
        "supported",
        "what was dropped stays dropped; a new image is decided about when it comes",
        "engine/test_stages.py::test_a_new_image_on_an_existing_cache",
    ),
    Support(
        "positions that close up (`position_policy=compact`)",
        "supported",
        "decoding goes on from the closed-up length; a cache is not cropped into such a prompt",
        "engine/test_stages.py::test_a_prompt_with_closed_up_positions_is_the_prompt_without_the_rows",
    ),
    Support(
        "positions that close up, with mRoPE",
        "refused",
        "such positions have several axes: they are kept",
        "engine/test_stages.py::test_positions_of_several_axes_cannot_close_up",
    ),
    Support(
        "dynamic cache, given or not",
        "supported",
        "its layers become ragged where rows are dropped; its length stays that of the full sequence",
        "engine/test_cache.py::test_every_way_to_get_a_cache_gives_the_same",
    ),
    Support(
        "crop, reset, reorder, select and repeat of a cache",
        "supported",
        "row numbers, padding and lengths stay in step; not into a prompt that left rows (skip KV-cache)",
        "engine/test_cache.py::test_rows_and_values_stay_in_step",
    ),
    Support(
        "continuing a cache after its plan was removed",
        "refused",
        "where rows were dropped; a cache that kept all rows goes on",
        "engine/test_cache.py::test_a_cache_that_dropped_rows_is_not_continued_without_its_plan",
    ),
    Support(
        "static and quantised caches",
        "refused",
        "for prompts with images: use the default cache",
        "engine/test_cache.py::test_caches_that_cannot_drop_rows_are_refused_before_anything_runs",
    ),
    Support(
        "sliding-window attention",
        "supported",
        "while the sequence is shorter than the window; refused past it",
        "engine/test_cache.py::test_sliding_windows_are_served_until_they_slide",
    ),
    Support(
        "`sdpa` and `eager` attention",
        "supported",
        "routed layers always run SDPA on their rows",
        "engine/test_kernels.py::test_eager_models_are_served",
    ),
    Support(
        "`flash_attention_2`, `flex_attention` and registered attention functions",
        "supported, untested on GPU",
        "untouched layers keep the model's own; routed layers run SDPA with masks made from row numbers",
        "engine/test_kernels.py::test_dense_layers_keep_the_models_attention_and_padding_is_right",
    ),
    Support(
        "`output_hidden_states`",
        "supported",
        "every state has the model's own shape",
        "engine/test_inputs.py::test_hidden_states_are_those_of_the_masked_reference",
    ),
    Support(
        "`output_attentions`",
        "refused",
        "routed layers make no attention maps",
        "engine/test_inputs.py::test_output_attentions_is_refused_however_it_is_asked_for",
    ),
    Support(
        "ready-made (4-D) attention masks",
        "refused",
        "give the 2-D padding mask",
        "engine/test_inputs.py::test_ready_made_masks_are_refused_only_where_a_plan_would_act",
    ),
    Support(
        "packed sequences (jumps in `position_ids`)",
        "refused",
        "give one sequence per sample",
        "engine/test_inputs.py::test_packed_positions_are_refused",
    ),
    Support(
        "`inputs_embeds` with pixel values",
        "supported",
        "placeholders keep their embedding",
        "engine/test_inputs.py::test_embeddings_in_place_of_token_ids",
    ),
    Support(
        "embeddings that are merged already",
        "supported",
        "give the layout: `with attachment.with_layout(layout)`; else they count as text, with a warning",
        "engine/test_inputs.py::test_merged_embeddings_with_their_layout",
    ),
    Support(
        "`generate(inputs_embeds=...)` inside `with_layout`",
        "supported",
        "greedy, sampling, beams, batches: as from token ids; with mRoPE give `position_ids`",
        "engine/test_given.py::test_generation_from_merged_embeddings_says_what_token_ids_say",
    ),
    Support(
        "embeddings under a method that asks the vision tower or the picture",
        "refused",
        "give `pixel_values`, or a method that scores rows in the decoder",
        "engine/test_given.py::test_what_asks_for_pictures_says_that_embeddings_have_none",
    ),
    Support(
        "bfloat16, float16, autocast",
        "supported",
        "as near to float32 as the stock model",
        "engine/test_inputs.py::test_half_precision_stays_near_full_precision",
    ),
    Support(
        "rows chosen in bfloat16, float16, autocast",
        "supported",
        "those of float32 but for near ties: scores are computed in float32",
        "engine/test_half.py::test_the_best_rows_are_those_of_float32",
    ),
    Support(
        "models in float64",
        "supported",
        "scores, cosines and merges in float64",
        "engine/test_double.py::test_no_number_on_the_way_is_rounded_to_float32",
    ),
    Support(
        "training with gradient checkpointing",
        "supported",
        "both kinds (`use_reentrant`); each layer is recomputed once",
        "engine/test_training.py::test_checkpointing_recomputes_each_layer_once_and_changes_no_gradient",
    ),
    Support(
        "`generate` in training mode with gradient checkpointing",
        "refused",
        "transformers keeps no cache there: `model.eval()` first, or `use_cache=False`",
        "engine/test_training.py::test_generation_with_checkpointing_in_training_mode_says_that_there_is_no_cache",
    ),
    Support(
        "PEFT LoRA on attention and MLP",
        "supported",
        "wrapped before or after; a plan may be put on the wrapper",
        "engine/test_wrappers.py::test_lora_equals_merged_weights",
    ),
    Support(
        "accelerate hooks, CPU and disk offload of weights",
        "supported",
        "put on before or after the plan, taken off in any order",
        "engine/test_wrappers.py::test_offloaded_weights",
    ),
    Support(
        "DDP and FSDP2",
        "supported",
        "two gloo processes equal one",
        "engine/test_parallel.py::test_ddp_and_fsdp2_equal_one_process",
    ),
    Support(
        "tensor parallel (`from_pretrained(tp_plan=...)`), the vision tower too",
        "supported, untested on GPU",
        "scores are gathered over the processes: under every method two choose the rows of one",
        "engine/test_parallel.py::test_tensor_parallel_chooses_the_rows_of_one_process",
    ),
    Support(
        "sequence parallel",
        "refused",
        "every process has to hold all rows of a sample",
        "engine/test_parallel.py::test_rows_that_are_split_over_processes_are_refused",
    ),
    Support(
        "`DataParallel`",
        "refused",
        "before and after attaching: give `.module`, or take DDP",
        "engine/test_wrappers.py::test_data_parallel_is_told_what_to_take_instead",
    ),
    Support(
        "a model split over devices, an offloaded KV cache",
        "supported, untested on GPU",
        "index tensors follow the layer's device",
        "engine/test_kernels.py::test_a_frame_follows_its_layers_to_another_device",
    ),
    Support(
        "`torch.compile`",
        "supported",
        "with graph breaks: routed layers run eagerly, the others compiled",
        "engine/test_wrappers.py::test_compiled_models_take_plans_and_do_not_recompile_for_each_prompt",
    ),
    Support(
        "`torch.compile(fullgraph=True)`",
        "refused",
        "by torch, with the reason: compile without fullgraph",
        "engine/test_wrappers.py::test_compiled_models_take_plans_and_do_not_recompile_for_each_prompt",
    ),
    Support(
        "threads on one model, several models with several plans",
        "supported",
        "nothing is kept on classes or globally",
        "engine/test_attach.py::test_threads_may_share_a_model",
    ),
    Support(
        "`tracing()` and `with_layout()` around a model that runs in another thread",
        "refused",
        "they are of the thread that opens them: an empty trace is warned of, a layout missed is an error",
        "engine/test_attach.py::test_a_layout_is_of_the_thread_that_gives_it",
    ),
    Support(
        "saving a model that has a plan",
        "supported",
        "`save_pretrained` writes the stock model",
        "engine/test_attach.py::test_saving_inside_the_block_saves_the_stock_model",
    ),
    Support(
        "copying or pickling a model that has a plan",
        "refused",
        "remove the plan first",
        "engine/test_attach.py::test_copies_of_an_attached_model_are_refused",
    ),
    Support(
        "weights on several devices or partly on the disk (`device_map`, accelerate)",
        "supported, untested on GPU",
        "equal to the model in memory; tested with layers on the disk",
        "opening/test_weights.py::test_a_model_that_is_partly_on_the_disk_answers_as_one_in_memory",
    ),
    Support(
        "a PEFT adapter (`--adapter`)",
        "supported",
        "merged into the weights; left on them where those are quantised",
        "opening/test_weights.py::test_an_adapter_is_merged_into_the_weights",
    ),
    Support(
        "an adapter that names another base, a plan file that notes no weights",
        "supported",
        "with a warning; `--strict` refuses them",
        "opening/test_weights.py::test_an_adapter_of_another_base_of_the_same_shape_is_warned_of",
    ),
    Support(
        "a prompt with more positions than the model was made for",
        "refused",
        "take a shorter question, or fewer or smaller pictures",
        "inputs/test_prompts.py::test_a_prompt_beyond_the_positions_is_refused_at_once_by_name",
    ),
    Support(
        "a second plan on a model",
        "refused",
        "remove the first, or compose them with `+`",
        "engine/test_attach.py::test_a_second_plan_is_refused_and_the_first_stays",
    ),
)
"""Every feature that was tried, in the order of the docs."""
