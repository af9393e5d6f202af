"""One forward of one prompt, kept layer by layer, under a plan or under the same plan with nothing skipped.

Shape letters: B batch (1 here), N rows, D hidden width, V vocabulary, W head width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from saccade.core.layout import Layout
from saccade.core.merge import Merged
from saccade.core.precision import wide
from saccade.core.program import Program
from saccade.core.route import LayerRoute
from saccade.core.sight import Sight
from saccade.engine import apply, attached
from saccade.engine.sights import sights_of
from saccade.engine.trace import Trace
from saccade.families import Rotary, find, unwrap
from saccade.families.offsets import position_offsets_kept
from saccade.plans.plan import Plan, PlanLike
from saccade.research.analysis.merging import Merge
from saccade.skip_vision.placed import wrapped


@dataclass(frozen=True)
class Unskipped(Plan):
    """The same plan, but every row that is alive asks and passes the FFN: what skipping is held against."""

    def program(self, layout: Layout, num_layers: int) -> Program:
        program = super().program(layout, num_layers)
        whole = {id(layer): _whole(layer) for layer in program.route.layers}
        layers = tuple(whole[id(layer)] for layer in program.route.layers)
        return replace(program, route=replace(program.route, layers=layers))


def _whole(layer: LayerRoute) -> LayerRoute:
    return replace(layer, query_BN=layer.alive_BN, ffn_BN=layer.alive_BN, visibility="causal")


@dataclass(frozen=True, eq=False)
class Trajectory:
    """What one forward of one prompt went through; tensors are detached, on the device of their layer.

    Attributes:
        trace: The route that ran, and where the visual rows lie.
        states: Residual stream (N, D) entering every layer, then what left the last one.
        middles: Residual stream (N, D) entering the FFN half of every layer.
        rotary: Rotary tables of every layer, each (B, N, W).
        sights: Who sees whom in every layer.
        logits_V: Logits of the last row, float32.
        merges: What was merged before layer 0, in the projector's place or by the plan.
    """

    trace: Trace
    states: tuple[torch.Tensor, ...]
    middles: tuple[torch.Tensor, ...]
    rotary: tuple[Rotary, ...]
    sights: tuple[Sight, ...]
    logits_V: torch.Tensor
    merges: tuple[Merge, ...] = ()

    @property
    def layout(self) -> Layout:
        """Where the visual rows are."""
        return self.trace.layout

    @property
    def depth(self) -> int:
        """Number of layers."""
        return len(self.middles)

    def layer(self, number: int) -> LayerRoute:
        """Row sets of a layer, on the host."""
        return self.trace.route.layers[number]

    def rows(self, number: int) -> torch.Tensor:
        """Numbers of the rows that are alive in a layer, on the host."""
        return (self.layer(number).alive_BN[0] & self.layout.real_BN[0]).nonzero()[:, 0]

    def seen(self, number: int) -> torch.Tensor:
        """Boolean (N, N), on the host: of the rows alive in a layer, which each sees."""
        rows_1N, sight = self.rows(number)[None], self.sights[number]
        block_1N = None if sight.block_BT is None else sight.block_BT[:, rows_1N[0]]
        return sight.seen(rows_1N, rows_1N, block_1N, block_1N)[0]

    def check_positions(self) -> None:
        """Refuses what attention cannot be computed anew for.

        Raises:
            ValueError: If positions closed up over dropped rows.
        """
        if any(cut.compact for cut in self.trace.cuts):
            raise ValueError(
                "attention is analysed where rows keep their positions: add position_policy=keep"
            )


@torch.no_grad()
def record(model: nn.Module, inputs: Mapping[str, Any], plan: PlanLike) -> Trajectory:
    """Runs one prompt and keeps what it went through.

    Args:
        model: A stock Hugging Face VLM, with or without a plan of its own.
        inputs: Its keyword arguments for one sample without padding.
        plan: What to run it under; it needs a method, if only one that touches no layer.

    Raises:
        ValueError: If there are several samples, padding or no visual rows, or the plan does not fit.
    """
    ids, mask = inputs["input_ids"], inputs.get("attention_mask")
    if ids.shape[0] != 1 or (mask is not None and not bool(mask.all())):
        raise ValueError(f"one prompt without padding is analysed at a time, got ids of {tuple(ids.shape)}")
    family = find(model)
    parts = family.parts(model)
    if parts.head is None:
        raise ValueError("analysis needs next-token logits: give the model with its language-model head")
    states: list[torch.Tensor] = []
    middles: list[torch.Tensor] = []
    rotary: list[Rotary] = []
    given: list[torch.Tensor | None] = []

    def begin(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        given.append(kwargs.get("inputs_embeds"))

    def enter(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        states.append(hidden[0].detach())

        def numbers() -> torch.Tensor:
            return torch.arange(hidden.shape[1], device=hidden.device)[None]

        rotary.append(family.tables(family.mixer(module), kwargs["position_embeddings"], numbers))

    def pass_middle(module: nn.Module, args: tuple) -> None:
        middles.append(args[0][0].detach())

    def leave(module: nn.Module, args: tuple, output: Any) -> None:
        states.append((output[0] if isinstance(output, tuple) else output)[0].detach())

    with ExitStack() as stack:
        stack.enter_context(_evaluating(model, parts.core))
        # Before the hooks of the plan: what it merges is still whole here.
        stack.callback(parts.decoder.register_forward_pre_hook(begin, with_kwargs=True, prepend=True).remove)
        noted = stack.enter_context(_noting(model))
        # The hooks of the plan come first, so that these see what the layers are really given.
        attachment = stack.enter_context(apply(model, plan))
        traces = stack.enter_context(attachment.tracing())
        for layer in parts.layers:
            stack.callback(layer.register_forward_pre_hook(enter, with_kwargs=True).remove)
            stack.callback(family.norms(layer)[1].register_forward_pre_hook(pass_middle).remove)
        # Not at the final norm: decisions on the way may call that too.
        stack.callback(parts.layers[-1].register_forward_hook(leave).remove)
        result = model(**inputs, use_cache=False, logits_to_keep=1)
    if not traces:
        raise ValueError("this prompt has no visual rows: there is nothing to analyse")
    depth = len(parts.layers)
    if (len(states), len(middles)) != (depth + 1, depth):
        raise ValueError(f"{family.name}: a forward did not call each of the {depth} layers once in turn")
    logits_V = result.logits[0, -1].float()
    if not bool(torch.isfinite(logits_V).all()):
        raise ValueError("the model's logits are not finite; check its weights, or take --dtype float32")
    merges = (*_in_place(noted), *_by_plan(traces[0], given[0], states[0]))
    config: Any = unwrap(model).config
    sights = sights_of(family, family.rules(config), inputs, 0, len(states[0]))
    return Trajectory(traces[0], tuple(states), tuple(middles), tuple(rotary), sights, logits_V, merges)


@contextmanager
def _noting(model: nn.Module) -> Iterator[list[tuple[torch.Tensor, Merged]]]:
    """Has the abstractor of a Skip-Vision model put down what it merges."""
    noted: list[tuple[torch.Tensor, Merged]] = []
    own = wrapped(model)
    if own is None:
        yield noted
        return
    own.abstractor.noted = noted
    try:
        yield noted
    finally:
        own.abstractor.noted = None


def _in_place(noted: list[tuple[torch.Tensor, Merged]]) -> Iterator[Merge]:
    for rows_BND, made in noted:
        for b in range(len(rows_BND)):
            yield Merge(rows_BND[b], made.rows_BKD[b], made.weights_BKN[b], made.homes_BK[b])


def _by_plan(trace: Trace, embeds_BND: torch.Tensor | None, entering_ND: torch.Tensor) -> Iterator[Merge]:
    """Merges among rows of the prompt, each from what the one before it left.

    Methods that merge features of the tower, before a projector that is not linear, leave no such rows.
    """
    if embeds_BND is None:
        return
    cuts = [cut for cut in trace.cuts if cut.before == 0 and cut.sources_BNN is not None]
    x_ND = embeds_BND[0].detach()
    for place, cut in enumerate(cuts, 1):
        assert cut.sources_BNN is not None
        homes_K, device = cut.rows_BN[0].nonzero()[:, 0], x_ND.device
        weights_KN = cut.sources_BNN[0, homes_K].to(device)
        mixed_KD = weights_KN.to(wide(x_ND[:0]).dtype) @ wide(x_ND)
        # The last one's rows are what the first layer really got.
        made_KD = entering_ND[homes_K.to(device)] if place == len(cuts) else mixed_KD.to(x_ND.dtype)
        slack = 16 * torch.finfo(x_ND.dtype).eps * float(x_ND.abs().max())
        if bool(((made_KD - mixed_KD).abs() <= slack).all()):
            yield Merge(x_ND, made_KD, weights_KN, homes_K)
        x_ND = x_ND.index_copy(0, homes_K.to(device), made_KD.to(x_ND.dtype))


@contextmanager
def _evaluating(model: nn.Module, core: nn.Module) -> Iterator[None]:
    """Evaluation mode, and nothing left behind on the modules."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with position_offsets_kept(core):
            yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def bare(model: nn.Module) -> Iterator[None]:
    """Takes a plan that belongs to the model off for a while: its modules then act on every row they get."""
    own = attached(model)
    if own is not None:
        own.remove()
    try:
        yield
    finally:
        if own is not None:
            own.attach()
