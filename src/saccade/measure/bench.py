"""Timing a plan against the stock model, in one process, on the same weights and the same prompt.

Timed are the decoder, its norm and the head on the last row; the vision tower is timed apart, stock and under
the plan. In the decoder a plan that looks at the tower is given made-up numbers to look at.
Shape letters: B batch, N rows, D hidden.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

import torch
from torch import nn

from saccade.core.cards import card
from saccade.core.layout import Layout, Views
from saccade.core.pricing import against, cost, decode_flops, held_rows
from saccade.core.route import Route
from saccade.core.shapes import SHAPES, ModelShape
from saccade.core.tower import pictures_of
from saccade.engine import apply, check_made_for
from saccade.measure.devices import predicted
from saccade.measure.memory import peak_memory
from saccade.measure.provenance import record
from saccade.measure.results import Bench, Phase, Usage
from saccade.measure.runs import Runner
from saccade.measure.target import Target, build, of_model, preset_print, shape_of
from saccade.measure.vision import seeing_times
from saccade.plans.bill import bill
from saccade.plans.budget import resolve_for_prompt
from saccade.plans.plan import Plan, PlanLike


def bench(
    target: str | nn.Module | Target = "llava-1.5-7b",
    plan: PlanLike = "dense",
    *,
    layers: int | None = None,
    batch: int = 1,
    visual: int | None = None,
    text: int = 64,
    new_tokens: int = 8,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    warmup: int = 1,
    repeats: int = 5,
    seed: int = 0,
    force: bool = False,
    strict: bool = False,
    profile: bool = False,
    limits: bool = False,
    on: Sequence[str] = (),
    progress: Callable[[str, int, int], None] | None = None,
) -> Bench:
    """Times a plan against the stock model.

    Both run in this process on the same weights, alternately (A B, B A, ...); ratios are medians over pairs.
    The stock model runs without attachment. The plan ``"dense"`` attaches with every row in every set, which
    measures the overhead of the attachment. A Skip-Vision model runs its own plan (and the one asked for over
    it) on the rows of its layout, beside its decoder alone on as many rows as the stock projector makes.

    Args:
        target: A preset shape (random weights), model folder, hub id, ``glance``, a loaded model, or a
            ``Target`` to reuse over several plans.
        plan: Plan, method, plan file or spec string; a budget without a calibration takes the last layers.
        layers: Decoder layers to build of a preset shape.
        batch: Samples that run together.
        visual: Visual rows per sample; those of a typical image if omitted.
        text: Text rows per sample.
        new_tokens: Tokens generated per sample, the first of them by the prefill.
        dtype: Number format; if omitted, a checkpoint's own, and of a preset shape bfloat16 on a GPU and
            float32 on a CPU.
        device: Where to run; a GPU where there is one if omitted.
        warmup: Runs of each side before the timing.
        repeats: Timed pairs.
        seed: Seed of the random weights and embeddings.
        force: Use a plan that was made for another model.
        strict: Refuse a plan that was made for other weights, instead of warning of it.
        profile: Also record per-operator times.
        limits: Also measure the device's rates and state the prefill's roofline.
        on: Devices that are not here, on which the same prefills are predicted (``saccade.core.cards``).
        progress: Called with (what, done, total) after every run.

    Raises:
        ValueError: If a count is out of range, a device is not known, or the model does not fit the memory,
            or the plan the model.
    """
    for name in on:
        card(name)
    _check_counts(batch=batch, new_tokens=new_tokens, repeats=repeats)
    _check_counts(0, visual=visual or 0, text=text, warmup=warmup)
    if isinstance(target, str):
        device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if dtype is None and target in SHAPES:
            dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        rows = (shape_of(target).visual if visual is None else visual) + text + new_tokens
        target = build(target, layers=layers, batch=batch, rows=rows, dtype=dtype, device=device, seed=seed)
    elif not isinstance(target, Target):
        target = of_model(target)
    if target.laid is not None:
        visual = target.laid.asked(visual)
    visual = target.shape.visual if visual is None else visual
    _check_counts(rows=visual + text)

    asked = Plan.of(plan)
    if target.real:
        check_made_for(target.model, asked, force=force, strict=strict)
    elif not force:
        asked.check_shape(preset_print(target.name), part=True)
    if force or not target.real:
        # A plan file for the whole model may be tried on part of its shape.
        asked = asked.for_any()
    if not target.real:
        # Its weights are random, and the adapter of a healed plan changes no step.
        asked = replace(asked, adapter=None)
    layout = laid = batched(visual, text, batch, target.shape.views(visual))
    if target.laid is not None:
        asked = asked.over(target.laid.own)
        layout = batched(target.laid.stock, text, batch)
    resolved = resolve(asked, target.shape, target.depth, visual, text)
    runner = Runner(target, layout, new_tokens, seed, resolved, laid)
    attach = lambda: apply(target.model, resolved)  # noqa: E731
    with attach() as handle:
        route = runner.route(handle)
    dense_runs, plan_runs = runner.compare(attach, warmup, repeats, progress)

    dense_peak, source = peak_memory(target.model, lambda: runner.prefill(None))
    with attach() as handle:
        plan_peak, _ = peak_memory(target.model, lambda: runner.prefill(handle))
    table = None
    if profile:
        from saccade.measure.profile import compare_profiles

        table = compare_profiles(runner, attach)
    size = runner.dtype.itemsize
    dense = Route.dense(layout, target.shape.layers)
    price = against(cost(target.shape, route, size), cost(target.shape, dense, size))
    whole = None
    # A whole tower beside a part of the decoder would be no model's bill.
    if target.laid is None and target.shape.tower is not None and target.shape.layers == target.depth:
        pictures = pictures_of(target.shape.tower, layout)
        whole = bill(resolved, target.shape, price, pictures, batch)
    seen = seeing_times(target, resolved, repeats, visual) if target.real and visual else None
    least = None
    if limits:
        from saccade.measure.roofline import probe, roofline

        reach = probe(runner.device, runner.dtype)
        least = asdict(roofline(target.shape, route, size, reach, price.executed_ratio))
    elsewhere = {name: _elsewhere(target.shape, (dense, route), name) for name in on}
    decode = None
    if new_tokens > 1:
        flops = [_decode_flops(target, r, new_tokens) for r in (dense, route)]
        decode = Phase.of([r.decode_s for r in dense_runs], [r.decode_s for r in plan_runs], *flops)
    return Bench(
        name=target.name,
        plan=plan if isinstance(plan, str) else asked.spec,
        resolved=resolved.spec,
        layers=target.shape.layers,
        depth=target.depth,
        weights="real" if target.real else "random",
        batch=batch,
        visual=visual,
        text=text,
        new_tokens=new_tokens,
        warmup=warmup,
        repeats=repeats,
        prefill=Phase.of(
            [r.prefill_s for r in dense_runs],
            [r.prefill_s for r in plan_runs],
            price.dense_executed_tflops * 1e12,
            price.executed_tflops * 1e12,
        ),
        decode=decode,
        dense=_usage(dense_runs, batch * new_tokens, dense_peak),
        planned=_usage(plan_runs, batch * new_tokens, plan_peak),
        total_ratio=statistics.median(
            p.total_s / d.total_s for d, p in zip(dense_runs, plan_runs, strict=True)
        ),
        stock_visual=visual if target.laid is None else target.laid.stock,
        kv_ratio=plan_runs[0].kv_bytes / dense_runs[0].kv_bytes,
        memory_source=source,
        vision_s=None if seen is None else seen.dense_s,
        vision_made_up=runner.vision is not None,
        predicted=elsewhere or None,
        profile=table,
        roofline=least,
        provenance=record(model=target.model, device=runner.device, dtype=runner.dtype, seed=seed),
        plan_vision_s=None if seen is None else seen.plan_s,
        vision_rows=None if seen is None else seen.rows,
        whole=None if whole is None else whole.to_dict(),
    )


def _elsewhere(shape: ModelShape, routes: Sequence[Route], on: str) -> dict[str, float]:
    """What two prefills would take on a device that is not here, in 16 bits, without the tower."""
    dense, planned = predicted(shape, routes, on)
    return {"dense_s": dense["seconds"], "plan_s": planned["seconds"], "time_ratio": planned["ratio"]}


def batched(visual: int, text: int, batch: int, views: Views | None = None) -> Layout:
    """Layout of a batch of equal one-image prompts."""
    one = Layout.single(visual, text, views=views)
    many = Layout.from_mask(one.visual_BN.expand(batch, -1))
    return many if one.views is None else replace(many, views=one.views * batch)


def _check_counts(least: int = 1, **counts: int) -> None:
    for name, count in counts.items():
        if count < least:
            raise ValueError(f"{name.replace('_', ' ')} is a number from {least}, got {count}")


def resolve(plan: PlanLike, shape: ModelShape, depth: int, visual: int, text: int) -> Plan:
    """The plan with its layers, as a bench runs it.

    Args:
        plan: What the user gave.
        shape: Sizes of the decoder as it is built.
        depth: Layers of the model it stands for.
        visual: Visual rows.
        text: Text rows.

    Raises:
        ValueError: If it does not fit the layers that are built.
    """
    try:
        return resolve_for_prompt(Plan.of(plan), shape, visual, text)
    except ValueError as error:
        if shape.layers == depth:
            raise
        raise ValueError(
            f"{error} (this bench builds {shape.layers} of the {depth} layers; see --layers)"
        ) from None


def _decode_flops(target: Target, route: Route, new_tokens: int) -> float:
    """Mean FLOPs of the layers for one decode step of the whole batch."""
    layout, sizes = route.layout, target.shape.each_layer
    held_LB = torch.stack(
        [held_rows(one, layer, layout) for layer, one in zip(route.layers, sizes, strict=True)]
    )
    most_L1 = torch.tensor([[one.rule.span or torch.iinfo(torch.long).max] for one in sizes]) - 1
    steps = [
        decode_flops(target.shape, torch.minimum(held_LB + step, most_L1).sum(1), layout.batch)
        for step in range(new_tokens - 1)
    ]
    return float(torch.stack(steps).double().mean())


def _usage(runs: list, tokens: int, activations: int) -> Usage:
    total = statistics.median(r.total_s for r in runs)
    held = runs[0].held_bytes
    return Usage(
        ttft_s=statistics.median(r.prefill_s for r in runs),
        total_s=total,
        tokens_per_s=tokens / total,
        peak_memory_bytes=held + activations,
        activation_bytes=activations,
        kv_bytes=runs[0].kv_bytes,
    )
