"""What calibrations note alike: what their kept parts hang on, and where their numbers come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from saccade import models
from saccade.calibration.drawing import data_hash
from saccade.identity import setup_digest
from saccade.inputs.samples import Sample
from saccade.measure.provenance import record
from saccade.opening.digest import weights_digest

ORIGIN = ("date", "versions", "source", "device", "dtype", "opening")
"""What plan files keep of the process that calibrated."""


def check_samples(loaded: models.Loaded, samples: Sequence[Sample]) -> None:
    """Refuses samples that cannot be told apart, or that the model cannot be asked.

    Raises:
        ValueError: If two have one id, or one is too long.
    """
    if len({sample.id for sample in samples}) != len(samples):
        raise ValueError("sample ids must be distinct")
    models.try_longest(loaded, samples)


def hangs_on(loaded: models.Loaded, samples: Sequence[Sample], code: str) -> dict[str, Any]:
    """What kept parts of a calibration hang on, whatever is measured.

    Args:
        loaded: The model.
        samples: What it is measured on.
        code: Versions of the code that measures; empty if none was ever raised.
    """
    found = {
        "model": loaded.family.identity(loaded.model),
        "weights": weights_digest(loaded.model),
        "dtype": str(loaded.model.dtype).removeprefix("torch."),
        "samples": [sample.id for sample in samples],
        "data": data_hash(samples),
    }
    # Left out where empty, so that what was kept before there were such is found.
    return found | {key: value for key, value in (("setup", setup_digest(loaded)), ("code", code)) if value}


def origin(loaded: models.Loaded) -> dict[str, Any]:
    """Where the numbers of a calibration come from, as plan files keep it."""
    found = record(model=loaded.model)
    return {key: found[key] for key in ORIGIN}
