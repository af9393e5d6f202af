"""Figures of a study: layer scores, retention against budget, FLOPs against accuracy (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from saccade.report import style
from saccade.report.style import FAINT, INK, MUTED, styled

SCORES = {
    "vig": ("vskip", "VIG", "visual attention bypassed"),
    "ffn": ("ffn_skip", "FFN", "visual FFN bypassed"),
    "lc": ("shortv", "LC", "visual rows frozen"),
    "withdrawal": ("vtw", "Withdrawal", "visual rows gone from K on"),
}
"""For every calibration score: the method it serves, its short name, and what it perturbs."""

Entry = Mapping[str, Any]


@styled
def layer_scores(scores: Mapping[str, Entry], samples: int, chosen: Sequence[int] = ()) -> Figure:
    """KL of every layer by every score, one dot per sample; the first score large.

    Args:
        scores: By score name: ``mean`` per layer and, where known, ``samples`` (samples x layers).
        samples: How many samples the means are over.
        chosen: Layers that V-Skip's budget took, marked below the axis.
    """
    names = [name for name in SCORES if name in scores]
    others = [name for name in names if name != "vig"]
    figure = style.new_figure(9.2, 4.1)
    grid = figure.add_gridspec(max(1, len(others)), 2, width_ratios=(1.9, 1) if others else (1, 0.01))
    axes = figure.add_subplot(grid[:, 0])
    score_panel(axes, scores["vig"], style.color("vskip"), large=True)
    style.tidy(
        axes,
        "What a layer's visual attention is worth (VIG)",
        f"KL of the next token when visual rows skip attention in that layer alone; {samples} samples (dots)",
    )
    axes.set_xlabel("decoder layer")
    axes.set_ylabel("KL to the dense model (nats)")
    shade_layers(axes, chosen, style.color("vskip"), 0.07, f"skipped at a budget of {len(chosen)}")
    if chosen:
        axes.legend(loc="upper right", fontsize=8, **style.OVER_LINES)
    for row, name in enumerate(others):
        method, short, what = SCORES[name]
        small = figure.add_subplot(grid[row, 1])
        score_panel(small, scores[name], style.color(method), large=False)
        style.tidy(small)
        small.set_title(
            f"{short}: {what}", loc="left", fontsize=8, color=style.color(method), fontweight="bold"
        )
        small.tick_params(labelsize=7)
        small.set_xlabel(
            "first layer without visual rows, K" if name == "withdrawal" else "decoder layer", fontsize=7
        )
    return figure


def shade_layers(axes: Axes, layers: Sequence[int], color: str, alpha: float, label: str = "") -> None:
    """Shades layers behind what is drawn; the label stands once in the legend."""
    for place, layer in enumerate(sorted(layers)):
        told = label if label and place == 0 else None
        axes.axvspan(layer - 0.5, layer + 0.5, color=color, alpha=alpha, linewidth=0, label=told, zorder=0)


def score_panel(axes: Axes, score: Entry, color: str, large: bool) -> None:
    """Bars of a score per layer; in a large panel one dot per sample too."""
    mean = np.asarray(score["mean"], dtype=float)
    layers = np.arange(len(mean))
    axes.bar(layers, mean, width=0.72, color=color, alpha=0.28 if large else 0.55, linewidth=0)
    if large:
        axes.hlines(mean, layers - 0.36, layers + 0.36, color=color, linewidth=2)
    each = np.asarray(score.get("samples") or [], dtype=float)
    if large and each.ndim == 2 and each.shape[1] == len(mean):
        shift = ((np.arange(len(each)) * 0.618034) % 1 - 0.5) * 0.5
        for layer in layers:
            axes.plot(
                layer + shift, each[:, layer], "o", color=color, alpha=0.45, markersize=2.6, markeredgewidth=0
            )
        top = max(float(mean.max()), float(np.quantile(each, 0.98)))
        beyond = (each > top * 1.08).sum(0)
        for layer in layers[beyond > 0]:
            axes.text(
                layer, top * 1.1, f"+{beyond[layer]}", ha="center", va="bottom", fontsize=7, color=MUTED
            )
        axes.set_ylim(0, top * 1.16 if top > 0 else 1)
    else:
        axes.set_ylim(bottom=0)
    style.layer_axis(axes, len(mean))
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-3, 3))


@styled
def retention_by_budget(plans: Sequence[Entry], num_layers: int, questions: int) -> Figure:
    """Retention above blind against the number of layers touched, one line per method with 95 % bands."""
    figure = style.new_figure(9.2, 4.2)
    axes = figure.add_subplot()
    for method, entries in _by_method(plans).items():
        entries = sorted(entries, key=lambda e: e["budget"])
        known = [e for e in entries if e["mean"]["retention_above_blind"] is not None]
        # At 0 layers every method is the dense model, bit for bit.
        x = np.array([0, *(e["budget"] for e in known)], dtype=float)
        y, low, high = (
            np.array([1.0, *(e["mean"][f"retention_above_blind{end}"] for e in known)])
            for end in ("", "_low", "_high")
        )
        color = style.color(method)
        axes.fill_between(x, low, high, color=color, alpha=0.13, linewidth=0)
        _marked(axes, x, y, entries[0], linewidth=2, markersize=5.5)
    axes.axhline(1, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    axes.axhline(0, color=MUTED, linewidth=1, linestyle=(0, (1, 2)))
    _margin_label(axes, 1, "dense", INK)
    _margin_label(axes, 0, "blind", MUTED)
    style.tidy(
        axes,
        "What is left of the model's sight",
        f"retention above blind over {questions} questions; bands are 95 % intervals of the paired ratio",
    )
    axes.set_xlabel(f"layers skipped (of {num_layers})")
    axes.set_ylabel("retention above blind")
    axes.set_xlim(-0.2, num_layers + 0.2)
    axes.set_xticks(range(0, num_layers + 1, max(1, num_layers // 12)))
    bottom = min([-0.1, *(e["mean"]["retention_above_blind_low"] or 0 for e in plans)])
    top = max([1.15, *(e["mean"]["retention_above_blind_high"] or 0 for e in plans)])
    axes.set_ylim(max(bottom, -0.5), min(top, 1.6))
    style.percent_axis(axes)
    axes.legend(loc="lower left", ncols=2, fontsize=9, **style.OVER_LINES)
    return figure


@styled
def accuracy_by_flops(dense: Entry, blind: float | None, plans: Sequence[Entry], questions: int) -> Figure:
    """Accuracy against the FLOPs ratio, every plan a point with its 95 % interval."""
    figure = style.new_figure(9.2, 4.2)
    axes = figure.add_subplot()
    for method, entries in _by_method(plans).items():
        entries = sorted(entries, key=lambda e: e["cost"]["flops_ratio"])
        x = [e["cost"]["flops_ratio"] for e in entries]
        y, low, high = ([e["mean"][key] for e in entries] for key in ("accuracy", "low", "high"))
        errors = np.subtract(y, low), np.subtract(high, y)
        color = style.color(method)
        axes.errorbar(x, y, yerr=errors, fmt="none", ecolor=color, alpha=0.4, elinewidth=1.3)
        axes.plot(x, y, color=color, linewidth=1, alpha=0.5)
        _marked(axes, x, y, entries[0], linestyle="none", markersize=6.5)
        for entry, a, b in zip(entries, x, y, strict=True):
            label = axes.annotate(
                str(entry["budget"]),
                (a, b),
                xytext=(5, -3),
                textcoords="offset points",
                va="top",
                fontsize=6.5,
                color=color,
                zorder=5,
            )
            label.set_path_effects([withStroke(linewidth=2, foreground="white")])
    top = dense["mean"]["accuracy"]
    axes.plot([1], [top], "*", color=INK, markersize=14, markeredgecolor="white", label="dense", zorder=4)
    axes.axhspan(dense["mean"]["low"], dense["mean"]["high"], color=INK, alpha=0.06, linewidth=0)
    if blind is not None:
        axes.axhline(blind, color=MUTED, linewidth=1, linestyle=(0, (1, 2)))
        _margin_label(axes, blind, "blind", MUTED)
    style.tidy(
        axes,
        "What accuracy costs",
        f"mean over tasks, {questions} questions, 95 % limits; numbers: layers skipped; best is up and left",
    )
    axes.set_xlabel("FLOPs of the decoder's prefill, dense = 100 %")
    axes.set_ylabel("exact-match accuracy")
    style.percent_axis(axes)
    style.percent_axis(axes, "x")
    axes.set_ylim(0, 1.03)
    axes.legend(loc="lower right", ncols=2, fontsize=9, **style.OVER_LINES)
    return figure


@styled
def accuracy_by_family(
    dense: Entry, blind: float | None, rows: Sequence[Entry], questions: int, note: str = ""
) -> Figure:
    """Accuracy against FLOPs, one small panel per method, random rows in grey behind each.

    Args:
        dense: The stock model.
        blind: Its accuracy without the picture.
        rows: Lines of the comparison; those that could not run have no ``mean``.
        questions: How many questions were asked.
        note: What the lines have in common, for the title.
    """
    ran = [row for row in rows if row.get("mean")]
    panels = {m: lines for m, lines in _by_method(ran).items() if lines[0]["kind"] != "composed"}
    composed = [row for row in ran if row["kind"] == "composed"]
    if composed:
        panels["composed"] = composed
    columns = 5
    lines = -(-max(len(panels), 1) // columns)
    figure = style.new_figure(9.2, 0.9 + 1.55 * lines)
    figure.suptitle(
        f"Accuracy against FLOPs of the decoder's prefill{f', {note}' if note else ''}: mean over tasks, "
        f"{questions} questions, 95 %",
        x=0.01, ha="left", fontsize=9.5, fontweight="bold",
    )  # fmt: skip
    chance = sorted(panels.get("random", []), key=lambda e: e["cost"]["flops_ratio"])
    top = dense["mean"]["accuracy"]
    for number, (method, entries) in enumerate(panels.items()):
        axes = figure.add_subplot(lines, columns, number + 1)
        kind = entries[0]["kind"]
        color = style.KIND_COLORS[kind]
        axes.plot(
            [*(e["cost"]["flops_ratio"] for e in chance), 1], [*(e["mean"]["accuracy"] for e in chance), top],
            color=FAINT, linewidth=3, zorder=1,
        )  # fmt: skip
        for entry in entries:
            mean, x = entry["mean"], entry["cost"]["flops_ratio"]
            axes.plot([x, x], [mean["low"], mean["high"]], color=color, linewidth=1.2, alpha=0.6)
            if method == "composed":
                axes.annotate(
                    entry["title"].replace(" + ", "\n+ "), (x, mean["accuracy"]), xytext=(-4, 0),
                    textcoords="offset points", ha="right", va="center", fontsize=5, color=color,
                )  # fmt: skip
        line = sorted(((e["cost"]["flops_ratio"], e["mean"]["accuracy"]) for e in entries), reverse=True)
        path = line if method == "composed" else [(1.0, top), *line]
        axes.plot(
            *zip(*path, strict=True), color=color, linewidth=0 if method == "composed" else 1, alpha=0.6
        )
        axes.plot(*zip(*line, strict=True), "o", color=color, markersize=4, markeredgewidth=0, zorder=3)
        axes.plot([1], [top], "*", color=INK, markersize=7, markeredgewidth=0, zorder=4)
        if blind is not None:
            axes.axhline(blind, color=MUTED, linewidth=0.8, linestyle=(0, (1, 2)))
        style.tidy(axes)
        title = "Composed" if method == "composed" else entries[0]["title"]
        axes.set_title(title, loc="left", fontsize=8, color=color, fontweight="bold", pad=3)
        axes.set_xlim(0, 1.05)
        axes.set_ylim(0, 1.03)
        axes.set_xticks([0, 0.5, 1])
        axes.set_yticks([0, 0.5, 1])
        axes.tick_params(labelsize=6.5)
        style.percent_axis(axes)
        style.percent_axis(axes, "x")
    return figure


@styled
def promised_and_measured(entries: Sequence[Entry], num_layers: int) -> Figure:
    """Bars of the FLOPs ratio beside the measured prefill time ratio with its quartiles."""
    figure = style.new_figure(9.2, 0.9 + 0.52 * len(entries))
    axes = figure.add_subplot()
    places = np.arange(len(entries))[::-1]
    for place, entry in zip(places, entries, strict=True):
        color, timing = style.color(entry["method"]), entry["timing"]
        axes.barh(place + 0.19, entry["cost"]["flops_ratio"], height=0.34, color=color, alpha=0.35)
        axes.barh(place - 0.19, timing["ratio"], height=0.34, color=color)
        axes.plot([timing["low"], timing["high"]], [place - 0.19] * 2, color=INK, linewidth=1.2)
        axes.text(
            entry["cost"]["flops_ratio"],
            place + 0.19,
            f" {100 * entry['cost']['flops_ratio']:.0f} % FLOPs",
            va="center",
            fontsize=7.5,
            color=MUTED,
        )
        axes.text(
            max(timing["ratio"], timing["high"]),
            place - 0.19,
            f" {100 * timing['ratio']:.0f} % time",
            va="center",
            fontsize=7.5,
            color=INK,
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
            zorder=4,
        )
    axes.axvline(1, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    style.tidy(
        axes,
        "Promised and measured",
        "FLOPs of the prefill (pale) and its time (full), each over the dense model's",
    )
    axes.grid(visible=False)
    axes.grid(axis="x", color=FAINT, linewidth=0.8)
    axes.set_yticks(places, [f"{e['title']}, {e['budget']} of {num_layers}" for e in entries])
    axes.set_xlim(0, max([1.15, *(e["timing"]["high"] + 0.15 for e in entries)]))
    style.percent_axis(axes, "x")
    return figure


def _marked(axes: Axes, x: Any, y: Any, entry: Entry, **look: Any) -> None:
    """What a method was measured at, in its colour and with its marker."""
    axes.plot(
        x, y, color=style.color(entry["method"]), marker=style.marker(entry["method"]), label=entry["title"],
        markeredgecolor="white", markeredgewidth=0.8, zorder=3, **look,
    )  # fmt: skip


def _margin_label(axes: Axes, y: float, text: str, color: str) -> None:
    axes.annotate(
        text,
        (1, y),
        xytext=(4, 0),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        va="center",
        fontsize=8,
        color=color,
        annotation_clip=False,
    )


def _by_method(plans: Sequence[Entry]) -> dict[str, list[Entry]]:
    found: dict[str, list[Entry]] = {}
    for entry in plans:
        found.setdefault(entry["method"], []).append(entry)
    return found
