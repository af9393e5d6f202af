"""Training batches: scenes drawn on the fly, several questions packed behind one image.

Each question sees the image and itself, with the positions it would have alone, so a packed row trains
exactly the single-question prompt. A share of rows is a real conversation instead, where later turns see
earlier ones. Batch `i` depends on the seed and `i` only: resuming is starting at another `i`.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from saccade.glance.draw import PLAIN, DrawnLook
from saccade.glance.scenes import KINDS, SHARES, make_scene, scene_seed
from saccade.glance.tokenizer import ASSISTANT, EOS, PAD, USER, build_tokenizer
from saccade.research.embedded.pointing import aims

PAD_SEGMENT = -1
LEAST = 0.1
"""Smallest share of its rows that is left of a thinned picture."""
LEAST_SPARSE = 0.06
"""The same where few rows are left more often than many."""


@dataclass(frozen=True)
class Mixture:
    """What a batch is made of.

    Attributes:
        batch: Images per batch.
        text: Text rows per image; questions are packed until they are full. 0 draws scenes only.
        conversations: Share of images whose questions form one conversation.
        kinds: Relative frequency of each scene type.
    """

    batch: int = 32
    text: int = 96
    conversations: float = 0.15
    kinds: tuple[tuple[str, float], ...] = SHARES


class Encoder:
    """Word ids by dictionary look-up: the tokenizer's result, without its overhead per call."""

    def __init__(self) -> None:
        """Read the vocabulary of the tokenizer."""
        self.ids: dict[str, int] = build_tokenizer().get_vocab()
        self.pad, self.eos = self.ids[PAD], self.ids[EOS]
        self.user, self.assistant = self.ids[USER], self.ids[ASSISTANT]

    def __call__(self, text: str) -> list[int]:
        """Ids of a text whose words are separated by spaces."""
        return [self.ids[word] for word in text.split()]


class Batches(Dataset):
    """Batch number -> tensors; see the module's text."""

    def __init__(
        self,
        mixture: Mixture,
        seed: int,
        split: str,
        look: DrawnLook = PLAIN,
        thinned: float = 0.0,
        sparse: bool = False,
    ) -> None:
        """Remember what to draw; nothing is drawn yet.

        Args:
            mixture: What batches are made of.
            seed: Seed of what is drawn.
            split: Which scenes and scans.
            look: How scenes are drawn.
            thinned: Share of the batches whose pictures lose some of their rows before the decoder; of half
                of them positions close up. So that a row is known by what it holds, not by its number.
            sparse: Whether of thinned pictures few rows are left more often than many.
        """
        self.mixture, self.seed, self.split, self.look = mixture, seed, split, look
        self.thinned, self.sparse = thinned, sparse
        self.prefix = look.side**2 + 1  # <user> and the image
        self.encode = Encoder()
        weights = dict(mixture.kinds)
        self._kinds = [kind for kind in KINDS if weights.get(kind, 0) > 0]
        total = sum(weights[kind] for kind in self._kinds)
        self._shares = np.array([weights[kind] / total for kind in self._kinds])

    def __len__(self) -> int:
        """Effectively endless."""
        return 1 << 30

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        """Draw batch `number`."""
        rng = np.random.default_rng((self.seed, number, 7))
        kinds = rng.choice(self._kinds, self.mixture.batch, p=self._shares)
        seeds = rng.integers(1 << 47, size=self.mixture.batch)
        scenes = [
            make_scene(str(k), scene_seed(self.split, int(s)), self.look)
            for k, s in zip(kinds, seeds, strict=True)
        ]
        batch = {
            "pixels": torch.from_numpy(np.stack([scene.pixels for scene in scenes])),
            "labels": torch.from_numpy(np.stack([scene.labels for scene in scenes])),
        }
        if self.mixture.text:
            rows = [self._pack(scene, rng) for scene in scenes]
            for name in ("ids", "segments", "positions", "targets", "tasks"):
                batch[name] = torch.from_numpy(np.stack([row[name] for row in rows]))
            if self.thinned and rng.random() < self.thinned:
                batch |= self._thin(rng)
        return batch

    def _thin(self, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """Which rows are left of each picture, as many of all, and whether their positions close up."""
        pictures, patches = self.mixture.batch, self.prefix - 1
        share = LEAST_SPARSE ** rng.uniform(0.0, 1.0) if self.sparse else rng.uniform(LEAST, 1.0)
        left = max(1, round(patches * share))
        kept = np.sort(rng.random((pictures, patches)).argsort(1)[:, :left], axis=1)
        return {
            "kept": torch.from_numpy(kept),
            "closed": torch.from_numpy(rng.random(pictures) < 0.5),
        }

    def _pack(self, scene, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Fill one text row with this scene's questions in random order."""
        from saccade.glance.tasks import TASK_NAMES, training_questions

        size, encode = self.mixture.text, self.encode
        out = {
            "ids": np.full(size, encode.pad, np.int64),
            "segments": np.full(size, PAD_SEGMENT, np.int64),
            "positions": np.full(size, self.prefix, np.int64),
            "targets": np.full(size, -100, np.int64),
            "tasks": np.full(size, -1, np.int64),
        }
        conversation = rng.random() < self.mixture.conversations
        at, segment = 0, 0
        for item in training_questions(scene, rng):
            question = [*encode(item.question), encode.assistant]
            if conversation and at:
                question = [encode.user, *question]
            answer = [*encode(item.answer), encode.eos]
            end = at + len(question) + len(answer)
            if end > size:
                continue
            start = at + len(question)
            out["ids"][at:end] = question + answer
            out["segments"][at:end] = 0 if conversation else segment
            first = self.prefix + (at if conversation else 0)
            out["positions"][at:end] = np.arange(first, first + end - at)
            out["targets"][start - 1 : end - 1] = answer  # row t predicts token t + 1
            out["tasks"][start - 1 : end - 1] = TASK_NAMES.index(item.task) + 64 * segment
            at, segment = end, segment + 1
        return out


def loader(batches: Batches, start: int, workers: int = 1) -> Iterator[dict[str, torch.Tensor]]:
    """Iterate batches `start`, `start + 1`, ... drawn by background processes."""
    drawn = DataLoader(
        batches,
        batch_size=None,
        sampler=range(start, start + (1 << 24)),
        num_workers=workers,
        prefetch_factor=(6 if workers == 1 else 3) if workers else None,
        multiprocessing_context="fork" if workers else None,
        # As arrays they come through pipes: shared memory, which tensors take, is short in many containers.
        collate_fn=_arrays,
        worker_init_fn=_stay if workers else None,
    )
    return ({name: torch.from_numpy(array) for name, array in batch.items()} for batch in drawn)


def _stay(worker: int) -> None:
    """A signal to the whole group of processes is the trainer's to answer: it saves first."""
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, signal.SIG_IGN)


def _arrays(batch: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in batch.items()}


def attention_mask(segments: torch.Tensor, prefix: int) -> torch.Tensor:
    """Additive mask of the text rows, batch x 1 x text x rows: causal, and no question sees another.

    Args:
        segments: Question number of each text row, `PAD_SEGMENT` where padded, batch x text.
        prefix: Rows before the text, which every row may see.
    """
    batch, text = segments.shape
    causal = torch.ones(text, text, dtype=torch.bool, device=segments.device).tril()
    seen = causal & (segments[:, None, :, None] == segments[:, None, None, :])
    before = torch.zeros(batch, 1, text, prefix, device=segments.device)
    among = torch.zeros(seen.shape, device=segments.device).masked_fill_(~seen, -1e9)
    return torch.cat((before, among), dim=3)


def network_inputs(
    batch: dict[str, torch.Tensor], prefix: int, sparse: bool = False
) -> dict[str, torch.Tensor]:
    """The arguments of `Network.answer` of a batch whose whole pictures begin prompts of `prefix` rows.

    With `sparse` the first layer is told where to look too.
    """
    inputs = {name: batch[name] for name in ("pixels", "labels", "ids", "positions")}
    aim = aims(batch, sparse)
    if "kept" in batch:
        kept = batch["kept"]
        inputs |= {"kept": kept, "closed": batch["closed"]}
        prefix = kept.shape[1] + 1
        columns = torch.cat((kept.new_zeros(len(kept), 1), kept + 1), dim=1)[:, None, None, None]
        aim = aim.gather(4, columns.expand(*aim.shape[:4], -1))
    return {**inputs, "mask": attention_mask(batch["segments"], prefix), "aim": aim}
