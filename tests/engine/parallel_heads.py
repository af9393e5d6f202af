"""What two processes run for test_parallel: models whose heads they share, against one process."""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.functional import interpolate
from transformers import AutoModelForImageTextToText
from transformers.distributed import DistributedConfig

from saccade.engine import apply
from saccade.methods import METHODS
from support import pair
from support.models import FACTORIES, FIRST_WORD, IMAGE, SQUARE, TALL, Tiny

RANKS = len(pair.RANKS)
RAGGED = [[3, SQUARE, 5], [2, TALL, 1, SQUARE, 6]]
TOLERANCE = 1e-5

PLANS = (
    "cdpruner(keep=0.4)",
    "dart(layer=2,keep=0.5,pivots=1)",
    "divprune(keep=0.4)",
    "fastervlm(keep=0.5)",
    "hiprune(keep=0.5,tower_layer=1)",
    "fastv(layer=2,keep=0.5)",
    "ffn_skip(layers=0-1)",
    "pool(factor=2)",
    "prumerge",
    "prumerge_plus",
    "pyramiddrop(layers=1/2/3,keep=0.5)",
    "fitprune(layers=1/2/3,left=0.7/0.5/0.3)",
    "random(keep=0.5,layer=1)",
    "resize(scale=0.5)",
    "shortv(layers=1-3)",
    "skip_vision(retained=0.25,split=grid,cache=small)",
    "sparsevlm(layers=1/2/3,tokens=0.5)",
    "sparsevlm(layers=2,tokens=0.5,scale=0.6)",
    "sparsevlm_plus(layers=1/2/3,tokens=0.4,heads=3)",
    "token_merge(keep=0.5)",
    "tome(r=2)",
    "uniform(keep=0.3)",
    "victor(registers=2,layer=2)",
    "visionzip(dominant=4,contextual=2)",
    "vispruner(keep=7)",
    "vskip(layers=1-2)",
    "vskip(layers=0/2,reading=mask)",
    "vtw(layer=0)",
    "vtw(layer=2)",
    "fastv(layer=1,keep=0.7)+shortv(layers=2)+vtw(layer=3)",
)
"""One plan of every method at least."""

DECODED = ("fastv(layer=2", "skip_vision", "sparsevlm(layers=1", "tome", "vtw(layer=2")
"""Those that decode as well."""

PACKED = {"pixelprune"}
"""Methods for towers that take packed patches, which this family's does not."""

TOWERWISE = (
    "fastervlm(keep=0.5)",
    "prumerge",
    "tome(r=2)",
    "visionzip(dominant=4,contextual=2)",
    "vispruner(keep=7)",
)
"""Plans that look into the vision tower."""

OTHERS = {
    "llava_next-mistral": ("fastv(layer=2,keep=0.5)", "sparsevlm(layers=1/2/3,tokens=0.5)"),
    "qwen2_5_vl": (
        "fastv(layer=2,keep=0.5)",
        "dart(layer=2,keep=0.5,pivots=1)",
        "pixelprune(threshold=4.5)",
    ),
    "internvl-qwen3": ("pyramiddrop(layers=1/2/3,keep=0.5)", "sparsevlm_plus(layers=2,tokens=0.4,heads=3)"),
}
"""Other families, with grouped queries, norms on heads and positions of several axes."""


def shared(name: str, plan: Any = "auto") -> tuple[Tiny, Any]:
    """A tiny model alone, and the same with its heads over both processes."""
    tiny, folder = FACTORIES[name](), pair.folder() / name
    if dist.get_rank() == 0 and not folder.exists():
        tiny.model.save_pretrained(folder)
    dist.barrier()
    how = DistributedConfig(tp_plan=plan, tp_size=RANKS)
    return tiny, AutoModelForImageTextToText.from_pretrained(folder, distributed_config=how).eval()


def batch(tiny: Tiny, spec: str) -> dict[str, torch.Tensor]:
    if not spec.startswith("resize"):
        return tiny.batch(RAGGED)
    # What the processor makes of a picture at half the resolution: four rows.
    small = interpolate(tiny.batch([[3, SQUARE, 5]])["pixel_values"], (16, 16))
    words = torch.arange(FIRST_WORD, FIRST_WORD + 8)
    ids = torch.cat((words[:3], torch.full((4,), IMAGE), words[3:]))[None]
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": small}


@torch.no_grad()
def answer(model: Any, spec: str, given: dict[str, torch.Tensor], new: int) -> tuple[torch.Tensor, list, Any]:
    """Logits, which visual rows are alive in every layer, and tokens of greedy decoding."""
    with apply(model, spec) as handle:
        with handle.tracing() as traces:
            logits = model(**given).logits
        layers = range(len(handle.parts.layers))
        kept = [[trace.kept(layer) for layer in layers] for trace in traces]
        tokens = model.generate(**given, max_new_tokens=new, do_sample=False) if new else None
    return logits, kept, tokens


def check(tiny: Tiny, model: Any, spec: str, new: int = 0) -> None:
    given = batch(tiny, spec)
    (want, rows, said), (got, chosen, tokens) = (answer(one, spec, given, new) for one in (tiny.model, model))
    real = given["attention_mask"].bool()
    assert chosen == rows, (spec, chosen, rows)
    far = float((got - want)[real].abs().max() / want[real].abs().max())
    assert far < TOLERANCE, (spec, far)
    assert new == 0 or torch.equal(tokens, said), (spec, tokens, said)


def every_method() -> None:
    assert {spec.split("(")[0] for spec in PLANS} == set(METHODS) - PACKED
    tiny, model = shared("llava-llama")
    attn = model.model.language_model.layers[0].self_attn
    assert attn.q_proj(torch.zeros(1, 1, 64)).shape[-1] == 64 // RANKS, "the heads are shared"
    for spec in PLANS:
        check(tiny, model, spec, new=3 if spec.startswith(DECODED) else 0)


def other_families() -> None:
    for name, plans in OTHERS.items():
        tiny, model = shared(name)
        for spec in plans:
            check(tiny, model, spec)


def shared_towers() -> None:
    where = "model.vision_tower.encoder.layers.*"
    styles = {"q_proj": "colwise", "k_proj": "colwise", "v_proj": "colwise", "out_proj": "rowwise"}
    tiny, model = shared("llava-llama", {f"{where}.self_attn.{key}": style for key, style in styles.items()})
    attn = model.model.vision_tower.encoder.layers[0].self_attn
    assert attn.q_proj(torch.zeros(1, 1, 32)).shape[-1] == 32 // RANKS, "the heads are shared"
    for spec in TOWERWISE:
        check(tiny, model, spec)


def gradients() -> None:
    """Training under a plan that decides: the gradients of one process."""
    spec, probe = "fastv(layer=2,keep=0.5)", "model.language_model.layers.3.self_attn.o_proj.weight"
    tiny, model = shared("llava-llama")
    given = tiny.batch(RAGGED)
    given |= {"labels": given["input_ids"], "use_cache": False}
    found = []
    for one in (tiny.model, model):
        with apply(one, spec):
            one(**given).loss.backward()
        grad: Any = dict(one.named_parameters())[probe].grad
        found.append(grad.full_tensor() if hasattr(grad, "full_tensor") else grad)
    torch.testing.assert_close(found[1], found[0], atol=1e-5, rtol=1e-4)


def job(rank: int) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(RANKS)}
    for part in (every_method, other_families, shared_towers, gradients):
        part()


if __name__ == "__main__":
    pair.work(job)
