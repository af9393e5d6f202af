"""Figures of result files: what is kept for its cost, task by task, promised and measured (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from saccade.report import style
from saccade.report.figures import score_panel, shade_layers
from saccade.report.results.frontier import frontier
from saccade.report.results.model import ScoredPlan, Timed
from saccade.report.style import FAINT, INK, MUTED, PAPER, styled
from saccade.report.text import percent

FILES = ("o", "s", "D", "^", "v", "P", "X", "<", ">")
"""Markers of result files, in their order."""


@dataclass(frozen=True)
class Point:
    """One plan in a plot.

    Attributes:
        label: Its name.
        group: What its colour stands for.
        colour: Its colour.
        file: Number of the file it comes from.
        cost: Its cost over that of the dense model.
        kept: What it kept of the dense model.
        low: Lower 95 % limit of that, where known.
        high: Upper limit.
    """

    label: str
    group: str
    colour: str
    file: int
    cost: float
    kept: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Panel:
    """One plot of what is kept against a cost.

    Attributes:
        cost: What the cost is, as the axis says it.
        kept: What is kept, as the axis says it.
        points: The plans.
    """

    cost: str
    kept: str
    points: tuple[Point, ...]


@styled
def pareto(panels: Sequence[Panel], files: Sequence[str]) -> Figure:
    """What is kept of the dense model against its cost; the line joins plans that no other beats.

    Args:
        panels: One plot each, side by side.
        files: Names of the files, for markers; one needs no legend.
    """
    columns = min(len(panels), 2)
    lines = -(-len(panels) // columns)
    figure = style.new_figure(9.6, 0.6 + 4.0 * lines)
    for number, panel in enumerate(panels):
        axes = figure.add_subplot(lines, columns, number + 1)
        _pareto(axes, panel)
        if number % columns:
            axes.set_ylabel("")
    groups = {p.group: p.colour for panel in panels for p in panel.points}
    marks = [_mark("o", colour, group) for group, colour in groups.items()]
    if len(files) > 1:
        marks += [_mark(FILES[i % len(FILES)], MUTED, name) for i, name in enumerate(files)]
    marks.append(_mark("*", INK, "dense"))
    figure.legend(handles=marks, loc="outside lower center", ncols=5 if len(panels) > 1 else 4, fontsize=8)
    return figure


def _pareto(axes: Axes, panel: Panel) -> None:
    points = panel.points
    best = frontier([(p.cost, p.kept) for p in points])
    for point in points:
        if point.low is not None and point.high is not None:
            axes.plot([point.cost] * 2, [point.low, point.high], color=point.colour, alpha=0.3, linewidth=1.2)
    for i, point in enumerate(points):
        (dot,) = axes.plot(
            [point.cost], [point.kept], FILES[point.file % len(FILES)], color=point.colour,
            markersize=6.5 if i in best else 5, markeredgecolor=PAPER, markeredgewidth=0.8,
            zorder=4 if i in best else 3,
        )  # fmt: skip
        dot.set_gid(f"tip:{_tip(point)}")
    if best:
        ends = [(points[i].cost, points[i].kept) for i in best]
        # Whoever pays more can have what less would buy.
        steps = [ends[0]]
        for cost, share in ends[1:]:
            steps += [(cost, steps[-1][1]), (cost, share)]
        steps.append((max(1.0, ends[-1][0]), steps[-1][1]))
        axes.plot(*zip(*steps, strict=True), color=INK, linewidth=1, alpha=0.35, zorder=2)
    axes.plot([1], [1], "*", color=INK, markersize=12, markeredgecolor=PAPER, zorder=5)
    axes.axhline(1, color=INK, linewidth=0.8, linestyle=(0, (4, 3)), alpha=0.5, zorder=1)
    _name_best(axes, [points[i] for i in best])
    style.tidy(axes)
    axes.set_xlabel(panel.cost)
    axes.set_ylabel(panel.kept)
    low = min((p.cost for p in points), default=0.0)
    axes.set_xlim(max(0.0, low - 0.06), max(1.04, *(p.cost + 0.04 for p in points)))
    bottom = min((p.low if p.low is not None else p.kept for p in points), default=0.0)
    axes.set_ylim(min(bottom, 0.9) - 0.03, max([1.08, *(p.high or p.kept for p in points)]) + 0.02)
    style.percent_axis(axes)
    style.percent_axis(axes, "x")


def _name_best(axes: Axes, points: Sequence[Point]) -> None:
    """Names beside the plans that no other beats, those apart that would lie on each other."""
    taken: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda p: -p.kept):
        if any(abs(point.cost - x) < 0.16 and abs(point.kept - y) < 0.06 for x, y in taken):
            continue
        taken.append((point.cost, point.kept))
        name = point.label if len(point.label) <= 24 else f"{point.label[:23]}…"
        right = point.cost < 0.7
        label = axes.annotate(
            name, (point.cost, point.kept), xytext=(6 if right else -6, 5), textcoords="offset points",
            ha="left" if right else "right", fontsize=7.5, color=point.colour, zorder=6,
        )  # fmt: skip
        label.set_path_effects([withStroke(linewidth=2, foreground=PAPER)])


def _tip(point: Point) -> str:
    limits = (
        f" ({percent(point.low)} to {percent(point.high)})" if None not in (point.low, point.high) else ""
    )
    return f"{point.label}: {percent(point.kept)}{limits} kept at {percent(point.cost)}".replace('"', "'")


def _mark(marker: str, colour: str, label: str) -> Line2D:
    size = 9 if marker == "*" else 6
    return Line2D([], [], marker=marker, color=colour, linestyle="none", markersize=size, label=label)


@styled
def task_bars(
    dense: ScoredPlan, entries: Sequence[ScoredPlan], colours: Sequence[str], titles: Sequence[str]
) -> Figure:
    """Accuracy on each task, one panel per plan, with its 95 % limits; dense and blind as marks.

    Args:
        dense: The stock model.
        entries: The plans, at most five.
        colours: Their colours.
        titles: Their names.
    """
    tasks = list(dense.tasks)
    figure = style.new_figure(9.6, 1.1 + 0.27 * len(tasks))
    places = list(range(len(tasks)))[::-1]
    first: Axes | None = None
    for number, (entry, colour, title) in enumerate(zip(entries, colours, titles, strict=True)):
        axes = figure.add_subplot(1, len(entries), number + 1, sharey=first)
        first = first or axes
        for place, task in zip(places, tasks, strict=True):
            stock, score = dense.tasks[task], entry.tasks.get(task)
            if score is not None:
                axes.barh(place, score["accuracy"] or 0, height=0.62, color=colour, alpha=0.75, linewidth=0)
                if score["low"] is not None and score["high"] is not None:
                    axes.plot([score["low"], score["high"]], [place] * 2, color=INK, linewidth=1)
            axes.plot([stock["accuracy"] or 0] * 2, [place - 0.38, place + 0.38], color=INK, linewidth=1.8)
            if stock["blind"] is not None:
                axes.plot([stock["blind"]] * 2, [place - 0.38, place + 0.38], color=MUTED, linewidth=1.2)
        axes.set_title(title, loc="left", fontsize=8.5, color=colour, fontweight="bold", pad=6)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.grid(axis="x", color=FAINT, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.set_xlim(0, 1.02)
        axes.set_xticks([0, 0.5, 1])
        axes.tick_params(length=0, labelsize=7.5, labelleft=number == 0)
        axes.set_yticks(places, tasks)
        style.percent_axis(axes, "x")
    return figure


@styled
def promised_and_measured(runs: Sequence[tuple[str, Timed]]) -> Figure:
    """The prefill's FLOPs and its time, each over the stock model's, with quartiles of the paired ratios."""
    figure = style.new_figure(9.6, 0.9 + 0.52 * len(runs))
    axes = figure.add_subplot()
    places = list(range(len(runs)))[::-1]
    for place, (_, run) in zip(places, runs, strict=True):
        flops, spent = run.prefill["flops_ratio"] or 0, run.prefill["time_ratio"] or 0
        low, high = run.prefill["low"] or spent, run.prefill["high"] or spent
        axes.barh(place + 0.19, flops, height=0.34, color=style.KIND_COLORS["before"], alpha=0.35)
        axes.barh(place - 0.19, spent, height=0.34, color=style.KIND_COLORS["before"])
        axes.plot([low, high], [place - 0.19] * 2, color=INK, linewidth=1.2)
        for shown, end, shift, what in (
            (flops, flops, 0.19, "FLOPs"),
            (spent, max(spent, high), -0.19, "time"),
        ):
            axes.annotate(
                f"{100 * shown:.0f} % {what}", (end, place + shift), xytext=(4, 0),
                textcoords="offset points", va="center", fontsize=7.5, color=INK,
            )  # fmt: skip
    axes.axvline(1, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    style.tidy(axes)
    axes.grid(visible=False)
    axes.grid(axis="x", color=FAINT, linewidth=0.8)
    axes.set_yticks(places, [name for name, _ in runs])
    axes.set_xlim(0, max([1.15, *((run.prefill["high"] or 0) + 0.15 for _, run in runs)]))
    style.percent_axis(axes, "x")
    return figure


@styled
def layer_score(metric: str, score: Mapping[str, Any], chosen: Sequence[int]) -> Figure:
    """A calibration score of every layer, one dot per sample, the chosen layers shaded.

    Args:
        metric: Its name.
        score: ``mean`` per layer, and ``samples`` (samples x layers) where they are known.
        chosen: Layers that the plan took.
    """
    figure = style.new_figure(9.6, 3.2)
    axes = figure.add_subplot()
    shade_layers(axes, chosen, style.KIND_COLORS["before"], 0.1)
    score_panel(axes, score, style.KIND_COLORS["before"], large=True)
    style.tidy(axes)
    axes.set_xlabel("decoder layer; shaded: chosen")
    axes.set_ylabel(metric)
    return figure
