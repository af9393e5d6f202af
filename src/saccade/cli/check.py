"""``saccade check``: whether plans do on your own checkpoint, on your machine, what they say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from saccade.cli import common
from saccade.cli.opening import opens
from saccade.opening.settings import Opening

if TYPE_CHECKING:
    from rich.text import Text

    from saccade.check import ProbeOutcome, Report


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("check")(opens(check))


def check(
    model: common.Model = "glance",
    plan: common.Plan = None,
    image: Annotated[
        Path | None, typer.Option(metavar="PATH", help="A picture; one is drawn if omitted.")
    ] = None,
    question: Annotated[str | None, typer.Option(help="What to ask about it.")] = None,
    layers: Annotated[
        int | None, common.count("Keep only so many first decoder layers.", common.MOST_LAYERS)
    ] = None,
    every: Annotated[
        bool, typer.Option("--every", help="One plan of every method, rather than of every group.")
    ] = False,
    force: common.Force = False,
    opening: Opening = Opening(),
    json: common.Json = None,
) -> None:
    """Check a model: every kind of plan against a slow account that knows nothing of the engine.

    The stock model computes all rows, and hooks of its own hide and silence what a plan leaves out; both must
    agree, alone and in a batch, with a cache and without, in the number format that is served and in float32.
    Ends with exit code 1 if anything that is claimed does not hold. Its report (--json) is for bug reports.

    Example: saccade check my-model --layers 4 --json check.json
    """
    out = common.Output(json)
    common.check_names(model, [plan] if plan else [], opening=opening)
    if question is not None and not question.strip():
        raise ValueError("the question is empty")
    from saccade.inputs.pictures import open_picture

    picture = None if image is None else open_picture(image)
    from saccade import check as checking
    from saccade import models
    from saccade.check.accept import STOCK
    from saccade.check.prompts import QUESTION
    from saccade.plans.plan import Plan

    wanted = None if plan is None else Plan.of(plan)
    opening, depth = _first_layers(model, opening, layers)
    loaded = models.open_as(model, opening)
    with common.progress() as bar:
        task = bar.add_task("checking", total=None)
        report = checking.run(
            loaded,
            wanted,
            image=picture,
            question=question or QUESTION,
            layers=layers,
            depth=depth,
            every=every,
            force=force,
            tell=out.note,
            advance=lambda done, total: bar.update(task, completed=done, total=total),
        )
    _show(out, report)
    out.finish(report.to_dict())
    if not report.passed:
        raise typer.Exit(1)
    tried = {row.status for row in report.rows if row.group != STOCK}
    if wanted is not None and "refused" in tried and "passed" not in tried:
        raise ValueError(f"the plan was not checked: {report.refusals[0].why}")


def _first_layers(model: str, opening: Opening, layers: int | None) -> tuple[Opening, int | None]:
    """Reads only the layers that are wanted, where nothing hangs on the others; and how many there are."""
    from saccade.check.benches import shallow
    from saccade.opening import open_config
    from saccade.skip_vision import folder_of
    from saccade.system.embedded import EMBEDDED

    if layers is None or model in EMBEDDED or folder_of(model, opening) is not None:
        return opening, None
    config = open_config(model, opening)
    if opening.adapter or opening.quantize or getattr(config, "quantization_config", None) is not None:
        return opening, None
    depth = config.get_text_config().num_hidden_layers
    return opening.but(more={**opening.more, "config": shallow(config, layers)}), depth


def _show(out: common.Output, report: Report) -> None:
    from rich.table import Table

    from saccade.check.report import PROBES

    view = Table("kind", "plan", "format", "layers", *PROBES)
    for row in report.rows:
        cells = [_cell(row.outcomes.get(probe)) for probe in PROBES]
        view.add_row(row.group, row.plan, row.dtype, str(row.layers), *cells)
    out.table(view)
    out.line("A number is how far the worst row was from what it should be, relative to its length.")
    for row in report.failures:
        out.line(f"FAILED {row.plan} ({row.dtype}): {row.why}")
    for row in report.refusals:
        out.line(f"refused {row.plan}: {row.why}")
    unseen = {row.plan: row.why for row in report.rows if row.status == "not checked"}
    for plan, why in unseen.items():
        out.line(f"not checked {plan}: {why}")
    for row in report.faint:
        out.line(f"shows little: {row.plan} changes less in {row.dtype} than rounding may")
    if report.accepted is not None:
        accepted = ", ".join(report.accepted) or "nothing"
        out.line(f"accepted, with an adapter made by inspection: {accepted}")
        if report.accepted and out.target not in (None, "-"):
            out.line(f"other commands take it with --accepted {out.target}")
    for note in report.notes:
        out.line(f"note: {note}")
    held = sum(row.status == "passed" for row in report.rows)
    verdict = (
        f"{held} of {len(report.rows)} hold" if report.failures else f"all {held} that were checked hold"
    )
    refused = f", {len(report.refusals)} refused" if report.refusals else ""
    out.line(f"{verdict}{refused}; {report.seconds:.0f} s")


def _cell(outcome: ProbeOutcome | None) -> Text:
    from rich.text import Text

    if outcome is None:
        return Text("")
    if outcome.status == "failed":
        return Text("FAILED", style="bold red")
    if outcome.status != "passed":
        return Text(outcome.status)
    return Text("yes" if outcome.distance is None else f"{outcome.distance.worst:.0e}")
