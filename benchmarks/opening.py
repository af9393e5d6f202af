"""Opens a checkpoint of real width with Saccade and with stock ``from_pretrained``: time and peak memory.

    python benchmarks/opening.py --work FOLDER            # LLaVA-1.5-7B width, 4 layers, bfloat16
    python benchmarks/opening.py --work FOLDER --shape qwen2.5-vl-7b --repeats 7

A checkpoint with random weights is written once, in shards. Then the two sides take turns, each in a
process of its own whose imports are done before the clock starts; the files lie in the page cache for both.
Stock weights on a CPU stay mapped files until they are used, while Saccade looks whether every number is
finite; so a short forward, which reads all of the decoder, follows on both sides, and stands in a figure of
its own. Memory is read off the process from outside, above what it held before: pages of its own, which no
file backs, and all that are resident.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from saccade.measure import record
from saccade.measure.results import PairedRuns
from saccade.measure.target import build
from saccade.opening import read_dtype
from saccade.system.files import write_folder, write_json

RESULTS = Path(__file__).parent / "results"
SIDES = ("stock", "saccade")
TOKENS = 8
"""Tokens of the prompt without a picture that runs after opening."""
POLL_S = 0.005
"""Between two looks at a process's memory."""
MIB = 2**20


def main() -> None:
    """Writes the checkpoint, opens it in turns, and writes the result file after every pair."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--shape", default="llava-1.5-7b")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--shard", default="1GB", help="largest file of weights")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--work", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--out", type=Path, default=RESULTS / "opening_cpu.json")
    parser.add_argument("--side", choices=SIDES, help="open once in this process; for the program itself")
    chosen = parser.parse_args()
    folder = chosen.work / f"{chosen.shape}-{chosen.layers}-{chosen.dtype}"
    if chosen.side:
        once(chosen.side, folder)
        return
    if not folder.exists():
        write(folder, chosen.shape, chosen.layers, chosen.dtype, chosen.shard)
    shards = sorted(folder.glob("*.safetensors"))
    for shard in shards:  # into the page cache
        with shard.open("rb") as file:
            while file.read(64 * MIB):
                pass
    runs: list[dict[str, Any]] = []
    for number in range(chosen.repeats):
        # Whoever comes first in a pair changes every time.
        for side in SIDES if number % 2 == 0 else reversed(SIDES):
            runs.append({"pair": number, "side": side, **opened(side, chosen)})
        found = {
            "kind": "opening",
            "shape": chosen.shape,
            "layers": chosen.layers,
            "weights_mib": round(sum(shard.stat().st_size for shard in shards) / MIB),
            "shards": len(shards),
            "repeats": number + 1,
            "figures": {name: vars(pairs(runs, name)) for name in runs[0] if name not in ("pair", "side")},
            "runs": runs,
        }
        command = (
            f"python benchmarks/opening.py --work FOLDER --shape {chosen.shape} --layers {chosen.layers}"
        )
        write_json(chosen.out, found | {"provenance": record(command, dtype=chosen.dtype, seed=0)})
        told = {name: f"{each['dense']:.4g} | {each['plan']:.4g}" for name, each in found["figures"].items()}
        print(f"{number + 1} of {chosen.repeats}, stock | saccade: {told}", flush=True)
    print(f"wrote {chosen.out.name}; next: make tables")


def pairs(runs: list[dict[str, Any]], name: str) -> PairedRuns:
    """A figure on both sides, pair by pair; the ratio is Saccade's over that of stock."""
    by_side = {side: [run[name] for run in runs if run["side"] == side] for side in SIDES}
    return PairedRuns.of(by_side["stock"], by_side["saccade"])


def write(folder: Path, shape: str, layers: int, dtype: str, shard: str) -> None:
    """Writes the checkpoint: full width, few layers, random weights, in shards; without a processor."""
    target = build(
        shape, layers=layers, batch=1, rows=64, dtype=read_dtype(dtype), device=torch.device("cpu"), seed=0
    )
    with write_folder(folder) as fresh:
        target.model.save_pretrained(fresh, max_shard_size=shard)  # type: ignore[operator]


def opened(side: str, chosen: argparse.Namespace) -> dict[str, float]:
    """Opens the checkpoint in a process of its own, and watches its memory.

    Returns:
        Seconds and CPU seconds of opening, seconds with the first forward, and MiB at the peak of opening and
        of both, above what the process held with its imports done.
    """
    words = [sys.executable, __file__, "--side", side, "--work", str(chosen.work), "--shape", chosen.shape]
    words += ["--layers", str(chosen.layers), "--dtype", chosen.dtype]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdout.readline()
        before = memory(process.pid)
        peak = {name: 0 for name in before}
        told: list[dict[str, float]] = []
        for phase in ("open", "first"):
            process.stdin.write(f"{phase}\n")
            process.stdin.flush()
            told.append(_watched(process, peak))
            if phase == "open":
                opening = dict(peak)
    if process.returncode:
        raise RuntimeError(f"the process that opened with {side} ended with {process.returncode}")
    return {
        "open_s": told[0]["seconds"],
        "open_cpu_s": told[0]["cpu"],
        "open_and_first_forward_s": told[0]["seconds"] + told[1]["seconds"],
        **{f"open_{name}_mib": (opening[name] - before[name]) / MIB for name in before},
        **{f"peak_{name}_mib": (peak[name] - before[name]) / MIB for name in before},
    }


def _watched(process: subprocess.Popen[str], peak: dict[str, int]) -> dict[str, float]:
    """Reads a process's memory until it answers; raises the peaks."""
    import selectors

    assert process.stdout is not None
    with selectors.DefaultSelector() as ready:
        ready.register(process.stdout, selectors.EVENT_READ)
        while not ready.select(POLL_S):
            for name, now in memory(process.pid).items():
                peak[name] = max(peak[name], now)
    for name, now in memory(process.pid).items():
        peak[name] = max(peak[name], now)
    return json.loads(process.stdout.readline())


def memory(pid: int) -> dict[str, int]:
    """Bytes of a process: its own pages (``anonymous``), and all that are resident."""
    fields = dict(
        line.split(":", 1)
        for line in Path(f"/proc/{pid}/status").read_text("ascii").splitlines()
        if ":" in line
    )
    return {
        "anonymous": int(fields["RssAnon"].split()[0]) * 1024,
        "resident": int(fields["VmRSS"].split()[0]) * 1024,
    }


def once(side: str, folder: Path) -> None:
    """Opens the checkpoint in this process when it is told to, then runs a short prompt."""
    load = _saccade(folder) if side == "saccade" else _stock(folder)
    print("ready", flush=True)
    sys.stdin.readline()
    model, told = _timed(load)
    print(json.dumps(told), flush=True)
    sys.stdin.readline()
    prompt = torch.arange(1, TOKENS + 1)[None]
    with torch.inference_mode():
        _, told = _timed(lambda: model(input_ids=prompt, use_cache=False))
    print(json.dumps(told), flush=True)


def _timed(run: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    wall, cpu = time.perf_counter(), time.process_time()
    found = run()
    return found, {"seconds": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def _stock(folder: Path) -> Callable[[], Any]:
    import transformers
    from transformers.utils import logging

    from saccade.families import find

    logging.disable_progress_bar()
    # What is imported as a model is opened is not part of opening it.
    config = transformers.AutoConfig.from_pretrained(folder)
    find(config).model_class()
    return lambda: transformers.AutoModelForImageTextToText.from_pretrained(folder, dtype="auto").eval()


def _saccade(folder: Path) -> Callable[[], Any]:
    from saccade.families import find
    from saccade.opening import Opening, open_config, open_model

    find(open_config(str(folder))).model_class()
    return lambda: open_model(str(folder), Opening(device="cpu"), speaks=False)[0]


if __name__ == "__main__":
    main()
