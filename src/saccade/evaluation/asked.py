"""The plans of an evaluation and the orders of layers that serve them, before any model is there."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from saccade.calibration.drawing import data_hash
from saccade.inputs.samples import Sample
from saccade.plans.plan import Plan, PlanLike

Orders = dict[str, Sequence[int]]


def name_plans(plans: Mapping[str, PlanLike] | Sequence[PlanLike]) -> dict[str, Plan]:
    """Plans by name.

    Raises:
        ValueError: If one name stands for two plans.
    """
    if isinstance(plans, Mapping):
        return {name: Plan.of(plan) for name, plan in plans.items()}
    read = [Plan.of(plan) for plan in plans]
    named = {plan.key: plan for plan in read}
    if len(named) < len(read):
        raise ValueError("two plans are the same; give each once")
    return named


def read_orders(paths: Sequence[str | os.PathLike]) -> Orders:
    """Orders of layers that plan files keep, by the name of their score.

    Raises:
        ValueError: If a file is no plan or holds no calibrated order, or two hold one of the same score.
    """
    orders: Orders = {}
    for path in paths:
        calibration = Plan.load(path).calibration
        score, order = calibration.get("metric"), calibration.get("order")
        if not isinstance(score, str) or not isinstance(order, list):
            raise ValueError(f"{path} holds no calibrated order of layers; make one with saccade calibrate")
        if score in orders:
            raise ValueError(f"{path}: an order by {score} was given before")
        orders[score] = tuple(order)
    return orders


def seen_before(made: Mapping[str, Mapping[str, Any]], samples: Sequence[Sample]) -> dict[str, int]:
    """How many of the questions each plan was made on, by its name; those made on none are left out.

    Questions are told by their ids: those of a file are its name and the line, unless it names them. Where
    all that a plan was calibrated on are there, their contents have to be the same too.

    Args:
        made: What plans note of how they were made (``Plan.calibration``), by name.
        samples: The questions.
    """
    by_id = {sample.id: sample for sample in samples}
    found = {}
    for name, calibration in made.items():
        chose = calibration.get("samples") or ()
        healed = (calibration.get("healed") or {}).get("questions") or ()
        there = [by_id[one] for one in chose if one in by_id]
        if len(there) == len(chose) and calibration.get("data_hash") not in (None, data_hash(there)):
            there = []  # others by the same names
        if number := len({sample.id for sample in there} | {one for one in healed if one in by_id}):
            found[name] = number
    return found
