"""Real processors of tiny models that cut pictures into views, and our own part for videos."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
import transformers as T
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers.processing_utils import VideosKwargs
from transformers.video_utils import default_sample_indices_fn

from saccade.models import Loaded, wrap
from support.models import BOS, EOS, FIRST_WORD, IMAGE, PAD, VIDEO, VOCAB, tiny_internvl, tiny_llava_onevision
from support.models_views import GRIDS

CHAT = (
    "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'image' %}<image> "
    "{% elif c['type'] == 'video' %}<video> {% else %}"
    "{{ c['text'] }}{% endif %}{% endfor %}{% endfor %}{% if add_generation_prompt %} w9{% endif %}"
)


class _ImagesOnly:
    """What lets a processor do without the part for videos."""

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
        if argument_name == "video_processor":
            return type(argument)
        return super().check_argument_for_proper_class(argument_name, argument)


class Frames:
    """A part for videos: frames at 24 by 24 pixels, chosen by stock's own function for it."""

    valid_kwargs = VideosKwargs
    model_input_names = ("pixel_values_videos",)

    def __init__(self, num_frames: int | None = None, fps: float | None = None) -> None:
        self.num_frames, self.fps, self.do_sample_frames = num_frames, fps, False
        self.do_center_crop, self.crop_size = None, None
        self.given: list[dict[str, Any]] = []

    def sample_frames(self, metadata: Any, num_frames: Any = None, fps: Any = None, **more: Any) -> Any:
        """As the base class of stock video processors."""
        return default_sample_indices_fn(metadata, num_frames=num_frames, fps=fps)

    def __call__(self, videos: Any, **how: Any) -> Any:
        """Pixels around 0."""
        self.given += how["video_metadata"]
        small = [F.interpolate(video.float(), (24, 24)) / 128 - 1 for video in videos]
        return T.BatchFeature({"pixel_values_videos": torch.stack(small)})


class _Onevision(_ImagesOnly, T.LlavaOnevisionProcessor):
    pass


class _InternVL(_ImagesOnly, T.InternVLProcessor):
    pass


def onevision(films: Frames | None = None) -> Loaded:
    """The tiny LLaVA-OneVision with its processor, and a part for videos if one is given."""
    sides = {"height": 24, "width": 24}
    images = T.LlavaOnevisionImageProcessorPil(size=sides, image_grid_pinpoints=GRIDS)
    processor = _Onevision(
        images, tokenizer(), films, num_image_tokens=9, vision_feature_select_strategy="full",
        chat_template=CHAT, vision_aspect_ratio="anyres_max_2",
    )  # fmt: skip
    return wrap(tiny_llava_onevision().model, processor)


def internvl(max_patches: int = 6) -> Loaded:
    """The tiny InternVL with its processor."""
    images = T.GotOcr2ImageProcessorPil(size={"height": 24, "width": 24}, max_patches=max_patches)
    processor = _InternVL(images, tokenizer(), None, image_seq_length=9, chat_template=CHAT)
    return wrap(tiny_internvl().model, processor)


def tokenizer(image: str = "<image>", marks: Mapping[int, str] | None = None, whole: bool = False) -> Any:
    """Words w0, w1, ... and the tokens of the tiny models.

    Args:
        image: The picture's placeholder.
        marks: Other tokens by their ids; those around a picture if None.
        whole: Whether every word is a token that was added: they stay where transformers makes the rest anew
            for a family.
    """
    video = image.replace("image", "video") if "image" in image else "<video>"
    special = {PAD: "<pad>", BOS: "<s>", EOS: "</s>", IMAGE: image, VIDEO: video}
    special |= marks or {5: "<img>", 6: "</img>"}
    words = {n: f"w{n - FIRST_WORD}" for n in range(FIRST_WORD, VOCAB)} | special
    core = Tokenizer(models.WordLevel({word: n for n, word in words.items()}, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.decoder = decoders.WordPiece()
    core.add_special_tokens(list(special.values()))
    if whole:
        core.add_tokens([AddedToken(word, single_word=True, normalized=False) for word in words.values()])
    names = {"image_token": image, "context_image_token": image, "video_token": video}
    names |= {"start_image_token": special[5], "end_image_token": special[6]}
    return T.PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<pad>",
        extra_special_tokens=names, padding_side="left",
    )  # fmt: skip
