"""A healing in tables, words and a picture, from the data of its result file (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from saccade.report import style
from saccade.report.markdown import markdown
from saccade.report.style import INK, MUTED, styled
from saccade.report.text import difference, interval, percent, spread

Result = Mapping[str, Any]

GIB = 1 << 30


def rows(data: Result) -> list[list[str]]:
    """Accuracy and agreement of the dense model, and of the plan before and after; a row each."""
    found = [["dense", interval(data["dense"]["mean"], "accuracy"), "", ""]]
    for one in data["plans"]:
        same = data["heal"]["agreement"][one["name"]]
        agreed = spread(same["value"], same["low"], same["high"])
        found.append([one["name"], interval(one["mean"], "accuracy"), difference(one["mean"]), agreed])
    return found


def took(data: Result) -> str:
    """What the steps took, in a line."""
    heal, training = data["heal"], data["heal"]["training"]
    return (
        f"{training['steps']} steps of {heal['batch']} questions in {training['seconds'] / 60:.1f} min "
        f"({training['step_seconds']:.2f} s each), at most {heal['memory']['peak_bytes'] / GIB:.2f} GiB "
        f"({heal['memory']['source']}); KL per token from {training['kl_first']:.3g} to "
        f"{training['kl_last']:.3g} nats; rank {heal['rank']} on {heal['modules']} linear layers, from layer "
        f"{heal['first_layer']} on"
    )


def found_by_gates(learnt: Result) -> str:
    """How the layers of a plan were learnt, in a sentence."""
    return (
        f"Its layers were learnt: {learnt['steps']} steps of gates on every layer's attention and FFN beside "
        f"`{learnt['beside']}`, until the FLOPs were at most {percent(learnt['share'])}; they are at "
        f"{percent(learnt['flops_ratio'])}."
    )


def tell(data: Result) -> str:
    """What was healed, what it brought and what it took, as Markdown."""
    heal = data["heal"]
    reference = "the answers given" if heal["answers"] == "given" else f"{heal['answers']} answers"
    heads = ("", "accuracy", "against dense", "same answers as dense")
    learnt = heal.get("learnt")
    return "\n\n".join(
        [
            *([] if learnt is None else [found_by_gates(learnt)]),
            f"The plan `{heal['spec']}`, healed by learning from the dense model's own answers to "
            f"{heal['samples']} questions; {heal['held_out_samples']} others judged it. "
            f"Reference: {reference}.",
            markdown(heads, rows(data), right_from=1),
            took(data) + ".",
        ]
    )


@styled
def picture(data: Result) -> Figure:
    """KL to the dense model over the steps."""
    figure = style.new_figure(6.4, 3.6)
    axes = figure.add_subplot()
    curve = [(step, loss) for step, loss in data["heal"]["curve"] if loss is not None]
    axes.plot(*zip(*curve, strict=True), color=MUTED, linewidth=0.8, marker=".")
    axes.axhline(curve[-1][1], color=INK, linewidth=0.6)
    axes.set_yscale("log")
    axes.set_xlabel("step")
    style.tidy(axes, "KL to the dense model, per token of its answers (nats)")
    return figure
