"""The closed world of Glance: names of things, and the classes its patches are labelled with."""

from __future__ import annotations

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (215, 30, 35),
    "green": (30, 150, 50),
    "blue": (35, 65, 215),
    "yellow": (240, 215, 40),
    "purple": (125, 40, 165),
    "orange": (245, 130, 25),
    "cyan": (50, 205, 220),
    "pink": (250, 140, 185),
}
COLOR_NAMES = tuple(COLORS)
SHAPES = ("circle", "square", "triangle", "diamond", "cross", "ring")
SIZES = ("small", "large")
# I, O and Q are left out: in several fonts they cannot be told from 1, 0 and each other at 16 pixels.
LETTERS = tuple("ABCDEFGHJKLMNPRSTUVWXYZ")
DIGITS = tuple("0123456789")
DIRECTIONS = ("left", "right", "above", "below")
UNANSWERABLE = "unanswerable"

CONTENT = ("background", *SHAPES, *LETTERS, *DIGITS, "bar", *(f"arrow {d}" for d in DIRECTIONS))
CONTENT_INDEX = {name: i for i, name in enumerate(CONTENT)}
COLOR_INDEX = {name: i + 1 for i, name in enumerate(COLOR_NAMES)}
LETTER_INDEX = {name: i + 1 for i, name in enumerate(LETTERS)}

# One linear head per kind of patch label, used only while training. Class 0 means "none" in every head.
LABEL_HEADS: dict[str, int] = {
    "content": len(CONTENT),
    "color": len(COLORS) + 1,
    "size": len(SIZES) + 1,
    "value": 9,  # height of the bar above this chart label
    "source": len(LETTERS) + 1,  # letter of the box whose arrow ends here, where already seen
    "target": len(LETTERS) + 1,  # letter of the box this box's arrow leads to, where already seen
    "order": 10,  # rank in reading order: object in its scene, character in its line
    "same_color": 10,  # how many objects of this colour so far
    "same_shape": 10,  # how many objects of this shape so far
    "row": 6,  # row and column on the grid of cells
    "column": 6,
}
LOCAL_HEADS = ("content", "color", "size", "value", "row", "column")
"""What a tower can tell of a patch; how it relates to the rest of the picture is left to the decoder."""
HEAD_INDEX = {name: i for i, name in enumerate(LABEL_HEADS)}
IGNORE = -100

_FUNCTION_TEXT = """
what which where who how many is are there a an the in of at to from and or not color shape size
object objects more value bar tallest shortest taller bigger read list all word number line top
bottom middle first last second third digit digits largest row column follow arrow arrows two
three points yes no next follows nothing same both between than any do does not
"""
FUNCTION_WORDS = tuple(_FUNCTION_TEXT.split())
PLURALS = tuple(f"{s}es" if s.endswith("s") else f"{s}s" for s in SHAPES)
PLURAL_OF = dict(zip(SHAPES, PLURALS, strict=True))


def words() -> list[str]:
    """Every token a question or an answer can contain, in a stable order."""
    ordered = (
        *FUNCTION_WORDS, *COLOR_NAMES, *SHAPES, *PLURALS, *SIZES, *DIRECTIONS, UNANSWERABLE,
        "?", ",", ".", *LETTERS, *DIGITS,
    )  # fmt: skip
    return list(dict.fromkeys(ordered))
