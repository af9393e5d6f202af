"""One question under a plan, explained: what was kept of the picture at every stage, and what it cost."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image

from saccade import models
from saccade.core.layout import Layout
from saccade.core.pricing import against, cost
from saccade.core.route import Route
from saccade.core.shapes import ModelShape
from saccade.core.stages import Grid
from saccade.engine import apply, check_made_for
from saccade.engine.tower import grid as grid_of
from saccade.engine.trace import Trace
from saccade.families.vision import Picture
from saccade.inputs.films import show
from saccade.inputs.samples import Sample
from saccade.inputs.videos import Video
from saccade.models import Loaded
from saccade.plans.budget import last_layers, reach_flops
from saccade.plans.plan import Plan, PlanLike
from saccade.report.explain import figure, page
from saccade.report.explain.explained import ExplainedAnswer
from saccade.report.explain.reading import moments, views
from saccade.report.explain.stages import Box
from saccade.report.explain.strip import frames_of, strip
from saccade.report.route_map import route_map
from saccade.skip_vision.placed import wrapped
from saccade.system.files import write_bytes


@dataclass(frozen=True, eq=False)
class Explanation(ExplainedAnswer):
    """What a plan did to one question, and how to look at it."""

    def png(self) -> bytes:
        """The figure as a PNG file."""
        with warnings.catch_warnings():
            # A script that the figure's font does not have becomes boxes; the page shows it.
            warnings.filterwarnings("ignore", message="Glyph .* missing")
            return figure.draw(self)

    def html(self) -> str:
        """The page: one file, nothing fetched, no script."""
        return page.render(self)

    def write(self, path: str | os.PathLike) -> Path:
        """Writes the page where the name ends in .html, else the figure; whole or not at all."""
        path = Path(path)
        return write_bytes(path, self.html().encode() if path.suffix.lower() == ".html" else self.png())

    def save(self, path: str | os.PathLike) -> list[Path]:
        """Writes ``explain.png`` and ``explain.html`` into a folder, or the one file that is named.

        Raises:
            ValueError: If the path is neither a folder nor ends in .png or .html.
        """
        return [self.write(target) for target in targets(path)]


def targets(path: str | os.PathLike) -> list[Path]:
    """The files that ``Explanation.save`` writes.

    Raises:
        ValueError: If the path is neither a folder nor ends in .png or .html.
    """
    path = Path(path)
    if path.is_dir() or not path.suffix:
        return [path / "explain.png", path / "explain.html"]
    if path.suffix.lower() not in (".png", ".html"):
        raise ValueError(f"cannot write {path}: give a folder, or a name that ends in .png or .html")
    return [path]


def explain(
    loaded: Loaded,
    images: Sequence[Image],
    question: str,
    plan: PlanLike,
    *,
    max_new_tokens: int = 64,
    force: bool = False,
    strict: bool = False,
    videos: Sequence[Video] = (),
) -> Explanation:
    """Answers a question with and without a plan, and notes what the plan did to the picture.

    Args:
        loaded: A model and its processor (``saccade.load``).
        images: Images in prompt order; at least one, or a video.
        question: The question.
        plan: A plan, a method, a plan file or a spec string; budgets become layers, the last ones first.
        max_new_tokens: Longest answer.
        force: Use a plan that was made for another model.
        strict: Refuse a plan that was made for other weights, instead of warning of it.
        videos: Videos, behind the images; each is drawn as a strip of the frames that the model was shown
            (one picture for each frame where every frame is an image of its own).

    Raises:
        ValueError: If there is no image or video, no question, the plan does not fit the model, or the model
            is a Skip-Vision model, whose rows lie nowhere in a picture.
    """
    if not images and not videos:
        raise ValueError("there is nothing to explain without an image: a plan leaves text alone")
    if not question.strip():
        raise ValueError("the question is empty")
    if wrapped(loaded.model) is not None:
        raise ValueError(
            f"{loaded.name} is a Skip-Vision model: its visual rows are made of many patches each and lie at "
            "no place of the picture, so there is nothing to draw; saccade generate asks it under a plan"
        )
    images = [image.convert("RGB") for image in images]
    found = Plan.of(plan)
    # Before layers are looked at, so that the first error is the true one.
    check_made_for(loaded.model, found, force=force, strict=strict)
    found = found.for_any() if force else found
    sample = Sample("question", "explain", "", tuple(images), question, videos=tuple(videos))
    batch = models.inputs(loaded, [sample])
    layout, grid, shown = _placed(loaded, batch)
    depth = loaded.shape.layers
    resolved = reach_flops(found, loaded.shape, [layout], last_layers(depth))
    answers = {"dense": _answer(loaded, batch, max_new_tokens)}
    if resolved.shortening:
        batch = models.inputs(loaded, [sample], resolved)
    with apply(loaded.model, resolved) as handle, handle.tracing() as traces:
        answers["planned"] = _answer(loaded, batch, max_new_tokens)
    # The engine does not even look at a prompt under a plan without methods.
    trace = traces[0] if traces else Trace(Route.dense(layout, depth), grid)
    pictures = [loaded.family.seen(loaded.processor, image).convert("RGB") for image in images]
    given, _ = models.shrink(loaded, images, models.image_scale(resolved))
    crops = [loaded.family.crops(loaded.processor, image) for image in given]
    for number, video in enumerate(videos):
        if loaded.family.frames_apart:
            frames = frames_of(loaded, video, len(show(loaded, video)[1]))
            pictures += frames
            crops += [[] for _ in frames]
            continue
        drawn, boxes = strip(frames_of(loaded, video, shown.views[len(images) + number]))
        pictures.append(drawn)
        crops.append(boxes)
    return of_trace(trace, handle.plan, pictures, loaded.shape, question, answers, layout, crops)


def of_trace(
    trace: Trace,
    plan: Plan,
    pictures: Sequence[Image],
    shape: ModelShape,
    question: str,
    answers: Mapping[str, str],
    layout: Layout | None = None,
    crops: Sequence[Sequence[Box]] = (),
) -> Explanation:
    """An explanation of a forward that ran already, with ``Attachment.tracing``.

    Args:
        trace: What the forward did; of one sample.
        plan: The plan as it ran (``Attachment.plan``).
        pictures: What the model saw of each image (``Family.seen``).
        shape: Sizes of the decoder.
        question: The question.
        answers: ``dense`` and ``planned``.
        layout: The prompt without the plan, where the plan makes it shorter; the trace's own if omitted.
        crops: What each plane of each image shows of it (``Family.crops``); all of it where nothing is said.

    Raises:
        ValueError: If the trace is of several samples, of other images, or does not know where its rows lie.
    """
    layout = layout or trace.layout
    seen = views(trace, pictures, crops)
    shares = route_map(trace.route)["image"]
    price = against(cost(shape, trace.route), cost(shape, Route.dense(layout, shape.layers)))
    return Explanation(
        question=question,
        model=shape.name,
        plan=plan.spec,
        answers=answers,
        views=seen,
        moments=moments(trace, plan, seen, layout.counts[0]),
        alive=tuple(int(trace.alive(n)[0].sum()) for n in range(shape.layers)),
        active={
            name: tuple(s / a if a else 0.0 for s, a in zip(shares[name], shares["alive"], strict=True))
            for name in ("attention", "ffn")
        },
        cost=price.to_dict(),
    )


def _answer(loaded: Loaded, batch: Any, max_new_tokens: int) -> str:
    with torch.inference_mode():
        made = models.ask(loaded, batch, max_new_tokens)
    return models.answers(loaded, made, batch["input_ids"].shape[1])[0]


def _placed(loaded: Loaded, batch: Any) -> tuple[Layout, Grid | None, Picture]:
    """Where the visual rows of a prompt are, in the prompt and in its images."""
    visual = loaded.family.visual_mask(loaded.model, batch["input_ids"])
    picture = loaded.family.picture(loaded.model, batch)
    if picture is None:
        raise ValueError(f"{loaded.name} says nothing of where its visual rows lie")
    picture = loaded.family.grouped(loaded.model, picture, batch)
    layout = Layout.from_mask(visual, batch["attention_mask"], [list(picture.lengths)])
    return layout, grid_of(picture, layout, torch.device("cpu")), picture
