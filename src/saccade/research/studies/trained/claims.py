"""What trained models say of the claims about Skip-Vision (pure)."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from saccade.evaluation.statistics import Interval
from saccade.report.text import difference, percent, points, spread
from saccade.research.studies.base import ASKED, Finding, is_better, is_free
from saccade.research.studies.lineup import KEPT
from saccade.research.studies.tables import interval_of
from saccade.research.studies.trained.rows import FULL, LATE_SF, LATER, LONGER, MERGE, POOL, kept_in, later

Entries = Mapping[str, Mapping[str, Any]]
"""Rows of a result by name."""


def findings(result: Mapping[str, Any]) -> list[dict[str, str]]:
    """The paper's claims about trained skipping, and ours, held against the entries of a result."""
    entries = {entry["name"]: entry for entry in result["plans"]}
    found = list(_keeps(entries))
    kept = kept_in(entries)
    # The others compare with the full method, which a study of some rows may leave out.
    if FULL + kept in entries:
        parts = (_saves, _merges, _leaves_the_cache, _trained_longer)
        found += [finding for part in parts for finding in part(entries, kept)]
        found += _where_it_hurts(entries, kept, result.get("ffn"))
    return [finding.to_dict() for finding in found]


def share(found: Mapping[str, float]) -> str:
    """A ratio with its quartiles, in per cent."""
    return spread(found["ratio"], found["low"], found["high"])


def _keeps(entries: Entries) -> Iterable[Finding]:
    for told, name in (("", FULL), (" with positions kept", FULL + KEPT)):
        if name not in entries:
            continue
        entry = entries[name]
        yield Finding(
            f"Skip-Vision{told} keeps the accuracy of the dense model within a point",
            "Skip-Vision, table 6, rows 0 and 10: 46.0 and 45.9",
            is_free([_gap(entry)]),
            f"Paired difference {difference(entry['mean'])} points over {entry['mean']['n']} answers of "
            f"{len(entry['seeds'])} trained models, at {percent(entry['visual_ratio_paper'])} of the visual "
            "prefill's FLOPs.",
        )
    if FULL in entries and FULL + KEPT in entries:
        yield Finding(
            "Merged rows that keep their positions keep more than rows that close up by similarity",
            ASKED,
            is_better([_between(entries[FULL + KEPT], entries[FULL])]),
            f"{_points(entries[FULL + KEPT], entries[FULL])} points of mean accuracy.",
        )
    if "SF" in entries:
        yield Finding(
            "Skipped rows can bypass every FFN at no cost",
            "Skip-Vision, table 6, row 2",
            is_free([_gap(entries["SF"])]),
            f"Paired difference {difference(entries['SF']['mean'])} points, nothing merged.",
        )


def _saves(entries: Entries, kept: str) -> Iterable[Finding]:
    times = entries[FULL + kept].get("times")
    if not times:
        return
    step, merge = times["train_s"], (entries[MERGE + kept].get("times") or times)["train_s"]
    yield Finding(
        "Training takes 35 % less time",
        "Skip-Vision, abstract",
        "supported" if step["high"] <= 0.65 else "not supported" if step["low"] > 0.65 else "undecided",
        f"A step takes {share(step)} of the dense step's time; the merge alone {percent(merge['ratio'])}, so "
        "Skip-FFN brings the rest.",
    )


def _merges(entries: Entries, kept: str) -> Iterable[Finding]:
    full, pooled = entries[FULL + kept], entries.get(POOL + kept)
    if pooled:
        yield Finding(
            "Merging by similarity with summaries beats mean pooling",
            "Skip-Vision, figure 11",
            is_better([_between(full, pooled)]),
            f"{_points(full, pooled)} points of mean accuracy.",
        )


def _leaves_the_cache(entries: Entries, kept: str) -> Iterable[Finding]:
    small, middle = (entries.get(f"{FULL} SK{more}{kept}") for more in ("", " middle+small"))
    if small and middle:
        yield Finding(
            "Skipped rows can leave the cache, the middle ones not",
            "Skip-Vision, table 7: 45.9, 46.0 and 42.4",
            is_better([_between(small, middle)]),
            f"Accuracy {_accuracy(entries[FULL + kept])} with all rows in the cache, {_accuracy(small)} "
            f"without the skipped ones, {_accuracy(middle)} without the middle ones too.",
        )


def _where_it_hurts(entries: Entries, kept: str, ffn: Mapping[str, Any] | None) -> Iterable[Finding]:
    full, merge = entries[FULL + kept], entries.get(MERGE + kept)
    late = {n: entries[later(n)] for n in LATER if later(n) in entries}
    if not late or merge is None:
        return
    bypassed = {f"from layer {n} on": entry for n, entry in ({0: full} | late).items()}
    told = ", ".join(
        f"{_accuracy(entry)} {where} ({percent(entry['visual_ratio_paper'])})"
        for where, entry in (bypassed | {"nowhere, merged alone": merge}).items()
    )
    yield Finding(
        "FFNs in the first layers win back accuracy that Skip-FFN costs",
        ASKED,
        is_better([_between(entry, full) for entry in late.values()]),
        f"Accuracy with FFNs bypassed: {told}; in brackets the visual prefill's FLOPs."
        f"{_missed(ffn['score']['mean']) if ffn else ''}",
    )
    if LATE_SF in entries and LATER[-1] in late:
        alone, merged = entries[LATE_SF], late[LATER[-1]]
        told = f" {_would_skip(ffn['score'])}" if ffn else ""
        yield Finding(
            "Skipped rows can bypass the FFNs of the last layers at no cost",
            ASKED,
            is_free([_gap(alone), _between(merged, merge)]),
            f"From layer {LATER[-1]} on: paired difference {difference(alone['mean'])} points to the dense "
            f"model with nothing merged; {_points(merged, merge)} points to the merge alone, merged.{told}",
        )


def _missed(mean_L: Sequence[float]) -> str:
    """What the dense model misses of an FFN, on average over parts of the decoder that rows tell apart."""
    # Nothing reads what visual rows become in the last layer.
    edges = (0, *LATER, len(mean_L) - 1)
    told = ", ".join(
        f"{statistics.fmean(mean_L[start:end]):.3f} in layers {start}-{end - 1}"
        for start, end in itertools.pairwise(edges)
    )
    return f" Nats by which the dense model's answer changes without one layer's FFN on visual rows: {told}."


def _would_skip(score: Mapping[str, Any]) -> str:
    first = score["order"][: len(score["order"]) - LATER[-1]]
    return (
        f"A calibration of the dense model on {score['n']} samples, before any training to skip, would skip "
        f"FFNs in layers {', '.join(map(str, sorted(first)))} as the first {len(first)}."
    )


def _trained_longer(entries: Entries, kept: str) -> Iterable[Finding]:
    # The dense row stands first.
    dense, full = entries.get(next(iter(entries)) + LONGER), entries.get(FULL + kept + LONGER)
    if dense and full:
        yield Finding(
            f"Skip-Vision{' with positions kept' if kept else ''} is within a point of dense where both "
            "train three times as long",
            ASKED,
            is_free([_between(full, dense)]),
            f"{_points(full, dense)} points between {_accuracy(full)} and {_accuracy(dense)}; "
            f"{points(entries[FULL + kept]['mean']['difference'])} after the usual number of steps.",
        )


def _accuracy(entry: Mapping[str, Any]) -> str:
    return percent(entry["mean"]["accuracy"])


def _points(first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    """How much more accurate the first row is."""
    return points(first["mean"]["accuracy"] - second["mean"]["accuracy"])


def _gap(entry: Mapping[str, Any]) -> Interval:
    return interval_of(entry["mean"])


def _between(first: Mapping[str, Any], second: Mapping[str, Any]) -> Interval:
    """Difference of two rows' differences to the dense row, as if independent: wider than paired."""
    one, two = _gap(first), _gap(second)
    assert None not in (one.value, one.low, one.high, two.value, two.low, two.high)
    value = one.value - two.value  # type: ignore[operator]
    down = ((one.value - one.low) ** 2 + (two.high - two.value) ** 2) ** 0.5  # type: ignore[operator]
    up = ((one.high - one.value) ** 2 + (two.value - two.low) ** 2) ** 0.5  # type: ignore[operator]
    return Interval(value, value - down, value + up)
