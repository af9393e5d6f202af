"""Names of methods by kind, in the order of the tables: the one place where lists of them stand."""

from __future__ import annotations

SKIPPING = ("vskip", "ffn_skip", "shortv")
"""All rows stay; in chosen layers visual rows skip work."""
LAYERWISE = (*SKIPPING, "vtw")
"""Methods whose layers a calibration chooses."""
PLAIN = ("random", "uniform", "pool", "resize")
"""Baselines that look at nothing: what every other method has to beat."""
ADAPTIVE = ("prumerge", "prumerge_plus")
"""Methods that by default let the picture decide how many rows stay."""
TRAINED = ("skip_vision", "victor")
"""Methods that a model is trained with; on a stock model they are not what their papers judge."""
