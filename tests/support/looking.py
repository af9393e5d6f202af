"""What a run looked at: the tower's part of a forward, and the evidence that a method was given."""

from __future__ import annotations

from typing import Any

from saccade.core.layout import Layout
from saccade.core.stages import Evidence
from saccade.engine.tower import TowerTap, vision
from saccade.families import find
from saccade.methods import METHODS

BOTH = frozenset({"made", "reads"})


def look(
    model: Any, given: dict[str, Any], merge: Any = None, which: Any = "made", wanted: Any = BOTH
) -> tuple:
    """Vision of one forward, its layout, what was captured, and the decoder's input."""
    family, caught = find(model), {}
    tap = TowerTap(model, family, wanted, merge)
    decoder = family.parts(model).decoder
    hook = decoder.register_forward_pre_hook(
        lambda m, a, kw: caught.update(embeddings=kw["inputs_embeds"]), with_kwargs=True
    )
    tap.begin()
    model(**given)
    captured = tap.captured(inputs=given)
    tap.remove()
    hook.remove()
    visual = family.visual_mask(model, given["input_ids"])
    layout = Layout.from_mask(visual, given["attention_mask"].bool())
    return vision(captured, which, layout, caught["embeddings"]), layout, captured, caught["embeddings"]


def evidence_of(spec: str, monkeypatch: Any) -> list[Evidence]:
    """A list that fills with what the method of a spec is given to choose by, from here on."""
    cls, given = METHODS[spec.split("(")[0]], []
    choose = cls.choose

    def spy(self: Any, stage: Any, evidence: Evidence) -> Any:
        given.append(evidence)
        return choose(self, stage, evidence)

    monkeypatch.setattr(cls, "choose", spy)
    return given
