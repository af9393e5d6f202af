"""Throughput and time to the first token of ``vllm serve``, dense and under plans, with 1, 8 and 32 clients.

    .venv-vllm/bin/python benchmarks/vllm_load.py --device cuda [--shape llava-1.5-7b]
    .venv-vllm/bin/python benchmarks/vllm_load.py --device cpu --layers 8 --width 1024 --requests 3

Weights are random (``--load-format dummy``): what a plan costs and saves hangs on sizes alone. Every server
runs by itself; each client asks for an answer of so many tokens about a picture that nobody asked about, as
soon as its last one is over. On CUDA this is untested so far; its result file is what tells.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from saccade.cli.serve import vllm_command

OUT = Path(__file__).parent / "results" / "vllm_load.json"
ROOT = Path(__file__).resolve().parent.parent
CLIENTS = (1, 8, 32)
WAIT = 1800
"""Seconds that a server has to start."""


def main() -> None:
    """Serves the model dense and under every plan, loads each server, and writes the result file."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), required=True)
    parser.add_argument("--shape", default="llava-1.5-7b", help="a preset shape of a LLaVA-1.5")
    parser.add_argument("--layers", type=int, default=None, help="in place of the shape's")
    parser.add_argument("--width", type=int, default=None, help="in place of the shape's")
    parser.add_argument("--dtype", default=None)
    parser.add_argument("--requests", type=int, default=8, help="of each client")
    parser.add_argument("--tokens", type=int, default=32, help="of each answer")
    parser.add_argument("--clients", type=int, nargs="*", default=list(CLIENTS))
    parser.add_argument("--plan", action="append", default=None, help="several; those of the docs by default")
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--out", type=Path, default=OUT)
    chosen = parser.parse_args()
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

    from saccade.measure import record
    from saccade.system.files import write_json

    dtype = chosen.dtype or ("float32" if chosen.device == "cpu" else "bfloat16")
    cells: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        where, layers = built(Path(folder) / "model", chosen)
        late = f"{layers // 4}-{layers - 1}"
        plans = chosen.plan or [
            f"shortv(layers={late})", f"vskip(layers={late})", f"vtw(layer={layers // 2})",
                "divprune(keep=64)",
        ]  # fmt: skip
        for plan in ("dense", *plans):
            with Server(where, plan, dtype, chosen) as server:
                server.load(1, 2, chosen.tokens)  # warms up
                for clients in chosen.clients:
                    found = server.load(clients, chosen.requests, chosen.tokens)
                    cells.append({"plan": plan, "clients": clients, **found})
                    print(cells[-1], flush=True)
    write_json(chosen.out, record(device=chosen.device, dtype=dtype, seed=0) | {"cells": cells})


def built(folder: Path, chosen: argparse.Namespace) -> tuple[Path, int]:
    """Files of a LLaVA-1.5 of this shape, without weights."""
    import transformers as T

    from saccade.core.shapes import SHAPES
    from support import folders
    from support.models import BOS, EOS, IMAGE, PAD, VOCAB
    from support.processors import CHAT, tokenizer

    shape = SHAPES[chosen.shape]
    width, layers = chosen.width or shape.hidden, chosen.layers or shape.layers
    part = width / shape.hidden
    config = T.LlavaConfig(
        vision_config=T.CLIPVisionConfig(
            hidden_size=round(1024 * part), intermediate_size=round(4096 * part), num_hidden_layers=24,
            num_attention_heads=16, image_size=336, patch_size=14, projection_dim=768,
        ),
        text_config=T.LlamaConfig(
            vocab_size=VOCAB, hidden_size=width, intermediate_size=round(shape.ffn * part),
            num_hidden_layers=layers, num_attention_heads=round(shape.heads * part),
            num_key_value_heads=round(shape.kv_heads * part), max_position_embeddings=4096, pad_token_id=PAD,
            bos_token_id=BOS, eos_token_id=EOS,
        ),
        image_token_index=IMAGE,
        image_seq_length=576,
        architectures=["LlavaForConditionalGeneration"],
    )  # fmt: skip
    folder.mkdir()
    config.save_pretrained(folder)
    tokenizer("<image>").save_pretrained(folder)
    for name, data in folders.FILES["llava-llama"]().items():
        folders.put(folder / name, data)
    folders.change(
        folder / "preprocessor_config.json",
        size={"shortest_edge": 336},
        crop_size={"height": 336, "width": 336},
    )
    folders.change(folder / "processor_config.json", patch_size=14)
    (folder / "chat_template.jinja").write_text(CHAT, encoding="utf-8")
    return folder, layers


class Server:
    """``vllm serve`` of a folder under a plan, for the length of a block."""

    def __init__(self, folder: Path, plan: str, dtype: str, chosen: argparse.Namespace) -> None:
        how = [
            "--dtype",
            dtype,
            "--load-format",
            "dummy",
            "--max-model-len",
            "2048",
            "--port",
            f"{chosen.port}",
        ]
        how += ["--no-enable-prefix-caching", "--served-model-name", "wide"]
        if plan != "dense":
            how += ["--hf-overrides", json.dumps({"saccade": plan})]
        if chosen.device == "cpu":
            how += ["--enforce-eager"]
        self._command = [*vllm_command(f"{sys.prefix}/bin/vllm", str(folder)), *how]
        self.url = f"http://127.0.0.1:{chosen.port}"

    def __enter__(self) -> Server:
        env = {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_LOGGING_LEVEL": "WARNING", **os.environ}
        self._process = subprocess.Popen(self._command, env=env, start_new_session=True)
        until = time.monotonic() + WAIT
        while time.monotonic() < until:
            if self._process.poll() is not None:
                raise SystemExit(f"the server ended with exit code {self._process.returncode}")
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=5):
                    return self
            except (urllib.error.URLError, OSError):
                time.sleep(1)
        self.__exit__()
        raise SystemExit(f"the server did not start within {WAIT} s")

    def __exit__(self, *exc: object) -> None:
        os.killpg(self._process.pid, signal.SIGTERM)
        self._process.wait(timeout=120)

    def load(self, clients: int, requests: int, tokens: int) -> dict[str, float]:
        """Lets so many clients ask so often each."""
        return asyncio.run(_load(self.url, clients, requests, tokens))


async def _load(url: str, clients: int, requests: int, tokens: int) -> dict[str, float]:
    from openai import AsyncOpenAI

    first: list[float] = []
    opened: Any = AsyncOpenAI(base_url=f"{url}/v1", api_key="none", timeout=WAIT)
    async with opened as client:

        async def ask(number: int) -> None:
            for turn in range(requests):
                began, told = time.perf_counter(), False
                stream = await client.chat.completions.create(
                    model="wide",
                    messages=[{"role": "user", "content": _content(clients * 1000 + number * 100 + turn)}],
                    max_tokens=tokens,
                    temperature=0,
                    stream=True,
                    extra_body={"min_tokens": tokens},
                )
                async for _ in stream:
                    if not told:
                        first.append(time.perf_counter() - began)
                        told = True

        began = time.perf_counter()
        await asyncio.gather(*(ask(number) for number in range(clients)))
        took = time.perf_counter() - began
    return {"requests_per_s": clients * requests / took, "first_token_ms": 1e3 * statistics.median(first)}


def _content(seed: int) -> list[dict[str, Any]]:
    from e2e.vllm.support import picture, words

    held = io.BytesIO()
    picture(seed, (336, 336)).save(held, "PNG")
    link = f"data:image/png;base64,{base64.b64encode(held.getvalue()).decode()}"
    return [
        {"type": "image_url", "image_url": {"url": link}},
        {"type": "text", "text": words(seed, 50)},
    ]


if __name__ == "__main__":
    main()
