"""Many clients at a server for a while: every answer against offline, memory, and how long they waited.

    python benchmarks/serve_load.py --clients 32 --seconds 300 --json benchmarks/results/serve_load.json

Starts `saccade serve` as a program, asks it by OpenAI's client, and in the end sends it a SIGTERM. Offline
answers are those of `saccade generate`: each prompt alone, greedy.
"""

from __future__ import annotations

import argparse
import base64
import io
import itertools
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import openai

from saccade import models
from saccade.engine import apply
from saccade.glance import suite
from saccade.inputs.samples import Sample
from saccade.measure import record
from saccade.plans.plan import Plan
from saccade.system.files import write_json

PLANS = {
    "vskip": "vskip(layers=6-11)",
    "prune": "divprune(keep=0.5,position_policy=keep)",
    "close": "divprune(keep=0.5)",
    "withdraw": "vtw(layer=8)",
    "fastv": "fastv(layer=3,keep=0.5)",
}
TASKS = ("count", "attribute", "word", "list")
LEAVING = 0.03
"""Share of requests whose client leaves in the middle of the stream."""
BROKEN = 0.03
"""Share of requests that are nonsense, and must be refused."""
TOKENS = 16


def offline(loaded: models.Loaded, sample: Sample, plan: str) -> str:
    """What `saccade generate` answers."""
    wanted = Plan.of(PLANS[plan]) if plan else Plan()
    with apply(loaded.model, wanted):
        batch = models.inputs(loaded, [sample], wanted)
        made = loaded.model.generate(**batch, **models.greedy(TOKENS))
    return models.answers(loaded, made, batch["input_ids"].shape[1])[0]


def message(sample: Sample) -> dict[str, Any]:
    """A question as a client sends it."""
    parts: list[dict[str, Any]] = []
    for image in sample.images:
        stream = io.BytesIO()
        image.save(stream, "PNG")
        url = f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
        parts.append({"type": "image_url", "image_url": {"url": url}})
    return {"role": "user", "content": [*parts, {"type": "text", "text": sample.question}]}


def resident(pid: int) -> float:
    """MiB of a process in memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


class Load:
    """What the clients ask and find."""

    def __init__(self, address: str, asked: list[tuple[Sample, str, str]], until: float) -> None:
        self.address, self.asked, self.until = address, asked, until
        self.counts: Counter[str] = Counter()
        self.first: list[float] = []
        self.whole: list[float] = []
        self.wrong: list[dict[str, str]] = []
        self.lock = threading.Lock()

    def client(self, number: int) -> None:
        """Asks one after another until the time is over."""
        draw = random.Random(number)
        with openai.OpenAI(
            base_url=f"{self.address}/v1", api_key="none", max_retries=0, timeout=300
        ) as client:
            while time.monotonic() < self.until:
                try:
                    self._ask(client, draw)
                except openai.RateLimitError:
                    self._count("told to come back")
                    time.sleep(0.2)
                except openai.BadRequestError:
                    self._count("nonsense refused")
                except openai.OpenAIError as error:
                    self._count(f"failed: {type(error).__name__}")

    def _ask(self, client: openai.OpenAI, draw: random.Random) -> None:
        sample, plan, want = draw.choice(self.asked)
        said: dict[str, Any] = {
            "model": f"glance@{plan}" if plan else "glance",
            "messages": [message(sample)],
        }
        said |= {"max_tokens": TOKENS}
        if draw.random() < BROKEN:
            client.chat.completions.create(**said | {"n": 7})
            return self._count("nonsense answered")
        leaves, begun = draw.random() < LEAVING, time.monotonic()
        if leaves or draw.random() < 0.5:
            text, first = "", 0.0
            with client.chat.completions.create(**said, stream=True) as pieces:
                for piece in pieces:
                    first = first or time.monotonic() - begun
                    text += piece.choices[0].delta.content or ""
                    if leaves:
                        return self._count("left")
            with self.lock:
                self.first.append(first)
        else:
            text = client.chat.completions.create(**said).choices[0].message.content or ""
        with self.lock:
            self.whole.append(time.monotonic() - begun)
            self.counts["right" if text == want else "wrong"] += 1
            if text != want:
                self.wrong.append({"question": sample.question, "plan": plan, "want": want, "got": text})

    def _count(self, name: str) -> None:
        with self.lock:
            self.counts[name] += 1


def spread(values: list[float]) -> dict[str, float]:
    """Median, and the 95th of a hundred."""
    return (
        {"median": statistics.median(values), "p95": statistics.quantiles(values, n=20)[-1]}
        if len(values) > 1
        else {}
    )


def main() -> None:
    """Loads a server."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--pictures", type=int, default=10)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    loaded = models.load("glance", device="cpu")
    samples = [sample for task in TASKS for sample in suite.samples(task, n=given.pictures)]
    # Several questions about one picture, so that beginnings are met again.
    pairs = itertools.chain(
        ((s, s.question) for s in samples), zip(samples, (o.question for o in samples[1:]), strict=False)
    )
    asked = []
    for sample, question in pairs:
        one = Sample(sample.id, "", "", sample.images, question)
        asked += [(one, plan, offline(loaded, one, plan)) for plan in ("", *PLANS)]
    words = [
        sys.executable,
        "-m",
        "saccade",
        "serve",
        "--port",
        "0",
        "--queue",
        str(max(1, given.clients - 10)),
        "--device",
        "cpu",
    ]
    for name, spec in PLANS.items():
        words += ["--plan", f"{name}={spec}"]
    server = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert server.stdout is not None and server.stderr is not None
    address = re.search(r"http://[\d.:]+", server.stdout.readline())[0]  # type: ignore[index]
    load = Load(address, asked, time.monotonic() + given.seconds)
    threads = [threading.Thread(target=load.client, args=(number,)) for number in range(given.clients)]
    memory, begun = [resident(server.pid)], time.monotonic()
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        time.sleep(min(5.0, given.seconds / 20))
        memory.append(resident(server.pid))
    took = time.monotonic() - begun
    server.send_signal(signal.SIGTERM)
    _, said = server.communicate(timeout=120)
    quarter = max(1, len(memory) // 4)
    found = {
        "benchmark": "serve load",
        "clients": given.clients,
        "seconds": took,
        "questions": len(asked),
        "plans": PLANS,
        "counts": dict(sorted(load.counts.items())),
        "wrong": load.wrong[:10],
        "answers_per_second": (load.counts["right"] + load.counts["wrong"]) / took,
        "time_to_first_token_s": spread(load.first),
        "whole_answer_s": spread(load.whole),
        "resident_mib": {
            "start": memory[0],
            "second_quarter": statistics.fmean(memory[quarter : 2 * quarter] or memory),
            "last_quarter": statistics.fmean(memory[-quarter:]),
            "most": max(memory),
        },
        "exit_code": server.returncode,
        "traceback": "Traceback" in said,
        "provenance": record(model=loaded.model, device="cpu"),
    }
    print({key: value for key, value in found.items() if key not in ("provenance", "plans")})
    if given.json is not None:
        write_json(given.json, found)


if __name__ == "__main__":
    main()
