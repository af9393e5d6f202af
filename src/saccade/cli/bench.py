"""``saccade bench``: a plan timed against the stock model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from saccade.cli import common
from saccade.cli.opening import opens, prove
from saccade.core.cards import card
from saccade.opening.settings import Opening
from saccade.plans.names import check_target

if TYPE_CHECKING:
    from saccade.measure.results import Bench, Phase, Usage


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("bench")(opens(bench))


def bench(
    model: Annotated[
        str,
        typer.Argument(
            metavar="SHAPE_OR_MODEL",
            help="A preset shape (random weights), a folder, a hub id or an embedded model.",
        ),
    ] = "llava-1.5-7b",
    plan: Annotated[
        list[str] | None,
        typer.Option(metavar="PLAN", help="A plan file or a spec; repeat for several. 'dense': overhead."),
    ] = None,
    layers: Annotated[
        int | None,
        common.count(
            "Decoder layers built of a preset shape; 4 on a CPU, all that fit on a GPU.", common.MOST_LAYERS
        ),
    ] = None,
    batch: Annotated[int, common.count("Samples that run together.", common.MOST_BATCH)] = 1,
    visual: Annotated[
        int | None,
        common.count("Visual rows; those of a typical image if omitted.", common.MOST_ROWS, least=0),
    ] = None,
    text: Annotated[int, common.count("Text rows.", common.MOST_ROWS)] = 64,
    new_tokens: Annotated[int, common.count("Tokens generated per sample.", common.MOST_TOKENS)] = 8,
    opening: Opening = Opening(),
    warmup: Annotated[
        int, common.count("Runs of each side before the timing.", common.MOST_REPEATS, least=0)
    ] = 1,
    repeats: Annotated[int, common.count("Timed pairs.", common.MOST_REPEATS)] = 5,
    seed: common.Seed = 0,
    force: common.Force = False,
    strict: common.Strict = False,
    threads: common.Threads = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Also show per-operator times of both sides.")
    ] = False,
    roofline: Annotated[
        bool, typer.Option("--roofline", help="Also state the least prefill time that the device allows.")
    ] = False,
    on: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DEVICE",
            help="Also predict the same prefills on h100, a100, l4 or rtx3090, in 16 bits; repeatable.",
        ),
    ] = None,
    json: common.Json = None,
) -> None:
    """Time plans against the stock model, in one process on the same weights.

    Stock and planned runs alternate; ratios are medians over pairs. Timed are the decoder, its norm and
    the head on the last row; the vision tower of a model with weights is timed apart, stock and under the
    plan. 'captured' is the share of the promised saving that arrived: (1 - time ratio) / (1 - FLOPs ratio),
    score rows counted. In the decoder a method that looks at the vision tower is shown made-up numbers.
    Without --plan the attachment itself is timed. In the JSON the top level is the first plan; 'plans' holds
    all of them.

    Example: saccade bench llava-1.5-7b --layers 2 --plan "shortv(budget=2)"
    """
    out = common.Output(json)
    plans = plan or ["dense"]
    check_target(model)
    for name in on or ():
        card(name)
    common.check_names(plans=plans, opening=opening)
    common.hold(json)
    from saccade.measure import bench as measure

    settings: dict[str, Any] = {
        "batch": batch,
        "visual": visual,
        "text": text,
        "new_tokens": new_tokens,
        "warmup": warmup,
        "repeats": repeats,
        "seed": seed,
        "force": force,
        "strict": strict,
        "profile": profile,
        "limits": roofline,
        "on": tuple(on or ()),
    }
    from saccade.measure.target import build, refuse_opening, shape_dtype

    refuse_opening(model, opening)
    where = opening.torch_device()
    kind = shape_dtype(opening, where)
    common.use_threads(threads)
    settings["visual"] = _check(model, opening, plans, layers, kind, where, **settings)
    rows = settings["visual"] + text + new_tokens
    results = []
    with common.progress() as bar:
        task = bar.add_task(f"building {model}", total=1)
        target = build(
            model, layers=layers, batch=batch, rows=rows, dtype=kind, device=where, seed=seed, opening=opening
        )
        bar.update(task, completed=1)
        if target.loaded is not None:
            prove(target.loaded)
        for each in plans:
            task = bar.add_task(each, total=2 * (warmup + repeats))

            def show(phase: str, done: int, total: int, task=task, each=each) -> None:
                bar.update(task, completed=done, description=f"{each}: {phase}")

            results.append(measure(target, each, progress=show, **settings))
    _show(out, results)
    entries = [result.to_dict() for result in results]
    out.finish(entries[0] | {"plans": entries})


def _check(
    model: str,
    opening: Opening,
    plans: list[str],
    layers: int | None,
    dtype,
    device,
    *,
    batch,
    visual,
    text,
    **rest,
) -> int:
    """Finds what is wrong before anything is built; gives the visual rows."""
    from dataclasses import replace

    from saccade.measure import shape_of
    from saccade.measure.bench import resolve
    from saccade.measure.target import check_plan, laid_of, layers_to_build, refuse_layers
    from saccade.plans.plan import Plan

    shape, laid = shape_of(model, opening), laid_of(model, opening)
    if laid is not None:
        visual = laid.asked(visual)
    depth, visual = shape.layers, shape.visual if visual is None else visual
    from saccade.core.shapes import SHAPES

    if model in SHAPES:
        rows = visual + text + rest["new_tokens"]
        shape = replace(shape, layers=layers_to_build(shape, layers, batch, rows, dtype, device))
    else:
        refuse_layers(model, layers)
    for plan in plans:
        found = Plan.of(plan)
        if not rest["force"]:
            check_plan(model, found, opening)
        resolve(found if laid is None else found.over(laid.own), shape, depth, visual, text)
    return visual


def _show(out: common.Output, results: list[Bench]) -> None:
    from rich.table import Table

    first = results[0]
    part = "" if first.layers == first.depth else f" of {first.depth}"
    out.line(
        f"{first.name}: {first.layers}{part} layers, {first.weights} weights, {first.provenance['dtype']}, "
        f"batch {first.batch}, {first.visual} visual and {first.text} text rows, {first.new_tokens} new, "
        f"on {first.provenance['device']} ({first.provenance['threads']} threads)"
    )
    if first.stock_visual != first.visual:
        out.line(
            f"a Skip-Vision model, its own plan in every row, beside its decoder alone on the stock model's "
            f"{first.stock_visual} visual rows"
        )
    view = Table(
        "plan",
        "phase",
        "stock",
        "plan",
        "time ratio",
        "quartiles",
        "FLOPs ratio",
        "efficiency",
        "captured",
        "GFLOP/s",
    )
    for r in results:
        view.add_row(r.plan, "prefill", *_cells(r.prefill))
        if r.decode is not None:
            view.add_row("", "decode, per token", *_cells(r.decode))
        total = (
            f"{r.dense.total_s * 1e3:.1f} ms",
            f"{r.planned.total_s * 1e3:.1f} ms",
            f"{r.total_ratio:.3f}",
        )
        view.add_row("", "total", *total)
        view.add_section()
    out.table(view)
    usage = Table("plan", "TTFT", "tokens/s", "peak memory", "beyond weights", "KV cache", "KV ratio")
    for r in results:
        # Each beside the stock model of its own pairs: what else the machine did then slowed both.
        usage.add_row("stock", *_used(r.dense), "1.000")
        usage.add_row(r.plan, *_used(r.planned), f"{r.kv_ratio:.3f}")
        usage.add_section()
    out.table(usage)
    out.line(f"peak memory: {first.memory_source}")
    _show_whole(out, results)
    for r in results:
        if r.vision_made_up:
            apart = "not timed" if r.vision_s is None else "timed with the tower"
            out.line(f"{r.plan}: saw made-up numbers of a vision tower; its part in the tower is {apart}")
        out.line(f"{r.plan}: {r.verdict}")
        if noisy := [
            name
            for name, phase in (("prefill", r.prefill), ("decode", r.decode))
            if phase is not None and phase.noise and phase.captured is not None
        ]:
            out.line(
                f"{r.plan}: what was captured of the saving is noise in {' and '.join(noisy)}: the pairs are "
                f"too few or differ by as much as was promised; take more --repeats than {r.repeats}, a "
                "larger --batch or --visual, or fewer --threads"
            )
        for name, told in (r.predicted or {}).items():
            out.line(
                f"{r.plan}: predicted on {name}: stock {told['dense_s'] * 1e3:.1f} ms, plan "
                f"{told['plan_s'] * 1e3:.1f} ms, ratio {told['time_ratio']:.3f}, without the vision "
                "tower; not measured"
            )
        if r.roofline is not None:
            out.line(_limits(r))
        if r.profile is not None:
            out.table(_profile(r))


def _show_whole(out: common.Output, results: list[Bench]) -> None:
    """Prints FLOPs and time from the pixels to the first token, as far as they are known."""
    from rich.table import Table

    from saccade.plans.bill import tower_told

    known = [(r, r.whole) for r in results if r.whole is not None]
    if not known:
        return
    timed = results[0].vision_s is not None
    unit = common.flops_unit(known[0][1]["dense_tflops"] * 1e12)
    heads = ("tower ms", "decoder ms", "time ratio") if timed else ()
    view = Table("from pixels", f"tower {unit.name}", f"whole {unit.name}", "ratio", "tower share", *heads)
    rows = [row for r, w in known for row in (("stock", r, "dense_", 1.0), (r.plan, r, "", w["ratio"]))]
    for number, (name, r, side, ratio) in enumerate(rows):
        if number and side and not timed:
            continue  # one stock model: its FLOPs are the same beside every plan
        whole: Any = r.whole
        seen = whole[f"{side}tower_tflops"] + whole[f"{side}projector_tflops"]
        total = whole[f"{side}tflops"]
        cells = [f"{seen * 1e12 / unit.size:.3f}", f"{total * 1e12 / unit.size:.3f}", f"{ratio:.3f}"]
        cells.append(f"{100 * seen / total:.0f} %")
        if timed:
            vision_s: Any = r.vision_s if side else r.plan_vision_s
            first_s = (r.dense if side else r.planned).ttft_s
            cells += [f"{1e3 * r.batch * vision_s:.1f}", f"{1e3 * first_s:.1f}"]
            cells.append("1.000" if side else f"{r.whole_time_ratio:.3f}")
        view.add_row(name, *cells)
    out.table(view)
    first = results[0]
    if timed:
        out.line(
            f"vision tower and projector are timed apart, on a picture of {first.vision_rows} rows; the time "
            "ratio is with the decoder's prefill"
        )
    for r, whole in known:
        if told := tower_told(whole["tower_share"], whole["ratio"]):
            out.line(f"{r.plan}: {told}")


def _cells(phase: Phase) -> tuple[str, ...]:
    captured = "-" if phase.captured is None else "noise" if phase.noise else f"{phase.captured:.3f}"
    return (
        f"{phase.dense_s * 1e3:.1f} ms",
        f"{phase.plan_s * 1e3:.1f} ms",
        f"{phase.time_ratio:.3f}",
        f"{phase.low:.3f}-{phase.high:.3f}",
        f"{phase.flops_ratio:.3f}",
        f"{phase.efficiency:.3f}",
        captured,
        f"{phase.dense_gflops_per_s:.0f} / {phase.plan_gflops_per_s:.0f}",
    )


def _used(usage: Usage) -> tuple[str, ...]:
    return (
        f"{usage.ttft_s * 1e3:.1f} ms",
        f"{usage.tokens_per_s:.2f}",
        common.human_bytes(usage.peak_memory_bytes),
        common.human_bytes(usage.activation_bytes),
        common.human_bytes(usage.kv_bytes),
    )


def _limits(result: Bench) -> str:
    least = result.roofline or {}
    reach = least["device"]
    captured = "" if least["captured"] is None else f", captured at most {least['captured']:.3f}"
    return (
        f"{result.plan}: roofline of the prefill: stock {least['dense_s'] * 1e3:.1f} ms, plan "
        f"{least['plan_s'] * 1e3:.1f} ms, ratio {least['time_ratio']:.3f}{captured} (matrix products at "
        f"{reach['flops_per_s'] / 1e9:.0f} GFLOP/s, memory at {reach['bytes_per_s'] / 1e9:.0f} GB/s here)"
    )


def _profile(result: Bench):
    from rich.table import Table

    view = Table(
        "operator",
        "stock ms",
        "plan ms",
        "saved ms",
        "calls",
        title=f"one prefill of {result.plan}, self time",
    )
    for row in (result.profile or [])[:20]:
        calls = f"{row['dense_calls']:.0f} / {row['plan_calls']:.0f}"
        view.add_row(
            row["op"], f"{row['dense_ms']:.2f}", f"{row['plan_ms']:.2f}", f"{row['saved_ms']:.2f}", calls
        )
    return view
