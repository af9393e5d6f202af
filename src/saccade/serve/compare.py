"""One question, dense beside planned: what the page shows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from PIL.Image import Image

from saccade import models
from saccade.engine import apply
from saccade.families import unwrap
from saccade.inputs.samples import Sample
from saccade.plans.plan import Plan
from saccade.report.explain import Explanation, explain
from saccade.serve.errors import CLIENT_LEFT, RequestRefused
from saccade.serve.together import read

REPEATS = 3


def compare(
    loaded: models.Loaded,
    image: Image,
    question: str,
    plan: Plan,
    longest: int,
    gone: Callable[[], bool] = lambda: False,
) -> tuple[Explanation, dict[str, float]]:
    """Answers with and without a plan, and takes the time to the first token of both.

    Args:
        loaded: The model, without a plan on it.
        image: The picture.
        question: The question.
        plan: The plan.
        longest: Tokens of the longest answer.
        gone: Whether nobody waits for it any more; looked at before every token.

    Returns:
        What the plan did, and seconds, ``dense`` and ``planned``: the best of a few, in turns.

    Raises:
        ValueError: If the question or the picture cannot be asked about, or nobody waits any more.
    """
    with _broken_off(loaded, gone):
        return _compared(loaded, image, question, plan, longest)


@contextmanager
def _broken_off(loaded: models.Loaded, gone: Callable[[], bool]) -> Iterator[None]:
    """Ends what the model does as soon as it is for nobody: all other requests wait for it."""

    def look(*_: Any) -> None:
        if gone():
            raise RequestRefused("nobody waits for this comparison any more", CLIENT_LEFT)

    hook = unwrap(loaded.model).register_forward_pre_hook(look, prepend=True)
    try:
        yield
    finally:
        hook.remove()


def _compared(
    loaded: models.Loaded, image: Image, question: str, plan: Plan, longest: int
) -> tuple[Explanation, dict[str, float]]:
    shown = explain(loaded, [image], question, plan, max_new_tokens=longest)
    sample = Sample("question", "page", "", (image,), question)
    times: dict[str, list[float]] = {"dense": [], "planned": []}
    with torch.inference_mode():
        for _ in range(REPEATS):
            for name, one in (("dense", Plan()), ("planned", plan)):
                batch = models.inputs(loaded, [sample], one)
                with apply(loaded.model, one):
                    begun = time.perf_counter()
                    # Choosing the token waits for the device.
                    read(loaded, batch).logits_BV.argmax(-1).tolist()
                    times[name].append(time.perf_counter() - begun)
    return shown, {name: min(each) for name, each in times.items()}


def told(shown: Explanation, seconds: dict[str, float]) -> dict[str, Any]:
    """What the page is sent: numbers, and the drawing as a page of its own."""
    cost = shown.cost
    tflops = {"dense": cost["dense_tflops"], "planned": cost["tflops"]}
    return {
        name: {"answer": shown.answers[name], "seconds": seconds[name], "tflops": tflops[name]}
        for name in tflops
    } | {
        "plan": shown.plan,
        "flops_ratio": cost["ratio"],
        "kept": cost["equivalent_tokens"],
        "rows": shown.full,
        "drawing": shown.html(),
    }
