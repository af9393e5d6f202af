"""``saccade generate``: one question, answered by the stock model and under a plan."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from saccade.cli import common
from saccade.cli.opening import opened, opens
from saccade.opening.settings import Opening


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("generate")(opens(generate))


def generate(
    question: Annotated[str, typer.Option(help="The question.")],
    model: common.Model = "glance",
    image: Annotated[
        list[Path] | None, typer.Option(metavar="PATH", help="An image; repeat for several, in order.")
    ] = None,
    video: common.Videos = None,
    frames: common.Frames = None,
    plan: common.Plan = None,
    max_new_tokens: Annotated[int, common.count("Longest answer.", common.MOST_TOKENS)] = 64,
    guard: Annotated[
        bool,
        typer.Option(
            "--guard/--no-guard",
            help="Let the stock model answer where the plan is unsure, if the plan says from when "
            "(saccade tune --unsure).",
        ),
    ] = True,
    force: common.Force = False,
    strict: common.Strict = False,
    threads: common.Threads = None,
    opening: Opening = Opening(),
    json: common.Json = None,
) -> None:
    """Answer one question about images or videos; with a plan, beside the stock model's answer.

    A plan that was tuned with --unsure says from which lead of the first token on its answer stands; below
    that the answer is the stock model's, and the cost is that of both.

    Example: saccade generate glance --image scene.png --question "how many?" --plan "vskip(layers=6-11)"
    """
    out = common.Output(json)
    if not question.strip():
        raise ValueError("the question is empty")
    from saccade.inputs.pictures import open_picture

    images = tuple(open_picture(path) for path in image or [])
    videos = common.open_videos(video or [], frames)
    common.check_names(model, [plan] if plan else [], opening=opening)
    from saccade import models
    from saccade.engine import check_made_for
    from saccade.inputs.samples import Sample
    from saccade.measure import record
    from saccade.plans.plan import Plan

    wanted = None if plan is None else Plan.of(plan)
    tuned = {} if wanted is None or not guard else wanted.calibration.get("tuned") or {}
    where = opening.torch_device()
    common.use_threads(threads)
    loaded = opened(model, opening)
    if wanted is not None:
        # Before layers are looked at, so that the first error is the true one.
        check_made_for(loaded.model, wanted, force=force, strict=strict)
        wanted = wanted.for_any() if force else wanted
    asked = [Sample("question", "cli", "", images, question, videos=videos)]
    batch = models.inputs(loaded, asked)
    result: dict[str, Any] = {
        "model": model,
        "question": question,
        "images": [str(path) for path in image or []],
        "videos": [str(path) for path in video or []],
    }
    layout, resolved = (None, None) if wanted is None else _resolved(loaded, batch, wanted)
    with common.progress() as bar:
        task = bar.add_task("answering", total=1 if wanted is None else 2)
        result["dense"] = _answer(loaded, batch, max_new_tokens)
        bar.advance(task)
        if wanted is not None:
            result["plan"] = wanted.spec
            result |= _planned(loaded, asked, layout, max_new_tokens, resolved)
            if tuned.get("unsure"):
                result |= _guarded(result, tuned["unsure"])
            bar.advance(task)
    _show(out, result)
    if wanted is not None:
        common.say_uncalibrated(out, wanted)
    out.finish(result | {"provenance": record(model=loaded.model, device=where)})


def _answer(loaded, batch, max_new_tokens: int) -> dict[str, Any]:
    import torch

    from saccade import models
    from saccade.calibration.measures import lead
    from saccade.engine import kv_bytes, kv_lengths

    rows = batch["input_ids"].shape[1]
    start = time.perf_counter()
    with torch.inference_mode():
        made = models.ask(loaded, batch, max_new_tokens, return_dict_in_generate=True, output_logits=True)
    seconds = time.perf_counter() - start
    cache = made.past_key_values
    return {
        "answer": models.answers(loaded, made.sequences, rows)[0],
        "new_tokens": int(made.sequences.shape[1] - rows),
        "seconds": seconds,
        "lead": lead(made.logits[0][0]),
        "kv_bytes": kv_bytes(cache),
        "kv_lengths": kv_lengths(cache),
    }


def _resolved(loaded, batch, plan) -> tuple[Any, Any]:
    """The prompt's layout and the plan for it, tried on the model before anything is answered."""
    from saccade.engine import apply
    from saccade.engine.prompt import layout_of_inputs
    from saccade.plans.budget import last_layers, reach_flops

    layout = layout_of_inputs(loaded.family, loaded.model, batch)
    resolved = reach_flops(plan, loaded.shape, [layout], last_layers(loaded.shape.layers))
    with apply(loaded.model, resolved):
        return layout, resolved


def _planned(loaded, asked, layout, max_new_tokens: int, resolved) -> dict[str, Any]:
    from saccade import models
    from saccade.core.pricing import against, cost
    from saccade.engine import apply
    from saccade.plans.budget import price
    from saccade.plans.plan import Plan

    shape, size = loaded.shape, loaded.model.dtype.itemsize
    with apply(loaded.model, resolved) as handle, handle.tracing(sources=False) as traces:
        found = _answer(loaded, models.inputs(loaded, asked, resolved), max_new_tokens)
    spent = price(handle.plan, shape, layout, size)
    if traces:
        dense = cost(shape, Plan().route(layout, shape.layers), size)
        spent = against(cost(shape, traces[0].route, size), dense)
    return {
        "resolved": handle.plan.spec,
        "planned": found,
        "flops_ratio": spent.ratio,
        "executed_flops_ratio": spent.executed_ratio,
        "visual_tokens": spent.visual_tokens,
        "text_tokens": spent.text_tokens,
    }


def _guarded(result: dict[str, Any], margin: dict[str, Any]) -> dict[str, Any]:
    """Who answers, the plan or the stock model, where a plan says from when it is sure, and at what cost."""
    unsure = result["planned"]["lead"] < margin["margin"]
    more = 1.0 if unsure else 0.0
    return {
        "unsure": {
            "below": margin["margin"],
            "expected_share": margin["share"],
            "lead": result["planned"]["lead"],
            "answered_by": "stock" if unsure else "plan",
            "flops_ratio": result["flops_ratio"] + more,
            "executed_flops_ratio": result["executed_flops_ratio"] + more,
        },
        "answer": result["dense" if unsure else "planned"]["answer"],
    }


def _show(out: common.Output, result: dict[str, Any]) -> None:
    if "planned" not in result:
        out.line(result["dense"]["answer"])
        return
    from rich.table import Table

    view = Table("", "answer", "FLOPs ratio", "KV cache", "new tokens")
    for name, side, ratio in (
        ("stock", "dense", 1.0),
        (result["resolved"], "planned", result["flops_ratio"]),
    ):
        got = result[side]
        size = common.human_bytes(got["kv_bytes"])
        view.add_row(name, got["answer"], f"{ratio:.3f}", size, str(got["new_tokens"]))
    out.table(view)
    same = result["dense"]["answer"] == result["planned"]["answer"]
    out.line(
        f"{'same answer' if same else 'the answers differ'}; {result['visual_tokens']:g} visual and "
        f"{result['text_tokens']:g} text rows"
    )
    guard = result.get("unsure")
    if guard is not None:
        who = "stock model" if guard["answered_by"] == "stock" else "plan"
        out.line(
            f"answered by the {who}: {result['answer']} (its first token leads by {guard['lead']:.3f}, the "
            f"plan's answer stands from {guard['below']:.3f}; FLOPs ratio with this guard "
            f"{guard['flops_ratio']:.3f}, and the stock model is expected to answer "
            f"{100 * guard['expected_share']:.1f} % of prompts)"
        )
