"""An analysis as files: figures, data, attention maps."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from saccade.research.analysis.study import Analysis
from saccade.system.files import write_bytes, write_json

DATA, MAPS = "analysis.json", "attention_maps.npz"


def write(study: Analysis, data: dict[str, Any], folder: Path) -> dict[str, Path]:
    """Writes everything into a folder, each file whole or not at all.

    Args:
        study: What was found.
        data: What the data file holds.
        folder: Where; it is made.

    Returns:
        Paths by what they are: ``data``, ``maps`` if there are any, and the figures by name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: write_bytes(folder / f"{name}.png", picture) for name, picture in study.pictures.items()}
    known = {number: one for number, one in enumerate(study.maps) if one is not None}
    if known:
        stream = io.BytesIO()
        arrays: dict[str, Any] = {}
        for number, one in known.items():
            arrays[f"rows_{number}"] = one.rows_V.numpy()
            arrays[f"weights_{number}"] = one.weights_VV.numpy()
            arrays[f"from_last_{number}"] = one.received_V.numpy()
        np.savez_compressed(stream, **arrays)
        paths["maps"] = write_bytes(folder / MAPS, stream.getvalue())
    paths["data"] = write_json(folder / DATA, data)
    return paths
