"""What the commands are run on: pictures of several sizes, questions about them, conversations."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from saccade.system.files import write_text

FRAMES = 6
QUESTION = "What is in the picture?"
SIZES = {
    "square": (336, 336),
    "wide": (1024, 768),
    "low": (448, 224),
    "small": (112, 112),
    "tall": (20, 4000),
    "thread": (1, 4000),
}
"""Width and height of each picture."""


@dataclass(frozen=True)
class Scene:
    """A folder with everything a command may be given.

    Attributes:
        folder: The folder.
    """

    folder: Path

    def picture(self, name: str) -> Path:
        """A picture's file."""
        return self.folder / f"{name}.png"

    def image(self, name: str) -> Image.Image:
        """A picture."""
        return Image.open(self.picture(name)).convert("RGB")

    @property
    def clip(self) -> Path:
        """A video: a folder of frames."""
        return self.folder / "clip"

    @property
    def questions(self) -> Path:
        """Questions with answers, as JSON lines: about one picture, about two, about none."""
        return self.folder / "questions.jsonl"

    @property
    def pictured(self) -> Path:
        """Those of them that are about a picture."""
        return self.folder / "pictured.jsonl"

    @property
    def conversations(self) -> Path:
        """Conversations to train on."""
        return self.folder / "conversations.json"


def make(folder: Path) -> Scene:
    """Makes the folder's files."""
    folder.mkdir(parents=True, exist_ok=True)
    scene = Scene(folder)
    for name, (width, height) in SIZES.items():
        _picture(width, height).save(scene.picture(name))
    scene.clip.mkdir(exist_ok=True)
    for number in range(FRAMES):
        _picture(80 + number, 64).crop((number, 0, 80 + number, 64)).save(scene.clip / f"{number}.png")
    asked = [
        {"image": "square.png", "question": QUESTION, "answer": "a cup", "task": "one"},
        {"image": "low.png", "question": "Is it dark?", "answer": "no", "task": "one"},
        {"images": ["square.png", "low.png"], "question": "Which is wider?", "answer": "low", "task": "two"},
        {"question": "What is two and two?", "answer": "four", "task": "none"},
    ]
    write_text(scene.questions, "".join(json.dumps(line) + "\n" for line in asked))
    write_text(
        scene.pictured,
        "".join(json.dumps(line) + "\n" for line in asked if {"image", "images"} & line.keys()),
    )
    said = [("small.png", "<image>\n" + QUESTION, "A cup."), (None, "What is two and two?", "Four.")]
    talks = [
        {"id": str(number), **({"image": image} if image else {}), "conversations": _talk(question, answer)}
        for number, (image, question, answer) in enumerate(said)
    ]
    talks[0]["conversations"] += _talk("What colour is it?", "Red.")
    write_text(scene.conversations, json.dumps(talks))
    return scene


def _talk(question: str, answer: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def _picture(width: int, height: int) -> Image.Image:
    """Waves of three lengths, so that no two patches are alike."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    waves = [np.sin(x / 9 + y / 23), np.sin(x / 31 - y / 7), np.cos((x + y) / 17)]
    return Image.fromarray((127 + 120 * np.stack(waves, -1)).astype(np.uint8))
