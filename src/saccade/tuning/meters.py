"""Which meter a tuning counts with."""

from __future__ import annotations

from saccade.models import Loaded
from saccade.tuning.price import CacheMeter, FlopsMeter, Meter
from saccade.tuning.settings import Settings


def meter_of(loaded: Loaded, settings: Settings) -> Meter:
    """The meter for what is asked: FLOPs, KV cache, time measured here, or time predicted on a device.

    Raises:
        ValueError: If the device is not known.
    """
    if settings.cost == "kv":
        return CacheMeter()
    return FlopsMeter(loaded.shape)
