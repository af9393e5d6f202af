"""What plans keep on videos: a small LLaVA-NeXT-Video that learned what moves and what comes first.

    python benchmarks/video_results.py --work FOLDER    # a quarter of an hour on one core; goes on if stopped

The model begins as Glance and learns in FOLDER (`saccade.research.embedded.video`). It is asked about videos
of another seed: as it is, over grey frames (blind), with fewer frames, which is what saves rows without a
method, and under every method at stated shares of its FLOPs. Needs torchvision, through which stock
processors read frames.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from saccade import models
from saccade.core.layout import Layout
from saccade.evaluation import Comparison, compare
from saccade.evaluation.matched import lineup
from saccade.evaluation.orders import calibrated
from saccade.evaluation.results import score
from saccade.evaluation.runner import count_prompts, refusal
from saccade.glance import clips
from saccade.inputs.samples import Sample
from saccade.inputs.videos import video_of
from saccade.measure import record
from saccade.methods.kinds import TRAINED
from saccade.methods.reducer import Reducer
from saccade.methods.viewwise import ViewReducer
from saccade.models import Loaded
from saccade.opening.digest import weights_digest
from saccade.plans.plan import Plan
from saccade.research.embedded.video import SHOWN, VideoTraining, numbers, trained, write_model
from saccade.system.files import write_json
from saccade.system.journal import Journal

OUT = Path(__file__).parent / "results" / "video.json"
FEWER = (2, 1)
"""Frames that are shown instead of all."""
RATIOS = (0.85, 0.7, 0.4)
"""Shares of the dense model's FLOPs."""
SCORES = ("vig", "ffn", "lc")
CALIBRATION, TEST = 2, 3
"""Seeds of videos."""


def thinned(sample: Sample, shown: int) -> Sample:
    """The same question about fewer frames, evenly, the last one always."""
    (video,) = sample.videos
    frames = [Image.fromarray(frame) for frame in video.read(numbers(shown, video.total))]
    return replace(sample, videos=(video_of(frames, video.rate * shown / video.total),))


def questions(each: int, seed: int) -> list[Sample]:
    """Questions about videos, as many of each kind, which is a task."""
    found: list[Sample] = []
    for task, kinds in clips.GUESSED.items():
        drawn = clips.samples(task, each * len(kinds), seed)
        found += [thinned(replace(one, task=f"{task}: {one.subtask}"), SHOWN) for one in drawn]
    return found


def lines_of(loaded: Loaded, seed: int) -> list[dict[str, Any]]:
    """Every method at the shares of the FLOPs, with positions kept: rows are told apart by where they stand.

    Of methods that count rows by view, frame by frame and over the video. A line without a plan says why.
    """
    seen = questions(8, seed)
    prompts = count_prompts(loaded, seen)
    layouts = [Layout.single(visual, text, views=loaded.shape.views(visual)) for visual, text in prompts]
    orders = {name: found.order for name, found in calibrated(loaded, seen, SCORES, seed=seed).items()}
    weights = [float(count) for count in prompts.values()]
    found = []
    shape = replace(loaded.shape, name=type(loaded.model).__name__)  # reasons name it, and no folder
    for row in lineup(shape, layouts, orders, weights, loaded.family.name, RATIOS):
        if set(row.method.split("+")) & set(TRAINED):
            continue
        line = row.to_dict()
        if row.plan is None:
            found.append(line)
            continue
        for share in ("frame", "image") if isinstance(row.plan.methods[0], ViewReducer) else ("",):
            plan = Plan(tuple(_for_video(method, share) for method in row.plan.methods))
            reason = refusal(loaded, plan, seen[0])
            named = (
                f"{row.name}, budget of the {'video' if share == 'image' else share}" if share else row.name
            )
            found.append(line | {"name": named, "plan": None if reason else plan, "reason": reason})
    return found


def _for_video(method: Any, share: Any) -> Any:
    """A method with positions kept, and its numbers as a share says."""
    if isinstance(method, Reducer) and method.compacts:
        method = replace(method, position_policy="keep")
    return replace(method, share=share) if share and isinstance(method, ViewReducer) else method


def main() -> None:
    """Trains the model and asks it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="folder of the training")
    parser.add_argument("--steps", type=int, default=VideoTraining.steps)
    parser.add_argument("--samples", type=int, default=60, help="questions of each of the five kinds")
    parser.add_argument("--batch", type=int, default=25, help="questions per batch")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=OUT)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    asked.work.mkdir(parents=True, exist_ok=True)
    how = VideoTraining(steps=asked.steps)
    learner, folder = trained(asked.work, how), asked.work / "model"
    write_model(learner.model, learner.tokenizer, folder)
    loaded = models.load(str(folder), device="cpu")

    held = questions(asked.samples, TEST)
    lines = lines_of(loaded, CALIBRATION)
    ran = {line["name"]: line["plan"] for line in lines if line.get("plan") is not None}
    journal = Journal(asked.out.with_name(f"{asked.out.name}.partial.jsonl"))
    options = {"batch_size": asked.batch, "max_new_tokens": 4}
    found = compare(loaded.model, loaded.processor, held, ran, ledger=journal, **options)
    fewer = []
    for shown in FEWER:
        less = compare(
            loaded.model,
            loaded.processor,
            [thinned(one, shown) for one in held],
            {},
            ledger=journal,
            blind=False,
            **options,
        )
        fewer.append({"frames": shown} | _against(found, less, shown))
    scored = found.to_dict()
    by_name = {entry["name"]: entry for entry in scored["plans"]}
    scored["plans"] = [
        {key: value for key, value in line.items() if key != "plan"} | by_name.get(line["name"], {})
        for line in lines
    ]
    write_json(
        asked.out,
        {
            "kind": "videos",
            "model": {
                "class": type(loaded.model).__name__,
                "begins_as": "glance",
                "weights": weights_digest(loaded.model),
                "layers": loaded.shape.layers,
                "frames": SHOWN,
            },
            "guessed": {
                f"{task}: {kind}": share
                for task, kinds in clips.GUESSED.items()
                for kind, share in kinds.items()
            },
            "training": asdict(how) | {"curve": learner.curve},
            "fewer_frames": fewer,
            **scored,
            "provenance": record(
                f"python benchmarks/video_results.py --work FOLDER --steps {asked.steps} "
                f"--samples {asked.samples} --batch {asked.batch} --threads {asked.threads}",
                model=loaded.model,
                seed=TEST,
                batch=asked.batch,
            ),
        },
    )
    print(journal.finish() or f"wrote {asked.out}")


def _against(whole: Comparison, less: Comparison, shown: int) -> dict[str, Any]:
    """The stock model's answers about fewer frames, paired with those about all; costs too."""
    assert whole.blind is not None
    spent, full = less.dense.cost, whole.dense.cost
    cost = {
        "flops_ratio": spent["gflops"] / full["gflops"],
        "kv_ratio": spent["kv_bytes"] / full["kv_bytes"],
        "whole_ratio": spent["whole_gflops"] / full["whole_gflops"],
    }
    name = f"{shown} of {SHOWN} frames"
    dense, blind = whole.dense.predictions, whole.blind.predictions
    return score(name, "dense", less.dense.predictions, dense, blind, cost).to_dict()


if __name__ == "__main__":
    main()
