"""Plans on an adapter that was made by inspection, checked the first time that each is used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from saccade.check.run import run
from saccade.opening.loaded import Loaded


def prove_on_use(loaded: Loaded, tell: Callable[[str], None] | None = None) -> None:
    """Has plans checked on a model when they are first put on it, where somebody has to.

    A model whose adapter somebody wrote needs it not, nor do plans that a report has accepted.

    Args:
        loaded: The model and its processor.
        tell: Is told what is checked and what was found, in lines.
    """
    say = tell or (lambda line: None)

    def prove(plan: Any) -> None:
        say(f"{plan.spec}: checked first, for the adapter of this model was made by inspection")
        report = run(loaded, plan)
        names = {method.name for method in plan.methods}
        if not names <= set(report.accepted or ()):
            why = next(
                (row.why for row in report.rows if row.status in ("failed", "refused")), "nothing was checked"
            )
            raise ValueError(
                f"{plan.spec} does not hold on {loaded.name}, whose adapter was made by inspection: {why}"
            )
        say(
            f"{plan.spec}: holds ({report.seconds:.0f} s); a report of saccade check (--accepted) spares this"
        )

    loaded.family.prove_with(prove)


def prove_whole(loaded: Loaded, tell: Callable[[str], None] | None = None) -> None:
    """Checks one plan of every kind at once, on a model whose adapter was made by inspection.

    Args:
        loaded: The model and its processor.
        tell: Is told what was found, in lines.

    Raises:
        ValueError: If nothing was found to hold.
    """
    report = run(loaded, tell=tell)
    if not report.accepted:
        why = next((row.why for row in report.rows if row.status == "failed"), "nothing was checked")
        raise ValueError(f"the adapter made by inspection does not hold on {loaded.name}: {why}")
    if tell is not None:
        tell(f"accepted: {', '.join(report.accepted)}")
