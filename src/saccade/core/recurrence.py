"""What has no meaning in a layer that mixes rows through a state, refused in one line (pure).

Such a layer holds no keys: its rows write one state of fixed size, in order. A row that is dropped before it
writes nothing, as in a prompt that is shorter; one that does not ask writes, and gets 0. What would need rows
to be told apart afterwards is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from saccade.core.route import Route
from saccade.core.stages import Stage


def check_looks(stages: Sequence[Stage], recurrent: Collection[int], depth: int) -> None:
    """Refuses decisions that look at the attention of a layer that has none.

    Args:
        stages: Decisions.
        recurrent: Numbers of the layers that are recurrent.
        depth: Decoder layers.

    Raises:
        ValueError: Naming the first, and where it could be taken.
    """
    for stage in stages:
        ahead = 0 if stage.look.moment == "before" else 1
        seen = stage.before - ahead
        if stage.look.layer and seen in recurrent:
            fits = [n + ahead for n in range(depth) if n not in recurrent and 0 < n + ahead < depth]
            raise ValueError(
                f"{stage.by} looks at the attention of layer {seen}, which is recurrent and has none; on "
                f"this model it can cut before layer {', '.join(map(str, fits)) or '(none)'}"
            )


def check_sets(route: Route, recurrent: Collection[int], spec: str) -> None:
    """Refuses row sets that a state cannot honour.

    Args:
        route: Row sets of every layer.
        recurrent: Numbers of the layers that are recurrent.
        spec: The plan, for the message.

    Raises:
        ValueError: Naming the first layer, and why.
    """
    for number in sorted(recurrent):
        layer = route.layers[number] if number < len(route.layers) else None
        if layer is None:
            return
        if layer.visibility != "causal" and bool((layer.query_BN & route.layout.visual_BN).any()):
            raise ValueError(
                f"{spec}: layer {number} is recurrent, and what its state was told of visual rows is not "
                "hidden from some rows and shown to others; name layers that have attention"
            )
        if layer.cached_BN is not None:
            raise ValueError(
                f"{spec}: layer {number} is recurrent, and rows that were written into its state do not "
                "leave it after the prompt; keep them (cache=none)"
            )
