"""Tiny random VLMs of `support.models` with processors that speak, and little data sets to train them on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import transformers as T
from PIL import Image
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers import models as kinds

from saccade.models import Loaded, wrap
from saccade.training.config import TrainingConfig
from saccade.training.strict import override
from support.models import VOCAB, tiny_gemma3, tiny_llava, tiny_llava_next, tiny_qwen

SPECIALS = ["<pad>", "<s>", "</s>", "<image>", "<video>", "<vs>", "<ve>"]
"""In the order of the ids in `support.models`."""

_PIECES = (
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}IMAGE{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}"
)
CHATML = (
    "{% for m in messages %}<s>{{ m['role'] }}\n" + _PIECES + "</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)
"""A template that ends every turn, and writes a newline after the end."""
VICUNA = (
    "{% for m in messages %}{% if m['role'] == 'user' %}USER: " + _PIECES + "{% elif m['role'] == 'system' %}"
    + _PIECES + " {% else %} ASSISTANT: " + _PIECES + " {% endif %}{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)  # fmt: skip
"""A template that ends no turn; the answer begins with a space that the prompt does not have."""

TEMPLATES = {"chatml": CHATML, "vicuna": VICUNA}


def tokenizer() -> Any:
    """A byte-level BPE tokenizer of the tiny models' vocabulary, with merges over word boundaries."""
    core = Tokenizer(kinds.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = [chr(n) for n in range(33, 127) if chr(n) not in "`{}~|^\\\"'$%&#@*+;=[]QXZJK"] + ["Ġ", "Ċ"]
    corpus = ["USER: what is the color of the square ? ASSISTANT: it is red", "user\nassistant\n the red"] * 4
    core.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=VOCAB, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False
        ),
    )
    return T.PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        padding_side="left", model_max_length=4096, extra_special_tokens={"image_token": "<image>"},
    )  # fmt: skip


class ImageOnlyQwen(T.Qwen2_5_VLProcessor):
    """Qwen's processor without videos, whose processor would need torchvision."""

    def check_argument_for_proper_class(self, name: str, arg: Any) -> Any:
        if name == "video_processor" and arg is None:
            return type(None)
        return super().check_argument_for_proper_class(name, arg)


def llava(template: str = "chatml", **options: Any) -> Loaded:
    """LLaVA-1.5: 16 rows an image."""
    images = T.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor = T.LlavaProcessor(
        images, tokenizer(), patch_size=8, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=TEMPLATES[template].replace("IMAGE", "<image>\n"),
    )  # fmt: skip
    return wrap(tiny_llava(**options).model, processor, "tiny")


def llava_next(template: str = "chatml") -> Loaded:
    """LLaVA-NeXT: tiles, newline rows, other counts for other sizes."""
    images = T.LlavaNextImageProcessorPil(
        size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24},
        image_grid_pinpoints=[[24, 48], [48, 24], [48, 48]],
    )  # fmt: skip
    processor = T.LlavaNextProcessor(
        images, tokenizer(), patch_size=8, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=TEMPLATES[template].replace("IMAGE", "<image>\n"),
    )  # fmt: skip
    return wrap(tiny_llava_next().model, processor, "tiny")


def qwen(template: str = "chatml") -> Loaded:
    """Qwen2.5-VL: any size, token types, grids."""
    images = T.Qwen2VLImageProcessorPil(
        patch_size=4, merge_size=2, temporal_patch_size=2, min_pixels=64, max_pixels=64 * 36
    )
    words = tokenizer()
    words.image_token, words.video_token = "<image>", "<video>"
    words.image_token_id, words.video_token_id = 3, 4
    text = TEMPLATES[template].replace("IMAGE", "<vs><image><ve>")
    return wrap(tiny_qwen().model, ImageOnlyQwen(images, words, None, chat_template=text), "tiny")


def gemma(template: str = "chatml") -> Loaded:
    """Gemma 3: a picture is written with words around it, and rows of one see each other both ways."""
    words = tokenizer()
    words.image_token, words.boi_token, words.eoi_token = "<image>", "<vs>", "<ve>"
    words.image_token_id, words.boi_token_id, words.eoi_token_id = 3, 5, 6
    images = T.Gemma3ImageProcessorPil(size={"height": 32, "width": 32})
    text = TEMPLATES[template].replace("IMAGE", "<vs>")
    model = tiny_gemma3().model
    model.config.boi_token_id = words.boi_token_id
    return wrap(model, T.Gemma3Processor(images, words, text, image_seq_length=16), "tiny")


FAMILIES = {"llava": llava, "llava_next": llava_next, "qwen": qwen, "gemma": gemma}


def picture(colour: str = "red", size: tuple[int, int] = (40, 30)) -> Image.Image:
    """A plain picture with a corner of another colour, so that places differ."""
    image = Image.new("RGB", size, colour)
    image.paste((10, 200, 90), (0, 0, size[0] // 3, size[1] // 2))
    return image


def said(*texts: str) -> list[dict[str, str]]:
    """Messages of human and gpt in turn."""
    return [{"from": "gpt" if n % 2 else "human", "value": text} for n, text in enumerate(texts)]


RECORDS: list[dict[str, Any]] = [
    {"id": "a", "image": "red.png", "conversations": said("<image>\nwhat is the color ?", "it is red")},
    {"id": "b", "conversations": said("who is it ?", "the cat")},
    {
        "id": "c",
        "image": ["red.png", "wide.png"],
        "conversations": said("<image> and <image> ?", "no", "what is it ?", "the square"),
    },
    {"id": "d", "image": "wide.png", "conversations": said("is it red ?", "no", "<image>\nand it ?", "yes")},
    {"id": "e", "conversations": said("what ?", "it is the color of the square")},
    {"id": "f", "image": "tall.png", "conversations": said("<image>\nis it red ?", "yes")},
]
"""Conversations of every kind: one image, none, two, one in a later turn."""


def data_set(folder: Path, records: Sequence[dict[str, Any]] = RECORDS, name: str = "data.json") -> Path:
    """Writes records, as a JSON array or JSONL by the name, and the images beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    picture().save(folder / "red.png")
    picture("blue", (60, 20)).save(folder / "wide.png")
    picture("yellow", (20, 60)).save(folder / "tall.png")
    path = folder / name
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(r) + "\n" for r in records), "utf-8")
    else:
        path.write_text(json.dumps(list(records)), "utf-8")
    return path


def model_folder(folder: Path) -> Path:
    """A tiny LLaVA as a folder that loads like any checkpoint."""
    loaded = llava()
    loaded.model.generation_config.suppress_tokens = None
    loaded.model.save_pretrained(folder)
    loaded.processor.save_pretrained(folder)
    return folder


def settings(folder: Path, *changes: str) -> TrainingConfig:
    """A run of six steps on the tiny model and data in `folder`, with ``key=value`` changes."""
    data = {
        "model": {"name": str(folder / "model")},
        "train_modules": ["projector", "decoder"],
        "data": [{"kind": "conversations", "file": str(folder / "data" / "data.json")}],
        "optimisation": {"batch": 2, "steps": 6, "lr": 0.01, "warmup": 1, "max_length": 200},
        "save_every": 2,
        "keep": 9,
        "logging_every": 1,
        "out": str(folder / "run"),
    }
    return TrainingConfig.from_data(override(data, changes))
