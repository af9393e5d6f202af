"""Times a training step (forward and backward) with Skip-FFN against the dense step on the same rows.

    python benchmarks/skip_ffn_step.py                     # width 2048, 2 layers, batch 4, this machine's CPU
    python benchmarks/skip_ffn_step.py --shape llava-llama3-8b --layers 4 --device cuda --dtype bfloat16

Both steps run in one process on the same random weights and rows, alternately; the ratio is the median over
pairs. FLOPs are closed form: the executed forward, three times (the backward pass is two). The loss is the
mean of the text rows' logits; embeddings and head train too.
"""

from __future__ import annotations

import argparse
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

import saccade
from saccade.core.pricing import cost
from saccade.core.shapes import SHAPES, ModelShape
from saccade.families import FAMILIES
from saccade.measure import record
from saccade.measure.bench import batched
from saccade.measure.results import Phase
from saccade.measure.target import FAMILY_OF, fill_random
from saccade.opening import read_dtype
from saccade.plans.plan import Plan
from saccade.system.files import write_json

OUT = Path(__file__).parent / "results" / "skip_ffn_step.json"
WIDTH_2048 = ModelShape("width-2048", 24, 2048, 16, 16, 128, 5504, 4096, 576)
"""A decoder of a small VLM, with a small vocabulary so that the layers are what is timed."""

PLANS = (
    "skip_vision(retained=64,skipped=512)",
    "skip_vision(retained=256,skipped=320)",
    "ffn_skip(layers={all})",
)


def main() -> None:
    """Times every plan and writes the result file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", default=WIDTH_2048.name)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--visual", type=int, default=576)
    parser.add_argument("--text", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()

    device, dtype = torch.device(args.device), read_dtype(args.dtype)
    whole = WIDTH_2048 if args.shape == WIDTH_2048.name else SHAPES[args.shape]
    family = FAMILIES[FAMILY_OF.get(whole.name, "llava")]
    model: Any = family.model_class()(family.config(whole, args.layers)).to(device, dtype).train()
    with torch.no_grad():
        fill_random(model, seed=0)
    model.requires_grad_(False)
    parts = family.parts(model)
    for part in (parts.decoder, parts.head):
        assert part is not None
        part.requires_grad_(True)
    shape = family.shape(model.config, whole.name)
    layout = batched(args.visual, args.text, args.batch)
    head = parts.head
    assert head is not None
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(args.batch, layout.rows, shape.hidden, generator=draw).to(device, dtype) * 0.02
    text = layout.text_BN.to(device)

    def step(plan: str | None) -> float:
        model.zero_grad(set_to_none=True)
        with ExitStack() as stack:
            if plan is not None:
                attached = stack.enter_context(saccade.apply(model, plan))
                stack.enter_context(attached.with_layout(layout))
            _wait(device)
            start = time.perf_counter()
            hidden = parts.decoder(inputs_embeds=rows, use_cache=False).last_hidden_state
            head(hidden[text]).float().mean().backward()
            _wait(device)
            return time.perf_counter() - start

    runs = []
    for spec in PLANS:
        plan = spec.format(all=f"0-{args.layers - 1}")
        priced = cost(shape, Plan.of(plan).resolve(shape.layers).route(layout, shape.layers))
        step(None), step(plan)
        pairs = [(step(None), step(plan)) for _ in track(range(args.repeats), plan)]
        dense_s, plan_s = zip(*pairs, strict=True)
        dense_flops, plan_flops = (3e12 * x for x in (priced.dense_executed_tflops, priced.executed_tflops))
        runs.append({"plan": plan} | asdict(Phase.of(dense_s, plan_s, dense_flops, plan_flops)))
        print(
            "{plan}: FLOPs {flops_ratio:.3f}, time {time_ratio:.3f}, efficiency {efficiency:.3f}".format_map(
                runs[-1]
            ),
            flush=True,
        )
    result = {
        "kind": "training step",
        "shape": {"name": whole.name, "hidden": shape.hidden, "ffn": shape.ffn, "layers": shape.layers},
        "batch": args.batch,
        "visual": args.visual,
        "text": args.text,
        "warmup": 1,
        "repeats": args.repeats,
        "runs": runs,
        "provenance": record(device=device, dtype=dtype, seed=0),
    }
    write_json(args.out, result)
    print(f"wrote {args.out.name}; next: make tables")


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
