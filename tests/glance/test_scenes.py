"""Scenes: reproducible, split-safe, and labelled with what they show."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from saccade.glance.draw import GRID
from saccade.glance.scenes import KINDS, SPLITS, make_scene, scene_seed, split_of
from saccade.glance.scenes.digits import originals, scans_of
from saccade.glance.vocabulary import CONTENT, HEAD_INDEX, IGNORE, LABEL_HEADS, LETTERS


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_makes_the_same_scene_and_another_seed_another(kind: str) -> None:
    first, again, other = make_scene(kind, 5), make_scene(kind, 5), make_scene(kind, 6)
    assert np.array_equal(first.pixels, again.pixels)
    assert np.array_equal(first.labels, again.labels)
    assert first.facts == again.facts
    assert not np.array_equal(first.pixels, other.pixels)


def test_seeds_of_different_splits_never_meet() -> None:
    for split in SPLITS:
        for index in (0, 1, 12345, (1 << 48) - 1):
            assert split_of(scene_seed(split, index)) == split
    with pytest.raises(ValueError, match="outside"):
        scene_seed("train", 1 << 48)
    with pytest.raises(ValueError, match="unknown split"):
        scene_seed("validation", 0)


def test_handwritten_scans_of_different_splits_are_different_scans() -> None:
    pools = {split: set(np.concatenate(scans_of(split)).tolist()) for split in SPLITS}
    assert not pools["train"] & pools["test"]
    assert not pools["train"] & pools["calibration"]
    assert not pools["calibration"] & pools["test"]
    for split in SPLITS:
        for index in range(20):
            scene = make_scene("digits", scene_seed(split, index))
            assert set(scene.facts.scans) <= pools[split]


def test_the_shipped_scans_are_those_that_were_published() -> None:
    scans, labels = originals()
    assert (scans.shape, scans.dtype, labels.shape, labels.dtype) == (
        (1797, 8, 8),
        np.uint8,
        (1797,),
        np.uint8,
    )
    # Of load_digits() of scikit-learn 1.9.1: its images and its targets as bytes.
    published = "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"
    assert hashlib.sha256(scans.tobytes() + labels.tobytes()).hexdigest() == published


@pytest.mark.parametrize("kind", KINDS)
def test_labels_are_valid_classes(kind: str) -> None:
    for seed in range(20):
        labels = make_scene(kind, seed).labels
        assert labels.shape == (GRID * GRID, len(LABEL_HEADS))
        for head, classes in LABEL_HEADS.items():
            column = labels[:, HEAD_INDEX[head]]
            known = column[column != IGNORE]
            assert ((known >= 0) & (known < classes)).all(), head


def test_object_labels_say_what_stands_where() -> None:
    scene = make_scene("objects", 3)
    labels = scene.labels.reshape(GRID, GRID, -1)
    for rank, thing in enumerate(scene.facts.things, start=1):
        last = labels[2 * thing.row + 1, 2 * thing.column + 1]
        assert CONTENT[last[HEAD_INDEX["content"]]] == thing.shape
        assert last[HEAD_INDEX["order"]] == rank
        same = [t for t in scene.facts.things[:rank] if t.color == thing.color]
        assert last[HEAD_INDEX["same_color"]] == len(same)


def test_diagram_labels_only_tell_what_lies_before() -> None:
    for seed in range(30):
        scene = make_scene("diagram", seed)
        labels = scene.labels.reshape(GRID, GRID, -1)
        letters, arrows = scene.facts.letters, dict(scene.facts.arrows)
        content = labels[..., HEAD_INDEX["content"]]
        for row, column in zip(*np.nonzero(content != IGNORE), strict=True):
            name = CONTENT[content[row, column]]
            link = labels[row, column, HEAD_INDEX["target"]]
            if name in LETTERS and link > 0:
                target = LETTERS[link - 1]
                assert arrows[name] == target
                assert letters.index(target) < letters.index(name)


def test_pictures_show_their_objects() -> None:
    scene = make_scene("objects", 11)
    background = np.median(scene.pixels.reshape(-1, 3), axis=0)
    for thing in scene.facts.things:
        y, x = thing.row * 16, thing.column * 16
        cell = scene.pixels[y : y + 16, x : x + 16].astype(float)
        assert np.abs(cell - background).max() > 60
