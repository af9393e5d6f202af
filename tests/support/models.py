"""Tiny random VLMs of every family, with inputs built by hand (no processor, no network).

A sample is a list of segments: a number is that many text tokens, a pair (height, width) is an image.
``[3, SQUARE, 5]`` is three text tokens, one image, five text tokens; ``[4]`` is text alone.

    tiny = tiny_qwen()
    inputs = tiny.batch([[3, SQUARE, 5], [4], [2, WIDE, 1, TALL, 3]], padding="left", seed=1)
    logits = tiny.model(**inputs).logits

All take ``layers``, the attention implementation ``attn``, the ``seed`` of their weights, and a ``dtype``.
Weights are drawn wide, biases and norms included, so that every row and layer matters to the logits.

Shape letters: B batch, N rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers as T
from packaging.version import Version

from support import models_gemma as gemma
from support import models_qwen as qwen
from support import models_views as views

ROTARY_WITHIN = 1e-3 if Version(T.__version__) < Version("5.19") else 0.0
"""Share of the FLOPs that torch counts beside a closed form: early releases turn positions by a product."""
SQUARE, WIDE, TALL, BANNER, BIG = (24, 24), (24, 48), (48, 24), (8, 48), (48, 48)
"""Image sizes in pixels; visual rows in LLaVA, Gemma 3 and PaliGemma: 16 each, NeXT: 24, 30, 33, 16, 51,
Qwen, GLM and Mistral 3: 9, 18, 18, 6, 36, Molmo 2: 18, 21, 21, 21, 25, InternVL, Idefics3 and
Llama 4: 9, 27, 27, 27, 45; OneVision: 24, 30, 33, 16, 29, and 10 each where a sample has several."""

SEVERAL_AXES = ("qwen", "glm")
"""How the names of models begin whose positions have several axes."""

PAD, BOS, EOS, IMAGE, VIDEO, VISION_START, VISION_END, FIRST_WORD = range(8)
VOCAB, HIDDEN, HEADS, FFN = 128, 64, 4, 96
WIDE_HEADS = 128
"""Width of the models whose heads are as wide as kernels of engines want them (``wide=True``)."""
_QWEN_IDS = dict(
    image_token_id=IMAGE, video_token_id=VIDEO,
    vision_start_token_id=VISION_START, vision_end_token_id=VISION_END,
)  # fmt: skip

Segment = int | tuple[int, int]


@dataclass(frozen=True)
class Tiny:
    """A tiny random model and what builds its inputs.

    Attributes:
        name: What to call it in test ids.
        model: The stock model, in eval mode.
        family: Which inputs it takes: ``llava``, ``llava_next``, ``qwen``, ``gemma3`` and so on.
    """

    name: str
    model: Any
    family: str = field(repr=False)

    def batch(
        self, samples: Sequence[Sequence[Segment]], padding: str = "left", seed: int = 0
    ) -> dict[str, torch.Tensor]:
        """Inputs of a batch of samples; sample ``i`` has the same contents in any batch of the same seed."""
        return self._build(list(enumerate(samples)), padding, seed)

    def singles(self, samples: Sequence[Sequence[Segment]], seed: int = 0) -> list[dict[str, torch.Tensor]]:
        """The samples of ``batch`` one by one, without padding."""
        return [self._build([(i, sample)], "left", seed) for i, sample in enumerate(samples)]

    def visual(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Boolean (B, N) mask of visual rows."""
        return inputs["input_ids"] == IMAGE

    def _build(
        self, numbered: list[tuple[int, Sequence[Segment]]], padding: str, seed: int
    ) -> dict[str, torch.Tensor]:
        sizes: list[tuple[int, int]] = []
        pixels: list[torch.Tensor] = []
        texts: list[list[torch.Tensor | None]] = []
        for index, sample in numbered:
            draw = torch.Generator().manual_seed(1009 * seed + index)
            parts: list[torch.Tensor | None] = []
            for segment in sample:
                if isinstance(segment, int):
                    parts.append(torch.randint(FIRST_WORD, VOCAB, (segment,), generator=draw))
                else:
                    parts.append(None)
                    sizes.append(segment)
                    pixels.append(_PIXELS[self.family](segment, draw))
            texts.append(parts)
        counts = [sum(part is None for part in parts) for parts in texts]
        inputs = _VISION[self.family](sizes, pixels, counts) if sizes else {}
        inputs = {k: v.to(self.model.dtype) if v.is_floating_point() else v for k, v in inputs.items()}
        if self.family == "llava_onevision" and sizes:
            inputs["batch_num_images"] = torch.tensor([count for count in counts if count])
        shown = iter(self._prompts(inputs, sizes, pixels) if sizes else [])
        rows = [torch.cat([next(shown) if p is None else p for p in parts]) for parts in texts]
        longest = max(len(r) for r in rows)
        input_ids = torch.full((len(rows), longest), PAD)
        mask = torch.zeros_like(input_ids)
        for b, row in enumerate(rows):
            where = slice(longest - len(row), longest) if padding == "left" else slice(0, len(row))
            input_ids[b, where] = row
            mask[b, where] = 1
        if self.family == "gemma3":
            inputs["token_type_ids"] = (input_ids == IMAGE).int()
        if self.family == "paligemma":
            inputs["token_type_ids"] = torch.zeros_like(input_ids)
        if self.family == "qwen":
            inputs["mm_token_type_ids"] = (input_ids == IMAGE).int()
        if self.family == "molmo2":
            inputs["mm_token_type_ids"] = views.molmo2_kinds(input_ids, IMAGE, VISION_START, VISION_END)
        return {"input_ids": input_ids, "attention_mask": mask} | inputs

    def _prompts(
        self, inputs: dict[str, torch.Tensor], sizes: list[tuple[int, int]], pixels: list[torch.Tensor]
    ) -> list[torch.Tensor]:
        """What stands for every image in a prompt."""
        if self.family == "idefics3":
            return [views.idefics3_prompt(len(image), IMAGE, VISION_START, VISION_END) for image in pixels]
        if self.family == "lfm2_vl":
            return [views.lfm2_prompt(size, IMAGE, VISION_START, VISION_END) for size in sizes]
        if self.family == "mistral3":
            return [views.mistral3_prompt(size, IMAGE, VISION_START, VISION_END) for size in sizes]
        if self.family == "molmo2":
            return [views.molmo2_prompt(size, IMAGE, VISION_START, VISION_END) for size in sizes]
        if self.family == "llama4":
            return [views.llama4_prompt(size, IMAGE, VISION_START, VISION_END) for size in sizes]
        lengths = iter(self._image_lengths(inputs))
        if self.family == "internvl":
            return [torch.full((sum(next(lengths) for _ in image),), IMAGE) for image in pixels]
        return [torch.full((length,), IMAGE) for length in lengths]

    @torch.no_grad()
    def _image_lengths(self, inputs: dict[str, torch.Tensor]) -> list[int]:
        """Rows of every image, as the model itself counts them."""
        return [len(f) for f in self.model.model.get_image_features(**inputs, return_dict=True).pooler_output]


def tiny_llava(text: str = "llama", layers: int = 4, wide: bool = False, **how: Any) -> Tiny:
    """LLaVA-1.5 in miniature: a CLIP tower, 16 visual rows an image, a Llama, Mistral or Qwen2 decoder."""
    config = T.LlavaConfig(
        vision_config=_clip(image_size=32),
        text_config=_text(text, layers, wide),
        image_token_index=IMAGE,
        image_seq_length=16,
    )
    return _ready(f"llava-{text}", "llava", T.LlavaForConditionalGeneration, config, **how)


def tiny_llava_next(text: str = "llama", layers: int = 4, wide: bool = False, **how: Any) -> Tiny:
    """LLaVA-NeXT in miniature: anyres tiles of 9 rows, a newline row after each line, unpadded."""
    config = T.LlavaNextConfig(
        vision_config=_clip(image_size=24),
        text_config=_text(text, layers, wide),
        image_token_index=IMAGE,
        image_grid_pinpoints=[[24, 48], [48, 24], [48, 48]],
    )
    return _ready(f"llava_next-{text}", "llava_next", T.LlavaNextForConditionalGeneration, config, **how)


def tiny_llava_next_video(text: str = "llama", layers: int = 4, **how: Any) -> Tiny:
    """LLaVA-NeXT-Video in miniature: tiles of 16 rows as in LLaVA-NeXT, frames of a video of 4 rows each."""
    config = T.LlavaNextVideoConfig(
        vision_config=_clip(image_size=24, patch=6),
        text_config=_text(text, layers),
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        image_grid_pinpoints=[[24, 48], [48, 24], [48, 48]],
    )
    cls = T.LlavaNextVideoForConditionalGeneration
    return _ready("llava_next_video", "llava_next", cls, config, **how)


def tiny_qwen(layers: int = 4, wide: bool = False, **how: Any) -> Tiny:
    """Qwen2.5-VL in miniature: dynamic resolution, window attention in the tower, GQA, biases, mRoPE."""
    config = qwen.qwen2_5_vl(_sizes(layers, 2, wide), _QWEN_IDS)
    return _ready("qwen2_5_vl", "qwen", T.Qwen2_5_VLForConditionalGeneration, config, **how)


def tiny_qwen2(layers: int = 4, **how: Any) -> Tiny:
    """Qwen2-VL in miniature: as Qwen2.5-VL, without windows."""
    config = qwen.qwen2_vl(_sizes(layers, kv_heads=2), _QWEN_IDS)
    return _ready("qwen2_vl", "qwen", T.Qwen2VLForConditionalGeneration, config, **how)


def tiny_qwen3(layers: int = 4, wide: bool = False, **how: Any) -> Tiny:
    """Qwen3-VL in miniature: norms on heads, interleaved mRoPE, DeepStack after the first two layers."""
    config = qwen.qwen3_vl(_sizes(layers, 2, wide), _QWEN_IDS)
    return _ready("qwen3_vl", "qwen", T.Qwen3VLForConditionalGeneration, config, **how)


def tiny_qwen3_moe(layers: int = 4, **how: Any) -> Tiny:
    """Qwen3-VL-MoE in miniature: as Qwen3-VL, with a router and experts in every layer."""
    config = qwen.qwen3_vl_moe(_sizes(layers, kv_heads=2), _QWEN_IDS)
    return _ready("qwen3_vl_moe", "qwen", T.Qwen3VLMoeForConditionalGeneration, config, **how)


def tiny_qwen3_5(
    layers: int = 4,
    recurrent: Callable[[int], bool] | None = None,
    wide: bool = False,
    state: int | None = None,
    **how: Any,
) -> Tiny:
    """Qwen3.5 in miniature: the last of every four layers recurs, so that plans can look at the others."""
    config = qwen.qwen3_5(_sizes(layers, 2, wide), _QWEN_IDS, recurrent or _last_of_four(layers), state)
    return _ready("qwen3_5", "qwen", T.Qwen3_5ForConditionalGeneration, config, **how)


def tiny_qwen3_5_moe(
    layers: int = 4, recurrent: Callable[[int], bool] | None = None, wide: bool = False, **how: Any
) -> Tiny:
    """Qwen3.5-MoE in miniature: as Qwen3.5, with a router and experts in every layer."""
    config = qwen.qwen3_5_moe(_sizes(layers, 2, wide), _QWEN_IDS, recurrent or _last_of_four(layers))
    return _ready("qwen3_5_moe", "qwen", T.Qwen3_5MoeForConditionalGeneration, config, **how)


def tiny_llava_onevision(text: str = "qwen2", layers: int = 4, **how: Any) -> Tiny:
    """LLaVA-OneVision in miniature: tiles, interpolated if many, and newlines; one view beside others."""
    config = views.llava_onevision(
        _text(text, layers), dict(image_token_index=IMAGE, video_token_index=VIDEO)
    )
    cls = T.LlavaOnevisionForConditionalGeneration
    return _ready("llava_onevision", "llava_onevision", cls, config, **how)


def tiny_internvl(text: str = "qwen2", layers: int = 4, wide: bool = False, **how: Any) -> Tiny:
    """InternVL in miniature: tiles of 9 rows, thumbnails, a Qwen2, Qwen3 (head norms) or Llama decoder."""
    config = views.internvl(_text(text, layers, wide), image_token_id=IMAGE)
    cls = T.InternVLForConditionalGeneration
    return _ready(f"internvl-{text}", "internvl", cls, config, **how)


def tiny_gemma3(layers: int = 4, **how: Any) -> Tiny:
    """Gemma 3 in miniature: blocks of 16 rows that see each other, a window of 12 in two of three layers."""
    config = gemma.gemma3(_sizes(layers, kv_heads=2), image_token_index=IMAGE)
    return _ready("gemma3", "gemma3", T.Gemma3ForConditionalGeneration, config, **how)


def tiny_paligemma(layers: int = 4, **how: Any) -> Tiny:
    """PaliGemma 2 in miniature: prompts that see both ways, capped logits, a window in every other layer."""
    config = gemma.paligemma(_sizes(layers, kv_heads=2), image_token_index=IMAGE)
    return _ready("paligemma", "paligemma", T.PaliGemmaForConditionalGeneration, config, **how)


def tiny_idefics3(kind: str = "idefics3", layers: int = 4, **how: Any) -> Tiny:
    """Idefics3 or SmolVLM in miniature: tiles of 9 rows, then the whole picture, marks; a Llama decoder."""
    config = views.idefics3(kind, _text("llama", layers), image_token_id=IMAGE)
    cls = T.Idefics3ForConditionalGeneration if kind == "idefics3" else T.SmolVLMForConditionalGeneration
    return _ready(f"{kind}-llama", "idefics3", cls, config, **how)


def tiny_pixtral(layers: int = 4, **how: Any) -> Tiny:
    """Pixtral, a LLaVA with the tower and the marks of Mistral 3, in miniature: a row for every patch."""
    config = views.pixtral(_text("mistral", layers), image_token_index=IMAGE)
    return _ready("llava-pixtral", "mistral3", T.LlavaForConditionalGeneration, config, **how)


def tiny_mistral3(layers: int = 4, **how: Any) -> Tiny:
    """Mistral 3 in miniature: pictures of any size, a mark after every line of rows, four patches a row."""
    config = views.mistral3(_text("mistral", layers), image_token_index=IMAGE)
    return _ready("mistral3", "mistral3", T.Mistral3ForConditionalGeneration, config, **how)


def tiny_lfm2_vl(layers: int = 4, recurrent: Callable[[int], bool] | None = None, **how: Any) -> Tiny:
    """LFM2-VL in miniature: tiles and the whole, smaller; the last of every four layers is a convolution."""
    recurs = recurrent or _last_of_four(layers)
    kinds = ["conv" if recurs(n) else "full_attention" for n in range(layers)]
    config = views.lfm2_vl(_sizes(layers, kv_heads=2), kinds, image_token_id=IMAGE)
    return _ready("lfm2_vl", "lfm2_vl", T.Lfm2VlForConditionalGeneration, config, **how)


def tiny_molmo2(layers: int = 4, text: dict[str, Any] | None = None, **how: Any) -> Tiny:
    """Molmo 2 in miniature: crops that overlap, marks among rows, all of which see each other both ways."""
    config = views.molmo2(_sizes(layers, kv_heads=2) | (text or {}), image=IMAGE)
    return _ready("molmo2", "molmo2", T.Molmo2ForConditionalGeneration, config, **how)


class Llama4(T.Llama4ForConditionalGeneration):
    """The stock class, which is its own core, with the names that others have for core and head."""

    @property
    def model(self) -> Any:
        """The core."""
        return self

    @property
    def lm_head(self) -> Any:
        """The head."""
        return self.language_model.lm_head


def tiny_llama4(layers: int = 4, **text: Any) -> Tiny:
    """Llama 4 in miniature: parts of 16 rows in three layers of four, experts in every second, tiles.

    Arguments of the decoder's configuration come by name.
    """
    how = {key: text.pop(key) for key in ("attn", "seed", "dtype") if key in text}
    config = views.llama4(_sizes(layers, kv_heads=2) | text, IMAGE)
    return _ready("llama4", "llama4", Llama4, config, **how)


def tiny_glm4v(layers: int = 4, **how: Any) -> Tiny:
    """GLM-4.1V in miniature: as Qwen2-VL, with norms after attention and FFN, and half of a head turned."""
    config = qwen.glm4v(_sizes(layers, kv_heads=2), dict(image_token_id=IMAGE, video_token_id=VIDEO))
    return _ready("glm4v", "qwen", T.Glm4vForConditionalGeneration, config, **how)


def tiny_glm4v_moe(layers: int = 4, **how: Any) -> Tiny:
    """GLM-4.5V in miniature: the tower of GLM-4.1V, a plain FFN in the first layer, experts in the others."""
    config = qwen.glm4v_moe(_sizes(layers, kv_heads=2), dict(image_token_id=IMAGE, video_token_id=VIDEO))
    return _ready("glm4v_moe", "qwen", T.Glm4vMoeForConditionalGeneration, config, **how)


def decoder_of(model: Any) -> Any:
    """The text decoder of a stock model."""
    core = model.model
    found = core.text_model if hasattr(core, "text_model") else core.language_model
    return found.model if hasattr(found, "lm_head") else found


FACTORIES = {
    "llava-llama": lambda **kw: tiny_llava("llama", **kw),
    "llava-mistral": lambda **kw: tiny_llava("mistral", **kw),
    "llava-qwen2": lambda **kw: tiny_llava("qwen2", **kw),
    "llava_next-llama": lambda **kw: tiny_llava_next("llama", **kw),
    "llava_next-mistral": lambda **kw: tiny_llava_next("mistral", **kw),
    "llava_next_video": tiny_llava_next_video,
    "qwen2_5_vl": tiny_qwen,
    "qwen2_vl": tiny_qwen2,
    "qwen3_vl": tiny_qwen3,
    "qwen3_vl_moe": tiny_qwen3_moe,
    "qwen3_5": tiny_qwen3_5,
    "qwen3_5_moe": tiny_qwen3_5_moe,
    "llava_onevision": tiny_llava_onevision,
    "internvl-qwen2": lambda **kw: tiny_internvl("qwen2", **kw),
    "internvl-qwen3": lambda **kw: tiny_internvl("qwen3", **kw),
    "gemma3": tiny_gemma3,
    "paligemma": tiny_paligemma,
    "idefics3-llama": tiny_idefics3,
    "lfm2_vl": tiny_lfm2_vl,
    "smolvlm-llama": lambda **kw: tiny_idefics3("smolvlm", **kw),
    "mistral3": tiny_mistral3,
    "llava-pixtral": tiny_pixtral,
    "glm4v": tiny_glm4v,
    "glm4v_moe": tiny_glm4v_moe,
    "llama4": tiny_llama4,
    **({"molmo2": tiny_molmo2} if hasattr(T, "Molmo2Config") else {}),
}
"""Every tiny model by name, for parametrised tests: ``FACTORIES[name](layers=6)``."""


RECURRENT = ("qwen3_5", "qwen3_5_moe", "lfm2_vl")
"""Models of whose layers the last of every four has no attention."""


def _last_of_four(layers: int) -> Callable[[int], bool]:
    every = min(layers, 4)
    return lambda n: every > 1 and n % every == every - 1


def _sizes(layers: int, kv_heads: int, wide: bool = False) -> dict[str, Any]:
    return dict(
        vocab_size=VOCAB, hidden_size=WIDE_HEADS if wide else HIDDEN, intermediate_size=FFN,
        num_hidden_layers=layers, num_attention_heads=HEADS, num_key_value_heads=kv_heads,
        max_position_embeddings=1024, pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS,
    )  # fmt: skip


def _text(kind: str, layers: int, wide: bool = False) -> Any:
    configs = {
        "llama": (T.LlamaConfig, HEADS), "mistral": (T.MistralConfig, 2), "qwen2": (T.Qwen2Config, 2),
        "qwen3": (T.Qwen3Config, 2), "qwen3_moe": (T.Qwen3MoeConfig, 2),
    }  # fmt: skip
    cls, kv_heads = configs[kind]
    sizes = _sizes(layers, kv_heads, wide)
    normed = {"head_dim": sizes["hidden_size"] // HEADS}
    extra = {"mistral": {"sliding_window": None}, "qwen3": normed, "qwen3_moe": normed | qwen.experts(FFN)}
    return cls(**sizes, **extra.get(kind, {}))


def _clip(image_size: int, patch: int = 8) -> T.CLIPVisionConfig:
    return T.CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        image_size=image_size, patch_size=patch, projection_dim=32,
    )  # fmt: skip


def _ready(
    name: str,
    family: str,
    cls: Any,
    config: Any,
    *,
    attn: str = "sdpa",
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Tiny:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = cls(config)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=draw)
            if parameter.ndim >= 2:
                one = parameter[0, 0] if "experts" in key and parameter.ndim > 2 else parameter[0]
                parameter.copy_(noise * (1.0 if "embed" in key else 1.2 * one.numel() ** -0.5))
            elif key.endswith("A_log"):
                # States that last: a row counts for dozens that follow.
                parameter.copy_(-3 + 0.2 * noise)
            elif "norm" in key and key.endswith("weight"):
                parameter.copy_(1 + 0.2 * noise)
            else:
                parameter.copy_(0.2 * noise)
    if family != "paligemma" or attn != "sdpa":
        # Newer versions of Gemma 2 have no SDPA: the model's own choice stands for it.
        model.set_attn_implementation(attn)
    # Random models say anything: keep them from ending early or from writing image placeholders.
    model.generation_config.suppress_tokens = list(range(FIRST_WORD))
    model.generation_config.pad_token_id = PAD
    # By ``to`` complex tables would become real ones.
    casts = {torch.bfloat16: model.bfloat16, torch.float16: model.half, torch.float64: model.double}
    return Tiny(name, casts.get(dtype, model.float)().eval(), family)


def _noise(*shape: int, draw: torch.Generator) -> torch.Tensor:
    return torch.randn(*shape, generator=draw)


def _next_tiles(size: tuple[int, int]) -> int:
    from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

    return image_size_to_num_patches(list(size), [[24, 48], [48, 24], [48, 48]], 24)


def _qwen_patches(size: tuple[int, int]) -> int:
    return (size[0] // 4) * (size[1] // 4)


_PIXELS = {
    "lfm2_vl": views.lfm2_pixels,
    "llama4": views.internvl_pixels,
    "molmo2": views.molmo2_pixels,
    "internvl": views.internvl_pixels,
    "idefics3": views.internvl_pixels,
    "mistral3": lambda size, draw: _noise(3, *size, draw=draw),
    "llava_onevision": lambda size, draw: _noise(_next_tiles(size), 3, 24, 24, draw=draw),
    "llava": lambda size, draw: _noise(3, 32, 32, draw=draw),
    "gemma3": lambda size, draw: _noise(3, 32, 32, draw=draw),
    "paligemma": lambda size, draw: _noise(3, 32, 32, draw=draw),
    "llava_next": lambda size, draw: _noise(_next_tiles(size), 3, 24, 24, draw=draw),
    "qwen": lambda size, draw: _noise(_qwen_patches(size), 3 * 2 * 4 * 4, draw=draw),
}

_VISION = {
    "lfm2_vl": lambda sizes, pixels, counts: views.lfm2_inputs(sizes, pixels),
    "molmo2": lambda sizes, pixels, counts: views.molmo2_inputs(sizes, pixels),
    "internvl": lambda sizes, pixels, counts: {"pixel_values": torch.cat(pixels)},
    "llama4": lambda sizes, pixels, counts: {"pixel_values": torch.cat(pixels)},
    "idefics3": lambda sizes, pixels, counts: {"pixel_values": views.by_sample(pixels, counts)},
    "mistral3": lambda sizes, pixels, counts: {
        "pixel_values": views.same_size(pixels), "image_sizes": torch.tensor(sizes),
    },
    "llava": lambda sizes, pixels, counts: {"pixel_values": torch.stack(pixels)},
    "llava_next": lambda sizes, pixels, counts: {
        "pixel_values": torch.nn.utils.rnn.pad_sequence(pixels, batch_first=True),
        "image_sizes": torch.tensor(sizes),
    },
    "qwen": lambda sizes, pixels, counts: {
        "pixel_values": torch.cat(pixels),
        "image_grid_thw": torch.tensor([[1, h // 4, w // 4] for h, w in sizes]),
    },
}  # fmt: skip
_VISION["llava_onevision"] = _VISION["llava_next"]
_VISION["gemma3"] = _VISION["paligemma"] = _VISION["llava"]
