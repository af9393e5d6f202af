"""Layer maps: which layers a plan touches, one row of cells per plan, as inline SVG (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from saccade.report.results.kinds import Palette, layer_shares
from saccade.report.style import paint

CELL, GAP, NAMES, HEAD = 20.0, 4.0, 250.0, 18.0
"""Side of a cell, space between them, width of the names at their left, height of the layers' numbers."""
STEPS = 10
"""Shades in which a share of rows is drawn."""


def layer_map(
    plans: Sequence[tuple[str, str]], layers: int, prompt: tuple[int, int], palette: Palette
) -> str:
    """A drawing of the plans that can be drawn; empty if there is none.

    Args:
        plans: Label and resolved spec of each.
        layers: Depth of the model.
        prompt: Visual and text rows of a prompt.
        palette: Colours of the plans.
    """
    rows = [(label, spec, found) for label, spec in plans if (found := layer_shares(spec, layers, *prompt))]
    if not rows:
        return ""
    step = CELL + GAP
    wide, high = NAMES + layers * step, HEAD + len(rows) * step
    every = 1 if layers <= 16 else 2 if layers <= 34 else 4
    drawn = [
        f'<text x="{NAMES + i * step + CELL / 2:g}" y="12" text-anchor="middle" class="quiet">{i}</text>'
        for i in range(0, layers, every)
    ]
    for number, (label, spec, shares) in enumerate(rows):
        y = HEAD + number * step
        shown = label if len(label) <= 36 else f"{label[:35]}…"
        drawn.append(
            f'<text x="{NAMES - 10:g}" y="{y + 14:g}" text-anchor="end">'
            f"<title>{escape(spec)}</title>{escape(shown)}</text>"
        )
        drawn.append(_row(shares, y, paint(palette.colour(spec)), step))
    label = escape(f"which of {layers} layers each of {len(rows)} plans touches", quote=True)
    style = f"min-width:{wide / 20:.0f}rem;max-width:{wide / 13:.0f}rem"
    return (
        f'<svg class="map" viewBox="0 0 {wide:g} {high:g}" style="{style}" role="img" '
        f'aria-label="{label}">{"".join(drawn)}</svg>'
    )


def _row(shares: dict[str, list[float]], y: float, tone: str, step: float) -> str:
    """Cells of one plan: frames, then the filled halves, one path for each shade."""
    frames: dict[bool, list[str]] = {True: [], False: []}
    fills: dict[int, list[str]] = {}
    half = CELL / 2
    for layer, alive in enumerate(shares["alive"]):
        x = NAMES + layer * step
        frames[alive > 0].append(f"M{x:g} {y:g}h{CELL:g}v{CELL:g}h-{CELL:g}z")
        for slot, key in enumerate(("attention", "ffn")):
            shade = round(STEPS * shares[key][layer]) or (1 if shares[key][layer] else 0)
            if shade:
                left = x + slot * half
                fills.setdefault(shade, []).append(f"M{left:g} {y:g}h{half:g}v{CELL:g}h-{half:g}z")
    paths = [
        f'<path d="{"".join(parts)}" style="fill:{tone};fill-opacity:{0.15 + 0.75 * shade / STEPS:.2f}"/>'
        for shade, parts in sorted(fills.items())
    ]
    paths += [
        f'<path class="{"frame" if alive else "frame gone"}" d="{"".join(parts)}"/>'
        for alive, parts in frames.items()
        if parts
    ]
    return "".join(paths)
