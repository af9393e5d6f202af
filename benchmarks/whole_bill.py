"""States the whole bill of plans on real shapes, in closed form: tower, projector, decoder and head.

    python benchmarks/whole_bill.py

Nothing is run. Every plan stands beside the stock model on the same prompt.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from saccade.core.shapes import SHAPES
from saccade.families.registry import abilities
from saccade.measure import record
from saccade.plans.bill import bill_of_prompt
from saccade.plans.budget import price_prompt, resolve_for_prompt
from saccade.plans.plan import Plan
from saccade.system.files import write_json

RESULTS = Path(__file__).parent / "results"
TEXT = 66.6
PROMPTS = (
    ("llava-1.5-7b", 576, None),
    ("qwen2.5-vl-7b", 1280, None),
    ("qwen2.5-vl-7b", 5000, None),
    ("internvl3-8b", 3328, 13),
)
"""Shape, visual rows and views: a picture each, of InternVL twelve tiles and the thumbnail."""
PLANS = (
    "dense",
    "shortv(budget=19)",
    "fastv(layer=3,keep=0.25)",
    "divprune(keep=0.25)",
    "cdpruner(keep=0.1)",
    "hiprune(keep=0.25)",
    "tome(r=16)",
    "tome(r=16,unmerge=true)",
    "resize(scale=0.5)",
    "resize(scale=0.5)+cdpruner(keep=0.4)",
)
FAMILIES = {"llava-1.5-7b": "LLaVA-1.5", "qwen2.5-vl-7b": "Qwen2.5-VL", "internvl3-8b": "InternVL"}


def main() -> None:
    """Prices the plans one by one and writes the result file."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS / "whole_bill.json")
    chosen = parser.parse_args()
    runs = [run for prompt in PROMPTS for run in priced(*prompt)]
    for run in runs:
        whole = run["whole"]
        parts = f"tower {whole['tower_tflops']:6.2f} decoder {whole['decoder_tflops']:6.2f}"
        shares = f"whole {whole['ratio']:.3f} tower share {whole['tower_share']:.2f}"
        print(f"{run['shape']:14} {run['visual']:5} {run['plan']:38} {parts} {shares}")
    write_json(chosen.out, {"kind": "whole bill", "text": TEXT, "runs": runs, "provenance": record(seed=0)})


def priced(name: str, visual: int, cut: int | None) -> list[dict[str, Any]]:
    """Every plan that the shape's family has, on one prompt."""
    shape, can, found = SHAPES[name], abilities()[FAMILIES[name]], []
    for spec in PLANS:
        plan = Plan.of(spec)
        if any(method.needs not in (None, *can) for method in plan.methods):
            continue
        plan = resolve_for_prompt(plan, shape, visual, TEXT, cut=cut)
        cost = price_prompt(plan, shape, visual, TEXT, cut=cut)
        whole = bill_of_prompt(plan, shape, cost, visual, cut)
        assert whole is not None
        ratios = {"flops_ratio": cost.ratio, "kv_ratio": cost.kv_ratio}
        found.append({"shape": name, "visual": visual, "plan": spec, **ratios, "whole": whole.to_dict()})
    return found


if __name__ == "__main__":
    main()
