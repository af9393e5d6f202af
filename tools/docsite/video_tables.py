"""The docs' tables of what plans keep on videos, from ``video.json``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from docsite.glance_tables import KINDS, load, missing
from saccade.report.markdown import markdown
from saccade.report.text import difference, interval, percent

FILE = "video.json"
COMMAND = "python benchmarks/video_results.py --work FOLDER"


def kinds(results: Path) -> str:
    """Accuracy by kind of question: guessing, blind, with few frames and with all."""
    found = load(results / FILE)
    if found is None:
        return missing(COMMAND)
    dense, fewer = found["dense"], sorted(found["fewer_frames"], key=lambda one: one["frames"])

    def row(name: str, guessed: float, score: Mapping[str, Any], less: list[Mapping[str, Any]]) -> list[str]:
        shown = [interval(one, "accuracy") for one in (*less, score)]
        return [name, str(score["n"]), percent(guessed), percent(score["blind"]), *shown]

    guessed = found["guessed"]
    rows = [
        row(kind, guessed[kind], score, [one["tasks"][kind] for one in fewer])
        for kind, score in dense["tasks"].items()
    ]
    mean = sum(guessed[kind] for kind in dense["tasks"]) / len(dense["tasks"])
    rows.append(row("**mean**", mean, dense["mean"], [one["mean"] for one in fewer]))
    frames = [f"{one['frames']} frame{'s' if one['frames'] > 1 else ''}" for one in fewer]
    head = ("question", "n", "guessing", "blind", *frames, f"dense, {found['model']['frames']} frames")
    return markdown(head, rows)


def plans(results: Path) -> str:
    """Every method at the stated shares of the FLOPs, beside the stock model with fewer frames."""
    found = load(results / FILE)
    if found is None:
        return missing(COMMAND)
    dense = found["dense"]
    rows = [["dense", "", interval(dense["mean"], "accuracy"), "", "", "100 %", "100 %", "100 %"]]
    rows += [_row(entry, "frames") for entry in found["fewer_frames"]]
    rows += [_row(entry, KINDS[entry["kind"]]) for entry in found["plans"] if entry.get("mean")]
    head = ("plan", "reduces", "accuracy", "against dense", "won, lost", "FLOPs", "whole FLOPs", "KV cache")
    made, mean = found["provenance"], dense["mean"]
    note = (
        f"{mean['n']} held-out questions of {len(dense['tasks'])} kinds, greedy, {made['dtype']}, batch "
        f"{made['batch']}, {made['device']}; 95 % intervals, differences paired by question; blind: "
        f"{percent(mean['blind'])}. Won and lost: questions that the plan answers better, and worse."
    )
    absent = [f"- {one['name']}: {one['reason']}" for one in found["plans"] if not one.get("mean")]
    return "\n\n".join((markdown(head, rows, right_from=2), note, "\n".join(absent))).rstrip()


def _row(entry: Mapping[str, Any], kind: str) -> list[str]:
    mean, cost = entry["mean"], entry["cost"]
    named = entry["name"] if entry["spec"] == "dense" else f"{_title(entry)} `{entry['spec']}`"
    return [
        named,
        kind,
        interval(mean, "accuracy"),
        difference(mean),
        f"{mean['gained']}, {mean['lost']}",
        *(percent(cost[ratio]) for ratio in ("flops_ratio", "whole_ratio", "kv_ratio")),
    ]


def _title(entry: Mapping[str, Any]) -> str:
    """A method, and what its budget is of where it may be either."""
    _, comma, budget = entry["name"].partition(", budget")
    return entry["title"] + (f",{' budget' + budget}" if comma else "")


VIDEO_TABLES: dict[str, Callable[[Path], str]] = {"video-kinds": kinds, "video-plans": plans}
"""Tables by the name in the marker."""
