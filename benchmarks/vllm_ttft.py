"""Time to the first token inside vLLM, dense and under plans in turns, in one process.

    make vllm ARGS=--version && .venv-vllm/bin/python benchmarks/vllm_ttft.py [--repeats 20]

A model of random weights at a real width (1024, 8 layers, 576 visual and 50 text rows) is asked for one token
of a prompt that it has not seen. FLOPs are those that transformers dispatches for the same prompt under the
same
plan: tower, decoder, and the head at the last row. What arrives of what was promised is
*captured*: (1 - ratio of time) / (1 - ratio of FLOPs). Time is CPU time of one thread, so that a busy machine
does not weigh on it. Steps after the first are timed one by one, beside the model without what a plan adds to
every step; the median of a prompt's steps is what is compared.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

OUT = Path(__file__).parent / "results" / "vllm_ttft.json"
ROOT = Path(__file__).resolve().parent.parent
PLANS = (
    "shortv(layers=2-7)",
    "ffn_skip(layers=2-7)",
    "vskip(layers=2-7)",
    "vtw(layer=4)",
    "divprune(keep=64)",
    "fastervlm(keep=64)",
)
ALL = "vskip(layers=0-7)"
"""What the engine is started with: parts of the weights are there for every layer."""


def main() -> None:
    """Times plans beside dense, and writes the result file."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--decode", type=int, default=32, help="steps after the first to time too")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--out", type=Path, default=OUT)
    chosen = parser.parse_args()
    os.environ.update(VLLM_CPU_KVCACHE_SPACE="1", VLLM_ENABLE_V1_MULTIPROCESSING="0", OMP_NUM_THREADS="1")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

    from saccade.measure import record
    from saccade.system.files import write_json

    with tempfile.TemporaryDirectory() as folder:
        where = built(Path(folder) / "wide")
        flops = counted(where)
        cells = timed(where, chosen.repeats, chosen.dtype, chosen.decode)
    for cell in cells:
        cell["flops"] = flops[cell["plan"]] / flops["dense"]
        cell["captured"] = (1 - cell["ratio"]) / (1 - cell["flops"])
        print(
            f"{cell['plan']:24} {cell['ms']:7.1f} ms of {cell['dense_ms']:7.1f}: {cell['ratio']:.3f}, FLOPs "
            f"{cell['flops']:.3f}, captured {cell['captured']:.2f}, later steps {cell['decode_ratio']:.3f} "
            f"({cell['decode_own_us']:.0f} us of {1e3 * cell['decode_ms']:.0f} its own)"
        )
    from vllm.version import __version__

    write_json(
        chosen.out, record(device="cpu", dtype=chosen.dtype, seed=0, vllm=__version__) | {"cells": cells}
    )


def built(folder: Path) -> Path:
    """A LLaVA-1.5 of random weights, of the width and depth that are measured."""
    import transformers as T

    from support import folders
    from support.models import BOS, EOS, IMAGE, PAD, VOCAB, Tiny, _ready
    from support.processors import tokenizer

    config = T.LlavaConfig(
        vision_config=T.CLIPVisionConfig(
            hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=2,
            image_size=336, patch_size=14, projection_dim=128,
        ),
        text_config=T.LlamaConfig(
            vocab_size=VOCAB, hidden_size=1024, intermediate_size=2752, num_hidden_layers=8,
            num_attention_heads=16, num_key_value_heads=16, max_position_embeddings=4096, pad_token_id=PAD,
            bos_token_id=BOS, eos_token_id=EOS,
        ),
        image_token_index=IMAGE,
        image_seq_length=576,
    )  # fmt: skip
    tiny: Tiny = _ready("wide", "llava", T.LlavaForConditionalGeneration, config)
    from e2e.vllm.support import write_model

    write_model(folder, tiny, "llava-llama")
    tokenizer("<image>").save_pretrained(folder)
    folders.change(
        folder / "preprocessor_config.json",
        size={"shortest_edge": 336},
        crop_size={"height": 336, "width": 336},
    )
    folders.change(folder / "processor_config.json", patch_size=14)
    return folder


def prompt(seed: int) -> Any:
    """A prompt of 50 text rows around a picture that no other has."""
    from e2e.vllm.support import Prompt, picture, words

    return Prompt(f"{words(0, 10)} <image> {words(1, 40)}", (picture(seed, (336, 336)),))


def counted(folder: Path) -> dict[str, int]:
    """FLOPs of the prompt, dense and under every plan."""
    import saccade
    from saccade import models
    from saccade.measure.counter import dispatched_flops
    from saccade.opening import Opening

    loaded = models.open_as(str(folder), Opening(device="cpu", dtype="float32"))
    asked = prompt(0)
    batch = loaded.processor(text=[asked.text], images=list(asked.images), return_tensors="pt")
    assert batch["input_ids"].shape[1] == 626
    found = {}
    for plan in ("dense", *PLANS):
        with saccade.apply(loaded.model, plan):
            found[plan] = dispatched_flops(lambda: loaded.model(**batch, logits_to_keep=1))
    return found


def timed(folder: Path, repeats: int, dtype: str, decoded: int) -> list[dict[str, Any]]:
    """Times to the first token and of steps after it, plan by plan beside dense."""
    from e2e.vllm.support import engine

    from saccade.vllm.inside.decoder import Decoder

    seed, cells, own = 0, [], []
    watched: Any = Decoder
    real = watched.begin

    def begin(decoder: Any, is_visual: Any, rows: int) -> bool:
        began = time.process_time()
        found = real(decoder, is_visual, rows)
        if is_visual is None or not is_visual.any():
            own.append(time.process_time() - began)
        return bool(found)

    watched.begin = begin
    with engine(folder, ALL, dtype=dtype, max_model_len=2048, max_num_seqs=4) as served:

        def run(plan: str) -> tuple[float, float]:
            nonlocal seed
            seed += 1
            served.use(plan)
            if plan != "dense":
                return answered(served.llm.llm_engine, seed, decoded)
            with stock(served.llm):
                return answered(served.llm.llm_engine, seed, decoded)

        def pair(plan: str, number: int) -> dict[str, tuple[float, float]]:
            order = ("dense", plan) if number % 2 else (plan, "dense")
            return {name: run(name) for name in order}

        for plan in PLANS:
            pair(plan, 0)
            own.clear()
            pairs = [pair(plan, number) for number in range(repeats)]
            first, later = ([(one["dense"][n], one[plan][n]) for one in pairs] for n in (0, 1))
            steps = told(later)
            spread = statistics.quantiles([planned / dense for dense, planned in later], n=4)
            cells.append(
                {"plan": plan, "repeats": repeats, **told(first)}
                | {"decode_ratio": steps["ratio"], "decode_quartiles": [spread[0], spread[2]]}
                | {"decode_own_us": 1e6 * statistics.mean(own)}
                | {"decode_ms": steps["ms"], "decode_dense_ms": steps["dense_ms"], "decode_steps": decoded}
            )
    return cells


def answered(engine: Any, seed: int, decoded: int) -> tuple[float, float]:
    """CPU time to the first token of a new prompt, and the median of the steps after it."""
    from vllm import SamplingParams

    how = SamplingParams(temperature=0, max_tokens=1 + decoded, min_tokens=1 + decoded)
    began = time.process_time()
    engine.add_request(str(seed), prompt(seed).request, how)
    while not any(out.outputs[0].token_ids for out in engine.step()):
        pass
    first, steps = time.process_time() - began, []
    while engine.has_unfinished_requests():
        began = time.process_time()
        engine.step()
        steps.append(time.process_time() - began)
    return first, statistics.median(steps)


@contextmanager
def stock(llm: Any) -> Iterator[None]:
    """vLLM's own model meanwhile, without what a plan's model looks at in every step."""
    held: list[Any] = []

    def off(model: Any) -> None:
        held.append(model.saccade)
        model.saccade = None

    def on(model: Any) -> None:
        model.saccade = held.pop()

    llm.apply_model(off)
    try:
        yield
    finally:
        llm.apply_model(on)


def told(pairs: list[Any]) -> dict[str, float]:
    """Medians of times of dense and planned runs, and of their ratios."""
    return {
        "dense_ms": 1e3 * statistics.median(dense for dense, _ in pairs),
        "ms": 1e3 * statistics.median(planned for _, planned in pairs),
        "ratio": statistics.median(planned / dense for dense, planned in pairs),
    }


if __name__ == "__main__":
    main()
