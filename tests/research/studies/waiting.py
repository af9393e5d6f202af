"""A worker that says that it has begun and waits; run as a program, the parent of two of them."""

import sys
import time
from functools import partial
from pathlib import Path

from saccade.system.processes import together


def part(folder: str, number: int, say) -> None:
    (Path(folder) / f"begun-{number}").touch()
    try:
        while True:
            time.sleep(0.05)
    finally:
        (Path(folder) / f"ended-{number}").touch()


if __name__ == "__main__":
    together(partial(part, sys.argv[1]), 2)
