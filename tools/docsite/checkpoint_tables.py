"""Which commands and methods ran on which checkpoints, from the rehearsal's result file."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from docsite.glance_tables import load, missing
from saccade.report.markdown import markdown
from saccade.system.files import read_json

FILE = "checkpoints.json"


def conformance(kind: str, results: Path) -> str:
    """Checkpoints by what ran on them: everything of a group in every environment, or where it failed.

    Args:
        kind: Groups of ``commands`` or of ``methods``.
        results: Folder of result files.
    """
    found = load(results / FILE)
    if found is None:
        return missing("make checkpoints")
    groups, cells = found["groups"][kind], found["cells"]
    environments = sorted({cell["environment"] for cell in cells})
    names = {cell["checkpoint"]: cell["family"] for cell in cells}
    rows = []
    for name, family in sorted(names.items(), key=lambda item: (item[1], item[0])):
        mine = [cell for cell in cells if cell["checkpoint"] == name]
        told = [_cell([c for c in mine if c["group"] == group], environments) for group in groups]
        rows.append([name, f"`{family}`", *told])
    return markdown(("checkpoint", "family", *groups), rows, right_from=99)


def _cell(cells: Sequence[Mapping[str, Any]], environments: Sequence[str]) -> str:
    """``yes`` where all ran everywhere; else in which environments, and where something failed."""
    ran = {where: [cell for cell in cells if cell["environment"] == where] for where in environments}
    good = [where for where, mine in ran.items() if mine and not any(cell["why"] for cell in mine)]
    bad = [where for where, mine in ran.items() if any(cell["why"] for cell in mine)]
    if len(good) == len(environments):
        return "yes"
    parts = [f"**no** {where}" for where in bad] + [f"yes {where}" for where in good]
    return "; ".join(parts) or "not run"


def families(results: Path) -> str:
    """Families by groups of methods: how far ``saccade check`` found the worst row from its reference.

    Args:
        results: Folder of result files.
    """
    found = load(results / FILE)
    if found is None:
        return missing("make checkpoints")
    rows = [{"family": cell["family"], **row} for cell in found["cells"] for row in cell.get("checked", ())]
    groups = list(dict.fromkeys(row["group"] for row in rows))
    lines = []
    for family in sorted({row["family"] for row in rows}):
        mine = [row for row in rows if row["family"] == family]
        told = [_verdict([row for row in mine if row["group"] == group]) for group in groups]
        lines.append([f"`{family}`", *told])
    return markdown(("family", *groups), lines, right_from=99)


def _verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    """The largest distances in float32 and as saved, with the plans that failed or were refused."""
    parts = []
    for status, word in (("failed", "**no**"), ("refused", "refused"), ("not checked", "not checked")):
        plans = dict.fromkeys(row["plan"].split("(")[0] for row in rows if row["status"] == status)
        parts += [f"{word}: {', '.join(plans)}"] if plans else []
    for plain in (True, False):
        far = [
            row["worst"]
            for row in rows
            if row["status"] == "passed" and row["worst"] is not None and (row["dtype"] == "float32") == plain
        ]
        parts += [f"{max(far):.0e}"] if far else []
    return "; ".join(parts) or "not run"


FIGURES = {
    "open_s": "opening, seconds",
    "open_cpu_s": "opening, CPU seconds",
    "open_and_first_forward_s": "opening and a first forward, seconds",
    "open_anonymous_mib": "opening, peak of memory of its own, MiB",
    "open_resident_mib": "opening, peak of resident memory, MiB",
    "peak_anonymous_mib": "with the first forward, peak of memory of its own, MiB",
    "peak_resident_mib": "with the first forward, peak of resident memory, MiB",
}
"""What is said of each figure of opening a checkpoint."""


def opening(results: Path) -> str:
    """Time and memory of opening a checkpoint of real width, beside stock, from every ``opening*.json``."""
    files = sorted(results.glob("opening*.json"))
    if not files:
        return missing("python benchmarks/opening.py --work FOLDER")
    parts = []
    for found in map(read_json, files):
        rows = [
            [words, f"{each['dense']:.4g}", f"{each['plan']:.4g}", _ratio(each)]
            for name, words in FIGURES.items()
            for each in [found["figures"][name]]
        ]
        made = found["provenance"]
        head = (f"`{found['shape']}`, {found['layers']} layers", "stock", "Saccade", "ratio (quartiles)")
        note = (
            f"{found['weights_mib']} MiB of random weights in {found['shards']} files, {made['dtype']}; "
            f"{found['repeats']} pairs of processes in turns; {made['device']}, {made['threads']} threads."
        )
        parts.append(f"{markdown(head, rows)}\n\n{note}")
    return "\n\n".join(parts)


def _ratio(pairs: Mapping[str, Any]) -> str:
    return f"{pairs['ratio']:.2f} ({pairs['low']:.2f} to {pairs['high']:.2f})"


CHECKPOINT_TABLES: dict[str, Callable[[Path], str]] = {
    f"checkpoints-{kind}": functools.partial(conformance, kind) for kind in ("commands", "methods")
} | {"checkpoints-families": families, "opening": opening}
"""Tables by the name in the marker."""
