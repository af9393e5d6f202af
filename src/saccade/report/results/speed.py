"""Benches, costs and calibrated plans as HTML (pure)."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

from saccade.measure.results import is_noise
from saccade.methods.base import write_value
from saccade.plans.bill import tower_told
from saccade.report import pieces, style
from saccade.report.results import wording
from saccade.report.results.group import Group
from saccade.report.results.kinds import Palette
from saccade.report.results.maps import layer_map
from saccade.report.results.model import Numbers, Result, Timed
from saccade.report.results.plots import layer_score, promised_and_measured
from saccade.report.text import MISSING, amount, percent, spread


def bench(results: list[Result], name: str) -> str:
    """All timed plans of a model: a table, and promised beside measured."""
    several = len(results) > 1
    runs: list[tuple[str, Timed]] = []
    rows = []
    for result in results:
        for run in result.timed:
            where = f"{result.path}, {run.setting}" if several else run.setting
            shown = f'{escape(run.plan)}<span class="spec">{escape(where)}</span>'
            rows.append([shown, *(cell(run) for cell in TIMED.values())])
            runs.append((run.plan if len(run.plan) <= 34 else f"{run.plan[:33]}…", run))
    figure = style.vector(promised_and_measured, f"{name}-time", "FLOPs and time over the stock model", runs)
    slower = [run.plan for _, run in runs if (run.prefill["low"] or 0) > 1]
    told = [f"<p>{wording.SLOWER} {escape(', '.join(slower))}.</p>"] if slower else []
    made_up = [run.plan for _, run in runs if run.made_up]
    told += [f"<p>{escape(', '.join(made_up))}: {wording.MADE_UP}.</p>"] if made_up else []
    drawn, table = pieces.drawing(figure, wording.MEASURED), pieces.table(("plan", *TIMED), rows)
    return f"<p>{wording.BENCH}</p>{''.join(told)}{drawn}{table}"


def _paired(phase: Numbers) -> str:
    return spread(phase["time_ratio"], phase["low"], phase["high"])


def _ms(seconds: float | None) -> str:
    return MISSING if seconds is None else f"{1e3 * seconds:.1f} ms"


def cost(result: Result) -> str:
    """Prices of plans, and the layers they touch."""
    rows, told = [], []
    for one in result.priced:
        spec = f'<span class="spec">{escape(one.resolved)}</span>' if one.resolved != one.plan else ""
        rows.append([f"{escape(one.plan)}{spec}", *(cell(one.numbers) for cell in PRICED.values())])
        if words := tower_told(one.numbers["tower_share"], one.numbers["whole_ratio"]):
            told.append(f"<p><code>{escape(one.plan)}</code>: {words}.</p>")
    model = result.model
    prompt = f"A prompt of {model.visual} visual and about {model.text} text rows, {model.layers} layers."
    plans = [(one.plan, one.resolved) for one in result.priced]
    palette = Palette.of((spec for _, spec in plans), model.layers)
    drawn = layer_map(plans, model.layers or 0, (model.visual or 1, model.text or 1), palette)
    shown = pieces.drawing(drawn, wording.MAP) if drawn else ""
    table = pieces.table(("plan", *PRICED), rows)
    return f"<p>{wording.COST} {prompt}</p>{table}{''.join(told)}{shown}"


def _fixed(value: float | None, digits: int) -> str:
    return MISSING if value is None else f"{value:,.{digits}f}"


def plan(result: Result, group: Group, name: str) -> str:
    """A calibrated plan: its layers, and the scores that chose them."""
    found = result.planned
    assert found is not None
    text = f"<p><code>{escape(found.plan.spec)}</code></p>"
    if found.metric:
        said = wording.FITTED if found.metric == "attention" else wording.PLAN
        told = said.format(metric=found.metric, drawn=found.drawn)
        text += f"<p>{escape(told)}</p>"
    else:
        text += f"<p>{wording.BY_HAND}</p>"
    if found.mean:
        layers = sorted({layer for m in found.plan.methods for layer in getattr(m, "layers", None) or ()})
        layers = [layer for layer in layers if layer < len(found.mean)]
        rows = [
            [str(layer), f"{value:.3g}", "yes" if layer in layers else ""]
            for layer, value in enumerate(found.mean)
        ]
        scores = {"mean": found.mean, "samples": found.samples}
        drawn = style.vector(
            layer_score, f"{name}-score", "score of every layer", found.metric or "score", scores, layers
        )
        chosen = f"Chosen: layers {escape(write_value(tuple(layers)))}." if layers else ""
        text += pieces.drawing(drawn, chosen)
        text += pieces.details("Scores as numbers", pieces.table(("layer", "mean score", "chosen"), rows))
    if group.layers:
        drawn = layer_map([("plan", found.plan.spec)], group.layers, group.prompt(), Palette())
        text += pieces.drawing(drawn, wording.MAP) if drawn else ""
    return text


def _captured(phase: Numbers) -> str:
    low, high, share = (phase.get(key) for key in ("low", "high", "flops_ratio"))
    if phase["captured"] is None:
        return MISSING
    if low is not None and high is not None and share is not None and is_noise(low, high, share):
        return "noise"
    return f"{phase['captured']:.2f}"


TIMED: dict[str, Callable[[Timed], str]] = {
    "FLOPs": lambda run: percent(run.prefill["flops_ratio"]),
    "prefill time": lambda run: _paired(run.prefill),
    "captured": lambda run: _captured(run.prefill),
    "stock": lambda run: _ms(run.prefill["dense_s"]),
    "plan": lambda run: _ms(run.prefill["plan_s"]),
    "decode time": lambda run: _paired(run.decode) if run.decode else "",
    "KV cache": lambda run: percent(run.kv_ratio),
    "peak memory": lambda run: percent(run.memory),
}
"""Columns behind the name of a plan that was timed."""
PRICED: dict[str, Callable[[Numbers], str]] = {
    "TFLOPs": lambda n: _fixed(n["tflops"], 3),
    "ratio": lambda n: percent(n["ratio"]),
    "executed": lambda n: percent(n["executed_ratio"]),
    "KV cache": lambda n: MISSING if n["kv_bytes"] is None else amount(n["kv_bytes"]),
    "KV ratio": lambda n: percent(n["kv_ratio"]),
    "equivalent tokens": lambda n: _fixed(n["equivalent_tokens"], 1),
    "decode GFLOPs": lambda n: _fixed(n["decode_gflops"], 2),
    "whole bill": lambda n: percent(n["whole_ratio"]),
    "tower's share": lambda n: percent(n["tower_share"], 0),
}
"""The same of one that was priced."""
