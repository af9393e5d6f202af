"""What a check found: one line for every plan and number format, and whether all that is claimed holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from saccade.check.distance import Distance

Status = Literal["passed", "failed", "refused", "not checked"]

PROBES = ("identical", "outputs", "choice", "batch", "cache")
"""What is asked of every plan.

``identical``: turned down to nothing, and on a prompt without a picture, it gives the stock model's numbers
bit by bit, and so does the stock model once it is off. ``outputs``: every row that is left equals the
reference. ``choice``: as many rows stay as the plan says, visual ones, the same ones every time, and by the
right scores where these can be computed again. ``batch``: prompts that run together, left padded, equal the
reference on each alone. ``cache``: the logits of generated tokens equal recomputation without a cache.
"""


@dataclass(frozen=True)
class ProbeOutcome:
    """What one probe found.

    Attributes:
        status: How it went.
        why: One line: what was wrong, or why it was refused or not checked.
        distance: How far outputs were from what they should be, where that was measured.
        allowed: How far they may be.
    """

    status: Status
    why: str = ""
    distance: Distance | None = None
    allowed: Distance | None = None

    @classmethod
    def compared(cls, what: str, distance: Distance, allowed: Distance) -> ProbeOutcome:
        """Passed if the distance is allowed."""
        if distance.within(allowed):
            return cls("passed", "", distance, allowed)
        why = f"{what}: off by {distance.worst:.1e} (typical {distance.typical:.1e}), "
        why += f"allowed {allowed.worst:.1e} ({allowed.typical:.1e})"
        return cls("failed", why, distance, allowed)

    @classmethod
    def all_of(cls, several: Sequence[ProbeOutcome]) -> ProbeOutcome:
        """The worst of several: the first that failed, else the one that came closest to failing."""
        bad = next((one for one in several if one.status != "passed"), None)
        if bad is not None or not several:
            return bad or cls("not checked", "nothing to compare")
        return max(several, key=lambda one: one.distance.worst if one.distance else -1.0)


@dataclass(frozen=True)
class CheckedPlan:
    """One plan in one number format.

    Attributes:
        group: The group of methods it stands for; ``stock`` for the model itself.
        plan: The plan as a spec string, its layers known.
        dtype: What the model computed in.
        layers: Decoder layers that ran.
        outcomes: By probe.
        effect: How far the plan takes the model's output from the stock one: what a wrong path would miss.
    """

    group: str
    plan: str
    dtype: str
    layers: int
    outcomes: dict[str, ProbeOutcome]
    effect: float | None = None

    @property
    def status(self) -> Status:
        """Failed if a probe failed, refused if one was refused, passed if one passed and no other spoke."""
        found = {one.status for one in self.outcomes.values()}
        order: tuple[Status, ...] = ("failed", "refused", "passed")
        return next((status for status in order if status in found), "not checked")

    @property
    def is_faint(self) -> bool:
        """Whether the plan changes the output by less than rounding may."""
        outputs = self.outcomes.get("outputs")
        if self.effect is None or outputs is None or outputs.allowed is None:
            return False
        return outputs.status == "passed" and self.effect < outputs.allowed.worst

    @property
    def why(self) -> str:
        """The line of the first probe that has this status."""
        return next((one.why for one in self.outcomes.values() if one.status == self.status), "")


@dataclass(frozen=True)
class Report:
    """The result of ``saccade check``.

    Attributes:
        model: What was found: name, class, family, sizes, number format, attention, device.
        rows: One for every plan and number format.
        notes: What could not be checked, and why.
        seconds: How long it took.
        provenance: Command, versions, device, date.
        accepted: Names of the methods that may be used with an adapter made by inspection; None where
            somebody wrote the adapter.
    """

    model: dict[str, Any]
    rows: tuple[CheckedPlan, ...]
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    provenance: dict[str, Any] = field(default_factory=dict)
    accepted: tuple[str, ...] | None = None

    @property
    def passed(self) -> bool:
        """Whether everything that is claimed holds: nothing failed, and something was checked."""
        return not self.failures and any(row.status == "passed" for row in self.rows)

    @property
    def failures(self) -> tuple[CheckedPlan, ...]:
        """What is claimed and does not hold."""
        return tuple(row for row in self.rows if row.status == "failed")

    @property
    def refusals(self) -> tuple[CheckedPlan, ...]:
        """What the model cannot do under a plan, with the reason, each plan once."""
        found = {row.plan: row for row in reversed(self.rows) if row.status == "refused"}
        return tuple(reversed(found.values()))

    @property
    def faint(self) -> tuple[CheckedPlan, ...]:
        """Plans that passed and yet say little: they change the output by less than rounding may."""
        return tuple(row for row in self.rows if row.is_faint)

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary for JSON."""
        rows = [asdict(row) | {"status": row.status, "why": row.why} for row in self.rows]
        return asdict(self) | {"rows": rows, "passed": self.passed}
