"""What a search may do to a layer or to the rows, by name, and which engines run it."""

from __future__ import annotations

from collections.abc import Sequence

OPERATIONS = ("attention", "ffn", "freeze", "drop", "withdraw", "reduce", "merge", "resize")
"""What may be allowed: skips of layers; rows dropped from a layer on, a part or all of them; rows reduced
before the decoder, by choosing or by merging; a lower resolution."""

ENGINES = {
    "transformers": OPERATIONS,
    "vllm": ("attention", "ffn", "freeze", "withdraw", "reduce", "resize"),
}
"""What engines run: Saccade on transformers all of it, vLLM what needs no look at attention."""


def check_allowed(allow: Sequence[str], engine: str = "transformers") -> tuple[str, ...]:
    """The operations that are allowed and that the engine runs.

    Raises:
        ValueError: If one or the engine is unknown, or nothing is left.
    """
    if engine not in ENGINES:
        raise ValueError(f"no engine {engine!r}; known: {', '.join(ENGINES)}")
    wrong = next((name for name in allow if name not in OPERATIONS), None)
    if wrong is not None:
        raise ValueError(f"no operation {wrong!r} to allow; known: {', '.join(OPERATIONS)}")
    known = tuple(name for name in OPERATIONS if name in allow and name in ENGINES[engine])
    if not known:
        raise ValueError(
            f"{engine} runs none of {', '.join(allow) or 'nothing'}; it runs {', '.join(ENGINES[engine])}"
        )
    return known
