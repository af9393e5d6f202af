"""``vllm serve`` under a plan, as users start it: answers over HTTP, and what it computed at ``/metrics``."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from e2e.vllm.support import NEW, picture, words

from saccade.cli.serve import vllm_command
from support import folders
from support.models import FIRST_WORD, VOCAB

PLAN = "shortv(layers=1-2)+divprune(keep=5)"
WAIT = 1500


@pytest.fixture(scope="module")
def url(references):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    how = ["--dtype", "float32", "--enforce-eager", "--max-model-len", "512", "--port", str(port)]
    how += ["--served-model-name", "tiny", "--max-num-seqs", "8"]
    how += ["--hf-overrides", json.dumps({"saccade": PLAN})]
    command = [*vllm_command(f"{sys.prefix}/bin/vllm", str(references("llava").folder)), *how]
    # The server and the model are processes of their own, as they are for users.
    env = {**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    process = subprocess.Popen(command, env=env, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + WAIT
        while not healthy(url):
            assert process.poll() is None and time.monotonic() < until
            time.sleep(1)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=120)


def healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5):
            return True
    except OSError:
        return False


def told(url: str) -> dict[str, float]:
    with urllib.request.urlopen(f"{url}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    found = (re.fullmatch(r"(saccade_\w+\{.*\}) (\S+)", line) for line in lines)
    return {one[1]: float(one[2]) for one in found if one}


@pytest.mark.e2e
@pytest.mark.timeout(WAIT + 300)
def test_a_server_answers_as_transformers_does_and_tells_what_it_skipped(url, references):
    from openai import OpenAI

    # Of this question no token is a near tie, which processors settle either way.
    shown, text = picture(11, (24, 24)), words(11, 6)
    held = io.BytesIO()
    shown.save(held, "PNG")
    link = f"data:image/png;base64,{base64.b64encode(held.getvalue()).decode()}"
    content = [{"type": "image_url", "image_url": {"url": link}}, {"type": "text", "text": text}]
    before = told(url)
    answer = OpenAI(base_url=f"{url}/v1", api_key="none").chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": content}],
        max_tokens=NEW,
        temperature=0,
        extra_body={"min_tokens": NEW, "allowed_token_ids": list(range(FIRST_WORD, VOCAB))},
    )
    counts = {key: count - before[key] for key, count in told(url).items()}
    assert answer.usage.completion_tokens == NEW
    for layer in range(4):
        for part in ("attention", "ffn"):
            key = f'saccade_rows_total{{layer="{layer}",outcome="skipped",part="{part}"}}'
            other = f'saccade_rows_total{{layer="{layer}",part="{part}",outcome="skipped"}}'
            assert counts.get(key, counts.get(other)) == (5 if layer in (1, 2) else 0)
    assert counts['saccade_visual_rows_total{outcome="kept"}'] == 5
    assert counts['saccade_visual_rows_total{outcome="dropped"}'] == 11
    assert answer.choices[0].message.content.split() == expected(references("llava"), shown, text)


def expected(reference, shown, text) -> list[str]:
    from e2e.vllm.support import Prompt

    template = (reference.folder / "chat_template.jinja").read_text("utf-8")
    assert template == folders.CHAT
    # The template writes the picture, the words, and one word more for the answer to begin.
    tokens = reference.answers(PLAN, [Prompt(f"<image> {text} w9", (shown,))])[0]
    return reference.tokenizer.decode(tokens).split()
