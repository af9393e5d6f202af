"""Predicted against measured times of plans: ``python benchmarks/predicted_times.py --json FILE``.

``saccade tune --time`` predicts a plan's prefill from a table of measured steps. Here plans that mix what a
search mixes are predicted from such a table and then timed whole, on Glance and on a decoder of a 7B model's
width with few layers (random weights). Beside it: published latencies on an RTX 3090, and what
``--on rtx3090`` says.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch

from saccade import models
from saccade.core.layout import Layout
from saccade.core.route import Route
from saccade.core.shapes import SHAPES
from saccade.evaluation.runner import count_prompts
from saccade.glance import suite
from saccade.glance.model import GlanceConfig, build_model
from saccade.glance.tokenizer import build_processor
from saccade.measure import record
from saccade.measure.clock import now
from saccade.measure.devices import eyes, predicted
from saccade.plans.plan import Plan
from saccade.system.files import write_json
from saccade.tuning.price import Pricer, typical
from saccade.tuning.timing import prefills, timed

PLANS = (
    "uniform(keep=0.55)",
    "vispruner(keep=0.74,position_policy=keep)+shortv(layers={last})",
    "dart(layer={mid},keep=0.3)+ffn_skip(layers={mid})",
    "fastv(layer=1,keep=0.5)+vskip(layers={last})",
    "vtw(layer={mid})",
    "resize(scale=0.7)+vskip(layers={mid})",
)
"""Plans of the kinds that a search finds, over a model's middle and last layers."""

SPECS = ("dense", "vskip(layers=13-31)", "vtw(layer=16)", "shortv(layers=13-31)")
PAPER = {
    "llava-1.5-7b": (576, (171.71, 158.40, 107.57, 108.40)),
    "llava-next-7b": (2114, (527.34, 486.50, 366.21, 332.22)),
}
"""Visual rows of a prompt, and milliseconds to the first token on an RTX 3090 under these plans (V-Skip,
arXiv 2606.08511). Of LLaVA-NeXT the paper gives no rows; these make its 30.74 TFLOPs.

The paper does not say which layers its 19 are; the last ones are taken, and a time does not hang on it."""

TEXT = 67
"""Text rows of a prompt."""


def loaded_of(what: str, layers: int) -> models.Loaded:
    """Glance, or a random model of a 7B model's width with Glance's pictures."""
    if what == "glance":
        return models.load("glance", device="cpu")
    shape = SHAPES["llava-1.5-7b"]
    config = GlanceConfig(layers=layers, width=shape.hidden, heads=shape.heads, mlp=shape.ffn)
    return models.wrap(build_model(config, seed=0).eval(), build_processor(), f"7B width, {layers} layers")


def own_seconds(device: torch.device) -> float:
    """Seconds that this process has computed for: on one thread those of a machine that is otherwise idle."""
    return time.process_time()


CLOCKS: dict[str, Callable[[torch.device], float]] = {"wall": now, "own": own_seconds}


def here(what: str, layers: int, repeats: int, clock: str) -> list[dict[str, Any]]:
    """Plans on this machine: predicted from the table of steps, and timed."""
    loaded = loaded_of(what, layers)
    sample = suite.samples("count", 1, "calibration", 77)[0]
    depth = loaded.shape.layers
    last = f"{depth - max(1, depth // 3)}-{depth - 1}" if depth > 2 else str(depth - 1)
    meter = timed(loaded, sample, repeats, CLOCKS[clock])
    pricer = Pricer(meter, loaded.shape, typical(count_prompts(loaded, [sample])))
    plans = [Plan.of(spec.format(mid=max(1, depth // 2), last=last)) for spec in PLANS]
    asked = [(models.inputs(loaded, [sample], plan), plan) for plan in (Plan(), *plans)]
    dense, *seconds = prefills(loaded, asked, repeats, CLOCKS[clock])
    found = []
    for plan, measured in zip(plans, seconds, strict=True):
        told, ratio = pricer.ratio(plan), measured / dense
        line = {
            "model": loaded.name,
            "spec": plan.spec,
            "predicted": told,
            "measured": ratio,
            "dense_s": dense,
        }
        found.append(line | {"plan_s": measured, "off": told / ratio - 1})
    return found


def published() -> list[dict[str, Any]]:
    """Latencies of the paper beside predicted ones; ratios to dense are what a plan is chosen by."""
    found = []
    for name, (visual, latencies) in PAPER.items():
        shape = SHAPES[name]
        layout = Layout.single(visual, TEXT)
        plans = [Plan.of(spec) for spec in SPECS]
        routes = [
            p.route(layout, shape.layers) if p.methods else Route.dense(layout, shape.layers) for p in plans
        ]
        told = predicted(shape, routes, "rtx3090", eyes(plans, shape, shape.visual))
        for spec, ms, one in zip(SPECS, latencies, told, strict=True):
            ratio = ms / latencies[0]
            line = {"model": name, "spec": spec, "published_ms": ms}
            line |= {"predicted_ms": 1e3 * one["seconds"]}
            found.append(
                line | {"published": ratio, "predicted": one["ratio"], "off": one["ratio"] / ratio - 1}
            )
    return found


def main() -> None:
    """Measures, prints and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", default="benchmarks/results/predicted_times.json", help="result file")
    parser.add_argument(
        "--layers", type=int, default=2, help="layers of the 7B-width decoder; 0 leaves it out"
    )
    parser.add_argument("--published", action="store_true", help="measure nothing: the published ones alone")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--clock", choices=list(CLOCKS), default="wall", help="own: seconds of this process, on one thread"
    )
    given = parser.parse_args()
    if given.clock == "own" and given.threads != 1:
        parser.error("--clock own adds threads up; take --threads 1")
    torch.set_num_threads(given.threads)
    rows: list[dict[str, Any]] = []
    if not given.published:
        rows += here("glance", 0, given.repeats, given.clock)
        rows += here("wide", given.layers, given.repeats, given.clock) if given.layers else []
    paper = published()
    for row in (*rows, *paper):
        print(
            f"{row['model']:24} {row['spec']:70} predicted {row['predicted']:.3f}, "
            f"off {100 * row['off']:+.1f} %"
        )
    words = (
        f"--layers {given.layers} --repeats {given.repeats} --threads {given.threads} --clock {given.clock}"
    )
    words = "--published" if given.published else words
    command = f"python benchmarks/predicted_times.py {words}"
    origin = record(command, device="cpu", dtype=torch.float32, seed=0, clock=given.clock)
    write_json(
        given.json, {"kind": "predicted times", "here": rows, "published": paper, "provenance": origin}
    )


if __name__ == "__main__":
    main()
