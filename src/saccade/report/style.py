"""One look for every figure: palette, fonts, axes; figures are made without pyplot's global state."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable
from functools import wraps
from html import escape
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

INK = "#16202c"
MUTED = "#66727f"
FAINT = "#dde3e9"
PAPER = "#ffffff"

PALETTE = {"dense": INK, "vskip": "#0067b1", "ffn_skip": "#e29a00", "shortv": "#b3427f", "vtw": "#00896a"}
"""Colour of each method; told apart by the colour-blind too (after Okabe and Ito)."""
SPARE = ("#7a5cc2", "#5aa9d6", "#8b5a2b", "#4d4d4d", "#c23b22")
MARKERS = {"dense": "*", "vskip": "o", "ffn_skip": "s", "shortv": "D", "vtw": "^"}

KIND_COLORS = {
    "plain": "#7d8791",
    "before": "#0067b1",
    "decoder": "#00896a",
    "layers": "#b3427f",
    "composed": "#e29a00",
}
"""Colour of each kind of method, where there are too many methods for one each."""

THEME = {
    **{INK: "ink", MUTED: "muted", FAINT: "line", PAPER: "paper"},
    **{"#0067b1": "blue", "#e29a00": "amber", "#b3427f": "magenta", "#00896a": "green", "#7d8791": "grey"},
    **{"#7a5cc2": "violet", "#5aa9d6": "sky", "#8b5a2b": "brown", "#4d4d4d": "grey", "#c23b22": "red"},
}
"""Variable of the page's style sheet that stands for each colour, so that drawings follow light and dark."""

OVER_LINES: Any = {"frameon": True, "edgecolor": PAPER, "framealpha": 0.9}
"""How a legend lies over lines that run below it."""

DPI = 200
RC: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    # Names are of the user: a dollar sign in one begins no formula.
    "text.parse_math": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "savefig.facecolor": PAPER,
    "figure.facecolor": PAPER,
    "legend.frameon": False,
}


def color(method: str) -> str:
    """The method's colour; methods without one of their own share a few spare ones, stable by name."""
    return PALETTE.get(method) or SPARE[sum(map(ord, method)) % len(SPARE)]


def marker(method: str) -> str:
    """The method's marker, so that colour is never the only difference."""
    return MARKERS.get(method, "P")


def new_figure(width: float, height: float) -> Figure:
    """A blank figure in inches, on its own Agg canvas."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def tidy(axes: Axes, title: str = "", subtitle: str = "") -> None:
    """Takes the box off, draws a faint horizontal grid and sets a title flush left."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=3, width=0.8)
    pad = 20 if subtitle else 8
    if title:
        axes.set_title(title, loc="left", fontsize=10.5, fontweight="bold", color=INK, pad=pad)
    if subtitle:
        axes.annotate(
            subtitle,
            (0, 1),
            xytext=(0, 6),
            xycoords="axes fraction",
            textcoords="offset points",
            fontsize=8,
            color=MUTED,
            va="bottom",
        )


def percent_axis(axes: Axes, which: str = "y") -> None:
    """Ticks of a share between 0 and 1 as whole percents."""
    axis = axes.yaxis if which == "y" else axes.xaxis
    axis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")


def bare(axes: Axes) -> None:
    """No ticks, and a faint frame: for a picture."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color(FAINT)


def layer_axis(axes: Axes, num_layers: int) -> None:
    """Ticks at layers, at most sixteen of them."""
    step = max(1, math.ceil(num_layers / 16))
    axes.set_xticks(range(0, num_layers, step))
    axes.set_xlim(-0.6, num_layers - 0.4)


def pictured(draw: Callable[..., Figure]) -> Callable[..., bytes]:
    """Turns a function that draws a figure into one that returns a PNG file's bytes, in the house style."""

    @wraps(draw)
    def drawn(*args: Any, **kwargs: Any) -> bytes:
        stream = io.BytesIO()
        with rc_context(RC):
            draw(*args, **kwargs).savefig(stream, format="png", metadata={"Software": None})
        return stream.getvalue()

    return drawn


def styled(draw: Callable[..., Figure]) -> Callable[..., bytes]:
    """The same for figures that show no pictures.

    The file has as many colours as a palette holds, which is enough for drawings, and a third of the size.
    """

    @wraps(draw)
    def drawn(*args: Any, **kwargs: Any) -> bytes:
        return _in_few_colours(pictured(draw)(*args, **kwargs))

    return drawn


def _in_few_colours(drawing: bytes) -> bytes:
    """A PNG file of 256 colours made of one without transparent parts."""
    stream = io.BytesIO()
    with Image.open(io.BytesIO(drawing)) as full:
        few = full.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        few.save(stream, "PNG", optimize=True, dpi=full.info["dpi"])
    return stream.getvalue()


def vector(drawn: Callable[..., bytes], name: str, label: str, *args: Any, **kwargs: Any) -> str:
    """The figure of a function that ``styled`` made, as SVG for a page: its colours, its fonts, no script.

    An artist with a ``gid`` of ``tip:TEXT`` shows the text where the pointer rests on it.

    Args:
        drawn: The function.
        name: Prefix of the drawing's ids, distinct within the page.
        label: What it shows, for those who hear the page.
        *args: Of the function.
        **kwargs: Of the function.
    """
    draw: Callable[..., Figure] = drawn.__wrapped__  # type: ignore[attr-defined]
    stream = io.StringIO()
    with rc_context(RC | {"svg.fonttype": "none", "svg.hashsalt": name}):
        figure = draw(*args, **kwargs)
        figure.patch.set_visible(False)
        figure.savefig(stream, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="tip:([^"]*)">', r"<g><title>\1</title>", text)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", text)
    text = re.sub("#[0-9a-f]{6}", lambda found: paint(found[0]), text)
    text = re.sub(r" ?font-family: [^;\"]*;?", "", text)
    text = re.sub(r"\s*\n\s*", " ", text)
    head = re.match(r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', text)
    assert head is not None
    inner = text[head.end() :].strip()
    return f'<svg viewBox="{head[1]}" role="img" aria-label="{escape(label)}">{inner}'


def paint(color: str) -> str:
    """A colour of this room as the page's style sheet knows it; others as they are."""
    return f"var(--{THEME[color]})" if color in THEME else color
