"""Pictures of the studies that no other page draws (pure)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from saccade.report import style
from saccade.report.style import INK, MUTED, styled

COLORS = ("#0067b1", "#e29a00", "#b3427f", "#00896a", "#7a5cc2", "#5aa9d6", "#8b5a2b", "#4d4d4d")
MARKS = "osD^vPX*"
THIN = {"linewidth": 0.9, "linestyle": (0, (2, 2)), "alpha": 0.8}


@styled
def accuracy_lines(
    series: Mapping[str, Sequence[tuple[int, Mapping[str, Any]]]], dense: Mapping[str, Any], along: str
) -> Figure:
    """Accuracy with 95 % limits, a line per name.

    Args:
        series: By name, (place on the axis, score).
        dense: Score of the stock model.
        along: Label of the axis.
    """
    figure = style.new_figure(9.2, 4.0)
    axes = figure.add_subplot()
    for number, (name, entries) in enumerate(series.items()):
        x = np.array([place for place, _ in entries], dtype=float) + 0.05 * (number - len(series) / 2)
        y = np.array([score["accuracy"] for _, score in entries])
        limits = np.array([[score["low"], score["high"]] for _, score in entries]).T
        axes.errorbar(
            x, y, yerr=np.abs(limits - y), label=name, color=COLORS[number % len(COLORS)],
            marker=MARKS[number % len(MARKS)], markersize=5, linewidth=1.4, elinewidth=1, capsize=2,
        )  # fmt: skip
    axes.axhline(dense["accuracy"], color=INK, linewidth=1, linestyle=(0, (4, 3)), label="dense")
    axes.axhline(dense["blind"], color=MUTED, linewidth=1, linestyle=(0, (1, 2)), label="blind")
    style.tidy(axes, "Accuracy, mean over tasks", "bars are 95 % intervals")
    axes.set_xlabel(along)
    axes.set_ylim(0, 1.03)
    style.percent_axis(axes)
    axes.legend(fontsize=8, ncols=2)
    return figure


@styled
def pairs(
    panels: Mapping[str, Mapping[str, Sequence[tuple[float, Mapping[str, Any]]]]],
    alone: Mapping[str, Sequence[tuple[float, Mapping[str, Any]]]],
    dense: Mapping[str, Any],
) -> Figure:
    """Accuracy at FLOPs ratios, a panel per first method and a line per second one.

    Args:
        panels: By first method and by what stands beside it, (ratio, score).
        alone: What stands beside it, without the first; drawn thin in every panel.
        dense: Score of the stock model.
    """
    figure = style.new_figure(9.2, 3.2)
    for place, (title, series) in enumerate(panels.items()):
        axes = figure.add_subplot(1, len(panels), place + 1)
        for number, (name, entries) in enumerate(series.items()):
            color = COLORS[number % len(COLORS)]
            for thin, points in ((False, entries), (True, alone.get(name, ()))):
                if points:
                    path = [(1.0, dense["accuracy"]), *((ratio, one["accuracy"]) for ratio, one in points)]
                    look = THIN if thin else {"marker": MARKS[number % len(MARKS)], "label": name}
                    axes.plot(*zip(*path, strict=True), color=color, markersize=5, **look)
        axes.axhline(dense["blind"], color=MUTED, linewidth=1, linestyle=(0, (1, 2)))
        axes.plot([1], [dense["accuracy"]], "*", color=INK, markersize=8, markeredgewidth=0, zorder=4)
        style.tidy(axes, title)
        axes.set_ylim(0, 1.03)
        style.percent_axis(axes)
        style.percent_axis(axes, "x")
        axes.set_xlabel("FLOPs that were asked for")
        axes.tick_params(labelsize=7)
        if place == 0:
            axes.legend(fontsize=7, frameon=False, loc="lower right")
    figure.suptitle(
        "Accuracy of pairs, mean over tasks; thin: the second method alone; dotted: blind",
        x=0.01, ha="left", fontsize=9.5, fontweight="bold",
    )  # fmt: skip
    return figure


@styled
def bands(found: Mapping[str, Mapping[str, Any]]) -> Figure:
    """VIG of every layer over calibration draws, a panel per number of samples, the whole pool as a line."""
    figure = style.new_figure(9.2, 2.9)
    top = max(max(one["high"]) for one in found.values())
    for number, (size, one) in enumerate(found.items()):
        axes = figure.add_subplot(1, len(found), number + 1)
        layers = np.arange(len(one["mean"]))
        axes.fill_between(layers, one["low"], one["high"], color=COLORS[0], alpha=0.25, linewidth=0)
        axes.plot(layers, one["mean"], color=COLORS[0], linewidth=1.6)
        axes.plot(layers, one["pool"], color=INK, linewidth=1, linestyle=(0, (4, 3)))
        style.tidy(axes, f"{size} samples")
        style.layer_axis(axes, len(layers))
        axes.set_ylim(0, 1.05 * top or 1)
        axes.set_xlabel("layer")
        axes.tick_params(labelsize=7)
        if number == 0:
            axes.set_ylabel("VIG (nats)")
    return figure


@styled
def dots(groups: Mapping[str, Mapping[str, Any]], dense: Mapping[str, Any], title: str) -> Figure:
    """Accuracy of every draw, a column per group."""
    figure = style.new_figure(9.2, 3.4)
    axes = figure.add_subplot()
    for number, one in enumerate(groups.values()):
        values = np.array(one["accuracies"])
        shift = ((np.arange(len(values)) * 0.618034) % 1 - 0.5) * 0.5
        axes.plot(number + shift, values, "o", color=COLORS[0], alpha=0.6, markersize=5, markeredgewidth=0)
        axes.hlines(one["mean"], number - 0.3, number + 0.3, color=INK, linewidth=2)
    axes.axhline(dense["accuracy"], color=INK, linewidth=1, linestyle=(0, (4, 3)))
    style.tidy(axes, title, "a dot per draw, their mean as a bar, dense as a broken line")
    axes.set_xticks(range(len(groups)), list(groups))
    axes.set_xlim(-0.6, len(groups) - 0.4)
    style.percent_axis(axes)
    return figure


@styled
def matrix(found: Mapping[str, Mapping[str, Mapping[str, Any]]], layers: int) -> Figure:
    """Points against a task's own plan: calibrated on (rows), judged on (columns)."""
    rows, columns = list(found), list(next(iter(found.values())))
    value, low, high = (
        np.array([[found[r][c][f"difference{end}"] for c in columns] for r in rows])
        for end in ("", "_low", "_high")
    )
    values = 100 * value
    figure = style.new_figure(9.2, 1.6 + 0.33 * len(rows))
    axes = figure.add_subplot()
    most = max(1.0, float(np.abs(values).max()))
    axes.imshow(values, cmap="RdBu", vmin=-most, vmax=most, aspect="auto")
    pale, sure = np.abs(values) > 0.6 * most, (low > 0) | (high < 0)
    _numbered(axes, rows, values, lambda value: f"{round(value):+d}", pale, sure)
    style.tidy(
        axes,
        f"V-Skip in {layers} layers: points against a task's own plan",
        "calibrated on (rows), judged on (columns); bold: outside the 95 % interval",
    )
    axes.grid(visible=False)
    axes.set_xticks(range(len(columns)), columns, rotation=40, ha="right", fontsize=8)
    return figure


def _numbered(
    axes: Axes,
    rows: Sequence[str],
    values: np.ndarray,
    told: Callable[[Any], str],
    pale: np.ndarray,
    bold: np.ndarray,
    size: float = 7,
) -> None:
    """Names the rows of a picture of numbers, and writes every number into its cell."""
    axes.set_yticks(range(len(rows)), rows, fontsize=8)
    for (i, j), value in np.ndenumerate(values):
        axes.text(
            j, i, told(value), ha="center", va="center", fontsize=size,
            color="white" if pale[i, j] else INK, fontweight="bold" if bold[i, j] else "normal",
        )  # fmt: skip


@styled
def ranks(orders: Mapping[str, Sequence[int]], budgets: Sequence[int]) -> Figure:
    """Place of every layer in the order of every task: dark is skipped first."""
    names, depth = list(orders), len(next(iter(orders.values())))
    places = np.array([[list(orders[name]).index(layer) + 1 for layer in range(depth)] for name in names])
    figure = style.new_figure(9.2, 1.4 + 0.3 * len(names))
    axes = figure.add_subplot()
    axes.imshow(places, cmap="Blues_r", vmin=1, vmax=depth * 1.3, aspect="auto")
    _numbered(axes, names, places, str, places < 0.5 * depth, places <= budgets[-1])
    style.tidy(
        axes, "Order in which layers are skipped, by task", f"bold: skipped in a plan of {budgets[-1]} layers"
    )
    axes.grid(visible=False)
    axes.set_xlabel("decoder layer")
    axes.set_xticks(range(depth))
    return figure


@styled
def heat(rows: Mapping[str, Sequence[float]], title: str) -> Figure:
    """Values by task and layer, each row over its largest."""
    names = list(rows)
    values = np.array([np.array(rows[name]) / (max(rows[name]) or 1) for name in names])
    figure = style.new_figure(9.2, 1.4 + 0.3 * len(names))
    axes = figure.add_subplot()
    axes.imshow(values, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    _numbered(axes, names, values, "{:.2f}".format, values > 0.6, np.zeros_like(values, bool), 6.5)
    style.tidy(axes, title)
    axes.grid(visible=False)
    axes.set_xlabel("decoder layer")
    axes.set_xticks(range(values.shape[1]))
    return figure


@styled
def saturation(
    vig: Mapping[str, Sequence[float]],
    attention: Mapping[str, Mapping[str, Sequence[float | None]]],
    cost: Mapping[str, Sequence[Mapping[str, Any]]],
) -> Figure:
    """Four panels over layers, a line per task: VIG, visual-to-visual attention, its change, and the cost."""
    figure = style.new_figure(9.2, 6.0)
    panels: dict[str, list[Sequence[float | None]]] = {
        "VIG (nats)": list(vig.values()),
        "attention of visual rows to visual rows": [row["visual_to_visual"] for row in attention.values()],
        "change of that map from the layer before": [row["change"] for row in attention.values()],
        "points lost when that layer alone is skipped": [
            [-100 * one["difference"] for one in row] for row in cost.values()
        ],
    }
    for number, (title, rows) in enumerate(panels.items()):
        axes = figure.add_subplot(2, 2, number + 1)
        known = np.array([[math.nan if v is None else v for v in row] for row in rows])
        layers = np.arange(known.shape[1])
        for line in known:
            axes.plot(layers, line, color=MUTED, alpha=0.35, linewidth=1)
        seen = np.isfinite(known).any(0)
        axes.plot(layers[seen], np.nanmean(known[:, seen], axis=0), color=COLORS[0], linewidth=2)
        style.tidy(axes, title)
        style.layer_axis(axes, len(layers))
        axes.set_xlabel("decoder layer")
    return figure


@styled
def accuracy_at_cost(entries: Sequence[Mapping[str, Any]], blind: float) -> Figure:
    """Accuracy with 95 % limits against the prefill's FLOPs, a mark per entry.

    Args:
        entries: Lines with a mean score and a cost.
        blind: Accuracy without the picture.
    """
    figure = style.new_figure(9.2, 4.2)
    axes = figure.add_subplot()
    for number, entry in enumerate(entries):
        mean, share = entry["mean"], entry["cost"]["flops_ratio"]
        color = COLORS[number % len(COLORS)]
        axes.plot([share, share], [mean["low"], mean["high"]], color=color, linewidth=1.5)
        mark = MARKS[(number // len(COLORS) + number) % len(MARKS)]
        axes.plot(share, mean["accuracy"], mark, color=color, markersize=7, label=entry["name"])
    axes.axhline(blind, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    axes.annotate(
        "blind", (1, blind), xytext=(0, 3), textcoords="offset points", ha="right", fontsize=7, color=MUTED
    )
    style.tidy(axes, "Accuracy against the FLOPs of the prefill", "of trained models; lines: 95 % intervals")
    style.percent_axis(axes)
    style.percent_axis(axes, "x")
    axes.set_xlim(0, 1.05)
    axes.set_xlabel("prefill FLOPs of the dense row")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=7, frameon=False)
    return figure


@styled
def beside_published(points: Sequence[Mapping[str, Any]], name: str, near: float) -> Figure:
    """Retention here against the published one, with 95 % limits and the band that counts as the same.

    Args:
        points: ``published``, ``retention``, ``low``, ``high`` and ``method`` of each.
        name: What the model is called.
        near: Half the width of the band.
    """
    figure = style.new_figure(6.4, 6.0)
    axes = figure.add_subplot()
    ran = [point for point in points if point["retention"] is not None]
    low = min([0.7, *(p["retention"] for p in ran), *(p["published"] for p in ran)]) - 0.03
    span = np.array([low, 1.04])
    band = (100 * (span - near), 100 * (span + near))
    axes.fill_between(100 * span, *band, color=MUTED, alpha=0.15, linewidth=0)
    axes.plot(100 * span, 100 * span, color=MUTED, linewidth=0.9)
    for number, method in enumerate(dict.fromkeys(point["method"] for point in ran)):
        own = [point for point in ran if point["method"] == method]
        x = np.array([100 * p["published"] for p in own])
        y = np.array([100 * p["retention"] for p in own])
        reach = [[p["retention"] - p["low"], p["high"] - p["retention"]] for p in own]
        color, marker = COLORS[number % len(COLORS)], MARKS[number % len(MARKS)]
        # Where colours come again, marks are hollow.
        inside = color if number < len(COLORS) else style.PAPER
        axes.errorbar(
            x, y, yerr=100 * np.array(reach).T, label=method, color=color, marker=marker, markersize=5,
            markerfacecolor=inside, linestyle="none", elinewidth=0.8,
        )  # fmt: skip
    axes.set_xlim(*(100 * span))
    axes.set_ylim(*(100 * span))
    axes.set_xlabel("LLaVA-1.5-7B, published retention, %", color=INK)
    axes.set_ylabel(f"{name}, retention here, %", color=INK)
    if ran:
        axes.legend(fontsize=7, ncols=2, frameon=False)
    return figure
