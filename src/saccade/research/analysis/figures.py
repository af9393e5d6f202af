"""Figures of an analysis: FFN magnitudes, attention and its saturation, drift and its bounds (pure)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from saccade.core.stages import Grid
from saccade.report import style
from saccade.report.style import FAINT, INK, MUTED, styled
from saccade.research.analysis.saturation import VisualMap

GROUP_STYLES = {
    "visual": (style.KIND_COLORS["before"], "o"),
    "retained": (style.KIND_COLORS["decoder"], "^"),
    "skipped": (style.KIND_COLORS["composed"], "s"),
    "text": (INK, "D"),
}
SHARES = {
    "visual_to_visual": ("visual to visual", style.KIND_COLORS["before"], "o"),
    "visual_to_self": ("visual to itself", style.SPARE[1], "P"),
    "text_to_visual": ("text after the image to visual", style.KIND_COLORS["layers"], "D"),
    "last_to_visual": ("last row to visual", INK, "s"),
}
SHOWN_LAYERS = 8
"""Layers whose maps are drawn, at most."""
LIMIT = 1e300
"""Beyond this a bound is drawn at the border: it says nothing any more."""

Data = Mapping[str, Any]


@styled
def ffn(data: Data) -> Figure:
    """What the FFN adds to the rows of each group: P3 large, the other probes small."""
    groups = {name: group for name, group in data["ffn"]["groups"].items() if any(group["rows"])}
    rows = groups["visual"]["rows"]
    # Where every visual row is of one kind, one line says it.
    if groups.get("retained", {}).get("rows") == rows:
        del groups["retained"]
    if groups.get("skipped", {}).get("rows") == rows:
        del groups["visual"]
    figure = style.new_figure(9.2, 4.4)
    grid = figure.add_gridspec(3, 2, width_ratios=(1.9, 1))
    axes = figure.add_subplot(grid[:, 0])
    for name, group in groups.items():
        _line(axes, group["p3"], *GROUP_STYLES[name], label=name, median=True)
    style.tidy(
        axes,
        "How much the FFN adds to a row",
        f"norm of the FFN's output over that of its input; mean of {len(data['samples'])} samples, "
        "band: sd, dotted: median row",
    )
    axes.set_xlabel("decoder layer")
    axes.set_ylabel("relative magnitude (P3)")
    axes.set_yscale("log")
    style.layer_axis(axes, len(rows))
    axes.legend(loc="best", fontsize=8)
    for place, probe in enumerate(("p1", "p2", "p4")):
        small = figure.add_subplot(grid[place, 1])
        for name, group in groups.items():
            _line(small, group[probe], *GROUP_STYLES[name], size=2.5)
        style.tidy(small)
        small.set_title(f"{probe.upper()}: {data['ffn']['probes'][probe]}", loc="left", fontsize=8)
        small.tick_params(labelsize=7)
        style.layer_axis(small, len(rows))
    return figure


@styled
def attention(data: Data) -> Figure:
    """Where visual rows look, how the map changes from layer to layer, and VIG beside it."""
    found = data["attention"]
    depth = len(found["vig"]["mean"])
    figure = style.new_figure(9.2, 5.6)
    grid = figure.add_gridspec(2, 2, height_ratios=(1.3, 1))
    top = figure.add_subplot(grid[0, :])
    for name, (label, color, marker) in SHARES.items():
        _line(top, found[name], color, marker, label=label)
    style.tidy(
        top, "Where attention goes", f"share of a row's attention; {len(data['samples'])} samples, band: sd"
    )
    top.set_ylim(0, 1)
    style.percent_axis(top)
    style.layer_axis(top, depth)
    top.legend(loc="lower left", bbox_to_anchor=(0.35, 1.0), ncols=4, fontsize=7, columnspacing=1)
    change = figure.add_subplot(grid[1, 0])
    _line(change, found["change"], style.KIND_COLORS["before"], "o")
    style.tidy(
        change, "What changes from layer to layer", "visual-to-visual attention, total variation distance"
    )
    change.set_ylim(bottom=0)
    style.layer_axis(change, depth)
    change.set_xlabel("decoder layer")
    worth = figure.add_subplot(grid[1, 1])
    worth.bar(range(depth), found["vig"]["mean"], width=0.72, color=style.color("vskip"), alpha=0.6)
    style.tidy(worth, "What it is worth (VIG)", "KL of the next token without it, in that layer alone (nats)")
    style.layer_axis(worth, depth)
    worth.set_xlabel("decoder layer")
    return figure


@styled
def bounds(data: Data) -> Figure:
    """Drift and its bounds layer by layer where something is skipped, and how loose every bound is."""
    found = data["bounds"]
    figure = style.new_figure(9.2, 5.2)
    grid = figure.add_gridspec(1, 2, width_ratios=(1, 1.25))
    skips = "drift" in found
    _looseness(figure.add_subplot(grid[0, 1] if skips else grid[0, :]), found["verdicts"])
    if not skips:
        return figure
    axes = figure.add_subplot(grid[0, 0])
    depth = len(found["residual"]["mean"])
    layers = np.arange(depth)
    for values, color, marker, label in (
        (found["drift"]["leaving"]["mean"], INK, "o", "measured, whole sequence"),
        (found["drift"]["row_leaving"]["mean"], MUTED, "s", "measured, largest skipped row"),
        (found["residual"]["mean"], style.KIND_COLORS["layers"], "^", "bound with residuals"),
    ):
        drawn = [min(v, LIMIT) if v else math.nan for v in values]
        axes.plot(layers, drawn, color=color, marker=marker, markersize=4, label=label)
    axes.set_yscale("log")
    style.tidy(axes, "Drift after each layer", "norm of the difference of states; mean over samples")
    axes.set_xlabel("decoder layer")
    style.layer_axis(axes, depth)
    axes.legend(loc="upper left", fontsize=8)
    return figure


def _looseness(axes: Axes, verdicts: Sequence[Data]) -> None:
    shown = [one for one in verdicts if one["looseness"] is not None]
    places = np.arange(len(shown))[::-1]
    for place, one in zip(places, shown, strict=True):
        color = style.SPARE[4] if one["failures"] else style.KIND_COLORS["decoder"]
        middle, low, high = (min(v, LIMIT) for v in one["looseness"])
        axes.plot([low, high], [place, place], color=color, linewidth=1.4)
        axes.plot([middle], [place], "X" if one["failures"] else "o", color=color, markersize=5)
    axes.axvline(1, color=INK, linewidth=1)
    axes.set_xscale("log")
    axes.set_yticks(
        places, [f"{one['says']} ({one['form']}, eq. {one['source']})" for one in shown], fontsize=6
    )
    style.tidy(axes, "Bound over measurement", "crosses, left of 1: it fails; range over layers, samples")
    axes.grid(visible=False)
    axes.grid(axis="x", color=FAINT, linewidth=0.8)


@styled
def attention_maps(
    maps: Sequence[VisualMap | None], grid: Grid | None, image_BN: torch.Tensor, sample: str
) -> Figure:
    """Attention among visual rows of one sample in some layers, and what the last row looks at.

    Args:
        maps: Of every layer; None where no visual row asks.
        grid: Where the rows lie in the picture, if known.
        image_BN: Image of every row.
        sample: Its name.
    """
    known = [number for number, one in enumerate(maps) if one is not None]
    chosen = [known[round(i)] for i in np.linspace(0, len(known) - 1, min(SHOWN_LAYERS, len(known)))]
    figure = style.new_figure(9.2, 2.8)
    figure.suptitle(
        f"Visual attention of {sample}: among visual rows (top), of the last row over the picture (bottom)",
        x=0.01, ha="left", fontsize=9, fontweight="bold",
    )  # fmt: skip
    for column, number in enumerate(chosen):
        one = maps[number]
        assert one is not None
        top = figure.add_subplot(2, len(chosen), column + 1)
        # Roots, because a few rows get nearly all of it.
        top.imshow(one.weights_VV.sqrt().numpy(), cmap="magma", interpolation="nearest")
        top.set_title(f"layer {number}", fontsize=8)
        below = figure.add_subplot(2, len(chosen), len(chosen) + column + 1)
        shown = np.sqrt(picture(one, grid, image_BN))
        below.imshow(
            shown, cmap="magma", interpolation="nearest", aspect="equal" if len(shown) > 1 else "auto"
        )
        for axes in (top, below):
            axes.set_xticks([])
            axes.set_yticks([])
    return figure


def picture(one: VisualMap, grid: Grid | None, image_BN: torch.Tensor) -> np.ndarray:
    """Attention that rows get from the last row, at their places in the first image; a strip if unknown."""
    received = one.received_V.float().numpy()
    if grid is None:
        return received[None]
    line, column, plane = (part[0, one.rows_V] for part in (grid.line_BN, grid.column_BN, grid.plane_BN))
    here = (plane == 0) & (image_BN[0, one.rows_V] == 0)
    if not bool(here.any()):
        return received[None]
    drawn = np.zeros((int(line[here].max()) + 1, int(column[here].max()) + 1))
    drawn[line[here].numpy(), column[here].numpy()] = received[here.numpy()]
    return drawn


def _line(
    axes: Axes,
    series: Data,
    color: str,
    marker: str,
    *,
    label: str | None = None,
    size: float = 4,
    median: bool = False,
) -> None:
    mean, sd = (np.array([math.nan if v is None else v for v in series[key]]) for key in ("mean", "sd"))
    layers = np.arange(len(mean))
    axes.fill_between(layers, mean - sd, mean + sd, color=color, alpha=0.12, linewidth=0)
    axes.plot(layers, mean, color=color, marker=marker, markersize=size, linewidth=1.6, label=label)
    if median:
        middle = [math.nan if v is None else v for v in series["median"]]
        axes.plot(layers, middle, color=color, linestyle=(0, (1, 2)), linewidth=1.3)


FIGURES: dict[str, Callable[[Data], bytes]] = {"ffn": ffn, "attention": attention, "bounds": bounds}
"""The figure of each part."""
