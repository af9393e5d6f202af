"""Whether a plan was made for a model: for its shape, always; for its weights, as far as is known."""

from __future__ import annotations

import warnings
from weakref import WeakKeyDictionary

from torch import nn

from saccade.engine.healed import check_bound, unproven
from saccade.families import find, unwrap
from saccade.opening.digest import differ
from saccade.plans.plan import Plan

_WARNED: WeakKeyDictionary[nn.Module, set[str]] = WeakKeyDictionary()


def check_made_for(model: nn.Module, plan: Plan, *, force: bool = False, strict: bool = False) -> None:
    """Refuses a plan for a model of another shape, and warns once of one for other weights.

    The adapter of a healed plan goes on the weights that it was made for, and on no others. Beside that,
    a fine-tuned model may well run the plan of the one it came from, so other weights alone are no error. Of
    a plan file that notes no weights it cannot be told, which is said too; a plan written in the code or on
    the command line is for whatever it is put on.

    Args:
        model: The model.
        plan: The plan.
        force: Ask nothing.
        strict: Refuse other weights too, and a calibrated plan or a plan file that cannot tell.

    Raises:
        ValueError: If it was made for another model, or its adapter for another plan or other weights.
    """
    if force and strict:
        raise ValueError("force takes any plan and strict only that of these very weights: give one of them")
    if plan.adapter is not None:
        check_bound(plan)
    if force:
        return
    family = find(model)
    plan.check_shape(family.identity(model))
    if plan.adapter is not None:
        line = unproven(unwrap(model), plan.adapter)
        if line and strict:
            raise ValueError(f"strict: {line}")
        if line:
            _warn_once(model, line)
    if plan.file and not plan.calibration.get("weights_hash"):
        line = f"{plan.file} does not say which weights it was made for"
        if strict:
            raise ValueError(f"strict: {line}; calibrate again, or take it as it is without strict")
        _warn_once(model, f"{line}, so that this model's were not compared with them")
        return
    if not plan.calibration:
        return
    try:
        if family.parts(model).head is None:
            raise LookupError("a bare core lacks some of them")
        found = differ(unwrap(model), plan.calibration)
        if found is not None and unwrap(model) is not model:
            # A calibration of a wrapped model noted the names that its weights have in the wrapper.
            found = found if differ(model, plan.calibration) else None
    except LookupError as unknown:
        line = f"it cannot be told whether these weights are those the plan was made for: {unknown}"
        if strict:
            raise ValueError(f"strict: {line}") from None
        if plan.file:
            _warn_once(model, line)
        return
    if found is None:
        return
    then, now = found
    line = f"this plan was made for other weights of this shape ({then}, and {now} here)"
    if strict:
        raise ValueError(f"{line}; calibrate again, or take it as it is without strict")
    _warn_once(model, f"{line}; its layers were chosen for those")


def _warn_once(model: nn.Module, line: str) -> None:
    warned = _WARNED.setdefault(model, set())
    if line not in warned:
        warned.add(line)
        warnings.warn(line, UserWarning, stacklevel=4)
