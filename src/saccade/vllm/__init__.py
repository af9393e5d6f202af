"""Plans inside vLLM: a plug-in that vLLM finds by the entry point ``vllm.general_plugins``.

``vllm serve MODEL --hf-overrides '{"saccade": "plan.json"}'`` serves a model under a plan; in place of the
file a spec string does. Where that cannot be given, ``SACCADE_PLAN`` in the environment says the same.

Everything here but ``saccade.vllm.inside`` imports without vLLM: what a plan comes to inside it (``work``),
which engines cannot serve it (``serving``), how the rows of a step split into runs (``split``), which rows of
a picture go on (``keep``), and what was computed and skipped (``counter``).
"""

from __future__ import annotations


def register() -> None:
    """Tells vLLM of the models that run plans; called in each of its processes."""
    from saccade.vllm.inside.attach import attach

    attach()
