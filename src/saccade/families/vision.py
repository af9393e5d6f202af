"""What a family knows of the way from pixels to visual rows: the picture's map and the tower's parts.

Shape letters: R visual rows of a forward in placeholder order, M patches that a row is mixed of, T views,
P rows of a view in the tower, Q rows of it that ask, V its width, H heads, K head width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isqrt
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from saccade.core.stages import TowerLayer
from saccade.core.tower import TowerShape
from saccade.families.leaving import LeavingPatches
from saccade.families.merging import MergingTokens

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import PreTrainedConfig

MIXED = 4
"""Patches that an interpolated row is mixed of: two lines by two columns."""

KINDS = ("image", "video")
"""Kinds of pictures."""

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, each 0 to 1."""


@dataclass(frozen=True, eq=False)
class Picture:
    """What each visual row is a picture of; host tensors, rows of all images one after another.

    Attributes:
        lengths: Rows of every image.
        views: Views (tiles, or frames of a video) of every image.
        patches: Patches of all views.
        patch_R: Which patch the row is made of, counted over all views in the tower's own order; -1 where it
            is no patch (newline rows, a CLS row). Of an interpolated row the one with the largest share.
        view_R: View of the patch, counted over all images; -1 likewise.
        plane_R: Plane of the image it lies on (0: the whole picture, 1: the tiles together; of a video the
            frame; where it is not known how tiles lie, each is a plane from 1 on); -1 likewise.
        line_R: Line in its plane; -1 likewise.
        column_R: Column in its plane; -1 likewise.
        box_R4: Left, top, right, bottom of the patch in what its plane shows (``Family.crops``) of the
            picture that ``Family.seen`` gives, each 0 to 1; zeros likewise.
        mapped: False where only the lengths are known; everything else is -1 then.
        mix_RM: Patches that each row is interpolated between, -1 likewise; None where no row is.
        share_RM: Their shares; None likewise.
        unseen: Of every image the patches of its views that no row holds (S, 3), the padding of anyres tiles,
            in the order in which they would stand: patch, view, and how many of the image's rows come before
            it. Empty where no image has any.
    """

    lengths: tuple[int, ...]
    views: tuple[int, ...]
    patches: int
    patch_R: torch.Tensor
    view_R: torch.Tensor
    plane_R: torch.Tensor
    line_R: torch.Tensor
    column_R: torch.Tensor
    box_R4: torch.Tensor
    mapped: bool = True
    mix_RM: torch.Tensor | None = None
    share_RM: torch.Tensor | None = None
    unseen: tuple[torch.Tensor, ...] = ()

    @property
    def view_sizes(self) -> tuple[tuple[int, ...], ...] | None:
        """Patches of every view of every image, those that no row holds included; None without a map."""
        if not self.mapped:
            return None
        shown = [self.view_R, *(missing[:, 1] for missing in self.unseen)]
        held = torch.cat(shown)
        total = torch.bincount(held[held >= 0], minlength=sum(self.views)).tolist()
        starts = _starts(self.views)
        return tuple(tuple(total[s : s + n]) for s, n in zip(starts, self.views, strict=True))

    @classmethod
    def unmapped(cls, lengths: Sequence[int]) -> Picture:
        """Lengths without a map."""
        none = torch.full((sum(lengths),), -1)
        box = torch.zeros(len(none), 4)
        return cls(tuple(lengths), (0,) * len(lengths), 0, none, none, none, none, none, box, mapped=False)

    def take(self, images: Sequence[int]) -> Picture:
        """Some of the images, in this order, also one several times; views are numbered anew."""
        starts, first = _starts(self.lengths), _starts(self.views)
        rows, shift, view, unseen = [], [], 0, []
        for image in images:
            if self.unseen:
                unseen.append(self.unseen[image] + torch.tensor([0, view - first[image], 0]))
            rows.append(torch.arange(starts[image], starts[image] + self.lengths[image]))
            shift.append(torch.full((self.lengths[image],), view - first[image]))
            view += self.views[image]
        at = torch.cat(rows) if rows else torch.zeros(0, dtype=torch.long)
        by = torch.cat(shift) if shift else at
        old = self.view_R[at]
        return Picture(
            tuple(self.lengths[i] for i in images),
            tuple(self.views[i] for i in images),
            self.patches,
            self.patch_R[at],
            torch.where(old < 0, old, old + by),
            self.plane_R[at],
            self.line_R[at],
            self.column_R[at],
            self.box_R4[at],
            self.mapped,
            None if self.mix_RM is None else self.mix_RM[at],
            None if self.share_RM is None else self.share_RM[at],
            tuple(unseen),
        )

    def showing(self, shown_R: torch.Tensor) -> tuple[Picture, list[int]]:
        """Some of the rows alone, and the numbers of the images that have any of them."""
        lengths = tuple(int(rows.sum()) for rows in shown_R.split(list(self.lengths)))
        names = ("patch_R", "view_R", "plane_R", "line_R", "column_R", "box_R4", "mix_RM", "share_RM")
        held = {name: getattr(self, name) for name in names}
        rows = {name: x if x is None else x[shown_R] for name, x in held.items()}
        images = [number for number, length in enumerate(lengths) if length]
        # What stands before an unseen patch is counted in rows of the whole image.
        pairs = zip(self.unseen, lengths, self.lengths, strict=True) if self.unseen else ()
        unseen = tuple(missing if length == whole else missing[:0] for missing, length, whole in pairs)
        return replace(self, lengths=lengths, unseen=unseen, **rows).take(images), images

    def views_of(self, images: Sequence[int]) -> list[int]:
        """Numbers of the views of some images, in this order."""
        first = _starts(self.views)
        return [v for i in images for v in range(first[i], first[i] + self.views[i])]

    @classmethod
    def join(cls, parts: Sequence[Picture]) -> Picture:
        """Several pictures one after another."""
        if len(parts) == 1:
            return parts[0]
        patches, views = _starts([p.patches for p in parts]), _starts([sum(p.views) for p in parts])
        mixes = any(p.mix_RM is not None for p in parts)
        parts = [p._mixing() for p in parts] if mixes else parts

        def moved(name: str, by: Sequence[int]) -> torch.Tensor:
            each = [getattr(p, name) for p in parts]
            return torch.cat([torch.where(x < 0, x, x + n) for x, n in zip(each, by, strict=True)])

        def joined(name: str) -> torch.Tensor:
            return torch.cat([getattr(p, name) for p in parts])

        return cls(
            tuple(n for p in parts for n in p.lengths),
            tuple(n for p in parts for n in p.views),
            sum(p.patches for p in parts),
            moved("patch_R", patches),
            moved("view_R", views),
            joined("plane_R"),
            joined("line_R"),
            joined("column_R"),
            joined("box_R4"),
            all(p.mapped for p in parts),
            moved("mix_RM", patches) if mixes else None,
            joined("share_RM") if mixes else None,
            _joined_unseen(parts, patches, views) if any(p.unseen for p in parts) else (),
        )

    def _mixing(self) -> Picture:
        """The same, rows that are one patch being mixed of that alone."""
        if self.mix_RM is not None:
            return self
        mix_RM = self.patch_R[:, None].expand(-1, MIXED)
        return replace(self, mix_RM=mix_RM, share_RM=(torch.arange(MIXED) < 1).float().expand_as(mix_RM))


def _joined_unseen(
    parts: Sequence[Picture], patches: Sequence[int], views: Sequence[int]
) -> tuple[torch.Tensor, ...]:
    found: list[torch.Tensor] = []
    for part, patch, view in zip(parts, patches, views, strict=True):
        none = torch.zeros(0, 3, dtype=torch.long)
        found += [one + torch.tensor([patch, view, 0]) for one in part.unseen or [none] * len(part.lengths)]
    return tuple(found)


def _starts(lengths: Sequence[int]) -> list[int]:
    starts = [0]
    for length in lengths:
        starts.append(starts[-1] + length)
    return starts[:-1]


def of_patches(
    patch_R: torch.Tensor, lengths: Sequence[int], views: Sequence[int], lines: int, columns: int
) -> Picture:
    """The picture of rows that are patches of equal views, each a plane of its own image."""
    shown = patch_R >= 0
    view, at = patch_R // (lines * columns), patch_R % (lines * columns)
    line, column = at // columns, at % columns
    box = torch.stack((column / columns, line / lines, (column + 1) / columns, (line + 1) / lines), -1)

    def known(x: torch.Tensor) -> torch.Tensor:
        return x.masked_fill(~shown, -1)

    first = torch.tensor(_starts(views)).repeat_interleave(torch.tensor(list(views), dtype=torch.long))
    plane = view - first[view] if len(first) else view
    return Picture(
        tuple(lengths),
        tuple(views),
        sum(views) * lines * columns,
        patch_R,
        known(view),
        known(plane),
        known(line),
        known(column),
        box.masked_fill(~shown[:, None], 0.0),
    )


def of_grids(grids: Sequence[tuple[int, int, int]]) -> Picture:
    """The picture of images that are so many planes (views) of lines and columns, row by row."""
    parts = [of_patches(torch.arange(n * h * w), (n * h * w,), (n,), lines=h, columns=w) for n, h, w in grids]
    return Picture.join(parts) if parts else Picture.unmapped(())


def joined(grids: Sequence[tuple[int, int]], side: int) -> torch.Tensor:
    """Patches of views that are joined to squares, those of a square one after another, squares line by line.

    Args:
        grids: Lines and columns of patches of every view; what no square holds is left out.
        side: Patches along each side of a square.
    """
    parts, start = [], 0
    for lines, columns in grids:
        at = torch.arange(start, start + lines * columns).view(lines, columns)
        whole = at[: lines // side * side, : columns // side * side]
        parts.append(whole.unflatten(0, (-1, side)).unflatten(2, (-1, side)).transpose(1, 2).flatten())
        start += lines * columns
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.long)


def square(length: int) -> int | None:
    """Side of a square of so many patches, or None."""
    side = isqrt(length)
    return side if side * side == length else None


@dataclass(frozen=True, eq=False)
class Tower:
    """The vision tower of a model.

    Attributes:
        module: The tower itself; its output object is what ``get_image_features`` returns.
        layers: Its layers.
        states: Which states become features: number i is what enters layer i (what leaves the last, if there
            is no layer i). Empty where the features are made after the tower has merged patches.
        made: Attention module of the layer that makes the features, or None.
        reads: Attention module of the layer that reads them, or None; None too where it never runs on them.
        heads: Heads of its layers: all, also where processes share them.
        has_cls: Whether row 0 of every view is a CLS row.
        merge: Patches that the tower merges into one row.
        projector: What turns features into embeddings, or None where the tower does it.
        strips: Whether row 0 is taken off the features.
        attention: Attribute of a layer that is its attention module.
        packed: Whether patches of all pictures are one sequence, cut into segments that attend.
        carries: Whether what its forward is given by keyword reaches its layers.
        follows: What comes after its layers; None where that is what was made after them.
    """

    module: nn.Module
    layers: nn.ModuleList
    states: tuple[int, ...]
    made: nn.Module | None
    reads: nn.Module | None
    heads: int
    has_cls: bool
    merge: int
    projector: nn.Module | None
    strips: bool
    attention: str = "self_attn"
    packed: bool = False
    carries: bool = True
    follows: tuple[nn.Module, ...] | None = None

    def number(self, layer: TowerLayer) -> int:
        """Index of a layer, from 0.

        Raises:
            ValueError: If the tower has no such layer.
        """
        depth = len(self.layers)
        if layer == "made":
            return next((n for n in range(depth) if self.attention_of(n) is self.made), 0)
        number = layer if isinstance(layer, int) else max(round(layer * depth), 1)
        if not 1 <= number <= depth:
            raise ValueError(f"layer {number} of the vision tower is wanted, but it has {depth} (1-{depth})")
        return number - 1

    def attention_of(self, number: int) -> nn.Module:
        """Attention module of a layer."""
        return self.layers[number].get_submodule(self.attention)


class VisionAdapter(LeavingPatches, MergingTokens, ABC):
    """The half of a family's adapter that is about pictures."""

    name: ClassVar[str]
    tower_modules: ClassVar[tuple[str, ...]] = ("model.vision_tower", "model.multi_modal_projector")
    """Modules of the whole model that see and project: what lies beside its decoder."""
    image_inputs: tuple[str, ...] = ("pixel_values", "pixel_values_videos", "mm_encoder_outputs")
    """Arguments of the core by which images come into a forward."""
    films: ClassVar[bool] = False
    """Whether stock models of the family are given videos."""
    frames_apart: ClassVar[bool] = False
    """Whether each frame of a video is an image, with a budget of its own."""
    frames_alike: ClassVar[bool] = True
    """Whether videos of one batch must have as many frames each."""
    beside_images: ClassVar[bool] = True
    """Whether stock models take videos and images in one batch."""
    by_rate: ClassVar[bool] = False
    """Whether frames are chosen by a rate also where their number is given (``frames.shown_frames``)."""

    lays_by_count: ClassVar[bool] = False
    """Whether a picture is laid out otherwise where its prompt has several."""
    begins: ClassVar[bool] = False
    """Whether its processor puts a token before every text by itself; ``spelled`` writes it too."""
    text_alone: ClassVar[bool] = True
    """Whether its processor takes prompts without a picture."""

    def feature_makers(self, core: nn.Module) -> dict[str, str]:
        """Names of the core's methods that make the features of images and of videos, by kind."""
        makers = {kind: f"get_{kind}_features" for kind in KINDS}
        return {kind: name for kind, name in makers.items() if hasattr(core, name)}

    def features(self, output: Any) -> Any:
        """Features of every image in what such a method returned; None where it holds none."""
        return getattr(output, "pooler_output", None)

    def check_feature_layer(self, config: PreTrainedConfig, inputs: Mapping[str, Any]) -> None:
        """Refuses features of another layer of the tower than the configuration says: a plan looks at that.

        Args:
            config: The model's configuration.
            inputs: Arguments of the method that makes features, by name.

        Raises:
            ValueError: If another layer is asked for.
        """
        chosen = inputs.get("vision_feature_layer")
        if chosen not in (None, getattr(config, "vision_feature_layer", chosen)):
            raise ValueError(
                f"this plan looks at the features of layer {config.vision_feature_layer}, but "
                f"vision_feature_layer={chosen} was asked for; set it in the model's configuration"
            )

    @abstractmethod
    def picture(self, model: nn.Module, inputs: Mapping[str, Any]) -> Picture | None:
        """What each visual row of a forward is a picture of; None where the model was given no pixels.

        Without a map (``Picture.unmapped``) methods that look at the tower, or at places in the picture, are
        refused or do without.

        Args:
            model: The model, for its configuration.
            inputs: Keyword arguments of the core's forward or of its ``get_image_features``.
        """

    def grouped(self, model: nn.Module, picture: Picture, inputs: Mapping[str, Any]) -> Picture:
        """A picture with those views put together that are of one image, where only the prompt tells which.

        ``inputs`` are keyword arguments of the core's forward.
        """
        return picture

    def seen(self, processor: Any, image: Image) -> Image:
        """The picture that boxes refer to: the whole image, unless its processor crops it."""
        return image

    def crops(self, processor: Any, image: Image) -> list[Box]:
        """What each plane shows of the picture that ``seen`` gives; empty where all show all of it."""
        return []

    def plain_prompt(self, question: str, images: int) -> str | None:
        """A prompt of so many images as their processor takes it, where its models have no chat template."""
        return None

    def spelled(self, processor: Any, text: str) -> str:
        """A prompt in which a picture is written as its processor writes it, one placeholder for its rows.

        Tokens may span a picture's edge, so text that the processor puts there has to be written before it is
        tokenised.
        """
        return text

    def by_prompt(self, processor: Any, texts: Sequence[str], images: Sequence[Image]) -> list[Any]:
        """Images as the processor takes them with these prompts: in one list, unless it wants one each."""
        return list(images)

    def positions(self, config: PreTrainedConfig, inputs: Mapping[str, Any]) -> list[int]:
        """Positions that each prompt takes: its rows, unless pictures lie on grids of positions.

        Args:
            config: The model's configuration.
            inputs: What the processor made, on the host.
        """
        return [int(count) for count in inputs["attention_mask"].sum(-1)]

    def processor_settings(self, config: PreTrainedConfig) -> dict[str, Any]:
        """Arguments of the processor that the configuration knows, for files that do not say them."""
        return {}

    def tower_shape(self, config: PreTrainedConfig) -> TowerShape | None:
        """Sizes of the vision tower and the projector, for prices; None where they are not known."""
        return None

    def tower(self, model: nn.Module) -> Tower | None:
        """Parts of the vision tower, or None where this adapter cannot take it apart."""
        return None

    def tower_heads(
        self, attn: nn.Module, x: torch.Tensor, kwargs: Mapping[str, Any], cls_only: bool
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Queries (T, H, Q, K) and keys (T, H, P, K) in the tower, views of one size together.

        Args:
            attn: The attention module.
            x: Normed hidden states, as the module gets them.
            kwargs: Its other arguments.
            cls_only: Whether only the first row of every view asks.
        """
        raise ValueError(f"{self.name}: the attention of this vision tower cannot be looked at")

    def tower_order(self, tower: Tower, kwargs: Mapping[str, Any]) -> torch.Tensor | None:
        """Where the patches of every visual row stand inside the tower, those of a row one after another.

        Patches are counted over all views, CLS rows left out. None where they stand so already; row by row
        (R, M), -1 for none, where rows join some more and some fewer.

        Args:
            tower: The tower.
            kwargs: Keyword arguments of its forward, and of the method that makes features.
        """
        return None

    def full_size(self, model: nn.Module, pixels: torch.Tensor) -> bool | None:
        """Whether pictures have the size that the model is made for; None where any size is as good."""
        return None

    def other_sizes(self, model: nn.Module) -> Callable[[], None]:
        """Lets the tower take pictures of other sizes than it was made for; returns what undoes it."""
        return lambda: None

    def smaller(
        self, processor: Any, images: list[Image], scale: float
    ) -> tuple[list[Image], dict[str, Any]]:
        """Images, and arguments of the image processor, for a lower input resolution.

        Args:
            processor: The model's processor.
            images: RGB images.
            scale: Of each side, above 0 and at most 1.

        Raises:
            ValueError: If the model takes pictures of one size only.
        """
        raise ValueError(
            f"{self.name} takes pictures of one size only, so it cannot be given smaller ones; choose a "
            "method that reduces visual rows"
        )


def each_prompts(token: str, texts: Sequence[str], images: Sequence[Image]) -> list[Any]:
    """Images prompt by prompt, by their placeholders; in one list, to be refused, where they do not fit."""
    counts, left = [text.count(token) for text in texts], list(images)
    if sum(counts) != len(left):
        return left
    return [[left.pop(0) for _ in range(count)] for count in counts]


def made_lengths(inputs: Mapping[str, Any], kind: str = "image") -> tuple[int, ...] | None:
    """Rows of every image (or video), where its features were made earlier."""
    made = (inputs.get("mm_encoder_outputs") or {}).get(kind)
    return None if made is None else tuple(len(rows) for rows in made.pooler_output)
