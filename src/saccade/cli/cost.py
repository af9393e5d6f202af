"""``saccade cost``: what plans would save, in closed form, without running a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saccade.cli import common
from saccade.cli.opening import Generic, Revision, TrustRemoteCode
from saccade.core.cards import card
from saccade.core.text import quoted
from saccade.opening.settings import Opening
from saccade.plans.names import check_plans, check_target

if TYPE_CHECKING:
    from saccade.core.pricing import Cost
    from saccade.core.shapes import ModelShape
    from saccade.plans.bill import Bill
    from saccade.plans.plan import Plan
    from saccade.skip_vision.accounting import Laid

TEXT = 66.6
"""Mean text rows of the papers' prompts, fitted from V-Skip's Table 3."""

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("cost")(cost)


def cost(
    model: Annotated[
        str,
        typer.Argument(
            metavar="SHAPE_OR_MODEL",
            help="A preset shape (llava-1.5-7b, ...), a folder, a hub id or an embedded model.",
        ),
    ] = "llava-1.5-7b",
    plan: Annotated[
        list[str] | None,
        typer.Option(metavar="PLAN", help="A plan file or a spec; repeat to compare plans in one table."),
    ] = None,
    visual: Annotated[
        int | None,
        common.count("Visual rows; those of a typical image if omitted.", common.MOST_ROWS, least=0),
    ] = None,
    text: Annotated[
        float, common.fraction("Text rows; may be a mean such as 66.6.", common.MOST_ROWS)
    ] = TEXT,
    views: Annotated[
        int | None,
        common.count(
            "Views (tiles and the whole picture) that the image is cut into; as many as its rows fill "
            "if omitted.",
            common.MOST_ROWS,
        ),
    ] = None,
    dtype: Annotated[str, typer.Option(help="Type of the KV cache.")] = "bfloat16",
    on: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DEVICE",
            help="Also predict the time to the first token on h100, a100, l4 or rtx3090, 16 bits, batch 1; "
            "repeatable.",
        ),
    ] = None,
    revision: Revision = None,
    trust_remote_code: TrustRemoteCode = False,
    generic: Generic = False,
    force: common.Force = False,
    json: common.Json = None,
) -> None:
    """State FLOPs, KV bytes and equivalent tokens of plans in closed form.

    FLOPs are those of the decoder layers for one prompt, 2 per multiply-accumulate, by the papers'
    rectangle; 'executed' is what the engine dispatches, 'scores' what of it methods spend on score rows. The
    second table is the whole bill: vision tower, projector, decoder as dispatched, head on the last row. A
    budget without a calibration takes the last layers. A Skip-Vision folder is priced as it runs, with its
    own rows and plan, beside its decoder on the stock model's rows. In the JSON the top level is the first
    plan; 'plans' holds all of them.

    Example: saccade cost llava-1.5-7b --visual 576 --text 66.6 --plan "vskip(budget=19)"
    """
    out = common.Output(json)
    if dtype not in BYTES:
        raise ValueError(f"no dtype {quoted(dtype)}; known: {', '.join(BYTES)}")
    check_target(model)
    check_plans(plan or [])
    for name in on or ():
        card(name)
    opening = Opening(revision=revision, trust_remote_code=trust_remote_code, generic=generic)
    shape, laid = _shape(model, opening)
    if laid is not None:
        visual = laid.asked(visual)
    visual = shape.visual if visual is None else visual
    plans = plan or ["dense"]
    if not force:
        _check_shapes(model, plans, opening)
    if views is not None and views > 1 and shape.view is None:
        raise ValueError(f"{shape.name} does not cut images into views; leave out --views")
    prices = [price(shape, each, visual, text, BYTES[dtype], laid, views) for each in plans]
    times = {} if not on else predicted(shape, prices, on, visual, text, views)
    _show(out, shape, prices, visual, text, laid, dtype)
    entries = [
        p.to_dict() | ({"predicted": {name: each[i + 1] for name, each in times.items()}} if times else {})
        for i, p in enumerate(prices)
    ]
    if times:
        _show_times(out, shape, prices, times)
    out.finish(
        {"shape": shape.to_dict(), "visual": visual, "text": text, "dtype": dtype, "revision": revision}
        | ({} if laid is None else {"stock_visual": laid.stock})
        | entries[0]
        | {"plans": entries}
    )


def _check_shapes(model: str, plans: Sequence[str], opening: Opening) -> None:
    """Refuses plans that were made for another model."""
    from saccade.plans.plan import Plan

    for found in map(Plan.of, plans):
        if found.model:
            from saccade.measure.target import check_plan

            check_plan(model, found, opening)


def _shape(name: str, opening: Opening) -> tuple[ModelShape, Laid | None]:
    from saccade.core.shapes import SHAPES

    if name in SHAPES:
        if opening != Opening():
            raise ValueError(f"{name} is a preset shape: it has no revision, and no code of its own")
        # Presets need no transformers, whose import takes longer than the answer.
        return SHAPES[name], None
    from saccade.measure.target import laid_of, shape_of

    return shape_of(name, opening), laid_of(name, opening)


@dataclass(frozen=True)
class Price:
    """A resolved plan and what it costs.

    Attributes:
        asked: The plan as the user wrote it.
        plan: The plan with its layers.
        cost: Its cost.
        sets: Groups of layers with equal row sets: layers, rows alive, query, ffn, TFLOPs of the group.
        whole: The bill from pixels to the first token; None where the tower's sizes are not known.
    """

    asked: str
    plan: Plan
    cost: Cost
    sets: list[dict[str, Any]]
    whole: Bill | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary for JSON."""
        return {
            "plan": self.asked,
            "resolved": self.plan.spec,
            **self.cost.to_dict(),
            "layer_sets": self.sets,
            "whole": None if self.whole is None else self.whole.to_dict(),
        }


def price(
    shape: ModelShape,
    asked: str,
    visual: int,
    text: float,
    dtype_bytes: int = 2,
    laid: Laid | None = None,
    cut: int | None = None,
) -> Price:
    """Prices one plan at a one-image prompt; of a Skip-Vision model over its own, beside the stock prompt.

    Raises:
        ValueError: If the plan cannot be read or does not fit the shape.
    """
    from saccade.core.pricing import against
    from saccade.plans.bill import bill_of_prompt
    from saccade.plans.budget import as_processed, layouts_of, price_prompt, resolve_for_prompt
    from saccade.plans.plan import Plan

    plan = Plan.of(asked)
    if laid is not None:
        plan = plan.over(laid.own)
    plan = resolve_for_prompt(plan, shape, visual, text, cut=cut)
    found = price_prompt(plan, shape, visual, text, dtype_bytes, cut)
    if laid is not None:
        found = against(found, price_prompt(Plan(), shape, laid.stock, text, dtype_bytes))
    layouts, weights = layouts_of(visual, text, shape.views(visual, cut))
    counts = [plan.route(as_processed(plan, layout), shape.layers).counts() for layout in layouts]
    groups: dict[tuple, list[int]] = {}
    for number in range(shape.layers):
        rows = tuple(
            round(sum(w * c[number][i] for w, c in zip(weights, counts, strict=True)), 6) for i in range(3)
        )
        groups.setdefault(rows, []).append(number)
    sets = [
        {
            "layers": common.numbers(numbers),
            "count": len(numbers),
            "alive": rows[0],
            "query": rows[1],
            "ffn": rows[2],
            "tflops": sum(found.layer_tflops[n] for n in numbers),
        }
        for rows, numbers in groups.items()
    ]
    # What stands in the projector's place of a Skip-Vision model is not counted, so nothing whole is told.
    whole = None if laid is not None else bill_of_prompt(plan, shape, found, visual, cut)
    return Price(asked, plan, found, sets, whole)


def _show(
    out: common.Output,
    shape: ModelShape,
    prices: list[Price],
    visual: int,
    text: float,
    laid: Laid | None,
    dtype: str,
) -> None:
    from rich.table import Table

    from saccade.plans.plan import Plan

    sparse = f" ({shape.experts.chosen} of {shape.experts.count} experts)" if shape.experts else ""
    ffn = f"FFN {shape.ffn}{sparse}"
    recurs = len(shape.recurrent_layers)
    recurrent = f" ({recurs} of them recurrent)" if recurs else ""
    out.line(
        f"{shape.name}: {shape.layers} layers{recurrent}, width {shape.hidden}, {ffn}, {shape.heads} heads "
        f"({shape.kv_heads} KV); prompt of {visual} visual and {text:g} text rows, KV cache in {dtype}"
    )
    if laid is not None:
        out.line(
            f"a Skip-Vision model: every plan runs over its own ({laid.own.spec}); dense is its decoder on "
            f"the stock model's {laid.stock} visual rows"
        )
    first = prices[0].cost
    unit = common.flops_unit(first.dense_tflops * 1e12)
    small = common.flops_unit(first.dense_decode_gflops * 1e9)
    view = Table(
        "plan",
        unit.name,
        "ratio",
        "executed ratio",
        "scores",
        "KV cache",
        "KV ratio",
        "equivalent tokens",
        f"decode {small.name}",
    )
    view.add_row(
        "dense",
        f"{first.dense_tflops * 1e12 / unit.size:.2f}",
        "1.000",
        "1.000",
        "",
        common.human_bytes(first.dense_kv_bytes),
        "1.000",
        f"{first.visual_tokens:.1f}",
        f"{first.dense_decode_gflops * 1e9 / small.size:.2f}",
    )
    for p in prices:
        if not p.plan.methods and laid is None:
            continue
        c = p.cost
        executed = "-" if c.executed_ratio != c.executed_ratio else f"{c.executed_ratio:.3f}"
        view.add_row(
            "its own" if laid is not None and not Plan.of(p.asked).methods else p.asked,
            f"{c.tflops * 1e12 / unit.size:.2f}",
            f"{c.ratio:.3f}",
            executed,
            _share(c.score_tflops, c.dense_executed_tflops),
            common.human_bytes(c.kv_bytes),
            f"{c.kv_ratio:.3f}",
            f"{c.equivalent_tokens:.1f}",
            f"{c.decode_gflops * 1e9 / small.size:.2f}",
        )
    out.table(view)
    _show_whole(out, prices, laid is not None)
    sets = Table("plan", "layers", "count", "alive rows", "query rows", "FFN rows", unit.name)
    for p in prices:
        for i, s in enumerate(p.sets):
            name = p.plan.spec if i == 0 else ""
            rows = (f"{s[key]:g}" for key in ("alive", "query", "ffn"))
            sets.add_row(name, s["layers"], str(s["count"]), *rows, f"{s['tflops'] * 1e12 / unit.size:.3f}")
        sets.add_section()
    out.table(sets)


def _show_whole(out: common.Output, prices: Sequence[Price], laid: bool) -> None:
    """Prints what a prompt costs from its pixels on, where the tower's sizes are known."""
    from rich.table import Table

    bills = [(p.asked, p.whole) for p in prices if p.whole is not None]
    if not bills:
        why = "what stands in the projector's place lays rows out anew, and is not counted"
        unknown = "the sizes of this vision tower or projector are not known"
        out.line(f"the whole bill is not told: {why if laid else unknown}")
        return
    first = bills[0][1]
    unit = common.flops_unit(first.dense_tflops * 1e12)
    view = Table(
        "plan", "tower", "projector", "decoder", "head", f"whole {unit.name}", "ratio", "tower share"
    )
    seen = first.dense_tower_tflops + first.dense_projector_tflops
    dense = (first.dense_tower_tflops, first.dense_projector_tflops, first.dense_decoder_tflops)
    rows = [("dense", (*dense, first.head_tflops, first.dense_tflops), 1.0, seen / first.dense_tflops)]
    for asked, one in bills:
        if asked != "dense":
            parts = (one.tower_tflops, one.projector_tflops, one.decoder_tflops, one.head_tflops, one.tflops)
            rows.append((asked, parts, one.ratio, one.tower_share))
    for asked, parts, ratio, share in rows:
        told = (f"{part * 1e12 / unit.size:.2f}" for part in parts)
        view.add_row(asked, *told, f"{ratio:.3f}", f"{100 * share:.0f} %")
    out.table(view)
    for asked, one in bills:
        if one.verdict:
            out.line(f"{asked}: {one.verdict}")


def predicted(
    shape: ModelShape, prices: Sequence[Price], on: Sequence[str], visual: int, text: float, cut: int | None
) -> dict[str, list[dict[str, float]]]:
    """Predicted seconds to the first token by device: of the dense model, then of every plan, with ratios.

    Raises:
        ValueError: If a device is not known.
    """
    from saccade.core.layout import Layout
    from saccade.measure import devices
    from saccade.plans.budget import as_processed
    from saccade.plans.plan import Plan

    layout = Layout.single(visual, round(text), views=shape.views(visual, cut))
    plans = [Plan(), *(p.plan for p in prices)]
    routes = [plan.route(as_processed(plan, layout), shape.layers) for plan in plans]
    eyes = devices.eyes(plans, shape, visual, cut)
    return {name: devices.predicted(shape, routes, name, eyes) for name in on}


def _show_times(
    out: common.Output, shape: ModelShape, prices: list[Price], times: dict[str, list[dict[str, float]]]
) -> None:
    from rich.table import Table

    view = Table("plan", *times)
    names = ["dense", *(p.asked for p in prices)]
    for place, name in enumerate(names):
        if place and name == "dense":
            continue
        cells = (each[place] for each in times.values())
        view.add_row(name, *(f"{1e3 * cell['seconds']:.1f} ms ({cell['ratio']:.3f})" for cell in cells))
    out.table(view)
    tower = "without" if shape.tower is None else "with"
    out.line(f"predicted time to the first token, {tower} the vision tower, 16 bits, batch 1; not measured")


def _share(part: float, whole: float) -> str:
    """Score rows as a share of the dense prefill."""
    if not part:
        return ""
    return "< 0.01 %" if part / whole < 1e-4 else f"{100 * part / whole:.2f} %"
