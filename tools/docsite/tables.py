"""Markdown tables of the docs, generated between markers from the registry and from result files.

``python -m docsite.tables docs/results.md`` refreshes them; ``--check`` exits 1 where one is stale.
A table stands between ``<!-- generated:NAME -->`` and ``<!-- /generated -->``.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from docsite.checkpoint_tables import CHECKPOINT_TABLES
from docsite.generic_tables import GENERIC_TABLES
from docsite.glance_tables import (
    glance,
    glance_family,
    glance_positions,
    load,
    missing,
    trained,
)
from docsite.study_tables import STUDY_TABLES
from docsite.suite_tables import SUITE_TABLES
from docsite.time_tables import TIME_TABLES
from docsite.values import filled
from docsite.video_tables import VIDEO_TABLES
from docsite.vllm_tables import VLLM_TABLES
from saccade.methods import METHODS, Method
from saccade.report.catalogue import SHARED, described, in_brief
from saccade.report.markdown import markdown
from saccade.report.text import percent
from saccade.system.embedded import GAZE, GLANCE
from saccade.system.files import read_json, write_text

BLOCK = re.compile(r"(<!-- generated:([\w-]+) -->\n).*?(<!-- /generated -->)", re.DOTALL)

_INSIDE = re.compile(r"\]\((?![a-z]+:|#)")
"""Where a link into the repository begins."""

_SAVES = {"prefill": "prefill FLOPs", "kv": "KV cache", "decode": "decode"}


def methods(results: Path) -> str:
    """The methods of the registry: paper, spec name, parameters, what they save, what chooses layers."""
    rows = []
    for _, cls in sorted(METHODS.items(), key=lambda item: item[1].title.lower()):
        saves = ", ".join(_SAVES.get(kind, kind) for kind in cls.saves)
        chosen = f"`{cls.score}`" if cls.score else ""
        title = f"[{cls.title}]({cls.paper})" if cls.paper else cls.title
        rows.append([title, f"`{cls.name}`", in_brief(cls), _parameters(cls), saves, chosen])
    head = ("method", "spec name", "what it does", "parameters", "saves", "layers chosen by")
    return markdown(head, rows, right_from=9)


def _parameters(cls: type[Method]) -> str:
    """The parameters of a method's own, with what they are if they are not given."""
    own = [one for one in described(cls) if one.name not in SHARED]
    return ", ".join(f"`{one.name}`" + (f" {one.value}" if one.value else "") for one in own)


def bench(results: Path) -> str:
    """FLOPs and time ratios from every ``bench*.json``."""
    runs = [run for path in sorted(results.glob("bench*.json")) for run in _runs(read_json(path))]
    if not runs:
        return missing(
            "saccade bench llava-1.5-7b --plan 'vskip(budget=19)' --json benchmarks/results/bench.json"
        )
    rows = []
    for run in runs:
        prefill, decode = run["prefill"], run.get("decode")
        rows.append(
            [
                f"{run['name']} ({run['layers']} of {run['depth']} layers, batch {run['batch']}, "
                f"{run['visual']} + {run['text']} rows)",
                f"`{run['plan']}`",
                f"{prefill['flops_ratio']:.3f}",
                f"{prefill['time_ratio']:.3f}",
                "" if prefill["captured"] is None else f"{prefill['captured']:.2f}",
                f"{decode['time_ratio']:.3f}" if decode else "",
                f"{run['kv_ratio']:.3f}",
                f"{run['provenance']['device']}, {run['provenance']['dtype']}",
            ]
        )
    head = ("decoder", "plan", "FLOPs", "prefill time", "captured", "decode time", "KV cache", "device")
    return markdown(head, rows, right_from=2)


def training_step(results: Path) -> str:
    """Forward and backward with skipped FFNs against dense, from every ``skip_ffn_step*.json``."""
    files = sorted(results.glob("skip_ffn_step*.json"))
    if not files:
        return missing("python benchmarks/skip_ffn_step.py")
    rows = []
    for found in map(read_json, files):
        shape = found["shape"]
        told = (
            f"width {shape['hidden']}, FFN {shape['ffn']}, {shape['layers']} layers, batch {found['batch']}, "
            f"{found['visual']} + {found['text']} rows"
        )
        rows += [
            [
                told,
                f"`{run['plan']}`",
                f"{run['flops_ratio']:.3f}",
                f"{run['time_ratio']:.3f} ({run['low']:.3f} to {run['high']:.3f})",
                f"{run['efficiency']:.2f}",
                f"{found['provenance']['device']}, {found['provenance']['dtype']}",
            ]
            for run in found["runs"]
        ]
    head = ("decoder", "plan", "FLOPs", "time of a step (quartiles)", "efficiency", "device")
    return markdown(head, rows, right_from=2)


def whole_bill(results: Path) -> str:
    """From pixels to the first token, in closed form, from ``whole_bill.json``."""
    found = load(results / "whole_bill.json")
    if found is None:
        return missing("python benchmarks/whole_bill.py")
    rows = []
    for run in found["runs"]:
        whole = run["whole"]
        seen = whole["tower_tflops"] + whole["projector_tflops"]
        share = percent(whole["tower_share"], 0)
        rows.append(
            [
                f"{run['shape']}, {run['visual']} rows",
                f"`{run['plan']}`",
                f"{seen:.2f}",
                f"{whole['decoder_tflops']:.2f}",
                f"{whole['tflops']:.2f}",
                percent(run["flops_ratio"]),
                percent(whole["ratio"]),
                f"**{share}**" if whole["tower_is_bottleneck"] else share,
            ]
        )
    head = (
        "prompt",
        "plan",
        "tower",
        "decoder",
        "whole TFLOPs",
        "decoder's ratio",
        "whole ratio",
        "tower's share",
    )
    return markdown(head, rows, right_from=2)


def support(results: Path) -> str:
    """What works under a plan, from the engine's own table; every row has a test."""
    from saccade.engine.support import SUPPORT

    return markdown(
        ("with", "status", "notes"), [[s.feature, s.status, s.note] for s in SUPPORT], right_from=9
    )


TABLES: dict[str, Callable[[Path], str]] = {
    "methods": methods,
    "glance": glance,
    "glance-family": glance_family,
    "glance-positions": glance_positions,
    "glance-trained": functools.partial(trained, GLANCE),
    "gaze-trained": functools.partial(trained, GAZE),
    "bench": bench,
    "training-step": training_step,
    "whole-bill": whole_bill,
    "support": support,
}
"""Tables of the docs by the name in the marker."""
KNOWN = {
    **TABLES,
    **SUITE_TABLES,
    **STUDY_TABLES,
    **CHECKPOINT_TABLES,
    **GENERIC_TABLES,
    **TIME_TABLES,
    **VIDEO_TABLES,
    **VLLM_TABLES,
}
"""Tables that any page may have."""


def refresh(text: str, results: Path, up: str = "") -> str:
    """The text with every marked table and every marked number generated anew.

    Args:
        text: Markdown with markers.
        results: Folder of result files.
        up: Way from the page's folder to the repository's root, for links, such as ``../``.

    Raises:
        ValueError: If a marker names no table, one is not closed, or a number is not there.
    """
    opened, closed = text.count("<!-- generated:"), text.count("<!-- /generated -->")
    if opened != closed:
        raise ValueError(f"{opened} tables are opened by <!-- generated:NAME --> and {closed} closed")

    def fill(match: re.Match[str]) -> str:
        name = match[2]
        if name not in KNOWN:
            raise ValueError(f"no generated table {name!r}; known: {', '.join(KNOWN)}")
        table = _INSIDE.sub(f"]({up}", KNOWN[name](results))
        return f"{match[1]}{table}\n{match[3]}"

    return filled(BLOCK.sub(fill, text), results, marked=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Refreshes or checks the tables of Markdown files.

    Returns:
        0; 1 where ``--check`` found a stale table; 2 for bad input.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    paths = [Path(word) for word in words if word != "--check"]
    if not paths:
        print("usage: python -m docsite.tables [--check] docs/results.md ...", file=sys.stderr)
        return 2
    stale = 0
    for path in paths:
        try:
            old = path.read_text(encoding="utf-8")
            new = refresh(old, *surroundings(path))
        except (OSError, ValueError) as error:
            print(f"{path}: {error}", file=sys.stderr)
            return 2
        if old == new:
            continue
        if "--check" in words:
            print(f"{path}: stale; run python -m docsite.tables {path}", file=sys.stderr)
            stale = 1
        else:
            write_text(path, new)
    return stale


def surroundings(page: Path) -> tuple[Path, str]:
    """Where a page's checkout has its result files, and the way from the page's folder to the checkout."""
    folders = list(page.resolve().parents)
    found = next((n for n, folder in enumerate(folders) if (folder / "benchmarks" / "results").is_dir()), 0)
    return folders[found] / "benchmarks" / "results", "../" * found


def _runs(data: Any) -> list[Mapping[str, Any]]:
    if isinstance(data, Mapping):
        data = data.get("runs") or data.get("plans") or [data]
    entries = data if isinstance(data, list) else []
    return [entry for entry in entries if isinstance(entry, Mapping) and "prefill" in entry]


if __name__ == "__main__":
    raise SystemExit(main())
