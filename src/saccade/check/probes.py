"""What every plan is asked, see ``saccade.check.report.PROBES``.

Shape letters: B batch, N rows of the prompt, S new tokens, D hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch.nn.functional import pad

from saccade.check import choices, fast, reference
from saccade.check.benches import KINDS, CheckedModel
from saccade.check.distance import Distance, allowed
from saccade.check.finders import bare, takes
from saccade.check.groups import Case, idle
from saccade.check.meaning import Contents, account
from saccade.check.prompts import Inputs, Prompts, cast
from saccade.check.report import CheckedPlan, ProbeOutcome
from saccade.engine import apply
from saccade.families import find
from saccade.opening.errors import first_line
from saccade.plans.plan import Plan


def ask_plan(bench: CheckedModel, case: Case, force: bool = False) -> CheckedPlan:
    """All probes of one plan on one bench.

    Args:
        bench: The model.
        case: The plan.
        force: Take a plan that was made for another model.
    """
    outcomes: dict[str, ProbeOutcome] = {}
    effects: list[float] = []
    prompts = bench.prompts
    if case.plan.shortening:
        if prompts.smaller is None:
            return _row(bench, case, {"outputs": ProbeOutcome("not checked", NO_PROCESSOR)})
        try:
            prompts = prompts.smaller(case.plan).to(bench.dtype, prompts.picture["input_ids"].device)
        except ValueError as error:
            return _row(bench, case, {"outputs": ProbeOutcome("refused", " ".join(str(error).split()))})
    probes: tuple[tuple[str, Callable[[], dict[str, ProbeOutcome]]], ...] = (
        ("identical", lambda: {"identical": _identical(bench, case.plan, force)}),
        ("outputs", lambda: _outputs(bench, case.plan, prompts, force, effects)),
        ("batch", lambda: _batch(bench, case.plan, prompts, force)),
    )
    for name, probe in probes:
        try:
            outcomes |= probe()
        except ValueError as error:
            outcomes[name] = ProbeOutcome("refused", " ".join(str(error).split()))
        except Exception as error:  # whatever a broken path raises is a finding about it
            outcomes[name] = ProbeOutcome("failed", f"{type(error).__name__}: {first_line(error)}")
        if outcomes[name].status == "refused":
            break
    return _row(bench, case, outcomes, effects[0] if effects else None)


NO_PROCESSOR = "no processor was given that could make pictures smaller"


def _row(
    bench: CheckedModel, case: Case, outcomes: dict[str, ProbeOutcome], effect: float | None = None
) -> CheckedPlan:
    dtype = str(bench.dtype).removeprefix("torch.")
    return CheckedPlan(case.group, case.plan.spec or "none", dtype, bench.depth, outcomes, effect)


@torch.no_grad()
def _identical(bench: CheckedModel, plan: Plan, force: bool) -> ProbeOutcome:
    """Bit for bit the stock model where nothing is to be done, and afterwards."""
    model, prompts = bench.model, bench.prompts
    before = fingerprint(model)
    asked = {"picture": prompts.picture, "text": prompts.text}
    stock = {name: logits(model, inputs) for name, inputs in asked.items()}
    resting = idle(Plan(plan.methods), bench.depth)
    found = []
    for what, attached, name in (
        ("turned down to nothing", resting, "picture"),
        ("on a prompt without a picture", plan, "text"),
        ("after the plan was removed", None, "picture"),
    ):
        with apply(model, attached, force=force) if attached is not None else nullcontext():
            found.append(_equal(bench, what, logits(model, asked[name]), stock[name]))
    if fingerprint(model) != before:
        found.append(ProbeOutcome("failed", "attaching and removing the plan left something on the model"))
    return ProbeOutcome.all_of(found)


def _equal(bench: CheckedModel, what: str, ours: torch.Tensor, theirs: torch.Tensor) -> ProbeOutcome:
    if torch.equal(ours, theirs):
        return ProbeOutcome("passed")
    far = Distance.of_logits(ours[0], theirs[0])
    if not bench.deterministic:
        return ProbeOutcome.compared(f"{what} (two stock forwards differ here too)", far, _allowed(bench))
    return ProbeOutcome("failed", f"{what}: logits are not those of the stock model (off by {far.worst:.1e})")


def logits(model: Any, inputs: Inputs) -> torch.Tensor:
    """Logits (B, 1, V) of the last row, as ``generate`` asks for them."""
    return model(**inputs, logits_to_keep=1).logits


def fingerprint(model: torch.nn.Module) -> dict[str, tuple[Any, ...]]:
    """What an attachment could leave behind: attributes and hooks of every module."""
    found = {}
    for name, module in bare(model).named_modules():
        own = vars(module)
        hooks = tuple(len(hooks) for key, hooks in own.items() if key.endswith("_hooks"))
        found[name] = (tuple(sorted(own)), hooks, type(module))
    return found


@torch.no_grad()
def _outputs(
    bench: CheckedModel, plan: Plan, prompts: Prompts, force: bool, effects: list[float]
) -> dict[str, ProbeOutcome]:
    """Every row that is left against the reference, on one prompt; and the choice that left it."""
    inputs = prompts.picture
    with _other_sizes(bench, plan):
        visual_N = bench.visual(inputs)
    if not bool(visual_N.any()):
        return {"outputs": ProbeOutcome("failed", "no row of the prompt changes with the picture")}
    with apply(bench.model, plan, force=force) as handle:
        ran = fast.prefill(bench.model, handle, bench.layers, inputs)
        again = fast.prefill(bench.model, handle, bench.layers, inputs) if handle.decides else ran
        plan, decides = handle.plan, handle.decides
    rows = len(visual_N)
    cuts = ran.cuts(0, rows)
    contents = _contents(bench, plan, ran, 0, rows)
    meant = account(plan, bench.depth, visual_N, cuts, contents, [int(visual_N.sum())])
    theirs, noise = _theirs(bench, plan, inputs, meant)
    left_N = meant.sets[-1].seen_N.to(ran.hidden_BND.device)
    far = Distance.of(ran.hidden_BND[0][left_N], theirs.hidden_MD.to(left_N.device)[left_N])
    ours_1V = reference.head(bench.model, ran.hidden_BND[0, -1:])
    far = Distance.worst_of([far, Distance.of_logits(ours_1V, theirs.logits_MV.to(ours_1V.device))])
    found = {"outputs": ProbeOutcome.compared("the prompt's rows", far, _allowed(bench, noise))}
    if plan.shortening:
        found["choice"] = _fewer(int(visual_N.sum()), int(bench.visual(bench.prompts.picture).sum()))
    else:
        dense = bench.stock(inputs)
        effects.append(Distance.of(theirs.hidden_MD[-1:], dense.hidden_MD[-1:]).worst)
    if decides:
        found["choice"] = choices.judge(bench, plan, inputs, visual_N, cuts, ran.views(0))
        if not choices.same(cuts, again.cuts(0, rows)):
            found["choice"] = ProbeOutcome("failed", "two forwards of the same prompt kept different rows")
    return found


def _fewer(rows: int, whole: int) -> ProbeOutcome:
    if rows < whole:
        return ProbeOutcome("passed")
    if rows == whole:
        return ProbeOutcome("not checked", f"the picture keeps its {whole} rows at this size")
    return ProbeOutcome("failed", f"the smaller picture has {rows} visual rows, the whole one {whole}")


@torch.no_grad()
def _batch(bench: CheckedModel, plan: Plan, prompts: Prompts, force: bool) -> dict[str, ProbeOutcome]:
    """A ragged batch, generated from on a cache, against the reference on each prompt alone."""
    if prompts.batch is None:
        return {name: ProbeOutcome("not checked", "no batch was given") for name in ("batch", "cache")}
    if plan.shortening and bench.tables is not None:
        why = "the positions of smaller pictures in a batch are not those of the same prompts alone"
        return {name: ProbeOutcome("not checked", why) for name in ("batch", "cache")}
    with apply(bench.model, plan, force=force) if plan.methods else nullcontext() as handle:
        ran = fast.generate(bench.model, handle, bench.layers, prompts.batch)
        plan = plan if handle is None else handle.plan
    assert ran.tokens_BS is not None and ran.logits_BSV is not None
    found: dict[str, list[ProbeOutcome]] = {"batch": [], "cache": []}
    for b, inputs in enumerate(prompts.singles):
        rows = inputs["input_ids"].shape[1]
        with _other_sizes(bench, plan):
            visual_N = bench.visual(inputs)
            shown = prompts.pictures[b] if prompts.pictures else None
            pictures = bench.pictures(inputs, shown)
        which = f"prompt {b + 1} of {len(prompts.singles)}"
        if pictures is None:
            why = f"{which}: its pictures touch, and which rows are whose cannot be told from outside"
            return {name: ProbeOutcome("not checked", why) for name in found}
        seen = bool(visual_N.any())
        cuts = ran.cuts(b, rows) if seen else []
        contents = _contents(bench, plan, ran, b, rows) if seen else None
        meant = account(plan if seen else Plan(), bench.depth, visual_N, cuts, contents, pictures)
        whole = longer(inputs, ran.tokens_BS[b : b + 1, :-1], prompts.picture)
        theirs, noise = _theirs(bench, plan, whole, meant, len(ran.tokens_BS[b]), b)
        left_N = meant.sets[-1].seen_N.to(ran.hidden_BND.device)
        ours_ND, theirs_ND = ran.hidden_BND[b, -rows:], theirs.hidden_MD[:rows].to(left_N.device)
        far = Distance.of(ours_ND[left_N], theirs_ND[left_N])
        limit = _allowed(bench, noise)
        found["batch"].append(ProbeOutcome.compared(which, far, limit))
        far = Distance.of_logits(ran.logits_BSV[b], theirs.logits_MV.to(ran.logits_BSV.device))
        found["cache"].append(ProbeOutcome.compared(f"{which}, new tokens", far, limit))
    return {name: ProbeOutcome.all_of(several) for name, several in found.items()}


@torch.no_grad()
def ask_stock(bench: CheckedModel) -> CheckedPlan:
    """What the stock model makes of its own prompts, and whether its adapter sees the visual rows."""
    case, inputs = Case("stock", Plan()), bench.prompts.picture
    visual_N = bench.visual(inputs)
    mask_N = find(bench.model).visual_mask(bench.model, inputs["input_ids"])[0].cpu()
    outcomes = {"choice": ProbeOutcome("passed")}
    if not torch.equal(visual_N, mask_N):
        why = f"{int(visual_N.sum())} rows change with the picture, the adapter says {int(mask_N.sum())}"
        outcomes["choice"] = ProbeOutcome("failed", f"{why}; {int((visual_N != mask_N).sum())} differ")
    try:
        outcomes |= _batch_of_stock(bench)
    except Exception as error:  # models raise whatever their authors chose
        outcomes["batch"] = ProbeOutcome("failed", f"{type(error).__name__}: {first_line(error)}")
    return _row(bench, case, outcomes)


OTHER_PLACES = (
    "batches: the stock model itself gives rows other positions in a batch than in the same prompts alone, "
    "so batches are held against the reference at those positions"
)


def _batch_of_stock(bench: CheckedModel) -> dict[str, ProbeOutcome]:
    """The stock model's own batch; where its positions are others there, they are kept for the reference."""
    known = bench.truth is not None and bench.truth.tables is not None
    alone = {} if known else _batch(bench, Plan(), bench.prompts, False)
    if not known and all(one.status != "failed" for one in alone.values()):
        return alone
    assert bench.prompts.batch is not None
    bench.tables = fast.tables(bench.model, bench.layers, bench.prompts.batch)
    found = _batch(bench, Plan(), bench.prompts, False)
    if alone and any(one.status == "failed" for one in found.values()):
        # Positions are not what is wrong.
        bench.tables = None
        return alone
    return found | {"batch": replace(found["batch"], why=found["batch"].why or OTHER_PLACES)}


def _theirs(
    bench: CheckedModel,
    plan: Plan,
    inputs: Inputs,
    meant: reference.Account,
    last: int = 1,
    sample: int | None = None,
) -> tuple[reference.ForwardOutput, Distance]:
    """What a forward should have given, and how far rounding alone takes the reference from it.

    Args:
        bench: The model.
        plan: The plan.
        inputs: One prompt, perhaps with new tokens.
        meant: What the plan means for it.
        last: Rows whose logits are wanted.
        sample: Which of the batch it is, where it ran in that.
    """

    def slow(bench: CheckedModel, inputs: Inputs, kind: str = KINDS[0]) -> reference.ForwardOutput:
        turned: list[Any] = []
        if sample is not None and bench.tables is not None:
            turned = fast.tables_of(bench.tables, sample, len(meant.sets[0].seen_N))
        return bench.slow(inputs, meant, kind, logits=last, tables=turned)

    with _other_sizes(bench, plan):
        here = slow(bench, inputs)
        if bench.dtype == torch.float32:
            return here, bench.noise
        if bench.truth is not None and bench.truth.depth == bench.depth:
            other = bench.truth
            with _other_sizes(other, plan):
                exact = slow(other, cast(inputs, other.dtype))
            return exact, Distance.worst_of([bench.noise, _apart(meant, here, exact)])
        second = slow(bench, inputs, KINDS[1])
        return here, Distance.worst_of([bench.noise, _apart(meant, here, second)])


def _apart(
    meant: reference.Account, one: reference.ForwardOutput, other: reference.ForwardOutput
) -> Distance:
    rows = len(meant.sets[-1].seen_N)
    left_M = pad(meant.sets[-1].seen_N, (0, len(one.hidden_MD) - rows), value=True).to(one.hidden_MD.device)
    return Distance.worst_of([
        Distance.of(one.hidden_MD[left_M], other.hidden_MD.to(left_M.device)[left_M]),
        Distance.of_logits(one.logits_MV, other.logits_MV.to(left_M.device)),
    ])  # fmt: skip


def _allowed(bench: CheckedModel, noise: Distance | None = None) -> Distance:
    return allowed(bench.noise if noise is None else noise, bench.dtype)


def _contents(bench: CheckedModel, plan: Plan, ran: fast.Ran, sample: int, rows: int) -> Contents | None:
    """What merged rows hold where they merged in the vision tower: the decoder's own rows cannot say it."""
    merges = any(m.tower_merge is not None or m.tower_prune is not None for m in plan.methods)
    stages = [stage for method in plan.methods for stage in method.stages(bench.depth)]
    takes = any(s.before == 0 and s.look.tower is not None and (s.rewrites or s.unseen) for s in stages)
    if merges or takes:
        return Contents(0, ran.entered_BND[sample, -rows:], merges)
    return None


def longer(inputs: Inputs, new_1S: torch.Tensor, pictured: Inputs) -> Inputs:
    """Inputs of a prompt with new tokens behind it.

    Args:
        inputs: The prompt.
        new_1S: The tokens.
        pictured: A prompt of the same model with a picture, which tells what kinds of rows there are.
    """
    rows, new = inputs["input_ids"].shape[1], new_1S.shape[1]
    whole, kinds = dict(inputs), pictured.get("token_type_ids")
    for key, value in inputs.items():
        if isinstance(value, torch.Tensor) and value.shape == (1, rows) and not value.is_floating_point():
            # Where even a picture's rows are of kind 0, that is what a prompt is, and an answer is not.
            answer = key == "token_type_ids" and kinds is not None and not bool(kinds.any())
            whole[key] = pad(value, (0, new), value=int(key == "attention_mask" or answer))
    whole["input_ids"] = torch.cat([inputs["input_ids"], new_1S.to(inputs["input_ids"].device)], 1)
    return whole


@contextmanager
def _other_sizes(bench: CheckedModel, plan: Plan) -> Iterator[None]:
    """Lets a stock tower take pictures of other sizes, where a plan makes them smaller.

    It is stock transformers that then interpolates the position embeddings.
    """

    def interpolate(module: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        return args, {**kwargs, "interpolate_pos_encoding": True}

    with ExitStack() as hooks:
        for module in bare(bench.model).modules() if plan.shortening else ():
            if takes(module, "interpolate_pos_encoding"):
                hooks.enter_context(module.register_forward_pre_hook(interpolate, with_kwargs=True))
        yield
