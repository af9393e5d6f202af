"""``saccade plan``: looks at plan files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from saccade.cli import common

File = Annotated[str, typer.Argument(metavar="PLAN", help="A plan file or a spec string.")]


def register(app: typer.Typer) -> None:
    """Adds the command group."""
    group = typer.Typer(
        help="Show, compare and check plan files.", no_args_is_help=True, rich_markup_mode=None
    )
    group.command("show")(show)
    group.command("diff")(diff)
    group.command("validate")(validate)
    app.add_typer(group, name="plan")


def show(plan: File, json: common.Json = None) -> None:
    """Print a plan: its spec, the model it is for, and how its layers were chosen.

    Example: saccade plan show plan.json
    """
    from saccade.cli.calibrate import show as show_scores
    from saccade.plan import Plan

    view = common.Output(json)
    found = Plan.of(plan)
    view.line(f"plan: {found.spec}")
    if found.model:
        text = found.model.get("text", {})
        view.line(
            f"model: {found.model.get('model_type')}, {text.get('layers')} layers, width {text.get('hidden')}"
        )
    else:
        view.line("model: any")
    facts = found.calibration
    if not facts:
        view.line("layers: chosen by hand")
    else:
        try:
            show_scores(view, found)
            versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
            view.line(f"made: {facts['date']} with {versions}")
        except (KeyError, TypeError, IndexError, AttributeError):
            view.line(f"calibration: not in the form of saccade calibrate ({', '.join(map(str, facts))})")
    view.finish({"spec": found.spec, "plan": found.to_dict()})


def diff(first: File, second: File, json: common.Json = None) -> None:
    """Print what differs between two plans, one field per line (nothing if they are equal).

    Example: saccade plan diff counting.json relation.json
    """
    from rich.table import Table

    from saccade.plan import Plan

    view = common.Output(json)
    mine, theirs = Plan.of(first), Plan.of(second)
    found = mine.diff(theirs)
    if found:
        table = Table("field", first, second)
        for field, (a, b) in found.items():
            table.add_row(field, _short(a), _short(b))
        view.table(table)
    else:
        view.line("no difference")
    view.finish({"equal": not found, "differences": {field: list(pair) for field, pair in found.items()}})


def validate(
    plan: File,
    model: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Also check that it is for this model (configuration only)."),
    ] = None,
    json: common.Json = None,
) -> None:
    """Check that a plan can be read and, with --model, that it fits; exit code 2 says why not.

    Example: saccade plan validate plan.json --model glance
    """
    from saccade.plan import Plan

    view = common.Output(json)
    found = Plan.of(plan)
    layers = found.model.get("text", {}).get("layers") if found.model else None
    if model is not None:
        from saccade import families, models, skip_vision

        config = models.load_config(model)
        family = families.find(config)
        fingerprint = skip_vision.identity(model, config)
        if found.model and found.model != fingerprint:
            changes = Plan(model=found.model).diff(Plan(model=fingerprint))
            fields = ", ".join(f"{key}: {a} in the plan, {b} in {model}" for key, (a, b) in changes.items())
            raise ValueError(f"this plan was made for another model ({fields})")
        layers = family.shape(config).layers
    if layers is not None and found.is_resolved:
        found.resolve(layers)
    state = "layers known" if found.is_resolved else "layers not chosen yet (saccade calibrate)"
    fits = f", fits {model}" if model is not None else ""
    view.line(f"{_name(plan)} is a valid plan: {found.spec} ({state}{fits})")
    view.finish({"valid": True, "spec": found.spec, "resolved": found.is_resolved, "model": model})


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _name(plan: str) -> str:
    return Path(plan).name if plan.endswith(".json") else repr(plan)
