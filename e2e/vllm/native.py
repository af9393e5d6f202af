"""First tokens inside vLLM in bfloat16, by its own kernels: ``python -m e2e.vllm.native FOLDER PLAN...``.

A process of its own, for those that hold vLLM beside float32 references mix rows in plain torch (``states``).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from e2e.vllm.support import engine, environment, prompts


def main() -> None:
    """Prints the first token of every prompt under every plan."""
    environment()
    folder, *plans = sys.argv[1:]
    found = {}
    with engine(Path(folder), plans[0], dtype="bfloat16") as served:
        for plan in plans:
            served.use(plan)
            found[plan] = [tokens[0] for tokens in served.ask(prompts("qwen3_5"))]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
