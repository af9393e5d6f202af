"""Qwen3.5 by vLLM's own kernel for its states, which takes bfloat16 alone on CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from e2e.vllm.support import prompts, write_model

import saccade
from saccade import models
from saccade.opening import Opening
from support.models import FIRST_WORD, tiny_qwen3_5

PLANS = ("dense", "vskip(layers=1-3)", "shortv(layers=0,3)", "divprune(keep=0.4)")
MARGIN = 0.5
"""Logits that lie further apart are not swapped by bfloat16."""


@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_first_tokens_are_those_of_transformers_in_float32(tmp_path):
    folder = write_model(tmp_path / "native", tiny_qwen3_5(wide=True, state=128), "qwen3_5")
    command = [sys.executable, "-m", "e2e.vllm.native", str(folder), *PLANS[1:], PLANS[0]]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    told = subprocess.run(command, capture_output=True, text=True, env=env, check=True).stdout
    found = json.loads(told.strip().splitlines()[-1])
    loaded = models.open_as(str(folder), Opening(device="cpu", dtype="float32"))
    asked = prompts("qwen3_5")
    images = [image for prompt in asked for image in prompt.images]
    sure, first = 0, {}
    for plan in PLANS:
        batch = models.encode(loaded, [prompt.text for prompt in asked], images, plan)
        with saccade.apply(loaded.model, plan), torch.no_grad():
            logits = loaded.model(**batch).logits[:, -1].float()
        logits[:, :FIRST_WORD] = -torch.inf
        best = logits.topk(2)
        first[plan] = best.indices[:, 0].tolist()
        for got, want, gap in zip(
            found[plan], first[plan], (best.values[:, 0] - best.values[:, 1]).tolist(), strict=True
        ):
            assert got == want or gap < MARGIN
            sure += gap >= MARGIN
    assert sure >= 2 * len(PLANS) and len({tuple(tokens) for tokens in first.values()}) > 1
