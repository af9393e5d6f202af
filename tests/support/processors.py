"""Real processors of tiny models that cut pictures into views; images alone, for videos want torchvision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import transformers as T
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from saccade.models import Loaded, wrap
from support.models import BOS, EOS, FIRST_WORD, IMAGE, PAD, VIDEO, VOCAB, tiny_internvl, tiny_llava_onevision
from support.models_views import GRIDS

CHAT = (
    "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'image' %}<image> {% else %}"
    "{{ c['text'] }}{% endif %}{% endfor %}{% endfor %}{% if add_generation_prompt %} w9{% endif %}"
)


class _ImagesOnly:
    """What lets a processor do without the part for videos."""

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
        if argument_name == "video_processor":
            return type(None)
        return super().check_argument_for_proper_class(argument_name, argument)


class _Onevision(_ImagesOnly, T.LlavaOnevisionProcessor):
    pass


class _InternVL(_ImagesOnly, T.InternVLProcessor):
    pass


def onevision() -> Loaded:
    """The tiny LLaVA-OneVision with its processor."""
    sides = {"height": 24, "width": 24}
    images = T.LlavaOnevisionImageProcessorPil(size=sides, image_grid_pinpoints=GRIDS)
    processor = _Onevision(
        images, tokenizer(), None, num_image_tokens=9, vision_feature_select_strategy="full",
        chat_template=CHAT, vision_aspect_ratio="anyres_max_2",
    )  # fmt: skip
    return wrap(tiny_llava_onevision().model, processor)


def internvl(max_patches: int = 6) -> Loaded:
    """The tiny InternVL with its processor."""
    images = T.GotOcr2ImageProcessorPil(size={"height": 24, "width": 24}, max_patches=max_patches)
    processor = _InternVL(images, tokenizer(), None, image_seq_length=9, chat_template=CHAT)
    return wrap(tiny_internvl().model, processor)


def tokenizer(image: str = "<image>", marks: Mapping[int, str] | None = None) -> Any:
    """Words w0, w1, ... and the tokens of the tiny models.

    Args:
        image: The picture's placeholder.
        marks: Other tokens by their ids; those around a picture if None.
    """
    video = image.replace("image", "video") if "image" in image else "<video>"
    special = {PAD: "<pad>", BOS: "<s>", EOS: "</s>", IMAGE: image, VIDEO: video}
    special |= marks or {5: "<img>", 6: "</img>"}
    words = {n: f"w{n - FIRST_WORD}" for n in range(FIRST_WORD, VOCAB)} | special
    core = Tokenizer(models.WordLevel({word: n for n, word in words.items()}, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.decoder = decoders.WordPiece()
    core.add_special_tokens(list(special.values()))
    names = {"image_token": image, "context_image_token": image, "video_token": video}
    names |= {"start_image_token": special[5], "end_image_token": special[6]}
    return T.PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<pad>",
        extra_special_tokens=names, padding_side="left",
    )  # fmt: skip
