"""``saccade.check.run``: a user's own model, every group of methods, against a reference written apart."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from saccade.check.accept import STOCK, accepted_methods, check_sight, check_stream, running
from saccade.check.benches import (
    CheckedModel,
    exactly,
    float32_copy,
    home,
    layers_that_fit,
    no_float32,
    shortened,
)
from saccade.check.finders import bare, find_layers, least_depth, recurrent_layers, visual_rows
from saccade.check.groups import Case, cases, group_of_plan
from saccade.check.probes import ask_plan, ask_stock, logits
from saccade.check.prompts import QUESTION, Prompts, ask
from saccade.check.report import CheckedPlan, Report
from saccade.engine import attached
from saccade.measure import record
from saccade.measure.clock import now
from saccade.measure.target import free_memory
from saccade.opening.errors import first_line
from saccade.plans.plan import Plan, PlanLike

if TYPE_CHECKING:
    from PIL.Image import Image

    from saccade.models import Loaded

FORWARDS = 24
"""Forwards of a prompt's length that a plan takes on one bench, about: batches and steps count as theirs."""


def run(
    loaded: Loaded,
    plan: PlanLike | None = None,
    *,
    image: Image | None = None,
    question: str = QUESTION,
    prompts: Prompts | None = None,
    layers: int | None = None,
    depth: int | None = None,
    every: bool = False,
    force: bool = False,
    tell: Callable[[str], None] | None = None,
    advance: Callable[[int, int], None] | None = None,
) -> Report:
    """Checks a model: what plans do on it equals a slow account that knows nothing of the engine.

    The model is left as it was.

    Args:
        loaded: The model, and its processor unless ``prompts`` are given.
        plan: Check this plan alone; one plan of every group of methods if omitted.
        image: The picture; one is drawn if omitted.
        question: The question about it.
        prompts: Ready-made inputs, for a model without a processor.
        layers: Keep only so many first decoder layers.
        depth: How many the whole model has, where only the first were loaded.
        every: One plan of every method, rather than of every group.
        force: Take a plan that was made for another model.
        tell: Is told what was found and how long it will take, in lines.
        advance: Is told how many plans are done, and of how many.

    Raises:
        ValueError: If the model cannot be asked at all, or the plan does not fit it.
    """
    begun, say = time.perf_counter(), tell or (lambda line: None)
    model = loaded.model
    on = attached(model)
    if on is not None and on.resident:
        raise ValueError(
            f"{loaded.name} is a Skip-Vision model, whose own method stays on, and a check begins with "
            "the stock model: check that, which lies in its folder (base/)"
        )
    if on is not None:
        raise ValueError(f"{loaded.name} has a plan on it already; check the model without it")
    if plan is not None and Plan.of(plan).adapter is not None:
        raise ValueError(
            "the reference knows no adapters: check the plan by its spec, or on the model it is merged into "
            "(saccade heal --merge)"
        )
    if layers is not None and layers < 1:
        raise ValueError(f"layers is a number from 1, got {layers}")
    with ExitStack() as stack:
        stack.enter_context(exactly())
        asked = ask(loaded, image, question) if prompts is None else prompts
        dtype = bare(model).get_input_embeddings().weight.dtype
        asked = asked.to(dtype, home(model))
        decoder = find_layers(model, asked.text)
        whole = max(depth or 0, len(decoder))
        least = least_depth(decoder)
        if layers is not None and layers < least:
            raise ValueError(
                f"layer {least - 1} is the first that has attention, so at least {least} layers are checked"
            )
        if layers is not None and layers < len(decoder):
            stack.enter_context(shortened(model, decoder, layers))
        seconds = _seconds(model, asked)
        found = describe(loaded, decoder, whole, asked)
        for line in spoken(found):
            say(line)
        if loaded.family.generic:
            check_sight(model, decoder, asked.picture, visual_rows(model, decoder, asked.picture))
            check_stream(model, loaded.family, decoder, asked.picture)
            stack.enter_context(loaded.family.on_trial())
            # All visual rows of a prompt are one image to such an adapter.
            asked = replace(asked, pictures=(1,) * len(asked.singles))
        wanted = _wanted(plan, decoder, whole, every)
        floats, why = _float32(model, decoder)
        formats = 1 if floats is None or floats is model else 2
        lasts = _spoken_time(seconds * FORWARDS * len(wanted) * formats)
        say(f"about {lasts}: {len(wanted)} plans; a dense forward of the prompt takes {seconds:.2f} s")
        rows = tuple(_rows(model, floats, asked, wanted, plan is None, every, force, advance))
        accepted = None
        if loaded.family.generic:
            # A float32 copy may have fewer layers: those of the model itself count.
            depth = max(row.layers for row in rows)
            accepted = accepted_methods(rows, depth, None if plan is None else Plan.of(plan))
            if plan is None:
                accepted = running(model, accepted, decoder, asked.picture)
            loaded.family.accept(accepted)
    places = {row.outcomes["batch"].why for row in rows if row.group == STOCK and row.status == "passed"}
    notes = (*asked.notes, *([why] if why else []), *(note for note in places if note))
    where = record(model=model, device=home(model), dtype=dtype)
    return Report(found, rows, notes, time.perf_counter() - begun, where, accepted)


def describe(loaded: Loaded, decoder: torch.nn.ModuleList, whole: int, asked: Prompts) -> dict[str, Any]:
    """What was found of a model.

    Args:
        loaded: The model.
        decoder: Its decoder layers, as many as are checked.
        whole: How many it has.
        asked: What it is asked.
    """
    stock, config = bare(loaded.model), bare(loaded.model).config
    text, weights = config.get_text_config(), stock.get_input_embeddings().weight
    visual = visual_rows(loaded.model, decoder, asked.picture)
    quantised = getattr(config, "quantization_config", None)
    return {
        "name": loaded.name,
        "class": type(stock).__name__,
        "family": loaded.family.name,
        "model_type": config.model_type,
        "text_type": text.model_type,
        "processor": None if loaded.processor is None else type(loaded.processor).__name__,
        "dtype": str(weights.dtype).removeprefix("torch."),
        "quantisation": None if quantised is None else str(getattr(quantised, "quant_method", "yes")),
        "attention": str(text._attn_implementation),
        "device": str(home(stock) or stock.device),
        "parameters": sum(parameter.numel() for parameter in stock.parameters()),
        "layers": whole,
        "layers_checked": len(decoder),
        "hidden": text.hidden_size,
        "heads": text.num_attention_heads,
        "prompt_rows": len(visual),
        "visual_rows": int(visual.sum()),
        "identity": loaded.family.identity(loaded.model),
        "adapter": loaded.family.told(),
    }


def spoken(found: dict[str, Any]) -> list[str]:
    """What was found, in lines."""
    checked = found["layers_checked"]
    first = "" if checked == found["layers"] else f", the first {checked} checked"
    quantised = "" if found["quantisation"] is None else f" ({found['quantisation']})"
    return [
        f"{found['name']}: {found['class']}, {_adapter(found)}, {found['text_type']} decoder, "
        f"{found['layers']} layers of width {found['hidden']}{first}",
        f"{found['dtype']}{quantised}, {found['attention']} attention, on {found['device']}; the prompt has "
        f"{found['prompt_rows']} rows, {found['visual_rows']} of them visual",
    ]


def _adapter(found: dict[str, Any]) -> str:
    if found["adapter"] is None:
        return f"family {found['family']}"
    kinds = len(found["adapter"]["attention"])
    return f"an adapter made by inspection ({kinds} kind{'s' * (kinds > 1)} of attention)"


def _wanted(plan: PlanLike | None, decoder: torch.nn.ModuleList, whole: int, every: bool) -> list[Case]:
    depth = len(decoder)
    if plan is None:
        return cases(depth, every, recurrent_layers(decoder))
    try:
        found = Plan.of(plan).resolve(depth)
    except ValueError as error:
        if depth == whole:
            raise
        Plan.of(plan).resolve(whole)  # what is wrong with the plan itself comes first
        raise ValueError(f"{error}: of {whole} layers only the first {depth} are checked (layers)") from error
    return [Case(group_of_plan(found, depth), found)]


def _float32(model: Any, decoder: torch.nn.ModuleList) -> tuple[Any, str]:
    """The model in float32, or a copy with as many layers as fit; None, and why, where there is none."""
    weights = bare(model).get_input_embeddings().weight
    if weights.dtype == torch.float32:
        return model, ""
    why = no_float32(model)
    if why:
        return None, f"float32: not checked, {why}"
    depth = layers_that_fit(model, decoder, free_memory(weights.device))
    if not depth:
        return None, "float32: not checked, not even one layer of a float32 copy fits in the free memory"
    said = "" if depth == len(decoder) else f"float32: {depth} of {len(decoder)} layers fit in free memory"
    return float32_copy(model, decoder, depth), said


def _rows(
    model: Any,
    floats: Any,
    asked: Prompts,
    wanted: list[Case],
    groups: bool,
    every: bool,
    force: bool,
    advance: Callable[[int, int], None] | None,
) -> Iterator[CheckedPlan]:
    """Every plan on every bench: in float32 first, then as it is served."""
    exact = None if floats is None else CheckedModel.of(floats, asked)
    benches = [] if exact is None else [exact]
    if floats is not model:
        benches.append(CheckedModel.of(model, asked, exact))
    depth, total, done = benches[-1].depth, len(benches) * len(wanted), 0
    for bench in benches:
        # A copy with fewer layers has plans of its own depth, unless the plan is given.
        shallow = groups and bench.depth < depth
        yield ask_stock(bench)
        for case in cases(bench.depth, every, recurrent_layers(bench.layers)) if shallow else wanted:
            yield ask_plan(bench, case, force)
            done += 1
            if advance is not None:
                advance(done, max(done, total))


@torch.no_grad()
def _seconds(model: Any, asked: Prompts) -> float:
    """How long a dense forward of the prompt takes, once it is warm.

    Raises:
        ValueError: If the stock model does not take it.
    """
    try:
        logits(model, asked.picture)
    except Exception as error:  # models raise whatever their authors chose
        raise ValueError(
            f"the stock model does not take a prompt with a picture: {first_line(error)}"
        ) from error
    device = next(bare(model).parameters()).device
    begun = now(device)
    logits(model, asked.picture)
    return now(device) - begun


def _spoken_time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} minutes"
