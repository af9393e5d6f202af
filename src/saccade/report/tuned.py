"""A tuning in tables, words and a picture, from the data of its result file (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from saccade.report import style
from saccade.report.markdown import markdown
from saccade.report.style import INK, MUTED, styled
from saccade.report.text import guard_told, lost, percent, points

Result = Mapping[str, Any]

LEAST = 1e-3
"""Where the axis of the loss begins to be a logarithm, in nats."""


def tell(data: Result) -> str:
    """What was searched, the front, the single methods, and what was chosen where, as Markdown."""
    tune, search = data["tune"], data["tune"]["search"]
    parts = [
        f"{search['plans']} plans were measured with {search['passes']} prompts, on {len(search['samples'])} "
        f"samples; {search['held_out_samples']} others judged {len(tune['front'])} of them. Cost: "
        f"{search['cost']}, over the dense model's. Reference: "
        f"{'the answers given' if search['answers'] == 'given' else search['answers'] + ' answers'}.",
        "## The front",
        front_table(data),
        "## Single methods at the same costs",
        markdown(
            ("method", "plan", search["cost"], "KL (nats)", "same answers"),
            [
                [
                    one["title"],
                    f"`{one['spec']}`",
                    percent(one["ratio"]),
                    f"{one['kl']:.3g}",
                    percent(one["agreement"]),
                ]
                for one in sorted(tune["singles"], key=lambda one: (-round(one["ratio"], 1), one["kl"]))
            ],
            right_from=2,
        ),
        "Measured on the first part of the samples of the search, "
        f"{tune['singles'][0]['samples'] if tune['singles'] else 0} of them.",
    ]
    if tune.get("timed"):
        timed = tune["timed"]
        parts.append(
            f"The chosen plan, timed: {percent(timed['measured'])} of dense; {percent(timed['predicted'])} "
            "by the table of measured steps."
        )
    if tune.get("unsure"):
        parts.append(f"With a guard at run time: {guard_told(tune['unsure'])}.")
    if tune["explained"]:
        parts += ["## What was chosen, and what undoing it would change", explained_table(data)]
    parts += ["## Every skip alone: KL of the whole answer (nats)", alone_table(data)]
    return "\n\n".join(parts)


def front_table(data: Result) -> str:
    """Plans that went to the held-out samples."""
    tune = data["tune"]
    rows = [
        [
            f"`{one['spec']}`",
            "**chosen**" if one["spec"] == tune["spec"] else "",
            percent(one["ratio"]),
            f"{one['kl']:.3g}",
            percent(one["agreement"]),
            lost(one["held_out"]["loss"]),
            lost(one["held_out"]["bound"]),
            percent(one.get("whole_ratio")),
        ]
        for one in tune["front"]
    ]
    heads = (
        "plan", "", tune["search"]["cost"], "KL (nats)", "same answers", "held out, points", "at worst",
        "whole FLOPs",
    )  # fmt: skip
    return markdown(heads, rows, right_from=2)


def explained_table(data: Result) -> str:
    """What was chosen where, and what undoing it would change."""
    tune = data["tune"]
    here = tune["chosen"]
    rows = [
        [
            one["what"], one["chosen"], one["other"], points(one["ratio"] - here["ratio"]),
            f"{one['loss'] - here['kl']:+.3g}",
        ]
        for one in tune["explained"]
    ]  # fmt: skip
    return markdown(("where", "chosen", "instead", "cost, points", "KL (nats)"), rows, right_from=3)


def alone_table(data: Result) -> str:
    """Loss of every skip alone."""
    alone = data["tune"]["alone"]
    layers = range(len(next(iter(alone.values()), [])))
    rows = [[skip, *(f"{values[layer]:.2g}" for layer in layers)] for skip, values in alone.items()]
    return markdown(("skipped", *map(str, layers)), rows)


@styled
def picture(data: Result) -> Figure:
    """Loss against cost: every plan tried, every single method, the front, the dense model."""
    tune = data["tune"]
    figure = style.new_figure(7.6, 4.4)
    axes = figure.add_subplot()
    clouds = (
        ("tried on a part of the samples", tune["tried_in_part"], MUTED, ".", 14, 0.25),
        ("tried on all of them", tune["tried"], "#0067b1", ".", 30, 0.5),
        ("single methods", [o for o in tune["singles"] if not _resized(o)], "#e29a00", "s", 26, 0.9),
        ("a lower resolution", [o for o in tune["singles"] if _resized(o)], "#b3427f", "D", 30, 0.95),
    )
    for label, found, colour, mark, size, alpha in clouds:
        if found:
            x, y = zip(*((one["ratio"], one["kl"] + LEAST) for one in found), strict=True)
            axes.scatter(x, y, s=size, c=colour, marker=mark, alpha=alpha, linewidths=0, label=label)
    line = sorted((one["ratio"], one["kl"] + LEAST) for one in tune["front"])
    axes.plot(
        [*(x for x, _ in line), 1.0],
        [*(y for _, y in line), LEAST],
        color=INK,
        linewidth=1.2,
        label="the front",
    )
    axes.plot([1.0], [LEAST], "*", color=INK, markersize=10, label="dense", clip_on=False)
    if tune["chosen"] is not None:
        chosen = tune["chosen"]
        axes.plot(
            [chosen["ratio"]], [chosen["kl"] + LEAST], "o", markersize=11, markerfacecolor="none",
            markeredgecolor="#c23b22", markeredgewidth=1.8, label="chosen",
        )  # fmt: skip
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, _: "0" if value <= LEAST else f"{value:g}")
    style.percent_axis(axes, "x")
    axes.set_xlim(left=max(0.0, min([x for x, _ in line], default=0.2) - 0.1), right=1.02)
    axes.set_ylim(LEAST * 0.9, max(10.0, *np.array([y for _, y in line]) * 2))
    axes.set_xlabel(f"{tune['search']['cost']} over the dense model's")
    axes.set_ylabel("KL of the whole answer (nats)")
    style.tidy(
        axes, "What a plan costs and what it loses", "on the samples of the search; lower left is better"
    )
    axes.legend(fontsize=7, loc="upper right")
    return figure


def _resized(one: Mapping[str, Any]) -> bool:
    return str(one["spec"]).startswith("resize(")
