"""Benches and costs as the report's records: what ``bench`` and ``cost`` write (pure)."""

from __future__ import annotations

from typing import Any

from saccade.report.results.evaluations import MOST_LAYERS, provenance, rows_of
from saccade.report.results.fields import Fields
from saccade.report.results.model import ModelId, Priced, Result, Timed

PHASE = ("dense_s", "plan_s", "time_ratio", "low", "high", "flops_ratio", "efficiency", "captured")
PRICE = (
    *("tflops", "dense_tflops", "ratio", "executed_ratio", "kv_bytes", "dense_kv_bytes", "kv_ratio"),
    *("equivalent_tokens", "visual_tokens", "score_tflops", "decode_gflops", "dense_decode_gflops"),
)


def read_bench(data: Any, path: str) -> Result:
    """What ``saccade bench`` and the benchmarks of width write."""
    top = {"plans": data} if isinstance(data, list) else data
    fields = Fields.of(top, path)
    runs = fields.parts("plans") or fields.parts("runs") or [fields]
    names = {run.text("name") for run in runs}
    if len(names) > 1:
        raise ValueError(f"{path} has benches of several models: {', '.join(sorted(names))}")
    first = runs[0]
    model = ModelId(
        first.text("name"),
        "",
        first.count("depth", MOST_LAYERS),
        first.count("visual"),
        first.count("text"),
    )
    return Result(path, "bench", model, provenance(fields, first), timed=tuple(_timed(run) for run in runs))


def _timed(run: Fields) -> Timed:
    prefill = run.part("prefill")
    for key in ("dense_s", "plan_s", "time_ratio", "flops_ratio"):
        prefill.number(key)
    decode = run.part("decode")
    phases = [{key: phase.maybe(key) for key in PHASE} for phase in (prefill, decode)]
    peak = [run.part(side).maybe("peak_memory_bytes") for side in ("dense", "planned")]
    n = {key: run.count(key) for key in ("layers", "depth", "batch", "visual", "text", "new_tokens")}
    part = "" if n["layers"] == n["depth"] else f" of {n['depth']}"
    setting = f"{n['layers']}{part} layers, batch {n['batch']}, {n['visual']} + {n['text']} rows"
    return Timed(
        run.text("plan"),
        setting,
        phases[0],
        phases[1] if decode.data else {},
        run.maybe("kv_ratio"),
        peak[1] / peak[0] if peak[0] and peak[1] is not None else None,
        run.maybe("vision_s"),
        run.data.get("vision_made_up") is True,
    )


def read_training_step(data: Any, path: str) -> Result:
    """What ``benchmarks/skip_ffn_step.py`` writes: forward and backward take the place of the prefill."""
    top = Fields.of(data, path)
    shape = top.part("shape")
    n = {key: top.count(key) for key in ("batch", "visual", "text")}
    layers = shape.count("layers", MOST_LAYERS)
    setting = (
        f"a training step: {layers} layers, batch {n['batch']}, {n['visual']} + {n['text']} rows, "
        "forward and backward"
    )
    timed = tuple(
        Timed(run.text("plan"), setting, {key: run.maybe(key) for key in PHASE}, {}, None, None, None, False)
        for run in top.parts("runs")
    )
    for run in top.parts("runs"):
        for key in ("time_ratio", "flops_ratio"):
            run.number(key)
    model = ModelId(shape.text("name"), "", layers, n["visual"], n["text"])
    return Result(path, "bench", model, provenance(top), timed=timed)


def read_cost(data: Any, path: str) -> Result:
    """What ``saccade cost`` writes."""
    top = Fields.of(data, path)
    shape = top.part("shape")
    model = ModelId(
        shape.text("name"), "", shape.count("layers", MOST_LAYERS), top.count("visual"),
        rows_of(top.number("text")),
    )  # fmt: skip
    prices = tuple(_priced(one) for one in top.parts("plans"))
    return Result(path, "cost", model, provenance(top), priced=prices)


def _priced(entry: Fields) -> Priced:
    for key in ("tflops", "ratio", "kv_ratio"):
        entry.number(key)
    return Priced(entry.text("plan"), entry.text("resolved"), {key: entry.maybe(key) for key in PRICE})
