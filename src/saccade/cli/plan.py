"""``saccade plan``: looks at plan files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from saccade.cli import common
from saccade.cli.opening import opens
from saccade.core.text import printable
from saccade.opening.settings import Opening
from saccade.plans.names import check_plans, check_target

File = Annotated[str, typer.Argument(metavar="PLAN", help="A plan file or a spec string.")]


def register(app: typer.Typer) -> None:
    """Adds the command group."""
    group = typer.Typer(
        help="Show, compare and check plan files.", no_args_is_help=True, rich_markup_mode=None
    )
    group.command("show")(show)
    group.command("diff")(diff)
    group.command("validate")(opens(validate))
    app.add_typer(group, name="plan")


OF_HEALING = {"healed", "weights_hash", "dtype"}
"""What a healed plan notes that says nothing of how its layers were chosen."""


def show(plan: File, json: common.Json = None) -> None:
    """Print a plan: its spec, the model it is for, and how its layers were chosen.

    Example: saccade plan show plan.json
    """
    from saccade.cli.calibrate import show as show_scores

    view = common.Output(json)
    check_plans([plan])
    from saccade.plans.plan import Plan

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
    if not facts.keys() - OF_HEALING:
        view.line("layers: chosen by hand")
    elif "tuned" in facts:
        _tuned(view, facts)
    else:
        try:
            show_scores(view, found)
            versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
            view.line(f"made: {facts['date']} with {versions}")
        except (KeyError, TypeError, IndexError, AttributeError):
            view.line(f"calibration: not in the form of saccade calibrate ({', '.join(map(str, facts))})")
    if found.adapter is not None:
        healed = facts.get("healed") or {}
        told = f" in {healed['steps']} steps on {healed['samples']} questions" if healed else ""
        view.line(f"healed{told}: what is said above was measured before; adapter: {found.adapter.folder}")
    view.finish({"spec": found.spec, "plan": found.to_dict()})


def _tuned(view: common.Output, facts: dict[str, Any]) -> None:
    """Says how a plan was tuned, and what held-out samples said of it."""
    from saccade.plans.bill import tower_told
    from saccade.report.text import guard_told, lost, percent

    predicted, held = facts["tuned"]["predicted"], facts["tuned"]["held_out"]
    asked = ", ".join(f"{name} {value}" for name, value in facts.get("asked", {}).items())
    view.line(
        f"tuned for {asked}: {percent(predicted['ratio'])} of the {predicted['cost']}, "
        f"{percent(predicted['agreement'])} of the answers on {predicted['samples']} samples as before"
    )
    view.line(
        f"on {held['samples']} held-out samples {lost(held['loss'])} points against dense, at worst "
        f"{lost(held['bound'])} (one of {held['candidates']} plans, one-sided 95 %)"
    )
    if held.get("whole_ratio") is not None:
        told = tower_told(held["tower_share"], held["whole_ratio"])
        view.line(
            f"the whole bill, tower and head included, is {percent(held['whole_ratio'])} of the dense model's"
            + (f"; {told}" if told else "")
        )
    if facts["tuned"].get("unsure"):
        view.line(f"with saccade generate --guard, {guard_told(facts['tuned']['unsure'])}")
    versions = ", ".join(f"{name} {number}" for name, number in facts.get("versions", {}).items())
    view.line(f"made: {facts.get('date')} with {versions}")


def diff(first: File, second: File, json: common.Json = None) -> None:
    """Print what differs between two plans, one field per line (nothing if they are equal).

    Example: saccade plan diff counting.json relation.json
    """
    from rich.table import Table

    view = common.Output(json)
    check_plans([first, second])
    from saccade.plans.plan import Plan

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
    strict: Annotated[
        bool,
        typer.Option(
            "--strict", help="With --model, also open the model and refuse a plan for other weights."
        ),
    ] = False,
    opening: Opening = Opening(),
    json: common.Json = None,
) -> None:
    """Check that a plan can be read and, with --model, that it fits; exit code 2 says why not.

    A wrong field of a plan file is named by its path, such as calibration.scores.mean[3]. Fields that this
    version does not know are kept, and named.

    Example: saccade plan validate plan.json --model glance
    """
    view = common.Output(json)
    check_plans([plan])
    from saccade.plans.plan import Plan
    from saccade.plans.schema import unknown_fields

    if strict and model is None:
        raise ValueError("--strict compares weights: give --model MODEL")
    if model is not None:
        check_target(model)
    _check_opening(opening, model, strict)
    found = Plan.of(plan)
    layers = found.model.get("text", {}).get("layers") if found.model else None
    if model is not None:
        from saccade.measure.target import check_plan, shape_of

        check_plan(model, found, opening)
        layers = shape_of(model, opening).layers
        if strict:
            from saccade import models
            from saccade.engine import check_made_for

            check_made_for(models.open_as(model, opening).model, found, strict=True)
    if layers is not None and found.is_resolved:
        found.resolve(layers)
    state = "layers known" if found.is_resolved else "layers not chosen yet (saccade calibrate)"
    fits = f", fits {model}" if model is not None else ""
    view.line(f"{_name(plan)} is a valid plan: {found.spec} ({state}{fits})")
    extra = unknown_fields(found.to_dict())
    if extra:
        view.line(f"not known to this version, and kept: {', '.join(extra)}")
    if model is not None and found.calibration.get("weights_hash") and not strict:
        view.line("weights were not compared, for the model was not opened; --strict does")
    about = {"model": model, "revision": opening.revision, "unknown": extra}
    view.finish({"valid": True, "spec": found.spec, "resolved": found.is_resolved, **about})


def _check_opening(opening: Opening, model: str | None, strict: bool) -> None:
    """Refuses options that would have no effect, for less is opened.

    Raises:
        ValueError: If there are any.
    """
    if model is None and opening != Opening():
        raise ValueError("options that open a model need --model MODEL")
    if (
        not strict
        and opening.but(revision=None, trust_remote_code=False, generic=False, accepted=None) != Opening()
    ):
        raise ValueError(
            "without --strict only a model's configuration is read: of the options that open it --revision, "
            "--trust-remote-code and --generic"
        )


def _short(value: Any) -> str:
    text = printable(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _name(plan: str) -> str:
    return Path(plan).name if plan.endswith(".json") else repr(plan)
