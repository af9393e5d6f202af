"""A chat of lmms-eval's form, with its images, and model inputs of a batch of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from saccade import models
from saccade.core.text import short
from saccade.inputs.pictures import is_file, open_picture, rgb
from saccade.inputs.samples import blind_image
from saccade.plans.plan import PlanLike


@dataclass(frozen=True)
class ChatMessages:
    """Messages and their images.

    Attributes:
        messages: As a chat template takes them: a role and a list of texts and places of images.
        images: RGB images in prompt order; may be empty.
    """

    messages: tuple[dict[str, Any], ...]
    images: tuple[Image.Image, ...] = ()

    @classmethod
    def read(cls, messages: Sequence[Mapping[str, Any]]) -> ChatMessages:
        """Reads messages of lmms-eval: ``{"role": ..., "content": [{"type": "image", "url": ...}, ...]}``.

        Raises:
            ValueError: If a message is of no known form, or has video or sound.
        """
        images: list[Image.Image] = []
        read = []
        for message in messages:
            content = message.get("content")
            if message.get("role") not in ("user", "system", "assistant"):
                raise ValueError(
                    f"a message is of a user, the system or an assistant, not {message.get('role')!r}"
                )
            parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
            if not isinstance(parts, Sequence):
                raise ValueError(f"the content of a message is text or a list, got {type(content).__name__}")
            read.append({"role": message["role"], "content": [_part(part, images) for part in parts]})
        return cls(tuple(read), tuple(images))

    def blind(self) -> ChatMessages:
        """The same over plain grey images of the same sizes."""
        return replace(self, images=tuple(blind_image(image) for image in self.images))


def _part(part: Mapping[str, Any], images: list[Image.Image]) -> dict[str, Any]:
    kind = part.get("type")
    if kind == "text":
        return {"type": "text", "text": str(part["text"])}
    if kind != "image":
        raise ValueError(f"saccade answers questions about images; this task has {kind!r} in its messages")
    images.append(_image(part.get("url", part.get("image"))))
    return {"type": "image"}


def _image(source: Any) -> Image.Image:
    if isinstance(source, Image.Image):
        return rgb(source)
    if isinstance(source, (str, Path)) and is_file(Path(source)):
        return open_picture(source)
    raise ValueError(f"an image is a picture or the path of one, got {short(str(source))!r}")


def inputs(loaded: models.Loaded, conversations: Sequence[ChatMessages], plan: PlanLike | None = None) -> Any:
    """Model inputs of a batch, left padded, on the model's device; like ``models.inputs``, for any chat.

    Args:
        loaded: The model and its processor.
        conversations: What is asked; some may have images, others none.
        plan: The plan they will run under; its ``resize`` methods make the images smaller.

    Raises:
        ValueError: If the processor has no chat template.
    """
    texts = [models.chat_prompt(loaded, c.messages) for c in conversations]
    return models.encode(loaded, texts, [image for c in conversations for image in c.images], plan)
