"""A picture of one question: the image, the answers, and which rows ran where (pure)."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL.Image import Image

from saccade.core.layout import Layout
from saccade.core.route import Route
from saccade.report import style
from saccade.report.style import FAINT, INK, MUTED, styled

GROUPS = ("text before", "image", "question")
RIGHT, WRONG = "#00794f", "#b3261e"


def row_groups(layout: Layout, sample: int = 0) -> dict[str, list[int]]:
    """Rows of one sample in three groups: text before the first visual row, visual rows, all other text."""
    visual = layout.visual_BN[sample].tolist()
    real = layout.real_BN[sample].tolist()
    first = visual.index(True) if True in visual else len(visual)
    groups: dict[str, list[int]] = {name: [] for name in GROUPS}
    for row, (is_visual, is_real) in enumerate(zip(visual, real, strict=True)):
        if is_real:
            groups["image" if is_visual else "text before" if row < first else "question"].append(row)
    return groups


def route_map(route: Route, sample: int = 0) -> dict[str, dict[str, list[float]]]:
    """For every row group the share of its rows that are alive, attend, and pass the FFN, layer by layer."""
    found: dict[str, dict[str, list[float]]] = {}
    for name, rows in row_groups(route.layout, sample).items():
        shares: dict[str, list[float]] = {"alive": [], "attention": [], "ffn": []}
        for layer in route.layers:
            sets = {"alive": layer.alive_BN, "attention": layer.query_BN, "ffn": layer.ffn_BN}
            for key, mask_BN in sets.items():
                shares[key].append(float(mask_BN[sample, rows].float().mean()) if rows else 1.0)
        found[name] = shares | {"rows": [float(len(rows))]}
    return found


@styled
def question(image: Image, text: str, answer: str, columns: Sequence[Mapping[str, Any]]) -> Figure:
    """One question under several plans.

    Args:
        image: What was asked about.
        text: The question.
        answer: The reference answer.
        columns: One entry per plan: ``method``, ``title``, ``said``, ``correct``, ``map`` (of ``route_map``).
    """
    layers = len(columns[0]["map"]["image"]["alive"])
    figure = style.new_figure(9.2, 1.15 + 0.92 * len(columns))
    grid = figure.add_gridspec(len(columns), 2, width_ratios=(1, 2.35))
    left = figure.add_subplot(grid[:, 0])
    left.imshow(image.convert("RGB"), interpolation="nearest")
    style.bare(left)
    left.set_anchor("N")
    left.set_title("\n".join(textwrap.wrap(text, 34)), loc="left", fontsize=10, fontweight="bold")
    left.set_xlabel(f"right answer: {answer}", fontsize=9, color=MUTED, loc="left")
    for row, column in enumerate(columns):
        axes = figure.add_subplot(grid[row, 1])
        _map(axes, column["map"], style.color(column["method"]), layers, last=row == len(columns) - 1)
        said = textwrap.shorten(str(column["said"]) or "(nothing)", 34, placeholder=" …")
        axes.set_title(
            column["title"], loc="left", fontsize=9, fontweight="bold", color=style.color(column["method"])
        )
        mark, tone = ("right", RIGHT) if column["correct"] else ("wrong", WRONG)
        axes.set_title(f"“{said}”  {mark}", loc="right", fontsize=9, color=tone)
    _legend(figure)
    return figure


def _map(axes: Axes, groups: Mapping[str, Any], color: str, layers: int, last: bool) -> None:
    heights = {"text before": 0.55, "image": 1.0, "question": 0.55}
    y = 0.0
    ticks = []
    for name in reversed(GROUPS):
        if not groups[name]["rows"][0]:
            continue
        height, shares = heights[name], groups[name]
        tone = color if name == "image" else MUTED
        for layer in range(layers):
            alive = shares["alive"][layer]
            for slot, key in enumerate(("attention", "ffn")):
                share = shares[key][layer]
                x = layer + 0.06 + 0.44 * slot
                cell = Rectangle((x, y + 0.06), 0.42, height - 0.12, linewidth=0.7)
                cell.set_edgecolor(tone if alive else FAINT)
                cell.set_facecolor((tone, 0.12 + 0.78 * share) if share else "white")
                cell.set_linestyle("-" if alive else ":")
                axes.add_patch(cell)
        ticks.append((y + height / 2, name))
        y += height
    axes.set_xlim(0, layers)
    axes.set_ylim(0, y)
    axes.set_yticks([t for t, _ in ticks], [n for _, n in ticks], fontsize=7.5)
    step = max(1, -(-layers // 16))
    axes.set_xticks(
        [i + 0.48 for i in range(0, layers, step)], [str(i) for i in range(0, layers, step)], fontsize=7.5
    )
    axes.tick_params(length=0, labelbottom=last)
    axes.spines[:].set_visible(False)
    if last:
        axes.set_xlabel(
            "decoder layer; left half of a cell: attention, right half: FFN", fontsize=8, color=MUTED
        )


def _legend(figure: Figure) -> None:
    handles = [
        Rectangle((0, 0), 1, 1, facecolor=INK, edgecolor=INK),
        Rectangle((0, 0), 1, 1, facecolor="white", edgecolor=INK),
        Rectangle((0, 0), 1, 1, facecolor="white", edgecolor=MUTED, linestyle=":"),
    ]
    labels = ["computed", "skipped, keys and values kept", "gone: nothing kept"]
    figure.legend(
        handles, labels, loc="outside lower right", ncols=3, fontsize=8, handlelength=1.1, handleheight=1.1
    )
