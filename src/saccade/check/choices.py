"""Whether a method chose the rows that it says it chooses.

Shape letters: N rows of the prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch

from saccade.check.benches import CheckedModel
from saccade.check.distance import EXACT
from saccade.check.finders import first_input
from saccade.check.meaning import ReferenceCut, account
from saccade.check.prompts import Inputs
from saccade.check.report import ProbeOutcome
from saccade.core.layout import Layout, Views
from saccade.methods.reducer import KeepReducer
from saccade.plans.plan import Plan

SLACK = 0.01
"""Share by which a score that was left may pass one that was kept: what rounding does to near equals."""


def judge(
    bench: CheckedModel,
    plan: Plan,
    inputs: Inputs,
    visual_N: torch.Tensor,
    cuts: Sequence[ReferenceCut],
    views: tuple[Views, ...] | None = None,
) -> ProbeOutcome:
    """Looks at the decisions of one forward.

    Args:
        bench: The model.
        plan: The plan.
        inputs: One prompt.
        visual_N: Its visual rows, found by changing the picture.
        cuts: What the forward says it decided.
        views: Patches of every view of every image, where budgets are of views; None if nobody says.
    """
    before_N = visual_N
    for cut in cuts:
        if bool((cut.alive_N & ~before_N).any()):
            return ProbeOutcome("failed", f"before layer {cut.before} rows are kept that are not there")
        before_N = cut.alive_N
    if not cuts:
        return ProbeOutcome("failed", "the plan decides which rows stay, but nothing was decided")
    wrong = _counts(bench, plan, visual_N, cuts, views) or _scores(bench, plan, inputs, visual_N, cuts)
    return ProbeOutcome("failed", wrong) if wrong else ProbeOutcome("passed")


def same(first: Sequence[ReferenceCut], second: Sequence[ReferenceCut]) -> bool:
    """Whether two forwards decided the same."""
    return len(first) == len(second) and all(
        a.before == b.before and torch.equal(a.alive_N, b.alive_N) for a, b in zip(first, second, strict=True)
    )


def _counts(
    bench: CheckedModel,
    plan: Plan,
    visual_N: torch.Tensor,
    cuts: Sequence[ReferenceCut],
    views: tuple[Views, ...] | None,
) -> str:
    """Where another number of rows is left than the plan promises; empty where not.

    Methods whose number depends on the picture promise none.
    """
    if not all(isinstance(m, KeepReducer) or not m.stages(bench.depth) for m in plan.methods):
        return ""
    if any(getattr(m, "keep", 1) is None for m in plan.methods):
        return ""
    # One picture is one image, however many tiles it was cut into.
    layout = Layout.from_mask(visual_N[None], None, [[int(visual_N.sum())]])
    if views is not None and len(views) == 1:
        layout = replace(layout, views=(views,))
    layers = plan.route(layout, bench.depth).layers
    for cut in cuts:
        wanted = int((layers[cut.before].alive_BN[0] & visual_N).sum())
        left = int(cut.alive_N.sum())
        if left != wanted:
            return f"before layer {cut.before} {left} visual rows are left, the plan keeps {wanted}"
    return ""


def _scores(
    bench: CheckedModel, plan: Plan, inputs: Inputs, visual_N: torch.Tensor, cuts: Sequence[ReferenceCut]
) -> str:
    """Where a row with a lower score was kept before one with a higher; empty where not, or not known.

    Scores are computed again in float32 alone: elsewhere rounding decides between rows that are near.
    """
    if bench.dtype != torch.float32:
        return ""
    deciders = [m for m in plan.methods if m.stages(bench.depth)]
    if len(deciders) != len(cuts):
        return ""
    # Stages are taken by layer, and in the plan's order where layers are equal.
    order = sorted(range(len(deciders)), key=lambda i: deciders[i].stages(bench.depth)[0].before)
    for place, (number, cut) in enumerate(zip(order, cuts, strict=True)):
        slow = SLOW.get(deciders[number].name)
        if slow is None:
            continue
        found_N = cuts[place - 1].alive_N if place else visual_N
        wrong = slow(bench, plan, inputs, visual_N, found_N, cuts[:place], cut)
        if wrong:
            return f"before layer {cut.before}: {wrong}"
    return ""


def _last_row(
    bench: CheckedModel,
    plan: Plan,
    inputs: Inputs,
    visual_N: torch.Tensor,
    found_N: torch.Tensor,
    earlier: Sequence[ReferenceCut],
    cut: ReferenceCut,
) -> str:
    """The attention of the last prompt row in the layer before the cut, from whole attention maps."""
    so_far = account(plan, bench.depth, visual_N, earlier)
    ran = so_far.sets[cut.before - 1]
    if not bool(ran.seen_N[found_N].all()):
        return ""
    look = bench.slow(inputs, so_far, "eager", looks=(cut.before - 1,)).looks[cut.before - 1]
    kept, dropped = look[cut.alive_N], look[found_N & ~cut.alive_N]
    if not len(kept) or not len(dropped):
        return ""
    lowest, highest = float(kept.min()), float(dropped.max())
    if highest > lowest * (1 + SLACK) + 1e-9:
        return (
            f"a row with attention {highest:.3e} was dropped and one with {lowest:.3e} kept, by attention "
            "maps of the stock model"
        )
    return ""


def _farthest(
    bench: CheckedModel,
    plan: Plan,
    inputs: Inputs,
    visual_N: torch.Tensor,
    found_N: torch.Tensor,
    earlier: Sequence[ReferenceCut],
    cut: ReferenceCut,
) -> str:
    """Rows picked one by one, each the farthest by cosine from those picked; followed row by row."""
    if earlier:
        return ""
    with first_input(bench.layers) as caught, torch.no_grad():
        bench.model(**inputs, use_cache=False)
    rows = caught[0][0][found_N.to(caught[0].device)].double()
    unit = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12)
    apart = (1 - unit @ unit.T).cpu()
    kept = cut.alive_N[found_N]
    alone = apart + torch.diag(torch.full((len(apart),), float("inf"), dtype=apart.dtype))
    nearest, picked = alone.amin(1), torch.zeros(len(apart), dtype=torch.bool)
    for step in range(int(kept.sum())):
        best = float(nearest[~picked].max())
        # Among near equals whichever the method took is followed.
        level = (nearest >= best - EXACT) & ~picked
        ours = level & kept
        if not bool(ours.any()):
            return f"the row that is farthest from {step} picked ones was not kept"
        row = int(torch.where(ours, nearest, -torch.inf).argmax())
        picked[row] = True
        nearest = apart[row].clone() if step == 0 else torch.minimum(nearest, apart[row])
    return ""


SLOW: Mapping[str, Callable[..., str]] = {"fastv": _last_row, "divprune": _farthest}
"""Methods whose scores are computed again another way: says what is wrong with a choice, if anything."""
