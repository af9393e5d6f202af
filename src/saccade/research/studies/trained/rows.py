"""The rows of Skip-Vision's ablation and its rivals, on the embedded models."""

from __future__ import annotations

from collections.abc import Iterable

from saccade.research.studies.lineup import KEPT
from saccade.research.studies.trained.ablation import Ablation, AblationRecipe, AblationRow
from saccade.system.embedded import GAZE, GLANCE

SCALES = ((20, 16), (4, 50), (2, 100), (2, 100))
"""Windows (patches a side) and tokens: 266 of an image; the 66 of the coarser two are retained.

The finest windows have two tokens each, in two passes over the picture: so the second pass stands to the text
as the patches of Glance do, and the decoder need not learn to read anew.
"""
THREE = (0, 1, 2)
MERGE = "Merge"
FULL = "SF FS LS Merge LV"
POOL = "mean pooling"

LONGER = ", 3 times the steps"
"""Ends the name of a row that is trained for longer."""
LATER = (3, 6)
"""First layers of Skip-FFN, of Glance's twelve, in rows that ask where the bypass hurts."""
LATE_SF = f"SF from layer {LATER[-1]}"
"""The row of the last of them with nothing merged."""


def kept_in(names: Iterable[str]) -> str:
    """What names of the rows end with that claims are about: positions kept, if the merge's are."""
    return KEPT if MERGE + KEPT in set(names) else ""


def later(layer: int) -> str:
    """Name of the row whose skipped rows bypass FFNs from this layer on."""
    return f"{FULL}, SF from layer {layer}{KEPT}"


_AT_PLACE = (("merge_order", "kept"),)
_POOLED = ("merge", "mean")
_VICTOR = (("registers", 16), ("register_layer", 3))
DENSE = "CoS, dense"
GLANCE_ROWS = (
    AblationRow(DENSE, 0, THREE),
    AblationRow(FULL, 10),
    AblationRow(MERGE + KEPT, 1, THREE, _AT_PLACE),
    AblationRow(FULL + KEPT, 10, THREE, _AT_PLACE),
    AblationRow("SF", 2),
    AblationRow("SF LS", 4),
    AblationRow("SF FS LS", 6),
    AblationRow("SF FS LS Merge" + KEPT, 8, change=_AT_PLACE),
    AblationRow(POOL + KEPT, change=(_POOLED, *_AT_PLACE)),
    AblationRow("FastV", plan="fastv(layer=2,keep=0.3)"),
    AblationRow("Victor", change=_VICTOR),
    AblationRow(f"{FULL} SK{KEPT}", 11, THREE, _AT_PLACE, weights=FULL + KEPT, cache="small"),
    AblationRow(
        f"{FULL} SK middle+small{KEPT}", 11, THREE, _AT_PLACE, weights=FULL + KEPT, cache="middle+small"
    ),
    AblationRow(DENSE + LONGER, 0, longer=3, timed=False),
    AblationRow(LATE_SF, 2, change=(("skip_ffn_layer", LATER[-1]),)),
    *(AblationRow(later(n), 10, change=(("skip_ffn_layer", n), *_AT_PLACE)) for n in LATER),
    AblationRow(FULL + KEPT + LONGER, 10, change=_AT_PLACE, longer=3, timed=False),
)
"""In the order in which they are worth training; skip KV-cache is of decoding, so its rows need none.

The authors merge in the projector's place, from the most to the least similar row, and so does the row
without "positions kept"; the others keep merged rows in the picture's order, and the places between them.
The last five are not of the paper: they ask whether longer training, or FFNs in the first layers, close the
gap.
"""
GAZE_ROWS = (
    AblationRow("dense", 0),
    AblationRow(FULL, 10),
    AblationRow(FULL + KEPT, 10, change=_AT_PLACE),
    AblationRow(MERGE, 1),
    AblationRow("SF", 2),
    AblationRow(POOL, change=(_POOLED,)),
    AblationRow("FastV", plan="fastv(layer=2,keep=0.125)"),
    AblationRow("lower resolution", change=(("image_size", 80), ("retained", 100))),
    AblationRow("Victor", change=_VICTOR),
    AblationRow(f"{FULL} SK", 11, weights=FULL, cache="small"),
    AblationRow(f"{FULL} SK middle+small", 11, weights=FULL, cache="middle+small"),
)
"""The same of the rows that the tower's CLS row looks at most, from Gaze's shipped weights.

FastV keeps a share of the rows at which its visual prefill costs what the full method's does.
"""

GAZE_RECIPE = AblationRecipe(
    align_steps=0,
    base_steps=0,
    steps=250,
    parts=("projector", "decoder"),
    precision="bf16",
    seeds=1,
    repeats=5,
    max_length=760,
)
"""Its tower is as it was, as the authors' is in the LLaVA layout."""
ABLATIONS = {
    "glance": Ablation(
        GLANCE,
        "Glance with Chain-of-Sight",
        {
            "layout": "cos",
            "image_size": 160,
            "levels": [-2],
            "scales": [list(scale) for scale in SCALES],
            "fine": 2,
            "merged": None,
        },
        50,
        GLANCE_ROWS,
        AblationRecipe(),
    ),
    "gaze": Ablation(
        GAZE,
        "Gaze in the LLaVA layout",
        # All retained stand in the picture's order, as the stock model has them.
        {"layout": "llava", "retained": GAZE.rows, "merged": None},
        79,
        GAZE_ROWS,
        GAZE_RECIPE,
        {"retained": 84},
    ),
}
"""By the model they start from. Of Gaze's 400 rows as large a share is retained as of the paper's 1,296."""
