"""What a Skip-Vision model is: how an image becomes rows of the decoder, and what becomes of them there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

from saccade.core.merge import Rule
from saccade.core.text import short
from saccade.methods.base import Method
from saccade.methods.skip_vision import Release, SkipVision
from saccade.methods.token_merge import TokenMerge
from saccade.methods.victor import Victor
from saccade.skip_vision.chain_of_sight import Scale

LayoutName = Literal["cos", "llava", "llava-hd"]
MergeOrder = Literal["similarity", "raster", "kept"]
FormerSource = Literal["usual", "retained"]

COS_SCALES = (Scale(32, 16), Scale(4, 256), Scale(2, 1024))
"""Chain-of-Sight with 1296 tokens on a grid of 32 patches a side (448 pixels), in its second version."""


MOST_ROWS = 1_000_000
"""Rows, or tokens of a resampler, that an image can be asked to have."""

MOST_OF = {
    **{"fine": 100, "image_size": 65_536, "heads": 4096},
    **dict.fromkeys(("skip_ffn_layer", "register_layer", "levels"), 9_999),
}
"""The largest value of the other numbers."""


@dataclass(frozen=True)
class SkipVisionConfig:
    """A Skip-Vision model (arXiv 2503.21817); every switch of its ablation is a field.

    Attributes:
        layout: Where rows come from. ``cos``: Chain-of-Sight tokens, all scales but the finest are retained.
            ``llava``: the patches that CLS attends to most are retained. ``llava-hd``: the whole picture is
            retained, the tiles are skipped.
        retained: Patches that ``llava`` retains; the other layouts know theirs.
        merged: Rows that the skipped ones are merged into; None leaves them as they are.
        merge: By similarity, as the method does, or means of neighbours, its plain rival.
        merge_order: Where merged rows stand: from the most to the least similar one, as the authors' code
            has it; by place (``raster``); or ``kept``: by place and at their old positions, for which rows
            merge not in the projector's place but before the decoder, the latter summary unmerged.
        skip_ffn: SF: skipped rows bypass every FFN.
        skip_ffn_layer: First layer where they do, from 0: the paper's, all of them.
        former: FS: a summary of the retained rows behind them.
        latter: LS: a summary of the skipped rows behind those.
        local: LV: the last skipped row is promoted.
        cache: SK: what leaves the KV cache once the prompt is read.
        former_source: What the former summary is made of: ``usual`` leaves out the coarsest scale of ``cos``,
            as the authors' code does, unless it is all that is retained; ``retained`` takes all of them.
        scales: Windows and tokens of ``cos``, coarse to fine.
        fine: How many of the finest scales are skipped; the others are retained.
        levels: Hidden states of the vision tower that become features; the model's own if empty.
        image_size: Side of the image in pixels that the tower gets; the model's own if None.
        heads: Attention heads of the resampler; of width 64 if None.
        registers: Learned rows behind all others (Victor); 0 for none.
        register_layer: First layer that runs with text and registers alone.
        learned_summary: Start the summaries' scorer for training; else as plain means.
    """

    layout: LayoutName = "llava"
    retained: int = 64
    merged: int | None = 156
    merge: Rule = "similarity"
    merge_order: MergeOrder = "similarity"
    skip_ffn: bool = True
    skip_ffn_layer: int = 0
    former: bool = True
    latter: bool = True
    local: bool = False
    cache: Release = "none"
    former_source: FormerSource = "usual"
    scales: tuple[Scale, ...] = COS_SCALES
    fine: int = 1
    levels: tuple[int, ...] = ()
    image_size: int | None = None
    heads: int | None = None
    registers: int = 0
    register_layer: int = 3
    learned_summary: bool = True

    def __post_init__(self) -> None:
        options = {
            "layout": LayoutName, "merge": Rule, "merge_order": MergeOrder, "cache": Release,
            "former_source": FormerSource,
        }  # fmt: skip
        for name, allowed in options.items():
            if getattr(self, name) not in get_args(allowed):
                raise ValueError(
                    f"skip_vision: {name} is one of {', '.join(get_args(allowed))}, "
                    f"got {getattr(self, name)!r}"
                )
        least_of = {"retained": 1, "fine": 1, "registers": 0, "register_layer": 1, "skip_ffn_layer": 0}
        or_none = dict.fromkeys(("merged", "image_size", "heads"), 1)
        for name, least in (least_of | or_none).items():
            value, most = getattr(self, name), MOST_OF.get(name, MOST_ROWS)
            none = ", or none" if name in or_none else ""
            if not (none and value is None) and (type(value) is not int or not least <= value <= most):
                raise ValueError(
                    f"skip_vision: {name} is a whole number from {least} to {most}{none}, "
                    f"got {short(repr(value), 40)}"
                )
        for name in ("skip_ffn", "former", "latter", "local", "learned_summary"):
            if type(getattr(self, name)) is not bool:
                raise ValueError(f"skip_vision: {name} is true or false, got {getattr(self, name)!r}")
        if self.skip_ffn_layer and not self.skip_ffn:
            raise ValueError("skip_vision: skip_ffn_layer goes with skip_ffn: turn it on, or leave it out")
        if self.merges_late and (self.registers or self._joined < 2):
            raise ValueError(
                "skip_vision: merge_order=kept goes without registers, and with merged from 2 (3 with local)"
            )
        if self.registers and (self.skip_ffn or self.former or self.latter or self.local or self.releases):
            raise ValueError(
                "skip_vision: registers (Victor) replace the other parts: turn off skip_ffn, former, latter, "
                "local and cache, or leave registers at 0"
            )
        for name in ("scales", "levels"):
            object.__setattr__(self, name, tuple(_listed(getattr(self, name), name)))
        if any(type(n) is not int or abs(n) > MOST_OF["levels"] for n in self.levels) or len(
            set(self.levels)
        ) < len(self.levels):
            raise ValueError(
                "skip_vision: levels are distinct whole numbers, hidden states of the vision tower, of at "
                f"most {MOST_OF['levels']}, got {short(list(self.levels))}"
            )
        if not all(isinstance(scale, Scale) for scale in self.scales):
            raise ValueError(f"skip_vision: scales are of Scale(window, queries), got {self.scales!r}")
        for scale in self.scales:
            if max(scale.window, scale.queries) > MOST_ROWS:
                raise ValueError(f"skip_vision: numbers of a scale are at most {MOST_ROWS}")
        if self.layout == "cos":
            self._check_scales()

    def _check_scales(self) -> None:
        if not self.scales:
            raise ValueError("skip_vision: the layout cos needs scales, coarse to fine")
        # One scale alone is the pre-training layout, in which all is retained.
        if self.fine > max(len(self.scales) - 1, 1):
            raise ValueError(
                f"skip_vision: fine={self.fine} of {len(self.scales)} scales are to be skipped, which leaves "
                f"none to retain; choose fine below {len(self.scales)}"
            )

    @property
    def releases(self) -> bool:
        """Whether rows leave the cache once the prompt is read."""
        return self.cache != "none"

    @property
    def merges_late(self) -> bool:
        """Whether rows merge before the decoder, where they keep their positions."""
        return self.merged is not None and self.merge_order == "kept"

    @property
    def _joined(self) -> int:
        """Merged rows, the promoted one aside."""
        return (self.merged or 0) - int(self.local)

    @property
    def coarse(self) -> int:
        """Rows of the coarsest scale."""
        return self.scales[0].queries if self.layout == "cos" and len(self.scales) > 1 else 0

    @property
    def summaries(self) -> int:
        """Summary rows of an image."""
        return int(self.former) + int(self.latter)

    def projected(self, patches: int) -> int:
        """Rows of an image before any is merged or added: its patches, or the tokens of the resampler.

        Args:
            patches: Rows that the stock projector makes of the image: of ``llava-hd`` those of the whole
                picture, then those of the tiles.
        """
        return sum(scale.queries for scale in self.scales) if self.layout == "cos" else patches

    def split(self, rows: int) -> tuple[int, int]:
        """Retained and skipped rows of an image, before any merge.

        Args:
            rows: Rows of the image (``projected``).

        Raises:
            ValueError: If there are fewer rows than are to be retained.
        """
        first = self.retained
        if self.layout == "cos":
            # One scale alone is the pre-training layout: nothing is finer than what is retained.
            first = sum(s.queries for s in self.scales[: -self.fine]) or self.scales[0].queries
        if rows < first:
            raise ValueError(f"skip_vision: {first} rows are to be retained, but an image has {rows}")
        return first, rows - first

    def skipped(self, rows: int) -> int:
        """Skipped rows in the prompt, of an image of so many rows: merged, unless that comes later."""
        _, skipped = self.split(rows)
        return skipped if self.merged is None or self.merges_late else min(self.merged, skipped)

    def length(self, rows: int) -> int:
        """Rows of the decoder that an image of so many rows becomes."""
        return self.split(rows)[0] + self.skipped(rows) + self.summaries + self.registers

    def methods(self, rows: int) -> tuple[Method, ...]:
        """What the decoder does with the rows of an image that had so many; nothing for a dense baseline."""
        if self.registers:
            return (Victor(registers=self.registers, layer=self.register_layer),)
        (first, _), skipped = self.split(rows), self.skipped(rows)
        found: list[Method] = []
        if (self.skip_ffn or self.releases) and skipped:
            found.append(
                SkipVision(
                    rows=first,
                    skipped=skipped,
                    coarse=self.coarse,
                    former=self.former,
                    latter=self.latter,
                    local=self.local,
                    ffn=self.skip_ffn,
                    layer=self.skip_ffn_layer,
                    cache=self.cache,
                )
            )
        if self.merged is not None and self.merges_late and skipped > self.merged:
            last = int(self.latter) + int(self.local)
            first += int(self.former)
            found.append(
                TokenMerge(keep=self._joined, first=first, last=last, rule=self.merge, position_policy="keep")
            )
        return tuple(found)

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary for JSON and YAML."""
        data = asdict(self)
        data["scales"] = [[s.window, s.queries] for s in self.scales]
        if not self.skip_ffn_layer:
            # Told where it is used: what was kept of models from before the field existed is still theirs.
            del data["skip_ffn_layer"]
        return data | {"levels": list(self.levels)}

    def identity(self) -> dict[str, Any]:
        """What tells a model of this layout from others: all but what serving and initialisation choose."""
        return {k: v for k, v in self.to_dict().items() if k not in ("cache", "learned_summary")}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SkipVisionConfig:
        """Reads what ``to_dict`` wrote, or what a user wrote in a configuration.

        ``row`` takes a row of the paper's ablation as a start, by number or name (``ROWS``); scales are pairs
        of numbers.

        Raises:
            ValueError: If a field is unknown or of the wrong kind.
        """
        if not isinstance(data, Mapping):
            raise ValueError(f"skip_vision: expected fields by name, got {type(data).__name__}")
        given = dict(data)
        known = {f.name for f in fields(cls)}
        unknown = set(given) - known - {"row"}
        if unknown:
            raise ValueError(
                f"skip_vision has no field {', '.join(sorted(map(str, unknown)))}; it has: row, "
                f"{', '.join(sorted(known))}"
            )
        start = ablation_row(given.pop("row")) if "row" in given else cls()
        if "scales" in given:
            given["scales"] = tuple(_scale(pair) for pair in _listed(given["scales"], "scales"))
        return replace(start, **given)


_FLAGS = {
    0: "", 1: "merge", 2: "sf", 3: "sf lv", 4: "sf ls", 5: "sf ls lv", 6: "sf fs ls", 7: "sf ls merge",
    8: "sf fs ls merge", 9: "sf ls merge lv", 10: "sf fs ls merge lv", 11: "sf fs ls merge lv sk",
}  # fmt: skip


ROWS = {number: flags.replace(" ", "-") or "dense" for number, flags in _FLAGS.items()}
"""Names of the rows: ``dense``, or a row's parts as the paper's table lists them (``sf-fs-ls-merge-lv``)."""


def ablation_row(row: int | str, base: SkipVisionConfig | None = None, merged: int = 256) -> SkipVisionConfig:
    """A row of the paper's ablation (Table 6): 0 is the dense baseline, 10 the method, 11 adds skip KV-cache.

    Args:
        row: The row, 0 to 11, or its name in ``ROWS``.
        base: The layout it is applied to; Chain-of-Sight with 1296 tokens if omitted.
        merged: Rows that the skipped ones are merged into, where the row merges.

    Raises:
        ValueError: If there is no such row.
    """
    number = {name: number for number, name in ROWS.items()}.get(row) if isinstance(row, str) else row
    if type(number) is not int or number not in ROWS:
        names = ", ".join(ROWS.values())
        raise ValueError(f"the ablation has rows 0 to 11, or by name {names}; got {row!r}")
    flags = _FLAGS[number].split()
    return replace(
        base or SkipVisionConfig(layout="cos"),
        merged=merged if "merge" in flags else None,
        skip_ffn="sf" in flags,
        former="fs" in flags,
        latter="ls" in flags,
        local="lv" in flags,
        cache="small" if "sk" in flags else "none",
    )


def _listed(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"skip_vision: {where} is a list, got {value!r}")
    return list(value)


def _scale(pair: Any) -> Scale:
    if isinstance(pair, Scale):
        return pair
    values = list(pair.values()) if isinstance(pair, Mapping) else pair
    if not isinstance(values, list | tuple) or len(values) != 2 or not all(type(v) is int for v in values):
        raise ValueError(f"skip_vision: a scale is [side of a window in patches, tokens], got {pair!r}")
    return Scale(*values)
