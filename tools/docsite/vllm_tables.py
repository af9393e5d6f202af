"""What was found of plans inside vLLM, from its result files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from docsite.glance_tables import load, missing
from saccade.report.markdown import markdown

SETTINGS = ("plain", "chunked 16", "prefix hit", "preempted", "compiled", "TP=2")
FAMILIES = {
    "llava": "LLaVA-1.5",
    "llava_next": "LLaVA-NeXT",
    "qwen2_5_vl": "Qwen2.5-VL",
    "qwen3_vl": "Qwen3-VL",
    "internvl": "InternVL",
    "qwen3_5": "Qwen3.5",
    "qwen3_5_moe": "Qwen3.5-MoE",
}


def exactness(results: Path) -> str:
    """Plans whose tokens equal those of transformers, by family and setting, from ``vllm_exactness.json``."""
    found = load(results / "vllm_exactness.json")
    if found is None:
        return missing("make vllm ARGS='--record benchmarks/results/vllm_exactness.json'")
    rows = [
        [title, *(_told(found["rows"].get(family, {}).get(setting, {})) for setting in SETTINGS)]
        for family, title in FAMILIES.items()
    ]
    plans = dict.fromkeys(
        plan for settings in found["rows"].values() for told in settings.values() for plan in told
    )
    versions = ", ".join(f"{name} {found['versions'][name]}" for name in ("vllm", "torch", "transformers"))
    listed = ", ".join(f"`{plan}`" for plan in plans)
    return (
        markdown(("family", *SETTINGS), rows, right_from=9) + f"\n\nPlans: {listed}. With {versions}, on CPU."
    )


def _told(plans: Mapping[str, str]) -> str:
    """How many plans were equal and how many are refused; those that differ by name."""
    if not plans:
        return "not run"
    counts = {word: sum(told == word for told in plans.values()) for word in ("equal", "refused")}
    parts = [f"{count} {word}" for word, count in counts.items() if count]
    parts += [f"**`{plan}`: {told}**" for plan, told in plans.items() if told not in counts]
    return ", ".join(parts)


def ttft(results: Path) -> str:
    """Time to the first token under plans, beside dense, from ``vllm_ttft.json``."""
    found = load(results / "vllm_ttft.json")
    if found is None:
        return missing("python benchmarks/vllm_ttft.py")
    rows = [
        [
            f"`{cell['plan']}`",
            f"{cell['dense_ms']:.0f}",
            f"{cell['ms']:.0f}",
            f"{cell['ratio']:.2f}",
            f"{cell['flops']:.2f}",
            f"{cell['captured']:.2f}",
            f"{cell['decode_ratio']:.3f}",
            f"{cell['decode_own_us'] / cell['decode_ms'] / 10:.1f} %",
        ]
        for cell in found["cells"]
    ]
    head = ("plan", "dense, ms", "plan, ms", "time", "FLOPs", "captured", "later steps", "own part")
    told = (
        f"{found['cells'][0]['repeats']} pairs on {found['device']}, {found['dtype']}, vLLM {found['vllm']}."
    )
    return markdown(head, rows, right_from=1) + "\n\n" + told


VLLM_TABLES: dict[str, Callable[[Path], str]] = {"vllm-exactness": exactness, "vllm-ttft": ttft}
"""Tables by the name in the marker."""
