"""A slow second implementation: the stock layers, masked.

Every layer runs whole; then what its route skips is zeroed, and dropped keys are hidden by the mask. It
shares no code with the engine and lets autograd through.

Shape letters: B batch, N rows, D hidden.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from saccade.core.layout import Layout
from saccade.families import find
from saccade.plans.plan import Plan
from support.ending import showing
from support.recurrent import OnRows, ffn_of, kept, mixer_of, recurs
from support.sight import sees_BNN, told_kinds


@contextmanager
def masked(model: Any, spec: str, inputs: dict[str, torch.Tensor]) -> Iterator[None]:
    """Inside, a forward of these inputs without a cache gives what the plan should give (at real rows)."""
    family = find(model)
    parts = family.parts(model)
    real_BN = inputs["attention_mask"].bool()
    layout = Layout.from_mask(family.visual_mask(model, inputs["input_ids"]), real_BN)
    route = Plan.of(spec).resolve(len(parts.layers)).route(layout, len(parts.layers))
    rows = real_BN.shape[1]
    self_only = torch.eye(rows, dtype=torch.bool)
    with ExitStack() as stack:
        for number, (layer, program) in enumerate(zip(parts.layers, route.layers, strict=True)):
            sees = sees_BNN(model.config, number, told_kinds(inputs), rows)
            mask = (sees & (real_BN & program.alive_BN)[:, None, :]) | self_only

            def see(module, args, kwargs, mask=mask):
                return args, kwargs | {"attention_mask": mask[:, None]}

            def keep_query(module, args, output, rows=program.query_BN):
                if isinstance(output, tuple):
                    return output[0] * rows[..., None], output[1]
                return output * rows[..., None]

            def keep_ffn(module, args, output, rows=program.ffn_BN):
                return kept(output, rows[..., None])

            mixer = mixer_of(layer)
            hooks = (
                OnRows(mixer, lambda rows=real_BN & program.alive_BN: rows)
                if recurs(layer)
                else layer.register_forward_pre_hook(see, with_kwargs=True),
                mixer.register_forward_hook(keep_query),
                ffn_of(layer).register_forward_hook(keep_ffn),
            )
            for hook in hooks:
                stack.callback(hook.remove)
        last = route.layers[-1].alive_BN
        stack.callback(showing(parts.norm, lambda: (last, layout.visual_BN)).remove)
        yield
