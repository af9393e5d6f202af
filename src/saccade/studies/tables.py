"""Markdown and plain data that several studies make of their lines (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from saccade.evaluation.statistics import Interval
from saccade.methods.base import write_value
from saccade.report.markdown import difference, markdown
from saccade.report.text import interval, percent
from saccade.studies.lines import Book


def limits(found: Interval) -> dict[str, float | None]:
    """A difference with its limits, for JSON."""
    return {"difference": found.value, "difference_low": found.low, "difference_high": found.high}


def interval_of(told: Mapping[str, Any]) -> Interval:
    """The difference that ``limits`` wrote."""
    return Interval(told["difference"], told["difference_low"], told["difference_high"])


def against(book: Book, first: str, second: str, tasks: Sequence[str] = ()) -> dict[str, Any]:
    """The paired difference of two lines, for JSON."""
    return {"first": first, "second": second, **limits(book.against(first, second, tasks))}


def spans(budgets: Sequence[int]) -> str:
    """Numbers with runs as ranges, or ``none``."""
    return write_value(tuple(budgets)).replace(",", ", ") if budgets else "none"


def plan_table(result: Mapping[str, Any], label: str = "name") -> str:
    """Every line that ran: accuracy, difference to dense, retention raw and above blind, cost."""
    rows = []
    for entry in result["plans"]:
        if not entry.get("mean"):
            continue
        mean, cost = entry["mean"], entry["cost"]
        rows.append(
            [
                f"{entry[label]} `{entry['spec']}`" if entry["spec"] else str(entry[label]),
                interval(mean, "accuracy"),
                difference(mean),
                interval(mean, "retention"),
                interval(mean, "retention_above_blind"),
                percent(cost["flops_ratio"]),
                percent(cost["kv_ratio"]),
            ]
        )
    head = ("plan", "accuracy", "against dense", "retention", "above blind", "FLOPs", "KV cache")
    absent = [f"- {e['name']}: {e['reason']}" for e in result["plans"] if not e.get("mean")]
    told = "\n\nNot in the table:\n\n" + "\n".join(absent) if absent else ""
    return markdown(head, rows) + told


def task_table(result: Mapping[str, Any], label: str = "name") -> str:
    """Accuracy of every line on every task."""
    tasks = list(result["dense"]["tasks"])
    ran = [entry for entry in result["plans"] if entry.get("mean")]
    rows = []
    for name, entry in [
        ("blind", result["blind"]),
        ("dense", result["dense"]),
        *((e[label], e) for e in ran),
    ]:
        scores = [entry["tasks"][task] for task in tasks]
        rows.append(
            [str(name), *(percent(s["accuracy"]) for s in scores), percent(entry["mean"]["accuracy"])]
        )
    return markdown(("plan", *tasks, "mean"), rows)
