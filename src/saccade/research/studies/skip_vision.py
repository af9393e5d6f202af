"""The ablation of trained skipping: Skip-Vision's Tables 5 to 7 in our setting, from models trained here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from saccade.report.markdown import markdown
from saccade.report.text import amount, difference, interval, percent
from saccade.research.studies.base import Result, Study
from saccade.research.studies.charts import accuracy_at_cost
from saccade.research.studies.tables import task_table
from saccade.research.studies.trained.claims import share
from saccade.research.studies.trained.probe import GROUPS
from saccade.research.studies.trained.rows import FULL, kept_in

SHARED = (
    "Seeds of a row share the questions: each model answers a part of its own, and is paired with the dense "
    "model of its seed on it."
)


def tell(result: Result) -> str:
    """The ablation, its rivals, times, and skip KV-cache by task."""
    parts = [_ablation(result), SHARED]
    if any(entry.get("times") for entry in result["plans"]):
        parts.append(_times(result))
    parts += ["## Task by task", task_table(result), *_by_cache(result)]
    if result.get("forced"):
        parts.append(_forced(result))
    if result.get("ffn"):
        parts.append(_ffns(result["ffn"]))
    return "\n\n".join(parts)


def _by_cache(result: Result) -> list[str]:
    """Every task under both levels of skip KV-cache, beside the same model with all rows in the cache."""
    entries = {entry["name"]: entry for entry in result["plans"]}
    kept = kept_in(entries)
    names = [FULL + kept, *(f"{FULL} SK{more}{kept}" for more in ("", " middle+small"))]
    if not all(name in entries for name in names):
        return []
    rows = [
        [task, *(interval(entries[name]["tasks"][task], "accuracy") for name in names)]
        for task in result["dense"]["tasks"]
    ]
    head = ("task", "all rows cached", "without the skipped", "without the middle ones too")
    return ["## Skip KV-cache, task by task", markdown(head, rows)]


def _ablation(result: Result) -> str:
    rows = []
    for entry in result["plans"]:
        mean, count = entry["mean"], entry["rows"]
        spread = "" if entry["sd_over_seeds"] is None else f" ± {100 * entry['sd_over_seeds']:.1f}"
        rows.append(
            [
                entry["name"],
                "" if entry["row"] is None else str(entry["row"]),
                str(len(entry["seeds"])),
                interval(mean, "accuracy") + spread,
                difference(mean),
                interval(mean, "retention_above_blind"),
                f"{count['attend']} / {count['pass_ffn']} / {count['cached']}",
                percent(entry["visual_ratio_paper"]),
                percent(entry["cost"]["flops_ratio"]),
                percent(entry["cost"]["kv_ratio"]),
            ]
        )
    head = ("row", "in table 6", "seeds", "accuracy ± sd over seeds", "against dense", "above blind",
            "attend / FFN / cached", "visual FLOPs (paper)", "prefill FLOPs", "KV cache")  # fmt: skip
    return markdown(head, rows)


def _times(result: Result) -> str:
    rows = [
        [
            entry["name"],
            percent(entry["times"]["train_flops"]["ratio"]),
            *(share(entry["times"][key]) for key in ("train_s", "prefill_s", "decode_s", "kv_bytes")),
        ]
        for entry in result["plans"]
        if entry.get("times")
    ]
    held = next(e["times"]["kv_bytes"]["dense"] for e in result["plans"] if e.get("times"))
    head = ("row", "FLOPs of a step", "time of a step", "prefill", "decoded token", "KV bytes")
    told = (
        "FLOPs (as torch counts them, tower and head included), time and bytes as shares of the dense row's; "
        "times are medians of pairs in one process with quartiles; "
        f"float32, batch {result['recipe']['batch']}; the dense row's KV cache has {amount(held)}."
    )
    return f"{markdown(head, rows)}\n\n{told}"


def _forced(result: Result) -> str:
    rows = [
        [task, level, str(one["n"]), f"{one['before']:.3f}", f"{one['after']:.3f}",
         f"{one['difference']:+.3f} ({one['difference_low']:+.3f} to {one['difference_high']:+.3f})"]
        for task, levels in result["forced"].items()
        for level, one in levels.items()
    ]  # fmt: skip
    head = ("task", "leaves the cache", "n", "nats per token before", "after", "paired difference")
    told = "Teacher forcing: negative log-likelihood of the right answer's tokens after the first, per token."
    return f"{markdown(head, rows, right_from=2)}\n\n{told}"


def _ffns(found: Mapping[str, Any]) -> str:
    added, score = found["added"], found["score"]
    head = ("layer", *map(str, range(len(score["mean"]))))
    rows = [
        ["answer without it (nats)", *(f"{value:.3f}" for value in score["mean"])],
        *([f"added to {group} rows", *(f"{v:.2f}" for v in added[group]["mean"])] for group in GROUPS),
    ]
    told = (
        "How much the answer changes without one layer's FFN on visual rows, as FFN-Skip is calibrated "
        f"({score['n']} samples); and the norm of an FFN's output over that of the row it is added to, for "
        f"rows that SF would skip, would retain, and text ({added['samples']} samples)."
    )
    return f"## What FFNs do in the dense model\n\n{markdown(head, rows)}\n\n{told}"


def draw(result: Result) -> dict[str, bytes]:
    """Accuracy against prefill FLOPs."""
    return {"cost": accuracy_at_cost(result["plans"], result["blind"]["mean"]["accuracy"])}


def _trains(*_: object) -> NoReturn:
    raise ValueError("this study trains its models; run it as saccade study skip-vision")


STUDY = Study(
    "skip-vision",
    "Skip-Vision's ablation, trained",
    "What does every part of Skip-Vision keep and save when models are trained with it from one dense start?",
    _trains,
    _trains,
    draw,
    tell,
    trains=True,
)
