"""A study as files: figures, a web page, the calibrated plan, the data."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from saccade.research.demo.page import render
from saccade.research.demo.study import DemoFindings
from saccade.system.files import write_bytes, write_json, write_text

REPORT, DATA, PLAN = "report.html", "demo.json", "plan.json"


def commands(folder: str | os.PathLike, embedded: str) -> list[tuple[str, str]]:
    """What to try next after a demo of an embedded model, as (what it does, command)."""
    plan = shlex.quote(os.path.join(folder, PLAN))
    model = "llava-hf/llava-1.5-7b-hf"
    return [
        ("What the papers' plan would save on a real model, on paper:",
         "saccade cost llava-1.5-7b --plan 'vskip(budget=19)' --visual 576 --text 66.6"),
        ("What it saves in time on this machine, at full width with random weights:",
         "saccade bench llava-1.5-7b --plan 'vskip(budget=2)' --layers 2"),
        ("The plan that the demo just calibrated, in another evaluation:",
         f"saccade eval {embedded} --plan {plan} --task count --samples 200"),
        ("Your own model and questions (JSONL with image, question and answer): the plan that loses least at "
         "half of the FLOPs:",
         f"saccade tune {model} --data my.jsonl --flops 0.5 --out tuned.json"),
        ("Or choose the method yourself: calibrate, then evaluate:",
         f"saccade calibrate {model} --method vskip --budget 19 --data my.jsonl --out my-plan.json\n"
         f"saccade eval {model} --plan my-plan.json --data my.jsonl"),
    ]  # fmt: skip


def write(study: DemoFindings, folder: Path) -> dict[str, Path]:
    """Writes everything into a folder, each file whole or not at all.

    Returns:
        Paths by what they are: ``report``, ``data``, ``plan``, and the figures by name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data = study.data | {"commands": commands(folder, study.data["model"]["called"])}
    paths = {name: write_bytes(folder / f"{name}.png", picture) for name, picture in study.pictures.items()}
    paths["plan"] = study.plan.save(folder / PLAN)
    paths["data"] = write_json(folder / DATA, data)
    return paths | {"report": write_text(folder / REPORT, render(data, study.pictures))}
