"""What works under a plan and what is refused: the table for the docs, a row with the test that holds it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["supported", "supported, untested on GPU", "refused"]


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
        "they would decide anew for every token; a forward is served",
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
        "videos, alone and beside pictures, in batches with text",
        "supported, untested on GPU",
        "for the families that stock gives videos to; a batch equals its singles",
        "families/test_llava_next_video.py::test_a_batch_of_videos_pictures_and_text_equals_its_singles",
    ),
    Support(
        "a video whose frames are averages of patches, under `tome`",
        "refused",
        "no row is a token of the tower; merge in the decoder",
        "families/test_llava_next_video.py::test_what_has_no_meaning_on_videos_is_refused",
    ),
    Support(
        "videos without torchvision, of a model or processor that takes none, or under `resize`",
        "refused",
        "install it, or give the frames as images",
        "inputs/test_films.py::test_what_takes_no_videos_says_so",
    ),
    Support(
        "videos of several lengths in one batch, where a model stacks their frames",
        "refused",
        "say how many frames; commands make batches of one kind by themselves",
        "inputs/test_films.py::test_videos_that_do_not_go_together_are_refused_and_asked_apart",
    ),
    Support(
        "a healed plan (`saccade heal`): its adapter goes on with it and off with it",
        "supported, untested on GPU",
        "at no cost; refused on other or quantised weights, and where gradients are taken",
        "healing/test_run.py::test_the_dense_model_stays_bit_for_bit",
    ),
    Support(
        "sampling, several sequences per prompt",
        "supported",
        "as the repeated prompt samples",
        "engine/test_generate.py::test_sampling_with_several_sequences_equals_repeated_prompts",
    ),
    Support(
        "prompts that began apart decoded as one batch (`saccade serve`)",
        "supported",
        "also of several plans: each answer is that of one alone",
        "engine/test_join.py::test_answers_of_several_plans_are_written_together",
    ),
    Support(
        "keys and values of a picture kept for later questions about it (`saccade serve`)",
        "supported",
        "not under methods that decide by the end of the prompt; they read it again",
        "engine/test_join.py::test_answers_that_begin_and_end_at_different_times_are_those_of_one_alone",
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
        "chunks may cut through an image; refused where its rows see rows behind them",
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
        "they, and a skip KV-cache, would see guessed tokens; others are served",
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
        "row numbers, padding and lengths stay in step; not into a prompt that left rows (skip KV-cache), "
        "nor past a window without `activate_past_recording`",
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
        "sliding-window attention, and layers that see one part of the prompt (chunks)",
        "supported",
        "also past the window, which goes by positions where these close up; caches slide as stock ones do",
        "engine/test_windows.py::test_generation_past_the_window_is_recomputation",
    ),
    Support(
        "rows that see each other both ways: an image's, or a prompt's",
        "supported",
        "as `token_type_ids` say; where all depends on them, an image without them is refused",
        "families/test_gemma.py::test_what_rows_see_is_what_the_stock_masks_show",
    ),
    Support(
        "rows of all pictures of a prompt that see each other both ways, marks among them too",
        "supported, untested on GPU",
        "as `mm_token_type_ids` say, in prompts, batches, films and later turns; without them it is causal",
        "families/test_molmo2.py::test_what_rows_see_is_what_the_stock_masks_show",
    ),
    Support(
        "capped attention logits",
        "supported",
        "routed layers run the model's own eager function; under SDPA, which leaves the cap out, they do too",
        "matrix/test_prefill.py::test_gather_equals_mask",
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
        "experts (a sparse FFN)",
        "supported",
        "a row that skips the FFN is routed to none; prices count the experts a row passes, and the router",
        "families/test_experts.py::test_rows_that_skip_the_ffn_are_routed_to_no_expert",
    ),
    Support(
        "`output_router_logits`, and the loss that balances experts, where a plan skips FFNs",
        "refused",
        "some rows have no router logits; plans that skip attention alone are served",
        "families/test_experts.py::test_router_logits_are_refused_where_some_rows_have_none",
    ),
    Support(
        "layers that mix rows through a state (gated delta nets, short convolutions), in attention's place",
        "supported, untested on GPU",
        "the stock layer runs on the rows that are alive: a dropped row writes no state; one that skips "
        "attention writes it and gets 0, which spares nothing there",
        "families/test_qwen3_5.py::test_every_layer_equals_the_stock_layer_on_the_rows_that_are_alive",
    ),
    Support(
        "tower methods on views that are padded to the largest",
        "supported, untested on GPU",
        "the tower says the same of a picture beside a larger one as of it alone; padding is not asked",
        "families/test_lfm2_vl.py::test_padding_of_views_is_neither_scored_nor_asked",
    ),
    Support(
        "padding in such layers, on either side and inside later turns",
        "supported, untested on GPU",
        "it enters no state; the stock model runs its states on through what stands after a row",
        "families/test_qwen3_5.py::test_padding_on_the_right_enters_no_state",
    ),
    Support(
        "scores of attention at such a layer, rows that it shows to some rows only, or that leave it later",
        "refused",
        "in one line, by its price too: cut before a layer behind attention, name other layers, cache=none",
        "families/test_qwen3_5.py::test_what_a_state_cannot_honour_is_refused_in_one_line_and_so_is_its_price",
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
        "as from token ids, all ways of decoding (`uniform`: by raster); mRoPE: give `position_ids`",
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
        "they are of the thread or task that opens them: an empty trace warns, a layout missed is an error",
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
        "the whole bill in closed form: vision tower, projector, decoder, head",
        "supported",
        "equal to torch's own counter, looks at the tower included; not told where rows are laid out anew",
        "plans/test_bill.py::test_a_plans_bill_is_what_torch_counts_looks_at_the_tower_included",
    ),
    Support(
        "tokens that merge inside the vision tower, every patch put back behind it (`unmerge=true`)",
        "supported",
        "where a tower is taken apart, packed ones too: as a tower in loops; it spares the tower alone",
        "methods/test_tome_unmerged.py::test_the_model_sees_what_a_tower_in_loops_puts_back",
    ),
    Support(
        "such a merge in training with gradient checkpointing, where an encoder hands its layers nothing",
        "refused",
        "switch checkpointing off for the tower",
        "methods/test_tome_unmerged.py::test_gradients_are_those_without_checkpointing_or_it_is_refused",
    ),
    Support(
        "patches that leave before the vision tower",
        "supported",
        "in Qwen-VL's towers, which take packed patches: as a tower and a decoder that never saw them",
        "methods/test_pixelprune.py::test_it_equals_a_tower_and_a_decoder_that_never_saw_what_left",
    ),
    Support(
        "patches that leave before a vision tower whose views have one size",
        "refused",
        "choose a method that merges inside it, or reduces rows after it",
        "methods/test_pixelprune.py::test_towers_of_one_size_are_refused_in_one_line",
    ),
    Support(
        "a prompt with more positions than the model was made for",
        "refused",
        "take a shorter question, or fewer or smaller pictures",
        "inputs/test_prompts.py::test_a_prompt_beyond_the_positions_is_refused_at_once_by_name",
    ),
    Support(
        "a family that nobody wrote an adapter for (`--generic`)",
        "supported, untested on GPU",
        "one made by inspection, for what `saccade check` accepts; nothing that looks into the tower",
        "families/test_generic.py::test_a_plan_is_taken_once_a_check_has_accepted_it",
    ),
    Support(
        "such a family with recurrent or cross-attention layers, or masks that are not causal",
        "refused",
        "in one line, when it is looked at",
        "families/test_generic.py::test_what_is_no_stock_decoder_behind_a_tower_is_refused_in_one_line",
    ),
    Support(
        "a second plan on a model",
        "refused",
        "remove the first, or compose them with `+`",
        "engine/test_attach.py::test_a_second_plan_is_refused_and_the_first_stays",
    ),
    Support(
        "inside vLLM: layers in which visual rows skip work, and rows that go before the decoder",
        "supported, untested on GPU",
        "by a plug-in, in the families that its page lists; some show what their tower looked at",
        "vllm/test_work.py::test_layers_are_what_the_methods_say",
    ),
    Support(
        "inside vLLM: methods that decide inside the decoder, or merge inside the vision tower",
        "refused",
        "the engine does not start",
        "vllm/test_work.py::test_what_is_not_served_says_why_in_one_line",
    ),
)
"""Every feature that was tried, in the order of the docs."""
