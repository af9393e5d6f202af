"""The picture of a run: its loss and learning rate over the steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from saccade.report.style import INK, MUTED, PALETTE, new_figure, styled, tidy

SMOOTH = 0.9
ENOUGH = 20
"""Lines from which on a smoothed curve tells more than the dots."""


@styled
def loss_curve(history: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Draws a run.

    Args:
        history: Lines of metrics.
        title: What was trained.

    Returns:
        A PNG file's bytes.
    """
    figure = new_figure(6.4, 3.6)
    axes = figure.add_subplot()
    shown = [line for line in history if line["loss"] is not None]
    steps, losses = [line["step"] for line in shown], [line["loss"] for line in shown]
    dense = len(steps) >= ENOUGH
    axes.plot(steps, losses, color=MUTED if dense else INK, linewidth=0.8 if dense else 1.4,
              alpha=0.5 if dense else 1.0, marker="." if len(steps) < ENOUGH else None)  # fmt: skip
    if dense:
        axes.plot(steps, _smooth(losses), color=INK, linewidth=1.6)
    tidy(axes, title, "loss per label token" + (", smoothed" if dense else ""))
    axes.set_xlabel("step")
    rate = axes.twinx()
    rates = [(line["step"], max(line["lr"].values())) for line in history]
    rate.plot(*zip(*rates, strict=True), color=PALETTE["vskip"], linewidth=1.0)
    rate.set_ylabel("learning rate", color=PALETTE["vskip"])
    rate.set_ylim(bottom=0)
    rate.spines[["top", "left"]].set_visible(False)
    rate.tick_params(length=3, width=0.8, labelcolor=PALETTE["vskip"])
    rate.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    return figure


def _smooth(values: Sequence[float]) -> list[float]:
    """Exponential average that starts unbiased."""
    found, total, weight = [], 0.0, 0.0
    for value in values:
        total, weight = SMOOTH * total + value, SMOOTH * weight + 1.0
        found.append(total / weight)
    return found
