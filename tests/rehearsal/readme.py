"""The README's Python example on a checkpoint: ``python -m rehearsal.readme MODEL``.

Only the model's name and the layers, of which a small copy has few, are other than in the README.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from support.programs import ROOT

OTHER = {'saccade.load("glance")': "saccade.load({model!r})", "vskip(layers=6-9)": "vskip(layers=1-2)"}


def example(model: str) -> str:
    """The example as it stands under "In Python", for a model.

    Raises:
        ValueError: If the README has another one.
    """
    text = Path(ROOT, "README.md").read_text(encoding="utf-8")
    found = re.search(r"^## In Python\n+```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    code = found[1] if found else ""
    for old, new in OTHER.items():
        if old not in code:
            raise ValueError(f"the README's example does not hold {old}")
        code = code.replace(old, new.format(model=model))
    return code


def main(words: Sequence[str]) -> int:
    """Runs it; its last line is printed.

    Returns:
        0.
    """
    exec(compile(example(words[0]), "README.md", "exec"), {"__name__": "readme"})
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
