"""Which rows of a study's result were made by code that has changed since (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from saccade.methods import METHODS
from saccade.plans.plan import Plan
from saccade.report.text import difference, interval, percent


def code_of_plans(specs: Iterable[str]) -> dict[str, int]:
    """Numbers of the methods in some plans, as far as one was ever raised; for a result's provenance."""
    return {name: METHODS[name].version for name in _names(specs) if METHODS[name].version != 1}


def changed_since(result: Mapping[str, Any]) -> list[str]:
    """Titles of the methods in a result's plans that do otherwise today than when it was made."""
    made = result["provenance"].get("code", {})
    anew = {entry["name"] for entry in result.get("anew", ())}
    specs = (
        entry["spec"]
        for entry in result.get("plans", ())
        if entry.get("mean") and entry.get("spec") and entry.get("name") not in anew
    )
    return sorted(METHODS[name].title for name in _names(specs) if METHODS[name].version != made.get(name, 1))


def told(result: Mapping[str, Any]) -> str:
    """That in words, for a page, and what rows made anew say; empty where nothing has changed."""
    return "\n\n".join(filter(None, (_left(changed_since(result)), _anew(result))))


def _anew(result: Mapping[str, Any]) -> str:
    rows = [
        f"{entry['name']} {interval(entry['mean'], 'accuracy')}, {difference(entry['mean'])} points from the "
        f"{percent(entry['dense']['mean']['accuracy'])} of a dense row that was trained beside it, over "
        f"{entry['questions']} questions"
        for entry in result.get("anew", ())
    ]
    told = f"Made anew since the tables: {'; '.join(rows)}."
    return told if rows else ""


def _left(titles: list[str]) -> str:
    if not titles:
        return ""
    return (
        f"Rows with {', '.join(titles)} were made before the last change of what "
        f"{'it does' if len(titles) == 1 else 'these do'} (see the changelog), and are not made anew yet; "
        "all others stand as they are."
    )


def _names(specs: Iterable[str]) -> list[str]:
    return sorted({method.name for spec in specs for method in Plan.of(spec).methods})
