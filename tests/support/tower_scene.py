"""Evidence built by hand for reducers before the decoder: ragged batches of images with one view or several.

An image is a name of ``KINDS``. Its contents are drawn from a seed and its sample's number, so that a sample
is the same in every batch. Towers have a CLS row or none.

Shape letters: B batch, N rows, P patches of a view, Q rows of the tower (P, with CLS before it), H heads,
V tower width, D decoder width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st

from saccade.core.layout import Layout
from saccade.core.stages import Choice, Counts, Evidence, Grid, Stage, Vision
from support.tower_reference import Pair, View

HEADS, WIDTH, HIDDEN = 2, 8, 6

KINDS = {
    "square": ((4, 4), None, None),
    "wide": ((3, 5), None, None),
    "dot": ((1, 1), None, None),
    "tiles": ((3, 3), (1, 2), (3, 5)),
    "tower": ((3, 3), (3, 1), (8, 3)),
    "large": ((7, 7), None, None),
}
"""Lines and columns of a view; tiles below and beside each other; lines and columns that unpadding leaves."""


@dataclass
class Picture:
    """One image: its views, and where its rows lie (plane, line, column; -1 at newline rows)."""

    views: list[View]
    places: list[tuple[int, int, int]]
    first: int = 0

    @property
    def rows(self) -> list[int]:
        """Its rows in the sample."""
        return list(range(self.first, self.first + len(self.places)))


@dataclass
class Scene:
    """A batch.

    Attributes:
        pictures: Images of every sample.
        has_cls: Whether the tower has a CLS row.
        layout: Where the rows are.
        vision: What the tower knows.
        grid: Where the rows lie.
        hidden_BND: Input of the decoder.
    """

    pictures: list[list[Picture]]
    has_cls: bool
    layout: Layout
    vision: Vision
    grid: Grid
    hidden_BND: torch.Tensor

    def evidence(self, method: Any, alive_BN: torch.Tensor | None = None) -> Evidence:
        """What the engine would give."""
        alive_BN = self.layout.visual_BN if alive_BN is None else alive_BN & self.layout.visual_BN
        found = tuple(
            tuple(int(alive_BN[b, picture.rows].sum()) for picture in sample)
            for b, sample in enumerate(self.pictures)
        )
        keep = tuple(
            tuple(min(f, method.kept(stage_of(method), f, f, n)) for f, n in zip(*both, strict=True))
            for both in zip(found, self.layout.counts, strict=True)
        )
        return Evidence(
            self.layout, alive_BN, self.layout.image_BN, found, keep, self.hidden_BND, grid=self.grid,
            vision=self.vision,
        )  # fmt: skip

    def choose(self, method: Any, alive_BN: torch.Tensor | None = None) -> Choice:
        """What the method answers."""
        return stage_of(method).by.choose(stage_of(method), self.evidence(method, alive_BN))


def stage_of(method: Any) -> Stage:
    """The method's only stage."""
    (stage,) = method.stages(4)
    assert stage.before == 0
    return stage


def project(x: torch.Tensor) -> torch.Tensor:
    """A projector that is not linear."""
    draw = torch.Generator().manual_seed(99)
    weight = torch.randn(WIDTH, HIDDEN, generator=draw)
    return torch.nn.functional.gelu(x @ weight + torch.randn(HIDDEN, generator=draw))


def build(samples: Sequence[Sequence[str]], has_cls: bool = True, seed: int = 0, pad: int = 0) -> Scene:
    """A batch of samples, left-padded; ``pad`` more rows of padding."""
    return assemble(list(enumerate(samples)), has_cls, seed, pad)


def single(samples: Sequence[Sequence[str]], number: int, has_cls: bool = True, seed: int = 0) -> Scene:
    """One of these samples alone."""
    return assemble([(number, samples[number])], has_cls, seed, 0)


def assemble(numbered: list[tuple[int, Sequence[str]]], has_cls: bool, seed: int, pad: int) -> Scene:
    """A batch of numbered samples."""
    drawn = []
    for number, names in numbered:
        draw = torch.Generator().manual_seed(1000 * seed + number)
        drawn.append([draw_picture(*KINDS[name], has_cls, draw) for name in names])
    lengths = [2 + sum(len(p.places) + 1 for p in sample) + 3 for sample in drawn]
    batch, rows = len(drawn), max(lengths) + pad
    visual = torch.zeros(batch, rows, dtype=torch.bool)
    real = torch.zeros(batch, rows, dtype=torch.bool)
    patch = torch.zeros(batch, rows, dtype=torch.bool)
    where = torch.full((3, batch, rows), -1)
    view_BN = torch.full((batch, rows), -1)
    attention, one_head = torch.zeros(batch, rows), torch.zeros(batch, rows)
    features, keys = torch.zeros(batch, rows, WIDTH), torch.zeros(batch, rows, WIDTH)
    hidden = torch.randn(batch, rows, HIDDEN, generator=torch.Generator().manual_seed(5))
    cls: list[torch.Tensor] = []
    for b, (number, _) in enumerate(numbered):
        # A sample's words are the same in every batch.
        words = torch.randn(lengths[b], HIDDEN, generator=torch.Generator().manual_seed(7919 + number))
        hidden[b, rows - lengths[b] :] = words
    views = 0
    received = torch.zeros(2, batch, rows)
    for b, sample in enumerate(drawn):
        real[b, rows - lengths[b] :] = True
        row = rows - lengths[b] + 2
        for picture in sample:
            picture.first = row
            visual[b, picture.rows] = True
            where[:, b, picture.rows] = torch.tensor(picture.places).T
            hidden[b, picture.rows] = torch.linspace(-1, 1, HIDDEN)
            for view in picture.views:
                view.rows = [(p, row + place) for p, place in view.rows]
                p, n = (torch.tensor(x) for x in zip(*view.rows, strict=True))
                patch[b, n] = True
                view_BN[b, n] = views
                for out, full in ((attention, view.full_attention()), (one_head, view.full_attention(True))):
                    mean_QQ = full.mean(0)
                    out[b, n] = (mean_QQ[0, 1:] if has_cls else mean_QQ[1:, 1:].sum(0))[p]
                for out, which in zip(received, (view.middle(), view), strict=True):
                    out[b, n] = which.full_attention().mean(0).sum(0)[1:][p]
                if view.cls_V is not None:
                    cls.append(view.cls_V)
                views += 1
                features[b, n], keys[b, n] = view.features_PV[p], view.keys_QV[1:][p]
                hidden[b, n] = project(view.features_PV[p])
            row += len(picture.places) + 1
    layout = Layout.from_mask(visual, real, [[len(p.places) for p in sample] for sample in drawn])
    vision = Vision(
        patch, view_BN, attention, one_head, keys, HEADS, features,
        torch.stack(cls) if cls else None, project, received_BN=tuple(received),
    )  # fmt: skip
    grid = Grid(where[1], where[2], where[0], torch.zeros(batch, rows, 4))
    return Scene(drawn, has_cls, layout, vision, grid, hidden)


def draw_picture(
    size: tuple[int, int],
    tiles: tuple[int, int] | None,
    left: tuple[int, int] | None,
    has_cls: bool,
    draw: torch.Generator,
) -> Picture:
    """An image with random contents; rows of its views are counted from its first row."""
    views = [draw_view(size[0] * size[1], has_cls, draw)]
    places = [(0, line, column) for line in range(size[0]) for column in range(size[1])]
    views[0].rows = [(p, p) for p in range(len(places))]
    if tiles is not None and left is not None:
        views += [draw_view(size[0] * size[1], has_cls, draw) for _ in range(tiles[0] * tiles[1])]
        for line in range(left[0]):
            for column in range(left[1]):
                tile = line // size[0] * tiles[1] + column // size[1]
                patch = line % size[0] * size[1] + column % size[1]
                views[1 + tile].rows.append((patch, len(places)))
                places.append((1, line, column))
            places.append((-1, -1, -1))
    return Picture(views, places)


def draw_view(patches: int, has_cls: bool, draw: torch.Generator) -> View:
    """A view with random contents; CLS looks at some patches far more than at others."""

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw)

    queries = 2.5 * normal(HEADS, patches + 1, WIDTH // HEADS)
    cls = normal(WIDTH)
    return View(queries, normal(patches + 1, WIDTH), normal(patches, WIDTH), cls if has_cls else None)


@dataclass(frozen=True)
class Row:
    """A visual row that stays: where, what it holds, and what it is made of (None: untouched)."""

    row: int
    state_D: torch.Tensor
    sources_N: torch.Tensor | None


def rows_of(scene: Scene, choice: Choice, b: int, image: int) -> list[Row]:
    """The rows of an image that stay, in row order."""
    written = {} if choice.rewrite is None else {
        int(row): s for s, row in enumerate(choice.rewrite.rows_BS[b]) if row >= 0
    }  # fmt: skip
    found = []
    for row in scene.pictures[b][image].rows:
        if choice.keep_BN[b, row]:
            s = written.get(row)
            if s is None or choice.rewrite is None:
                found.append(Row(row, scene.hidden_BND[b, row], None))
            else:
                found.append(Row(row, choice.rewrite.states_BSD[b, s], choice.rewrite.sources_BSN[b, s]))
    return found


def counts_of(evidence: Evidence, choice: Choice) -> Counts:
    """What the choice says every image keeps."""
    return evidence.keep if choice.counts is None else choice.counts


def keeps_what_was_asked(scene: Scene, evidence: Evidence, choice: Choice) -> None:
    """Every image keeps as many rows as its budget says, of its patches where rows have to go at all."""
    for b, sample in enumerate(counts_of(evidence, choice)):
        for image, count in enumerate(sample):
            found, asked = evidence.found[b][image], evidence.keep[b][image]
            patches = sum(len(v.rows) for v in scene.pictures[b][image].views)
            assert count == (found if asked == found else min(asked, patches))


def check(scene: Scene, evidence: Evidence, choice: Choice) -> None:
    """What holds for every choice: it keeps candidates, counts them rightly, and rewrites what it keeps."""
    assert choice.keep_BN.shape == evidence.alive_BN.shape
    assert not bool((choice.keep_BN & ~evidence.alive_BN).any())
    for b, sample in enumerate(counts_of(evidence, choice)):
        assert len(sample) == len(scene.pictures[b])
        for image, count in enumerate(sample):
            assert int(choice.keep_BN[b, scene.pictures[b][image].rows].sum()) == count
    if choice.rewrite is not None:
        rows_BS = choice.rewrite.rows_BS
        assert choice.rewrite.states_BSD.shape == (*rows_BS.shape, scene.hidden_BND.shape[2])
        assert choice.rewrite.sources_BSN.shape == (*rows_BS.shape, scene.layout.rows)
        for b, rows in enumerate(rows_BS):
            there = rows[rows >= 0].tolist()
            assert len(set(there)) == len(there) and all(choice.keep_BN[b, r] for r in there)


def same(scene: Scene, b: int, rows: list[Row], expected: list[Pair]) -> None:
    """The rows of an image hold the expected tokens, in this order, and say what they are made of."""
    assert len(rows) == len(expected)
    for row, (view, token) in zip(rows, expected, strict=True):
        place = dict(view.rows)
        torch.testing.assert_close(row.state_D, project(token["feature"]), rtol=1e-5, atol=1e-5)
        sources = torch.zeros(scene.layout.rows)
        for patch, weight in token["weights"].items():
            sources[place[patch]] = weight
        if row.sources_N is None:
            assert token["kind"] == "dominant" and row.row == place[token["home"]]
            continue
        torch.testing.assert_close(row.sources_N, sources, rtol=1e-5, atol=1e-5)
        if token["kind"] != "cls":
            made = row.sources_N @ scene.vision.features_BNV[b]
            torch.testing.assert_close(made, token["feature"], rtol=1e-5, atol=1e-5)


def untouched(scene: Scene, choice: Choice, b: int, image: int) -> bool:
    """Whether all rows of an image stay as they are."""
    rows = rows_of(scene, choice, b, image)
    return [r.row for r in rows] == scene.pictures[b][image].rows and all(r.sources_N is None for r in rows)


def agree(scene: Scene, choice: Choice, alone: list[tuple[Scene, Choice]]) -> None:
    """A batch does to every sample what is done to it alone."""
    for b, (one, its) in enumerate(alone):
        shift = scene.layout.rows - one.layout.rows
        assert torch.equal(choice.keep_BN[b, shift:], its.keep_BN[0])
        for image in range(len(scene.pictures[b])):
            mine, theirs = rows_of(scene, choice, b, image), rows_of(one, its, 0, image)
            for left, right in zip(mine, theirs, strict=True):
                assert left.row == right.row + shift
                torch.testing.assert_close(left.state_D, right.state_D, rtol=1e-5, atol=1e-5)
                assert (left.sources_N is None) == (right.sources_N is None)
                if left.sources_N is not None and right.sources_N is not None:
                    torch.testing.assert_close(left.sources_N[shift:], right.sources_N, rtol=1e-5, atol=1e-5)


SAMPLES = st.lists(st.lists(st.sampled_from(sorted(KINDS)), max_size=2), min_size=1, max_size=3).filter(any)
"""Batches to draw: up to three samples with up to two images, at least one image in all."""


def holds(
    method: Any, samples: list[list[str]], has_cls: bool, seed: int, pad: int = 3
) -> tuple[Scene, Choice]:
    """Checks what holds for every method: see ``check``; no batch mate and no padding changes anything."""
    scene = build(samples, has_cls, seed, pad)
    evidence = scene.evidence(method)
    choice = scene.choose(method)
    check(scene, evidence, choice)
    alone = [single(samples, number, has_cls, seed) for number in range(len(samples))]
    agree(scene, choice, [(one, one.choose(method)) for one in alone])
    for b, sample in enumerate(evidence.found):
        for image, found in enumerate(sample):
            if evidence.keep[b][image] >= found:
                assert untouched(scene, choice, b, image)
    return scene, choice
