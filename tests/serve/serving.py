"""Requests to a server of a tiny random Glance, and what it tells of them."""

from __future__ import annotations

import base64
import io
import queue
import time

import numpy as np
from PIL import Image

from saccade import models
from saccade.inputs.pictures import digest
from saccade.plans.plan import Plan
from saccade.serve.asked import ChatTask, Ended, Piece
from saccade.serve.beginnings import cut
from saccade.serve.choosing import Drawing
from saccade.serve.settings import ServeLimits
from saccade.serve.worker import Worker
from support.toy import build_toy

PLANS = {
    "vskip": "vskip(layers=0-3)",
    "prune": "divprune(keep=0.4)",
    "withdraw": "vtw(layer=1)",
    "fastv": "fastv(layer=1,keep=0.3)",
    "small": "resize(scale=0.5)",
}
LONGEST = 8


def picture(seed: int) -> Image.Image:
    """A picture of noise."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (32, 32, 3), dtype=np.uint8))


def data_url(image: Image.Image) -> str:
    """A picture as a client sends it."""
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def message(question: str, *images: Image.Image) -> dict:
    """A user's message: pictures, then a question."""
    parts = [{"type": "image_url", "image_url": {"url": data_url(image)}} for image in images]
    return {"role": "user", "content": [*parts, {"type": "text", "text": question}]}


def started(loaded=None, **limits) -> Worker:
    """A worker with the plans of the tests, on a model of its own."""
    loaded = loaded or build_toy()
    plans = {name: Plan.of(spec) for name, spec in PLANS.items()}
    return Worker(loaded, plans, ServeLimits(**{"tokens": LONGEST, "pictures": 3, **limits}))


class Heard:
    """What a worker tells of a request."""

    def __init__(self) -> None:
        self.told: queue.Queue = queue.Queue()

    def answer(self) -> tuple[str, Ended]:
        """The whole answer; a refusal is raised."""
        text = ""
        while True:
            one = self.told.get(timeout=60)
            if isinstance(one, Piece):
                text += one.text
            elif isinstance(one, Ended):
                return text, one
            else:
                raise one


GREEDY = Drawing()


def asked(loaded, question, images=(), plan="", longest=LONGEST, drawing=GREEDY, stops=(), seconds=60.0):
    """A request to a worker, and what it hears of it."""
    heard = Heard()
    content = [*({"type": "image"} for _ in images), {"type": "text", "text": question}]
    text = models.chat_prompt(loaded, [{"role": "user", "content": content}])
    parts = cut(text, ["<image>"]) if images else None
    key = None if parts is None else (plan, parts[0], tuple(map(digest, images)))
    rest, deadline = "" if parts is None else parts[1], time.monotonic() + seconds
    one = ChatTask(
        plan, text, tuple(images), key, rest, longest, drawing, tuple(stops), heard.told.put, deadline
    )
    return one, heard
