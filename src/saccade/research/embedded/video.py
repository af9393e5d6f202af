"""A stock LLaVA-NeXT-Video that begins as Glance and learns what moves and what comes first in small videos.

Glance's tower, projector, decoder and words go into a `LlavaNextVideoForConditionalGeneration`, whose rows of
a frame are then averages of two by two patches. So it knows colours and places from the start. It learns from
videos of `saccade.glance.clips`, whose questions no single frame answers; while it does, rows are asked what
they show, as Glance's own are. Learning needs no torchvision; stock processors, which read frames, do.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer
from torch import nn
from torch.nn import functional
from transformers import (
    LlavaNextImageProcessor,
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
    LlavaNextVideoProcessor,
    LlavaNextVideoVideoProcessor,
    PreTrainedTokenizerFast,
)

from saccade import models
from saccade.glance import clips
from saccade.glance.tokenizer import ASSISTANT, EOS, IMAGE, PAD, PIXEL_MEAN, UNK, USER
from saccade.glance.vocabulary import COLORS
from saccade.inputs.samples import Sample
from saccade.research.embedded.muon import Muon

VIDEO = "<video>"
SHOWN = 4
"""Frames of a video that the model is shown: enough to see three things come one after another."""
POOLED = 2
"""Patches along a side of a row of a frame."""
TRAINING = 1000
"""Seed of the videos of the first step; those of every other are its number further on."""
IGNORED = -100
LIKE = {
    "Which": "which", "Does": "does", "Answer": "what", "move": "follow", "moves": "follow", "up": "above",
    "down": "below", "appear": "next", "appears": "next", "before": "first", ":": "?", "its": "the",
    "with": "in", "one": "object",
}  # fmt: skip
"""Words that Glance does not know, and the one that each begins as."""
TEMPLATE = (
    "{% for m in messages %}"
    "{% if m['role'] == 'assistant' %}<assistant>{% else %}<user>{% endif %}"
    "{% if m['content'] is string %}{{ m['content'] }}"
    "{% else %}{% for c in m['content'] %}"
    "{% if c['type'] in ('image', 'video') %}<{{ c['type'] }}>"
    "{% elif c['type'] == 'text' %}{{ c['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{% if m['role'] == 'assistant' %}</s>{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@dataclass(frozen=True)
class VideoTraining:
    """How the model learns.

    Attributes:
        steps: Steps of the optimiser.
        videos: Videos of each task in a step; none is shown twice.
        matrices: Highest learning rate of the decoder's matrices (Muon).
        rest: That of all else (AdamW).
        wave: Steps over which rates fall as a cosine.
        cool: Last steps, over which they fall to nothing besides.
        short: First steps, in which all videos have ``SHOWN`` frames; then they have ``later`` in turn.
        later: Frames of a video in later steps.
        labels: Weight of each label of rows and words beside the answers.
        layer: Decoder layer behind which rows are asked what they show.
        words: Step from which a question's colours are asked too when its thing came, and where it moved.
        words_layer: Decoder layer behind which they are.
        every: Steps between checkpoints.
    """

    steps: int = 500
    videos: int = 12
    matrices: float = 3e-3
    rest: float = 1.5e-3
    wave: int = 600
    cool: int = 120
    short: int = 440
    later: tuple[int, ...] = (4, 4, 2, 4, 4, 1)
    labels: float = 0.5
    layer: int = 8
    words: int = 190
    words_layer: int = 10
    every: int = 10

    def frames(self, step: int) -> int:
        """Frames of the videos of a step."""
        return SHOWN if step < self.short else self.later[step % len(self.later)]

    def share(self, step: int) -> float:
        """Share of the highest learning rates that a step has."""
        warm, cool = min(1.0, (step + 1) / 30), min(1.0, (self.steps - step) / self.cool)
        return warm * cool * max(0.03, 0.5 * (1 + math.cos(math.pi * step / self.wave)))


class RowLabels(nn.ModuleDict):
    """Heads that ask a frame's rows what they show while the model learns, as Glance's own are asked."""

    def __init__(self, width: int) -> None:
        super().__init__(
            {
                "color": nn.Linear(width, len(COLORS) + 1),
                "order": nn.Linear(width, clips.THINGS),
                "motion": nn.Linear(width, len(clips.STEPS) + 1),
            }
        )


def new_words(tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """Words and marks of questions about videos that a tokenizer does not know."""
    split = tokenizer.backend_tokenizer.pre_tokenizer
    found = {
        word
        for task in clips.GUESSED
        for clip in clips.clips(task, 60)
        for word, _ in split.pre_tokenize_str(f"{clip.question} {clip.answer}")
    }
    return sorted(found - set(tokenizer.get_vocab()))


def wordy(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """Glance's tokenizer with the words of questions about videos behind its own."""
    told = json.loads(tokenizer.backend_tokenizer.to_str())
    for word in (VIDEO, *new_words(tokenizer)):
        told["model"]["vocab"][word] = len(told["model"]["vocab"])
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(told)),
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNK,
        additional_special_tokens=[IMAGE, VIDEO, USER, ASSISTANT],
        chat_template=TEMPLATE,
        padding_side="left",
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
    )


def grown(glance: Any, old: Mapping[str, int], tokenizer: PreTrainedTokenizerFast) -> Any:
    """A LLaVA-NeXT-Video with Glance's weights, and rows for new words like those that they begin as."""
    own, words = glance.config, tokenizer.get_vocab()
    side = own.vision_config.image_size
    draw = torch.Generator().manual_seed(0)
    state = {name: value.float() for name, value in glance.state_dict().items()}
    for name in ("lm_head.weight", "model.language_model.embed_tokens.weight"):
        table, std = state[name], state[name].std()
        fresh = []
        for word in sorted(words.keys() - old.keys(), key=words.__getitem__):
            noise = std * torch.randn(table.shape[1], generator=draw)
            fresh.append(table[old[LIKE[word]]] + 0.1 * noise if word in LIKE else table.mean(0) + noise)
        state[name] = torch.cat((table, torch.stack(fresh)))
    config = LlavaNextVideoConfig(
        vision_config=own.vision_config.to_dict(),
        text_config=own.text_config.to_dict() | {"vocab_size": len(words)},
        image_token_index=words[IMAGE],
        video_token_index=words[VIDEO],
        image_grid_pinpoints=[[side, side]],
        spatial_pool_stride=POOLED,
        vision_feature_layer=own.vision_feature_layer,
        vision_feature_select_strategy=own.vision_feature_select_strategy,
        tie_word_embeddings=False,
        dtype=torch.float32,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = LlavaNextVideoForConditionalGeneration(config).float()
    lost = model.load_state_dict(state, strict=False)
    assert (lost.missing_keys, lost.unexpected_keys) == (["model.image_newline"], []), lost
    model.generation_config = glance.generation_config
    # Nothing reads what the tower's last layer makes of the frames.
    model.model.vision_tower.encoder.requires_grad_(False)
    return model


def write_model(model: Any, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """A model as a folder as on the hub, with its processor."""
    vision = model.config.vision_config
    side = vision.image_size
    how: dict[str, Any] = {
        "size": {"shortest_edge": side},
        "crop_size": {"height": side, "width": side},
        "image_mean": [PIXEL_MEAN] * 3,
        "image_std": [PIXEL_MEAN] * 3,
    }
    model.save_pretrained(folder)
    LlavaNextVideoProcessor(
        image_processor=LlavaNextImageProcessor(**how, image_grid_pinpoints=[[side, side]]),
        video_processor=LlavaNextVideoVideoProcessor(**how, do_sample_frames=False),
        tokenizer=tokenizer,
        chat_template=TEMPLATE,
        patch_size=vision.patch_size,
        vision_feature_select_strategy=model.config.vision_feature_select_strategy,
        num_additional_image_tokens=1,
    ).save_pretrained(folder)


def numbers(shown: int, total: int = clips.FRAMES) -> list[int]:
    """Which frames are shown of a video: so many, evenly, the last one always."""
    apart = total // shown
    return list(range(apart - 1, total, apart))


def pixels_of(samples: Sequence[Sample], shown: int, side: int) -> torch.Tensor:
    """Frames as the model takes them: samples, frames, colours, height, width."""
    films = []
    for sample in samples:
        (video,) = sample.videos
        frames = [
            Image.fromarray(frame).resize((side, side), Image.Resampling.BICUBIC)
            for frame in video.read(numbers(shown))
        ]
        films.append(np.stack([np.asarray(frame) for frame in frames]))
    return torch.from_numpy(np.stack(films)).permute(0, 1, 4, 2, 3).float() / 127.5 - 1


def labels_of(pixels: torch.Tensor, row: int) -> dict[str, torch.Tensor]:
    """What every row of every frame shows, known from that frame and those before it; read off the pixels.

    Args:
        pixels: As ``pixels_of`` gives them.
        row: Pixels along a side of a row.

    Returns:
        Three tensors of samples, frames and rows. ``color``: the thing's, 0 for none. ``order``: how many
        came before it. ``motion``: 0 if it has not moved since it came, else 1 and more for left, right, up
        and down. The last two ignore rows without a thing, and motion in a thing's first frame.
    """
    rgb = (pixels + 1) * 127.5
    palette = torch.tensor(list(COLORS.values())).float()
    away = torch.stack([(rgb - color[:, None, None]).square().sum(2) for color in palette], dim=2)
    near = (away < 45**2).float()  # an edge's blend of thing and ground is none of the colours
    area = near.sum((3, 4))
    there = area > 25
    count = functional.avg_pool2d(near.flatten(0, 1), row).unflatten(0, near.shape[:2]) * row**2
    most, which = (count * there[..., None, None]).flatten(3).max(2)
    color = torch.where(most >= 24, which + 1, 0)

    frames = near.shape[1]
    first = torch.where(there.any(1), there.float().argmax(1), frames)
    earlier = (first[:, None, :] < first[:, :, None]).sum(2)
    begins = first.clamp(max=frames - 1)[:, None]
    moved = []
    for axis in (4, 3):  # across, then down
        along = torch.arange(near.shape[axis]).float()
        place = (near.sum(7 - axis) * along).sum(3) / area.clamp(min=1)
        moved.append(place - place.gather(1, begins))
    across, down = moved
    way = torch.where(across.abs() >= down.abs(), torch.where(across < 0, 1, 2), torch.where(down < 0, 3, 4))
    way = torch.where(torch.maximum(across.abs(), down.abs()) < 3, 0, way)
    way = torch.where(torch.arange(frames)[:, None] > first[:, None], way, IGNORED)

    def rows(values: torch.Tensor) -> torch.Tensor:
        return torch.where(color > 0, values.gather(2, (color - 1).clamp(min=0)), IGNORED)

    return {
        "color": color,
        "order": rows(earlier[:, None].expand(-1, frames, -1)),
        "motion": rows(way),
    }


def words_of(labels: Mapping[str, torch.Tensor], colors: torch.Tensor) -> dict[str, torch.Tensor]:
    """What rows of the last frame show, for every word that names a colour, in reading order.

    Args:
        labels: As ``labels_of`` gives them.
        colors: Number of the colour that a token names, samples and tokens; 0 for none.
    """
    samples, tokens = (colors > 0).nonzero(as_tuple=True)
    shown = labels["color"][samples, -1] == colors[samples, tokens][:, None]
    return {
        name: torch.where(shown, labels[name][samples, -1], IGNORED).amax(1) for name in ("order", "motion")
    }


def learnable(
    samples: Sequence[Sample], tokenizer: PreTrainedTokenizerFast, visual: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Questions with their answers as token ids padded on the right, and what is to be said at each."""
    rows, video = [], tokenizer.convert_tokens_to_ids(VIDEO)
    for one in samples:
        prompt = tokenizer(f"{USER}{VIDEO}{one.question}{ASSISTANT}", add_special_tokens=False)["input_ids"]
        at = prompt.index(video)
        prompt[at : at + 1] = [video] * visual
        rows.append((prompt, tokenizer(f"{one.answer}{EOS}", add_special_tokens=False)["input_ids"]))
    longest = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids = torch.full((len(rows), longest), tokenizer.convert_tokens_to_ids(PAD))
    said = torch.full_like(ids, IGNORED)
    for row, (prompt, answer) in enumerate(rows):
        ids[row, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
        said[row, len(prompt) : len(prompt) + len(answer)] = torch.tensor(answer)
    return ids, said


class VideoLearner:
    """A model that learns, with all that a checkpoint holds.

    Args:
        how: How it learns.
    """

    def __init__(self, how: VideoTraining) -> None:
        glance = models.load("glance", device="cpu")
        self.how = how
        self.tokenizer = wordy(glance.processor.tokenizer)
        self.model = grown(glance.model, glance.processor.tokenizer.get_vocab(), self.tokenizer).train()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.heads = RowLabels(self.model.config.text_config.hidden_size)
        self.learns = [p for part in (self.model, self.heads) for p in part.parameters() if p.requires_grad]
        layers = self.model.model.language_model.layers
        turned = {id(p): p for p in layers.parameters() if p.ndim == 2}
        rest = [p for p in self.learns if id(p) not in turned]
        shaped: dict[str, Any] = {"adjust_lr_fn": "match_rms_adamw", "weight_decay": 0.02}
        self.optimizers: list[tuple[float, torch.optim.Optimizer]] = [
            (how.matrices, Muon([*turned.values()], lr=how.matrices, **shaped)),
            (how.rest, torch.optim.AdamW(rest, lr=how.rest, betas=(0.9, 0.95), weight_decay=0.0)),
        ]
        self.done = 0
        self.curve: list[dict[str, Any]] = []
        self._right: Counter[str] = Counter()
        self._asked: Counter[str] = Counter()

    def step(self) -> float:
        """One step on videos of its own, judged before they are learnt from; returns the loss of answers."""
        how, model, at = self.how, self.model, self.done
        vision, shown = model.config.vision_config, how.frames(at)
        row = POOLED * vision.patch_size
        samples = [one for task in clips.GUESSED for one in clips.samples(task, how.videos, TRAINING + at)]
        pixels = pixels_of(samples, shown, vision.image_size)
        labels = labels_of(pixels, row)
        ids, said = learnable(samples, self.tokenizer, shown * labels["color"].shape[2])
        for rate, optimizer in self.optimizers:
            optimizer.param_groups[0]["lr"] = rate * how.share(at)
        wanted = said[:, 1:]
        with torch.autocast("cpu", torch.bfloat16):
            found = model.model(
                input_ids=ids,
                attention_mask=(ids != model.config.text_config.pad_token_id).long(),
                pixel_values_videos=pixels,
                output_hidden_states=True,
                use_cache=False,
            )
            logits = model.lm_head(found.last_hidden_state[:, :-1][wanted != IGNORED]).float()
            seen = found.hidden_states[how.layer][ids == model.config.video_token_id]
            asked = [(self.heads[name](seen), each.flatten()) for name, each in labels.items()]
            if at >= how.words:
                heard = found.hidden_states[how.words_layer][self._colors(ids, said) > 0]
                for name, each in words_of(labels, self._colors(ids, said)).items():
                    asked.append((self.heads[name](heard), each))
        loss = functional.cross_entropy(logits, wanted[wanted != IGNORED])
        beside = [
            functional.cross_entropy(told.float(), right, ignore_index=IGNORED)
            for told, right in asked
            if (right != IGNORED).any()
        ]
        (loss + how.labels * torch.stack(beside).sum()).backward()
        nn.utils.clip_grad_norm_(self.learns, 1.0)
        for _, optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self._judge(samples, logits.detach().argmax(-1), wanted)
        self.done += 1
        return float(loss.detach())

    def _colors(self, ids: torch.Tensor, said: torch.Tensor) -> torch.Tensor:
        """Number of the colour that each token of a question names, from 1; 0 where it names none."""
        named = torch.zeros_like(ids)
        for number, color in enumerate(COLORS, start=1):
            named[(ids == self.tokenizer.convert_tokens_to_ids(color)) & (said == IGNORED)] = number
        return named

    def _judge(self, samples: Sequence[Sample], guessed: torch.Tensor, wanted: torch.Tensor) -> None:
        """Counts answers that are right, every token of them."""
        wrong = (guessed != wanted[wanted != IGNORED]).tolist()
        for one, many in zip(samples, (wanted != IGNORED).sum(1).tolist(), strict=True):
            name = f"{one.task}: {one.subtask}"
            self._asked[name] += 1
            self._right[name] += not any(wrong[:many])
            wrong = wrong[many:]

    def mark(self, loss: float) -> dict[str, Any]:
        """What the steps since the last mark came to: mean loss, and the share of right answers by kind."""
        right = {name: round(self._right[name] / asked, 3) for name, asked in sorted(self._asked.items())}
        self.curve.append({"step": self.done, "loss": round(loss, 4), "right": right})
        self._asked.clear()
        self._right.clear()
        return self.curve[-1]

    def save(self, path: Path) -> None:
        """Writes a checkpoint in one go."""
        beside = path.with_suffix(".new")
        kept = {
            "how": json.dumps(asdict(self.how)),
            "done": self.done,
            "curve": json.dumps(self.curve),
            "model": self.model.state_dict(),
            "heads": self.heads.state_dict(),
            "optimizers": [optimizer.state_dict() for _, optimizer in self.optimizers],
        }
        torch.save(kept, beside)
        beside.replace(path)

    def resume(self, path: Path) -> None:
        """Goes on from a checkpoint.

        Raises:
            SystemExit: If it is of a run with other settings.
        """
        kept = torch.load(path, weights_only=True)
        if kept["how"] != json.dumps(asdict(self.how)):
            raise SystemExit(f"{path} is of a run with other settings ({kept['how']}): take another folder")
        self.model.load_state_dict(kept["model"])
        self.heads.load_state_dict(kept["heads"])
        for (_, optimizer), state in zip(self.optimizers, kept["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.done, self.curve = kept["done"], json.loads(kept["curve"])


def trained(work: Path, how: VideoTraining) -> VideoLearner:
    """The model when it has learnt; from the checkpoint in the folder where there is one."""
    learner, state = VideoLearner(how), work / "checkpoint.pt"
    if state.is_file():
        learner.resume(state)
    losses: list[float] = []
    while learner.done < how.steps:
        losses.append(learner.step())
        if learner.done % how.every == 0 or learner.done == how.steps:
            mark = learner.mark(sum(losses) / len(losses))
            learner.save(state)
            losses.clear()
            told = ", ".join(f"{name} {share:.2f}" for name, share in mark["right"].items())
            print(f"step {learner.done} of {how.steps}: loss {mark['loss']:.3f}; right: {told}", flush=True)
    return learner
