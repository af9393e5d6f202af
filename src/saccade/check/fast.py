"""The fast path, run and watched from outside: what it gave, and what it says it kept.

Shape letters: B batch, N rows of the prompt, S new tokens, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch

from saccade.check.finders import bare, first_input, head_inputs, mixer_of, named
from saccade.check.meaning import ReferenceCut
from saccade.check.prompts import Inputs
from saccade.core.layout import Views
from saccade.engine import Attachment
from saccade.engine.trace import Trace

NEW_TOKENS = 4
"""Tokens that are generated."""


@dataclass(frozen=True, eq=False)
class Ran:
    """A forward, under a plan or without.

    Attributes:
        hidden_BND: What the head gets of the prompt's rows.
        entered_BND: What the first decoder layer got.
        trace: What it says about its decisions; None where none was taken.
        logits_BSV: Logits that chose each new token, where some were generated.
        tokens_BS: The new tokens.
    """

    hidden_BND: torch.Tensor
    entered_BND: torch.Tensor
    trace: Trace | None
    logits_BSV: torch.Tensor | None = None
    tokens_BS: torch.Tensor | None = None

    def views(self, sample: int) -> tuple[Views, ...] | None:
        """Patches of every view of every image of a sample, as far as the model says how it cut them."""
        views = None if self.trace is None else self.trace.layout.views
        return None if views is None else views[sample]

    def cuts(self, sample: int, rows: int) -> list[ReferenceCut]:
        """Its decisions for the last rows of a sample (the rest is padding on the left)."""
        found = []
        for cut in self.trace.cuts if self.trace is not None else ():
            sources = cut.sources_BNN
            found.append(
                ReferenceCut(
                    cut.before,
                    cut.alive_BN[sample, -rows:],
                    cut.compact,
                    cut.rows_BN[sample, -rows:],
                    None if sources is None else sources[sample, -rows:, -rows:],
                )
            )
        return found


@torch.no_grad()
def prefill(model: Any, handle: Attachment | None, layers: Any, inputs: Inputs) -> Ran:
    """One forward of a prompt, with a cache, as generation begins."""
    with _watched(model, handle, layers) as ran:
        bare(model).base_model(**inputs, use_cache=True)
    return ran()


@torch.no_grad()
def generate(
    model: Any, handle: Attachment | None, layers: Any, inputs: Inputs, new_tokens: int = NEW_TOKENS
) -> Ran:
    """A few tokens, greedily, on a cache."""
    with _watched(model, handle, layers) as ran:
        said = generated(model, inputs, new_tokens)
    new_BS = said.sequences[:, inputs["input_ids"].shape[1] :]
    return replace(ran(), logits_BSV=torch.stack(said.logits, 1), tokens_BS=new_BS)


def generated(model: Any, inputs: Inputs, new_tokens: int = NEW_TOKENS) -> Any:
    """What ``generate`` returns: exactly so many tokens, greedily, and the logits that chose them."""
    config = bare(model).generation_config
    ends = config.eos_token_id
    pad = config.pad_token_id
    if pad is None:
        pad = ends[0] if isinstance(ends, list) else ends
    return model.generate(
        **inputs,
        max_new_tokens=new_tokens,
        min_new_tokens=new_tokens,
        do_sample=False,
        num_beams=1,
        use_cache=True,
        pad_token_id=0 if pad is None else pad,
        output_logits=True,
        return_dict_in_generate=True,
    )


@torch.no_grad()
def tables(model: Any, layers: Any, inputs: Inputs) -> list[list[Any]]:
    """Rotary tables that the stock model gives every layer while it generates, one entry a forward."""
    seen: list[list[Any]] = [[] for _ in layers]

    def keep(number: int) -> Callable:
        def hook(module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
            seen[number].append(named(module, args, kwargs).get("position_embeddings"))

        return hook

    with ExitStack() as hooks:
        for number, layer in enumerate(layers):
            hooks.enter_context(mixer_of(layer).register_forward_pre_hook(keep(number), with_kwargs=True))
        generated(model, inputs)
    return seen


def tables_of(whole: list[list[Any]], sample: int, rows: int) -> list[Any]:
    """Those of one sample's last rows (the rest is padding on the left) and of its new tokens, by layer."""

    def joined(parts: list[torch.Tensor]) -> torch.Tensor:
        own = [part[sample % len(part)][None] for part in parts]
        return torch.cat([own[0][:, -rows:], *own[1:]], 1)

    found: list[Any] = []
    for parts in whole:
        if any(part is None for part in parts):
            found.append(None)
        elif isinstance(parts[0], torch.Tensor):
            found.append(joined(parts))
        else:
            found.append(tuple(joined(list(each)) for each in zip(*parts, strict=True)))
    return found


@contextmanager
def _watched(model: Any, handle: Attachment | None, layers: Any) -> Iterator[Callable[[], Ran]]:
    """Watches forwards; gives what tells of the first, which is the prompt's."""
    # Tracing takes another way through plans that decide nothing on the way, so these run as users run them.
    tracing: Any = handle.tracing() if handle is not None and handle.decides else nullcontext([])
    with first_input(layers) as entered, head_inputs(model) as hidden, tracing as traces:
        yield lambda: Ran(hidden[0], entered[0], traces[0] if traces else None)
