"""Which classes of transformers adapters made by inspection serve, from the survey's result file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from docsite.glance_tables import load, missing
from saccade.report.markdown import markdown

FILE = "generic.json"


def passed(results: Path) -> str:
    """Classes without an adapter of their own that pass, and then those that have one, as a cross-check.

    Args:
        results: Folder of result files.
    """
    found = load(results / FILE)
    if found is None:
        return missing("make generic")
    rows = sorted(
        (one for one in found["classes"] if one["outcome"] == "passed"),
        key=lambda one: (one["own_adapter"], one["model_type"]),
    )
    lines = [
        [
            f"`{one['class']}`",
            f"`{one['decoder']}`",
            _attention(one["adapter"]["attention"]),
            str(len(one["accepted"])),
            "yes" if one["own_adapter"] else "",
        ]
        for one in rows
    ]
    return markdown(
        ("class", "decoder", "its attention, as found", "methods", "has its own"), lines, right_from=9
    )


def _attention(recipes: list[dict]) -> str:
    told = []
    for one in recipes:
        if "lender" in one:
            told.append(f"as of `{one['lender']}`")
            continue
        parts = ["one projection" if one["layout"] else "three projections"]
        if one["norms"]:
            parts.append({"flat": "whole", "early": "head", "late": "turned head"}[one["moment"]] + " norms")
        if one.get("gate"):
            parts.append("a gate")
        parts.append("unturned" if one["turns"] is None else "turned in part" if one["part"] else "turned")
        told.append(", ".join(parts))
    return "; ".join(told)


def refused(results: Path) -> str:
    """Classes that are refused, or that no tiny model was made of, and why.

    Args:
        results: Folder of result files.
    """
    found = load(results / FILE)
    if found is None:
        return missing("make generic")
    rows = [one for one in found["classes"] if one["outcome"] != "passed"]
    lines = [
        [f"`{one['class']}`", one["outcome"], one["why"].replace("|", "\\|")]
        for one in sorted(rows, key=lambda one: (one["outcome"] != "refused", one["model_type"]))
    ]
    return markdown(("class", "", "why"), lines, right_from=9)


GENERIC_TABLES: dict[str, Callable[[Path], str]] = {"generic-passed": passed, "generic-refused": refused}
