"""Times every method at a real model's width, all layers skipped, against the stock model.

    python benchmarks/width.py                      # LLaVA-1.5-7B width, 2 layers, this machine's CPU
    python benchmarks/width.py --shape llava-next-7b --layers 32 --batch 8 --device cuda

Both sides run in one process on the same random weights, alternately; ratios are medians over pairs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from saccade.measure import bench, record
from saccade.measure.target import build
from saccade.opening import read_dtype
from saccade.system.files import write_json

RESULTS = Path(__file__).parent / "results"
PLANS = ("dense", "vskip(budget={n})", "ffn_skip(budget={n})", "shortv(budget={n})", "vtw(budget={n})")


def main() -> None:
    """Benches the plans one by one; the result file is rewritten whole after each."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--shape", default="llava-1.5-7b")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--visual", type=int, default=576)
    parser.add_argument("--text", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS / "bench_width_cpu.json")
    chosen = parser.parse_args()
    device, dtype = torch.device(chosen.device), read_dtype(chosen.dtype)
    rows = chosen.visual + chosen.text + chosen.new_tokens
    target = build(
        chosen.shape, layers=chosen.layers, batch=chosen.batch, rows=rows, dtype=dtype, device=device, seed=0
    )
    runs = []
    for spec in PLANS:
        result = bench(
            target,
            spec.format(n=chosen.layers),
            batch=chosen.batch,
            visual=chosen.visual,
            text=chosen.text,
            new_tokens=chosen.new_tokens,
            repeats=chosen.repeats,
            profile=chosen.profile,
        )
        runs.append(result.to_dict())
        prefill = result.prefill
        captured = "-" if prefill.captured is None else f"{prefill.captured:.3f}"
        ratios = f"FLOPs {prefill.flops_ratio:.4f}  time {prefill.time_ratio:.4f}  captured {captured}"
        print(f"{result.resolved:24s} {ratios}", flush=True)
        provenance = record(device=device, dtype=dtype, seed=0)
        write_json(chosen.out, {"kind": "bench", "runs": runs, "provenance": provenance})
    print(f"wrote {chosen.out.name}; next: make tables")


if __name__ == "__main__":
    main()
