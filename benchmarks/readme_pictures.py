"""The README's two pictures: ``python benchmarks/readme_pictures.py`` writes them into ``docs/pictures``.

One shows what a plan does to one question on the embedded model; the other draws accuracy against cost from
``benchmarks/results/study_iso_flops.json``, whose digest is written beside it: a test tells when it is old.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from matplotlib.figure import Figure

from saccade import load
from saccade.glance import suite
from saccade.report import style
from saccade.report.explain import explain
from saccade.report.style import INK, MUTED, styled
from saccade.system.embedded import GAZE
from saccade.system.files import read_json, write_bytes, write_json

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "pictures"
SOURCE = ROOT / "benchmarks" / "results" / "study_iso_flops.json"
PLAN = "fastv(layer=2,keep=0.5)+vskip(layers=5-11)"
COLORS = ("#b3427f", "#0067b1", "#e29a00", "#00896a")
SHOWN = {
    "shortv": ("ShortV", "authors"),
    "vispruner": ("VisPruner", "keep"),
    "divprune": ("DivPrune", "keep"),
    "fastv": ("FastV", "authors"),
    "random": ("random rows", "authors"),
    "resize": ("lower resolution", "authors"),
}
"""Methods that the picture draws, and with which positions; the results page has all of them."""


@styled
def accuracy() -> Figure:  # bytes of a PNG, once styled
    """Accuracy against the share of the dense prefill's FLOPs, a line per method."""
    found = read_json(SOURCE)
    dense = found["dense"]["mean"]
    figure = style.new_figure(8.2, 3.6)
    axes = figure.add_subplot()
    for number, (method, (name, positions)) in enumerate(SHOWN.items()):
        plans = [p for p in found["plans"] if p["method"] == method and p["positions"] == positions]
        # A method that does not reach a share has a reason in the place of a cost.
        points = sorted((p["cost"]["flops_ratio"], p["mean"]["accuracy"]) for p in plans if "cost" in p)
        x = [ratio for ratio, _ in points] + [1.0]
        y = [share for _, share in points] + [dense["accuracy"]]
        plain = method in ("random", "resize")
        axes.plot(
            x, y, label=name, color=MUTED if plain else COLORS[number], marker="osD^vP"[number],
            markersize=4.5, linewidth=1.6, linestyle=(0, (3, 2)) if plain else "-",
        )  # fmt: skip
    axes.plot(1, dense["accuracy"], marker="*", markersize=13, color=INK, linestyle="", label="dense")
    axes.axhline(dense["blind"], color=MUTED, linewidth=1, linestyle=(0, (1, 2)), label="blind")
    title = f"Accuracy on Glance, {dense['n']:,} questions"
    style.tidy(axes, title, "95 % intervals are narrower than the marks")
    axes.set_xlabel("FLOPs of the decoder's prefill, as a share of the dense model's")
    axes.set_xlim(0.2, 1.03)
    axes.set_ylim(0, 1.03)
    style.percent_axis(axes)
    axes.xaxis.set_major_formatter(axes.yaxis.get_major_formatter())
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def digest() -> str:
    """Digest of the result file that the picture of accuracy is drawn from."""
    return hashlib.sha256(SOURCE.read_bytes()).hexdigest()


def main() -> None:
    """Writes both pictures."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    sample = suite.samples("relation", n=1, scale=GAZE.scale)[0]
    shown = explain(load(GAZE.name), list(sample.images), sample.question, PLAN)
    shown.write(FOLDER / "plan.png")
    write_bytes(FOLDER / "accuracy.png", accuracy())
    write_json(FOLDER / "sources.json", {SOURCE.relative_to(ROOT).as_posix(): digest()})
    print(f"wrote {FOLDER.relative_to(ROOT)}/plan.png and accuracy.png")


if __name__ == "__main__":
    main()
