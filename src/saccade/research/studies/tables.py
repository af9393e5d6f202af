"""Markdown and plain data that several studies make of their lines (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from saccade.evaluation.statistics import Interval
from saccade.methods.base import write_value
from saccade.report.markdown import markdown
from saccade.report.text import MISSING, difference, interval, percent
from saccade.research.studies.lines import Book


def limits(found: Interval) -> dict[str, float | None]:
    """A difference with its limits, for JSON."""
    return {"difference": found.value, "difference_low": found.low, "difference_high": found.high}


def interval_of(told: Mapping[str, Any]) -> Interval:
    """The difference that ``limits`` wrote."""
    return Interval(told["difference"], told["difference_low"], told["difference_high"])


def unlike(book: Book, rows: Sequence[Mapping[str, Any]]) -> tuple[list[Interval], str]:
    """Differences of rows that hold one plan against another, and what a finding says of the other rows."""
    gaps = [interval_of(row) for row in rows if not book.same(row["first"], row["second"])]
    alike = len(rows) - len(gaps)
    return gaps, f"; {alike} more would compare a plan with itself" if alike else ""


def opposite(found: Interval) -> Interval:
    """The same difference seen from the other side."""
    return Interval(-(found.value or 0.0), -(found.high or 0.0), -(found.low or 0.0))


def against(book: Book, first: str, second: str, tasks: Sequence[str] = ()) -> dict[str, Any]:
    """The paired difference of two lines, for JSON."""
    return {"first": first, "second": second, **limits(book.against(first, second, tasks))}


def spans(budgets: Sequence[int]) -> str:
    """Numbers with runs as ranges, or ``none``."""
    return write_value(tuple(budgets)).replace(",", ", ") if budgets else "none"


def ran(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The lines of a result that could run."""
    return [entry for entry in result["plans"] if entry.get("mean")]


def plan_table(result: Mapping[str, Any], label: str = "name") -> str:
    """Every line that ran: accuracy, difference to dense, retention raw and above blind, cost."""
    rows = [
        [
            f"{entry[label]} `{entry['spec']}`" if entry["spec"] else str(entry[label]),
            interval(entry["mean"], "accuracy"),
            difference(entry["mean"]),
            interval(entry["mean"], "retention"),
            interval(entry["mean"], "retention_above_blind"),
            percent(entry["cost"]["flops_ratio"]),
            percent(entry["cost"]["kv_ratio"]),
        ]
        for entry in ran(result)
    ]
    head = ("plan", "accuracy", "against dense", "retention", "above blind", "FLOPs", "KV cache")
    return markdown(head, rows) + absent(result)


def absent(result: Mapping[str, Any]) -> str:
    """What a page says under a table of the lines that could not run; nothing if all could."""
    left = [f"- {e['name']}: {e['reason']}" for e in result["plans"] if not e.get("mean")]
    return "\n\nNot in the table:\n\n" + "\n".join(left) if left else ""


def task_table(result: Mapping[str, Any], label: str = "name") -> str:
    """Accuracy of every line on every task, and how wide the intervals of these numbers are at most."""
    tasks = list(result["dense"]["tasks"])
    told = [("blind", result["blind"]), ("dense", result["dense"]), *((e[label], e) for e in ran(result))]
    rows = []
    for name, entry in told:
        scores = [entry["tasks"][task] for task in tasks]
        rows.append(
            [str(name), *(percent(s["accuracy"]) for s in scores), percent(entry["mean"]["accuracy"])]
        )
    single = [entry["tasks"][task] for _, entry in told for task in tasks]
    note = (
        f"{_counts(s['n'] for s in single)} questions of each task. 95 % intervals reach at most "
        f"{_reach(single, '')} points to a side in a task and {_reach([e['mean'] for _, e in told], '')} in "
        "the mean."
    )
    return markdown(("plan", *tasks, "mean"), rows) + "\n\n" + note


def kept_table(result: Mapping[str, Any], label: str = "name") -> str:
    """Retention of every line on every task, raw and above blind, and how wide the intervals are at most."""
    tasks = list(result["dense"]["tasks"])
    rows = [
        [str(entry[label]), *(_both(s) for s in (*(entry["tasks"][task] for task in tasks), entry["mean"]))]
        for entry in ran(result)
    ]
    single = [entry["tasks"][task] for entry in ran(result) for task in tasks]
    note = (
        f"Retention / retention above blind, in percent of dense; {_counts(s['n'] for s in single)} "
        f"questions of each task. 95 % intervals reach at most {_reach(single, 'retention_')} and "
        f"{_reach(single, 'retention_above_blind_')} points to a side."
    )
    return markdown(("plan", *tasks, "mean"), rows) + "\n\n" + note


def _both(score: Mapping[str, Any]) -> str:
    """Both retentions without their signs of percent."""
    shares = (score["retention"], score["retention_above_blind"])
    return " / ".join(percent(share, 0).removesuffix(" %") for share in shares)


def _counts(numbers: Iterable[int]) -> str:
    least, most = min(found := list(numbers)), max(found)
    return str(least) if least == most else f"{least} to {most}"


def _reach(scores: Sequence[Mapping[str, Any]], prefix: str) -> str:
    """The farthest that a limit lies from its value, in points."""
    name = prefix.removesuffix("_") or "accuracy"
    known = [s for s in scores if s.get(name) is not None and s.get(f"{prefix}low") is not None]
    sides = [max(s[name] - s[f"{prefix}low"], s[f"{prefix}high"] - s[name]) for s in known]
    return f"{100 * max(sides):.1f}" if sides else MISSING
