"""Answers by plain ``generate``, and runs of lmms-eval and of the command line as programs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from saccade import apply, models
from saccade.evaluation import is_match
from saccade.inputs.samples import Sample


def plain(loaded: models.Loaded, samples: Sequence[Sample], plan: str, tokens: int = 24) -> list[str]:
    """Answers by the stock ``generate``, one question at a time."""
    texts = []
    with apply(loaded.model, plan or "dense"), torch.inference_mode():
        for sample in samples:
            inputs = models.inputs(loaded, [sample], plan or None)
            output = loaded.model.generate(**inputs, do_sample=False, max_new_tokens=tokens)
            new = output[0, inputs["input_ids"].shape[1] :]
            texts.append(loaded.processor.tokenizer.decode(new, skip_special_tokens=True).strip())
    return texts


def accuracy(texts: Sequence[str], samples: Sequence[Sample]) -> float:
    """Share of exact matches."""
    return sum(is_match(text, sample.answer) for text, sample in zip(texts, samples, strict=True)) / len(
        texts
    )


def lmms_eval(out: Path, *words: object, processes: int = 1, arguments: str = "pretrained=glance") -> Path:
    """Runs lmms-eval itself; gives its results file."""
    program = [sys.executable, "-m"]
    if processes > 1:
        program += ["torch.distributed.run", "--standalone", "--nproc_per_node", str(processes), "-m"]
    program += ["lmms_eval", "eval", "--model", "saccade", "--model_args", arguments, "--device", "cpu"]
    program += ["--output_path", str(out), "--log_samples", *map(str, words)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=600)
    found = list(out.rglob("*_results.json"))
    assert len(found) == 1, done.stdout[-3000:] + done.stderr[-3000:]
    return found[0]


def answers(results: Path, task: str) -> list[str]:
    """What it noted as answers of a task, in the order of the documents."""
    path = results.with_name(results.name.replace("_results.json", f"_samples_{task}.jsonl"))
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert sorted(line["doc_id"] for line in lines) == list(range(len(lines)))
    return [line["filtered_resps"] for line in sorted(lines, key=lambda line: line["doc_id"])]


def saccade(*words: object) -> tuple[int, Any, str]:
    """Runs the command line; exit code, JSON on standard output, and standard error."""
    done = subprocess.run(
        [sys.executable, "-m", "saccade", *map(str, words)], capture_output=True, text=True, timeout=600
    )
    return done.returncode, json.loads(done.stdout) if done.stdout.strip() else None, done.stderr
