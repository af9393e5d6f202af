"""Starting a resampler where the stock projector stands: its tokens learn what lies in their windows.

Without text: by regression on the stock model's own embeddings of the same images. It takes minutes, and
spares the decoder from learning to see anew, for which small runs are too short.

Shape letters: B images, P rows of the stock model, N tokens, W windows, K stock rows of a window, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import isqrt
from typing import Any

import torch
import torch.nn.functional as F

from saccade.opening.loaded import Loaded
from saccade.skip_vision.chain_of_sight import ChainOfSight, Scale
from saccade.skip_vision.placed import wrapped


def targets(stock_BPD: torch.Tensor, scales: Iterable[Scale], grid: int) -> torch.Tensor:
    """What tokens should hold: means of the stock rows in their windows, tokens of a window in raster order.

    A window of as many stock rows as it has tokens gives each its own; one of more gives means of runs, one
    of fewer repeats them.

    Args:
        stock_BPD: The stock model's embeddings, a square of patches.
        scales: Windows and tokens of the resampler.
        grid: Patches along a side of the picture that the resampler gets.

    Returns:
        Targets (B, N, D).

    Raises:
        ValueError: If a window does not cover whole stock patches.
    """
    side, found = isqrt(stock_BPD.shape[1]), []
    for scale in scales:
        across = grid // scale.window
        if side % across:
            raise ValueError(
                f"windows of {scale.window} of {grid} patches do not cover whole ones of the {side} x {side} "
                "that the stock projector has; choose windows that do, or train without alignment"
            )
        cell = side // across
        windows_BWKD = stock_BPD.unflatten(1, (across, cell, across, cell)).transpose(2, 3)
        windows_BWKD = windows_BWKD.flatten(3, 4).flatten(1, 2)
        each = scale.queries // across**2
        pooled = F.adaptive_avg_pool1d(windows_BWKD.flatten(0, 1).mT, each).mT
        found.append(pooled.unflatten(0, (len(stock_BPD), -1)).flatten(1, 2))
    return torch.cat(found, dim=1)


def align(
    loaded: Loaded,
    teacher: Loaded,
    images: Callable[[int], list[Any]],
    steps: int,
    lr: float = 2e-3,
    on_step: Callable[[int, float], None] | None = None,
) -> float:
    """Trains the resampler, and the tower with it, towards the teacher's rows.

    Args:
        loaded: A model wrapped with the layout ``cos``.
        teacher: The stock model it was made of.
        images: Gives the images of a step.
        steps: Steps to take.
        lr: Highest learning rate; it rises over a tenth of the steps and falls over the second half.
        on_step: Told of every step's number and loss.

    Returns:
        The share of the teacher's variance that is left unexplained at the end.

    Raises:
        ValueError: If the model is not wrapped with a resampler, or PEFT has put a copy in its place.
    """
    done = wrapped(loaded.model)
    if done is None or not isinstance(done.abstractor.project, ChainOfSight):
        raise ValueError("only a model wrapped with the layout cos has a resampler to align")
    resampler = done.abstractor.project
    tower = loaded.family.projector_place(loaded.model, done.config.image_size).tower
    trained = [*resampler.parameters(), *tower.parameters()]
    before = [p.requires_grad for p in trained]
    for parameter in trained:
        parameter.requires_grad_(True)
    optimiser = torch.optim.AdamW(trained, lr=lr, betas=(0.9, 0.95), weight_decay=0.0)
    left = 1.0
    try:
        for step in range(steps):
            batch = images(step)
            with torch.no_grad():
                stock_BPD = torch.stack(list(_rows(teacher, batch)))
                want_BND = targets(stock_BPD, resampler.scales, resampler.grid).float()
            tokens_BND = _tokens(loaded, resampler, batch).float()
            loss = F.mse_loss(tokens_BND, want_BND) / want_BND.var()
            rate = min(1.0, 10 * (step + 1) / steps, 2 * (1 - step / steps))
            for group in optimiser.param_groups:
                group["lr"] = lr * max(rate, 0.02)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimiser.step()
            left = float(loss.detach())
            if on_step is not None:
                on_step(step, left)
    finally:
        for parameter, required in zip(trained, before, strict=True):
            parameter.requires_grad_(required)
            parameter.grad = None
    return left


def _rows(loaded: Loaded, images: list[Any]) -> Sequence[torch.Tensor]:
    """Rows of the decoder of every image, as the model makes them."""
    pixels = loaded.processor.image_processor(images=images, return_tensors="pt")["pixel_values"]
    core: Any = loaded.family.parts(loaded.model).core
    made = core.get_image_features(pixels.to(loaded.device, loaded.model.dtype), return_dict=True)
    return made.pooler_output


def _tokens(loaded: Loaded, resampler: ChainOfSight, images: list[Any]) -> torch.Tensor:
    """Tokens (B, N, D) that the resampler makes on the way, before any is merged."""
    caught: list[torch.Tensor] = []
    with resampler.register_forward_hook(lambda module, args, output: caught.append(output)):
        _rows(loaded, images)
    if not caught:
        raise ValueError("another copy of the resampler runs in this model; align it before PEFT wraps it")
    return caught[0]
