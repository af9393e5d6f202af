"""Numbers as people read them (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from saccade.core.text import printable

MISSING = "n/a"


def percent(value: float | None, digits: int = 1) -> str:
    """A share as percents; ``n/a`` where it is not defined."""
    return MISSING if value is None else f"{100 * value:.{digits}f} %"


def interval(entry: Mapping[str, Any], name: str, digits: int = 1) -> str:
    """A share with its 95 % limits, as ``93.2 % (89.1 to 97.0)``; those of accuracy have no prefix."""
    prefix = "" if name == "accuracy" else f"{name}_"
    low, high = entry.get(f"{prefix}low"), entry.get(f"{prefix}high")
    return spread(entry.get(name), low, high, digits)


def spread(value: float | None, low: float | None, high: float | None, digits: int = 1) -> str:
    """A share with its limits; without them where they are not known."""
    if value is None or low is None or high is None:
        return percent(value, digits)
    return f"{percent(value, digits)} ({100 * low:.{digits}f} to {100 * high:.{digits}f})"


def no_better(dense: Mapping[str, Any]) -> bool:
    """Whether the dense model is no better than the blind one, so that there is nothing a plan could keep.

    Without a blind one: whether it answers nothing right.
    """
    return dense["accuracy"] is not None and dense["accuracy"] <= (dense.get("blind") or 0)


def above_blind(dense: Mapping[str, Any], whole: str = "100.0 %") -> str:
    """What the dense model keeps of itself: all, where the picture adds anything."""
    return MISSING if no_better(dense) or dense.get("blind") is None else whole


def kept(entry: Mapping[str, Any], name: str, dense: Mapping[str, Any]) -> str:
    """A retention with its limits, ``n/a`` where the dense model has nothing to keep."""
    return MISSING if no_better(dense) else interval(entry, name)


def beside_blind(dense: Mapping[str, Any], tasks: Mapping[str, Mapping[str, Any]] | None = None) -> str:
    """What must be said of the dense model before retention is read; nothing where it sees clearly.

    Args:
        dense: Its mean score.
        tasks: Its score by task, to name those where it does not see.
    """
    blind, accuracy = dense.get("blind"), dense["accuracy"]
    if no_better(dense):
        if not accuracy:
            right = "answers nothing right: wrong questions for this model, or answers in another form?"
        else:
            right = f"is no better than the blind one ({percent(accuracy)} against {percent(blind)})."
        return f"The dense model {right} There is nothing that a plan could keep, so no retention is drawn."
    unseen = [name for name, score in (tasks or {}).items() if no_better(score)]
    if unseen and len(unseen) < len(tasks or {}):
        compared = any(score.get("blind") is not None for score in (tasks or {}).values())
        right = "is no better than the blind one" if compared else "answers nothing right"
        return f"On {', '.join(map(printable, unseen))} the dense model {right}."
    if blind is not None and dense.get("low") is not None and dense["low"] <= blind:
        return (
            f"The dense model is not clearly better than the blind one ({interval(dense, 'accuracy')} "
            f"against {percent(blind)}): retention above blind rests on noise; ask more questions."
        )
    return ""


def points(value: float | None) -> str:
    """A difference of shares in percentage points, signed."""
    return MISSING if value is None else f"{100 * value:+.1f}"


def lost(loss: float) -> str:
    """A loss as a signed difference in points; nothing lost has no sign of its own."""
    return points(0.0 - loss)


def guard_told(guard: Mapping[str, float]) -> str:
    """What a guard at run time does and costs, in a sentence without its full stop.

    Args:
        guard: Fields of ``saccade.tuning.result.Unsure``.
    """
    return (
        f"where the first token leads by less than {guard['margin']:.3g} the dense model answers: "
        f"{percent(guard['share'])} of the held-out prompts, cost {percent(guard['ratio'])}, "
        f"{lost(guard['loss'])} points against dense ({lost(guard['bound'])} at worst)"
    )


def difference(entry: Mapping[str, Any], name: str = "difference") -> str:
    """A difference in points with its limits, as ``-5.4 (-6.3 to -4.6)``."""
    if entry[name] is None:
        return MISSING
    return f"{points(entry[name])} ({points(entry[f'{name}_low'])} to {points(entry[f'{name}_high'])})"


def amount(count: float) -> str:
    """Bytes with a binary unit."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024 or unit == "GiB":
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"


def counted(count: int, noun: str) -> str:
    """A number of things, as in ``1 task`` and ``2 tasks``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def duration(seconds: float) -> str:
    """Seconds as minutes and seconds."""
    whole = round(seconds)
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60:02d} s"
