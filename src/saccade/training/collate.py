"""From records to a batch: placeholders expanded as the processor does it, right padding, labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from saccade.engine.resolution import note_shrunk
from saccade.families import unwrap
from saccade.inputs.prompts import most_positions
from saccade.inputs.samples import BLIND_COLOUR
from saccade.models import Loaded, shrink
from saccade.opening.agree import more_tokens
from saccade.training.encode import IGNORE, ConversationEncoder, Encoded, cut
from saccade.training.records import BadRecord, Conversation, Turn

BLANK_SIZE = (32, 32)
TEXT_KEYS = ("input_ids", "attention_mask")
TOKEN_TYPES = ("mm_token_type_ids", "token_type_ids")
"""What processors call the kinds of rows: other than 0 are those of a picture."""

Row = tuple[Encoded, tuple[Turn, ...], Conversation]
Seen = tuple[list[tuple[list[int], list[int]]], dict[str, Any]]
"""For each image the ids and types that replace its placeholder; and what the model wants beside the text."""


@dataclass(frozen=True)
class Counts:
    """What a batch holds, for rates.

    Attributes:
        samples: Records.
        images: Images.
        tokens: Rows that are not padding.
        labels: Rows with a label.
    """

    samples: int
    images: int
    tokens: int
    labels: int


@dataclass(frozen=True)
class Batch:
    """What the collator hands to the trainer.

    Attributes:
        inputs: Keyword arguments of the model, labels included.
        counts: What it holds.
        problems: Why records of it were left out.
    """

    inputs: dict[str, torch.Tensor]
    counts: Counts
    problems: tuple[str, ...]


class Collator:
    """Makes batches for one model.

    Attributes:
        encoder: Text to ids.
        max_length: Longest sequence, visual rows included; no longer than the positions that the model was
            made for.
        always_image: Whether a batch without images gets a row with a blank one and no labels, so that what
            sees is run, and has a gradient of zero.
        scale: What is left of each side of an image, as the plan's ``resize`` says.
    """

    def __init__(self, loaded: Loaded, max_length: int, always_image: bool, scale: float = 1.0) -> None:
        self.loaded, self.scale = loaded, scale
        if scale != 1:
            # Workers shrink in processes of their own.
            note_shrunk(loaded.model)
        self.processor, self.encoder = loaded.processor, ConversationEncoder(loaded.processor, loaded.model)
        config: Any = unwrap(loaded.model).config
        # Where positions have several axes a picture takes fewer of them than rows.
        most = most_positions(config) if loaded.family.compact_positions else None
        self.max_length = max_length if most is None else min(max_length, most)
        self.always_image, self._limit = always_image, max_length
        self._vocab = loaded.shape.vocab + more_tokens(config)
        pad = self.encoder.tokenizer.pad_token_id
        self.pad: int = self.encoder.end if pad is None else pad
        names = getattr(self.processor, "model_input_names", ())
        self.types = next((name for name in TOKEN_TYPES if name in names), None)

    def __call__(self, records: Sequence[Conversation | BadRecord]) -> Batch:
        """Encodes, expands, truncates, pads.

        A record that does not fit loses whole turns from its end; one whose first answer does not fit is left
        out, and named among the problems.
        """
        problems = [str(record) for record in records if isinstance(record, BadRecord)]
        rows: list[Row] = []
        for record in records:
            if isinstance(record, BadRecord):
                continue
            # Images are encoded one by one, which is another layout where the prompt they are in decides it.
            if self.loaded.family.lays_by_count and len(record.images) > 1:
                name = self.loaded.family.name
                problems.append(
                    f"{record.where}: {name} lays several images of a prompt out otherwise than one; it is "
                    "trained on records with one image each"
                )
                continue
            try:
                encoded = self.encoder(record.turns, record.where)
                self._check_known(encoded, record.where)
                rows.append((encoded, record.turns, record))
            except BadRecord as error:
                problems.append(str(error))
        rows, images, (blocks, vision) = self._look(rows, problems)
        kept, rows, refused = self._fit(rows, [len(block) for block, _ in blocks])
        problems += refused
        if len(kept) < len(images):
            images = [images[n] for n in kept]
            blocks, vision = self._see(images)
        sequences = self._expand([encoded for encoded, _, _ in rows], blocks)
        counts = Counts(
            len(rows),
            len(images),
            sum(len(ids) for ids, _, _ in sequences),
            sum(label != IGNORE for _, labels, _ in sequences for label in labels[1:]),
        )
        if not rows or (not images and self.always_image):
            blocks, vision = self._see([Image.new("RGB", BLANK_SIZE, BLIND_COLOUR)])
            block, types = blocks[0]
            sequences.append((block, [IGNORE] * len(block), types))
        return self._pad(sequences, vision, counts, tuple(problems))

    def _check_known(self, encoded: Encoded, where: str) -> None:
        """Refuses tokens that the model has no embedding of: a tokenizer may know words that it does not."""
        odd = next((token for token in encoded.ids if token >= self._vocab), None)
        if odd is not None:
            word = self.encoder.tokenizer.convert_ids_to_tokens(odd)
            raise BadRecord(
                f"{where}: {word!r} is token {odd} of the tokenizer, and the model has {self._vocab} tokens"
            )

    def _look(self, rows: list[Row], problems: list[str]) -> tuple[list[Row], list[Image.Image], Seen]:
        """Rows whose images the processor takes, the images, and what it makes of them; others are named."""
        images = [image for _, _, record in rows for image in record.images]
        try:
            return rows, images, self._see(images)
        except Exception:  # processors raise whatever their authors chose
            # Which record it is shows one by one.
            taken = []
            for row in rows:
                try:
                    self._see(list(row[2].images))
                except Exception as error:
                    problems.append(f"{row[2].where}: the processor refuses an image: {error}")
                else:
                    taken.append(row)
        images = [image for _, _, record in taken for image in record.images]
        return taken, images, self._see(images)

    def _see(self, images: list[Image.Image]) -> Seen:
        """What the processor makes of images.

        Returns:
            For each image the ids that replace its placeholder and their types, and what the model wants
            beside the text.
        """
        if not images:
            return [], {}
        smaller, sizes = shrink(self.loaded, images, self.scale)
        texts = [self.encoder.written] * len(images)
        made = self.processor(
            text=texts,
            images=self.loaded.family.by_prompt(self.processor, texts, smaller),
            **sizes,
            add_special_tokens=False,
            padding=True,
            padding_side="right",
            return_tensors="pt",
        )
        blocks = []
        types = None if self.types is None else made.get(self.types)
        for number, (ids, mask) in enumerate(zip(made["input_ids"], made["attention_mask"], strict=True)):
            real = mask.bool()
            real[: int(self.loaded.family.begins)] = False  # the text has its beginning already
            if self.encoder.written != self.encoder.image_token:
                real &= ids == self.encoder.image_id  # the text around them is written already
            kinds = types[number][real].tolist() if types is not None else []
            blocks.append((ids[real].tolist(), kinds))
        rest = {key: value for key, value in made.items() if key not in (*TEXT_KEYS, *TOKEN_TYPES)}
        return blocks, rest

    def _fit(self, rows: list[Row], lengths: list[int]) -> tuple[list[int], list[Row], list[str]]:
        """Cuts rows to the longest length; returns the images left, the rows, and what was refused."""
        kept: list[int] = []
        fitting = []
        refused = []
        first = 0
        for encoded, turns, record in rows:
            mine = lengths[first : first + len(record.images)]
            for answers in range(len(encoded.ends), 0, -1):
                shorter, left = cut(encoded, turns, answers)
                shown = sum(turn.images for turn in left)
                total = len(shorter.ids) + sum(mine[:shown]) - shown
                if total <= self.max_length:
                    fitting.append((shorter, left, record))
                    kept += range(first, first + shown)
                    break
            else:
                most = "max_length is" if self.max_length == self._limit else "the model was made for"
                refused.append(
                    f"{record.where}: its first answer ends at row {total}, and {most} {self.max_length}"
                )
            first += len(record.images)
        return kept, fitting, refused

    def _expand(
        self, rows: list[Encoded], blocks: list[tuple[list[int], list[int]]]
    ) -> list[tuple[list[int], list[int], list[int]]]:
        """Ids, labels and types of every row, placeholders replaced in order."""
        following = iter(blocks)
        sequences = []
        for row in rows:
            ids: list[int] = []
            labels: list[int] = []
            types: list[int] = []
            for token, label in zip(row.ids, row.labels, strict=True):
                if token == self.encoder.image_id:
                    block, kinds = next(following)
                    ids += block
                    types += kinds or [1] * len(block)
                    labels += [label] + [IGNORE] * (len(block) - 1)
                else:
                    ids.append(token)
                    labels.append(label)
                    types.append(0)
            sequences.append((ids, labels, types))
        return sequences

    def _pad(
        self,
        sequences: list[tuple[list[int], list[int], list[int]]],
        vision: dict[str, Any],
        counts: Counts,
        problems: tuple[str, ...],
    ) -> Batch:
        longest = max(len(ids) for ids, _, _ in sequences)
        shape = (len(sequences), longest)
        ids_BN = torch.full(shape, self.pad)
        mask_BN, types_BN = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
        labels_BN = torch.full(shape, IGNORE)
        for b, (ids, labels, types) in enumerate(sequences):
            ids_BN[b, : len(ids)] = torch.tensor(ids)
            labels_BN[b, : len(ids)] = torch.tensor(labels)
            mask_BN[b, : len(ids)] = 1
            types_BN[b, : len(types)] = torch.tensor(types)
        inputs = {"input_ids": ids_BN, "attention_mask": mask_BN, "labels": labels_BN, **vision}
        if self.types is not None:
            inputs[self.types] = types_BN
        return Batch(inputs, counts, problems)
