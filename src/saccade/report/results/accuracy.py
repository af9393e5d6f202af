"""Evaluations as HTML: tables with intervals, plots against cost, task by task, what was lost (pure)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape

from saccade.report import pieces, style, text
from saccade.report.results import wording
from saccade.report.results.frontier import chosen, kept
from saccade.report.results.group import Group
from saccade.report.results.kinds import Palette
from saccade.report.results.maps import layer_map
from saccade.report.results.model import Numbers, ReadComparison, ScoredPlan
from saccade.report.results.plots import Panel, Point, pareto, task_bars
from saccade.report.text import (
    MISSING,
    above_blind,
    amount,
    beside_blind,
    difference,
    interval,
    percent,
    points,
)

MANY = 16
"""Plans above which a map is folded away."""
CLOSE = 4
"""Plans looked at task by task."""

Named = tuple[str, ReadComparison]
"""A comparison and the name of its file."""


def comparisons(group: Group) -> list[Named]:
    """All evaluations of a model, named by file, and by their title within it."""
    return [
        (f"{result.path}: {title}" if title else result.path, found)
        for result in group.results
        for title, found in result.comparisons.items()
    ]


def table(found: ReadComparison, palette: Palette) -> str:
    """All plans of a file beside the stock model."""
    timed = any(e.timing for e in found.entries)
    head = [*wording.COLUMNS, *(["prefill time"] if timed else [])]
    mean = found.dense.mean
    kv = found.dense.cost.get("kv_bytes")
    whole = "100 %" if kv is None else f"100 % <small>{amount(kv)}</small>"
    above = above_blind(mean, "100 %")
    rows = [[f"{pieces.dot('var(--ink)')}dense", interval(mean, "accuracy"), "", "", above, "100 %", whole]]
    rows += [_row(entry, palette, timed, mean) for entry in found.entries]
    rows[0] += [""] * timed
    note = wording.TABLE.format(n=_count(mean["n"]), tasks=len(found.dense.tasks) or 1)
    note += f" Blind: {percent(mean['blind'])}." if mean["blind"] is not None else f" {wording.NO_BLIND}"
    if told := beside_blind(mean):
        note += f" {told}"
    missing = "".join(f"<li><b>{escape(n)}</b>: {escape(why)}</li>" for n, why in found.missing)
    told = pieces.details(wording.MISSING, f"<ul>{missing}</ul>") if missing else ""
    return f"{pieces.table(head, rows)}<p class='note'>{note}</p>{told}"


def _row(entry: ScoredPlan, palette: Palette, timed: bool, dense: Numbers) -> list[str]:
    mean, cost, time = entry.mean, entry.cost, entry.timing
    spec = f'<span class="spec">{escape(entry.spec)}</span>' if entry.spec not in ("", entry.name) else ""
    cells = [
        f"{palette.dot(entry.spec)}{escape(entry.name)}{spec}",
        interval(mean, "accuracy"),
        difference(mean),
        _changed(mean),
        text.kept(mean, "retention_above_blind" if mean["blind"] is not None else "retention", dense),
        percent(cost["flops_ratio"]),
        percent(cost["kv_ratio"]),
    ]
    if timed:
        shown = f"{percent(time['ratio'])} ({_whole(time['low'])} to {_whole(time['high'])})" if time else ""
        cells.append(shown)
    return cells


def _changed(mean: Numbers) -> str:
    if mean["lost"] is None or mean["gained"] is None:
        return MISSING
    return f"{mean['lost']:.0f} / {mean['gained']:.0f}"


def _whole(value: float | None) -> str:
    return MISSING if value is None else f"{100 * value:.0f}"


def _count(value: float | None) -> str:
    return f"{value or 0:,.0f}"


def plots(named: Sequence[Named], palette: Palette, name: str) -> str:
    """What is kept against FLOPs, against the KV cache and against time, where they differ between plans."""
    entries = [(i, e) for i, (_, found) in enumerate(named) for e in found.entries if kept(e) is not None]
    blind = all(e.mean["retention_above_blind"] is not None for _, e in entries)
    measure = "retention_above_blind" if blind else "retention"
    panels = []
    for cost, axis in wording.COSTS.items():
        found = []
        for file, entry in entries:
            spent = entry.timing.get("ratio") if cost == "time" else entry.cost.get(cost)
            value, low, high = (entry.mean[f"{measure}{end}"] for end in ("", "_low", "_high"))
            if spent is not None and value is not None:
                group, colour = palette.group(entry.spec), palette.colour(entry.spec)
                found.append(Point(entry.name, group, colour, file, spent, value, low, high))
        if found and (cost == "flops_ratio" or any(abs(p.cost - 1) > 0.005 for p in found)):
            panels.append(Panel(axis, wording.KEPT[measure], tuple(found)))
    if not panels:
        return ""
    drawn = style.vector(
        pareto, f"{name}-pareto", "what is kept against its cost", panels, [n for n, _ in named]
    )
    return pieces.drawing(drawn, wording.PARETO)


def maps(named: Sequence[Named], group: Group, palette: Palette) -> str:
    """Which layers the plans touch."""
    if group.layers is None:
        return f"<p>{wording.NO_DEPTH}</p>"
    plans = {e.spec: e.name for _, found in named for e in found.entries}
    drawn = layer_map([(label, spec) for spec, label in plans.items()], group.layers, group.prompt(), palette)
    if not drawn:
        return ""
    shown = pieces.drawing(drawn, wording.MAP)
    return pieces.details(f"{len(plans)} plans, layer by layer", shown) if len(plans) > MANY else shown


def bars(found: ReadComparison, palette: Palette, name: str) -> str:
    """Accuracy on each task under a few plans."""
    few = chosen(found, CLOSE)
    if not few or len(found.dense.tasks) < 2:
        return ""
    colours = [palette.colour(e.spec) for e in few]
    titles = [e.name if len(e.name) <= 24 else f"{e.name[:23]}…" for e in few]
    drawn = style.vector(task_bars, f"{name}-bars", "accuracy by task", found.dense, few, colours, titles)
    return pieces.drawing(drawn, wording.BARS)


def losses(found: ReadComparison, palette: Palette) -> str:
    """What every plan lost or gained on every task, and the greatest losses in words."""
    tasks = list(found.dense.tasks)
    if not found.entries or not tasks:
        return ""
    head = ["plan", *map(escape, tasks)]
    rows = [["dense", *(percent(found.dense.tasks[t]["accuracy"], 0) for t in tasks)]]
    if found.dense.mean["blind"] is not None:
        rows.append(["blind", *(percent(found.dense.tasks[t]["blind"], 0) for t in tasks)])
    for entry in found.entries:
        rows.append(
            [f"{palette.dot(entry.spec)}{escape(entry.name)}", *(_heat(entry.tasks.get(t)) for t in tasks)]
        )
    return f"<p>{wording.LOSSES}</p>{_worst(found)}{pieces.table(head, rows, 'heat')}"


def _heat(score: Numbers | None) -> str:
    if score is None or score["difference"] is None:
        return f"<td>{MISSING}</td>"
    change, low, high = score["difference"], score["difference_low"], score["difference_high"]
    sure = low is not None and high is not None and (high < 0 or low > 0)
    tone, depth = "var(--loss)" if change < 0 else "var(--gain)", min(0.55, 0.1 + abs(change) * 0.7)
    shade = f' style="background:rgba({tone},{depth:.2f})"' if sure else ""
    tip = escape(f"{interval(score, 'accuracy')}; against dense {difference(score)}", quote=True)
    return f'<td{shade} title="{tip}">{points(change)}</td>'


def _worst(found: ReadComparison) -> str:
    """Where each of the plans drawn above lost most, in words."""
    told = ""
    for entry in chosen(found, CLOSE):
        lost = [
            (change, task, score)
            for task, score in entry.tasks.items()
            if (change := score["difference"]) is not None
            and (high := score["difference_high"]) is not None
            and high < 0
        ]
        if lost:
            _, task, score = min(lost, key=lambda one: one[0])
            more = f", and on {len(lost) - 1} more of {len(entry.tasks)} tasks" if len(lost) > 1 else ""
            what = f"most on <b>{escape(task)}</b>, {difference(score)} points{more}"
        else:
            what = wording.NOTHING_LOST
        told += f"<li><b>{escape(entry.name)}</b>: {what}</li>"
    return f"<p>{wording.MOST_LOST}</p><ul>{told}</ul>"


def official(found: ReadComparison) -> str:
    """Metrics of the benchmarks' own judge, task by task, as it gave them; empty if there are none."""
    rows = []
    columns = [found.dense, *found.entries]
    for task, metrics in found.dense.metrics.items():
        for metric in metrics:
            cells = [column.metrics.get(task, {}).get(metric) for column in columns]
            shown = [MISSING if cell is None else f"{cell:,.4g}" for cell in cells]
            rows.append([f'{escape(task)} <span class="file">{escape(metric)}</span>', *shown])
    head = ["task, metric", *(escape(column.name) for column in columns)]
    return f"<p>{wording.OFFICIAL}</p>{pieces.table(head, rows)}" if rows else ""


def side_by_side(named: Sequence[Named]) -> str:
    """Plans that stand in more than one file, a column per file; always the dense and the blind model."""
    # A healed plan has the spec of the one that it was healed from, and says more in its name.
    specs = [
        {e.name if e.name.startswith(f"{e.spec} [") else e.spec: e for e in found.entries}
        for _, found in named
    ]
    times = Counter(spec for each in specs for spec in each)
    shared = [spec for spec, count in times.most_common() if count > 1]
    head = ["plan", *(f'<span class="file">{escape(name)}</span>' for name, _ in named)]
    dense = [f.dense.mean for _, f in named]
    rows = [
        ["dense", *(f"{interval(m, 'accuracy')} <small>n {_count(m['n'])}</small>" for m in dense)],
        ["blind", *(percent(m["blind"]) for m in dense)],
    ]
    for spec in shared:
        cells = [interval(each[spec].mean, "accuracy") if spec in each else "" for each in specs]
        rows.append([f"<code>{escape(spec)}</code>", *cells])
    return f"<p>{wording.SIDE_BY_SIDE}</p>{pieces.table(head, rows, 'heat')}"


def gate(found: ReadComparison) -> str:
    """Lines of a gate: what was wanted and what was found."""
    rows = [
        [
            escape(what),
            f'<td class="words">{escape(wanted)}</td>',
            f'<td class="words">{escape(seen)}</td>',
            '<td class="yes">yes</td>' if passed else '<td class="no">no</td>',
        ]
        for what, wanted, seen, passed in found.checks
    ]
    return pieces.table(("what", "wanted", "found", "passed"), rows)
