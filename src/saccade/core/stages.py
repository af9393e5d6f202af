"""Row sets decided on the way: what a decision may see, and what it answers (pure).

A static method names its rows before anything runs. A reducer decides at a *stage*, a boundary between two
layers, from a few score rows; how many rows it keeps is known beforehand (``kept``), which ones is not
(``choose``). The engine gathers the evidence, applies the choice and knows no method by name.

Everything is in row coordinates of the forward at hand: index n is row n of the sequence, also where rows
have been dropped already. Budgets are per image.

Shape letters: B batch, N rows of this forward, R asking rows, H heads, G key/value heads, W head width,
D decoder width, V tower width, T views (tiles of an image) of the batch, S rewritten rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch

from saccade.core.layout import Layout, Views

Counts = tuple[tuple[int, ...], ...]
"""Rows per image, for every image of every sample."""

Ask = Literal["nothing", "last", "chosen", "readers"]
Which = Literal["made", "reads"]
TowerLayer = int | float | Literal["made"]
"""A layer of the vision tower: its number from 1, a share of the depth (of 24 layers 0.375 is the 9th), or
the layer that made the features."""


@dataclass(frozen=True)
class Look:
    """What a decision needs to see.

    Attributes:
        ask: Whose attention over the visual rows is wanted: of nobody, of the last prompt row, of the rows
            that the method chooses from the decoder's input (``asking``), or of all that read an image after
            it (``readers``): its own rows and the text after the last image, as sums (``read_B2N``).
        moment: Which layer's attention: of the layer that ran just before the boundary (``after``), or of the
            layer that runs next (``before``).
        keys: Whether the keys of that layer are wanted.
        rotary: Whether its rotary tables are wanted.
        tower: Which layer of the vision tower is wanted, if any: the one that made the features the decoder
            gets (``made``), or the one that reads them (``reads``). Where a tower has only one of the two, it
            serves for both.
        weighs: Whether attention in the tower (``Vision.single_BN``) weighs what rows hold, so that gradients
            have to flow through it.
        received: Layers of the tower in which the attention is wanted that patches get of all rows of their
            view (``Vision.received_BN``), CLS being one of many; with ``tower`` alone.
        pruned: Whether it wants to know which rows the vision tower left out (``Evidence.left_BN``).
        words: Whether the decision hears what the prompt's text says: text rows of the decoder's input.
    """

    ask: Ask = "nothing"
    moment: Literal["after", "before"] = "after"
    keys: bool = False
    rotary: bool = False
    tower: Which | None = None
    weighs: bool = False
    received: tuple[TowerLayer, ...] = ()
    words: bool = False
    pruned: bool = False

    @property
    def layer(self) -> bool:
        """Whether a decoder layer is looked at."""
        return self.ask != "nothing" or self.keys


@dataclass(frozen=True, eq=False)
class Unseen:
    """Patches that the vision tower computed and no row holds: the padding of anyres tiles.

    Shapes are those of ``Vision``, with E such patches of a sample in place of N rows.

    Attributes:
        view_BE: View of the patch, -1 where ``E`` pads a sample with fewer; on the host.
        image_BE: Image of the patch inside its sample, -1 likewise; on the host.
        before_BE: The row before which it would stand, on the host; of several the order is that given.
        attention_BN: See ``Vision``.
        keys_BNV: See ``Vision``.
        features_BNV: See ``Vision``.
    """

    view_BE: torch.Tensor
    image_BE: torch.Tensor
    before_BE: torch.Tensor
    attention_BN: torch.Tensor
    keys_BNV: torch.Tensor
    features_BNV: torch.Tensor


@dataclass(frozen=True, eq=False)
class Vision:
    """What the vision tower knows of the visual rows, in row coordinates; zeros at other rows.

    Attributes:
        patch_BN: Whether the row is a patch of the picture; False at text and at newline rows.
        view_BN: Which view (tile) of the batch the row belongs to, -1 where it is no patch.
        attention_BN: Attention that the patch gets in the looked-at layer, mean over heads, in float32 at
            least: from the CLS row, or where there is none from every row of its view, summed over the rows
            that ask.
        single_BN: The same with all heads as one head of full width (PruMerge).
        keys_BNV: Keys of that layer, heads side by side.
        heads: Heads in ``keys_BNV``.
        features_BNV: Features the projector gets; where the tower has merged patches by then, the decoder's
            own embeddings.
        cls_TV: Features of the CLS row of every view, or None where the tower has none.
        project: Turns features (..., V) into embeddings of the decoder (..., D), row by row.
        into_BN: Where the tower itself has merged patches: the row that holds this row's content, itself
            where nothing was merged into another; None where the tower merges nothing.
        sizes_BN: Patches that were merged into each row, 0 where its content went elsewhere; None likewise.
        unseen: Patches of the views that no row holds, None where there are none.
        left_BN: Rows whose patches passed the tower, where some did not.
        received_BN: Attention that the patch gets of all rows of its view, mean over heads, layer by layer of
            ``Look.received``.
    """

    patch_BN: torch.Tensor
    view_BN: torch.Tensor
    attention_BN: torch.Tensor
    single_BN: torch.Tensor
    keys_BNV: torch.Tensor
    heads: int
    features_BNV: torch.Tensor
    cls_TV: torch.Tensor | None
    project: Callable[[torch.Tensor], torch.Tensor]
    into_BN: torch.Tensor | None = None
    sizes_BN: torch.Tensor | None = None
    unseen: Unseen | None = None
    left_BN: torch.Tensor | None = None
    received_BN: tuple[torch.Tensor, ...] = ()


@dataclass(frozen=True, eq=False)
class Grid:
    """Where the visual rows lie in the picture, from the model's own packing of views.

    Attributes:
        line_BN: Line of the row in its plane, from 0; -1 where it is no patch.
        column_BN: Column in its plane; -1 where it is no patch.
        plane_BN: Which plane of the image the row lies on (0: the whole picture; 1: the tiles together, where
            there are any, or 1 and on: one each); -1 where it is no patch.
        box_BN4: Left, top, right, bottom of the row's patch in what its plane shows of the picture that the
            model saw, each 0 to 1; planes show all of it, but for tiles that are one each.
    """

    line_BN: torch.Tensor
    column_BN: torch.Tensor
    plane_BN: torch.Tensor
    box_BN4: torch.Tensor


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a decision is given; tensors are on the device of the layer, counts on the host.

    Attributes:
        layout: Where the visual rows are (host tensors).
        alive_BN: Visual rows that are still alive: the candidates.
        image_BN: Image of each row inside its sample, -1 elsewhere.
        found: Candidates of every image.
        keep: Rows to keep of every image (what ``kept`` answered), at most ``found``.
        hidden_BND: Residual stream at the boundary.
        weights_BHRN: Attention of the asking rows in the looked-at layer: softmax over all keys they see, in
            float32 at least, given at the rows of this forward; 0 at dead rows. None if nothing was asked.
        asks_BR: False where ``R`` pads a sample with fewer asking rows.
        asking_BR: Row numbers of the asking rows.
        read_B2N: For ``readers``: the largest weight over heads that a row gets, added up over the rows of
            its own image that are alive (first), and over the instruction (second), in float32 at least.
        keys_BGNW: Rotated keys of the looked-at layer, zeros at dead rows; None if not wanted.
        rotary: Cosines and sines (B or 1, N, W) of the rows in that layer, in float32 at least, 1 and 0 where
            a head is not turned; None if not wanted.
        turn: Turns rows by head (B, G, N, W) by such tables, as the model does; None if not wanted.
        norm: The decoder's final norm.
        grid: Where the rows lie in the picture; None where the model cannot say (embeddings alone).
        vision: What the tower knows; None unless ``Look.tower``.
        left_BN: Rows whose patches passed the tower; None unless ``Look.pruned``, or where pixels are none.
    """

    layout: Layout
    alive_BN: torch.Tensor
    image_BN: torch.Tensor
    found: Counts
    keep: Counts
    hidden_BND: torch.Tensor
    weights_BHRN: torch.Tensor | None = None
    asks_BR: torch.Tensor | None = None
    asking_BR: torch.Tensor | None = None
    read_B2N: torch.Tensor | None = None
    keys_BGNW: torch.Tensor | None = None
    rotary: tuple[torch.Tensor, torch.Tensor] | None = None
    turn: Callable[[torch.Tensor, tuple[torch.Tensor, torch.Tensor]], torch.Tensor] | None = None
    norm: Callable[[torch.Tensor], torch.Tensor] | None = None
    grid: Grid | None = None
    vision: Vision | None = None
    left_BN: torch.Tensor | None = None


@dataclass(frozen=True, eq=False)
class Rewrite:
    """New contents of rows: merges, recycled clusters, rows moved together.

    Attributes:
        rows_BS: Rows that are written, -1 where ``S`` pads a sample with fewer.
        states_BSD: What they hold from now on.
        sources_BSN: Weights with which the rows as they were made them; the source trace is composed of
            these. They need not add up to 1, and rows made of something else (a CLS token) may have none.
    """

    rows_BS: torch.Tensor
    states_BSD: torch.Tensor
    sources_BSN: torch.Tensor


@dataclass(frozen=True, eq=False)
class Choice:
    """What a decision answers.

    Attributes:
        keep_BN: Visual rows that stay alive; a subset of the candidates, rewritten rows included.
        counts: Rows kept of every image where they are not what ``kept`` said (adaptive methods).
        rewrite: New contents of some of the rows that stay.
    """

    keep_BN: torch.Tensor
    counts: Counts | None = None
    rewrite: Rewrite | None = None


class Decider(Protocol):
    """The part of a reducer that the engine and the price list call."""

    def kept(self, stage: Stage, found: int, start: int, original: int, views: Views = ()) -> int:
        """Rows an image keeps at a stage, merged and new ones included; the closed-form cost rests on it.

        Args:
            stage: Which stage.
            found: Visual rows of the image that are alive.
            start: Those that were alive when the method's first stage was reached.
            original: Those that the image has.
            views: Patches of each of its views, those without a row included; empty where that is not known.
        """

    def asking(self, evidence: Evidence) -> torch.Tensor:
        """Rows (B, N) that ask at stages with ``ask="chosen"``, from the decoder's input."""

    def choose(self, stage: Stage, evidence: Evidence) -> Choice:
        """Which rows stay, and what is merged into them."""


@dataclass(frozen=True)
class Stage:
    """One decision.

    Attributes:
        before: First layer that runs with what is left; 0 decides before the decoder.
        by: Who decides.
        number: Which of the decider's stages this is, from 0.
        look: What the decision needs to see.
        compact: Whether positions close up over dropped rows from here on; else every row keeps its own.
            ``if possible``: not where positions have several axes (mRoPE), which can only be kept; a decider
            is told ``always`` or ``never``.
        rewrites: Whether it gives rows new contents.
        places: Whether it takes a row for the patch at its place in the picture, as every look at the tower
            does.
        unseen: Whether patches that no row holds (``Vision.unseen``) may take the places of rows.
        last: Rows at the end of every image that stay for certain, for prices; the first ones are taken to.
    """

    before: int
    by: Decider
    number: int = 0
    look: Look = Look()
    compact: Literal["never", "if possible", "always"] = "never"
    rewrites: bool = False
    places: bool = False
    unseen: bool = False
    last: int = 0

    def settled(self, can_close_up: bool) -> Stage:
        """The same stage with its word on positions final, where they can close up or where they cannot."""
        closes = self.compact == "always" or (self.compact == "if possible" and can_close_up)
        return replace(self, compact="always" if closes else "never")


@dataclass(frozen=True)
class Scoring:
    """What a stage computes for its scores, for the price list.

    Attributes:
        asking: Rows that ask, per sample.
        keys: Rows they are scored against, per sample.
        projects_keys: Whether keys are computed for the scores alone.
    """

    asking: int
    keys: int
    projects_keys: bool = False
