"""Devices by the rates of their makers' data sheets (pure): what predictions of time start from."""

from __future__ import annotations

from dataclasses import dataclass

REACHED = 0.85
"""Share of the data sheet's rates that large products and copies reach."""


@dataclass(frozen=True)
class Device:
    """What large operations reach of a device.

    Attributes:
        flops_per_s: Best rate of a large square matrix product.
        bytes_per_s: Best rate of a large copy, reading and writing counted.
    """

    flops_per_s: float
    bytes_per_s: float


@dataclass(frozen=True)
class Card:
    """A device by its data sheet, dense 16-bit products with 32-bit sums.

    Attributes:
        flops_per_s: Peak of matrix products.
        bytes_per_s: Peak of the memory.
        layer_s: Least seconds of one decoder layer at batch 1: the launches of its operations.
        host_s: Seconds that a prompt takes beside the model's layers and tower.
    """

    flops_per_s: float
    bytes_per_s: float
    layer_s: float = 0.75e-3
    host_s: float = 15e-3

    @property
    def reached(self) -> Device:
        """What large products and copies reach."""
        return Device(REACHED * self.flops_per_s, REACHED * self.bytes_per_s)


CARDS: dict[str, Card] = {
    "h100": Card(989e12, 3.35e12, 0.4e-3, 8e-3),
    "a100": Card(312e12, 2.04e12, 0.5e-3, 10e-3),
    "l4": Card(121e12, 0.30e12),
    "rtx3090": Card(71e12, 0.936e12),
}
"""Devices by name: H100 SXM, A100 80 GB SXM, L4 and GeForce RTX 3090."""


def card(name: str) -> Card:
    """A device by name.

    Raises:
        ValueError: If it is not known.
    """
    if name not in CARDS:
        raise ValueError(f"no device {name!r} to predict times on; known: {', '.join(CARDS)}")
    return CARDS[name]
