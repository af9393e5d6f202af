"""``saccade report``: result files as one web page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from saccade.cli import common


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("report")(report)


def report(
    results: Annotated[
        list[Path],
        typer.Argument(
            metavar="RESULT...", help="What eval, tune, heal, demo, bench, cost or study wrote; plans."
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The page to write.")] = Path("report.html"),
    json: common.Json = None,
) -> None:
    """Make one self-contained web page of result files.

    Tables with intervals, what is kept against what it costs, which layers plans touch, accuracy task by
    task, what was lost, and for each file how to run it again. Files of one model stand side by side; models
    are told apart by the digest of their weights, by name where a file has none. The page needs no network.

    Example: saccade report eval.json plan.json --out report.html
    """
    view = common.Output(json)
    if out.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--out {out} is not a page; give a name that ends with .html")
    common.check_writable(out)
    common.hold(out)
    twice = next((path for path in results if results.count(path) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice} is given twice")
    from saccade.system.files import read_json, write_text

    for path in results:
        read_json(path)  # one that is not there is refused before anything is drawn with
    from saccade.report.results import read, render
    from saccade.report.results.group import by_model

    with common.progress() as bar:
        task = bar.add_task("reading", total=len(results) + 1)
        found = []
        for path in results:
            found.append(read(path))
            bar.advance(task)
        bar.update(task, description="drawing")
        page = render(found)
        bar.advance(task)
    write_text(out, page)
    groups = by_model(found)
    for group in groups:
        view.line(f"{group.title}: {', '.join(f'{r.path} ({r.kind})' for r in group.results)}")
    view.line(f"next: open {out} in a browser")
    view.finish(
        {
            "report": str(out),
            "models": [
                {"name": g.name, "weights": g.weights or None, "files": [r.path for r in g.results]}
                for g in groups
            ],
        }
    )
