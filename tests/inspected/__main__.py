"""``python -m inspected --out FILE``: every class that reads pictures and words, one after another."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

import torch

from inspected.classes import kinds
from inspected.survey import survey
from saccade.measure import record
from saccade.system.files import read_json, write_json


def main() -> int:
    """Surveys, and writes what became of every class."""
    parser = argparse.ArgumentParser(prog="inspected", description=__doc__)
    parser.add_argument("--out", type=Path, help="result file; classes that it has already are left")
    parser.add_argument("--only", nargs="*", default=None, metavar="TYPE", help="model types; all if omitted")
    given = parser.parse_args()
    torch.set_num_threads(1)
    known = {} if given.out is None or not given.out.exists() else {
        row["model_type"]: row for row in read_json(given.out)["classes"] if given.only is None
    }  # fmt: skip
    for kind in given.only or kinds():
        if kind not in known:
            known[kind] = row = survey(kind)
            print(f"{kind}: {row['outcome']} {row['why']}", file=sys.stderr, flush=True)
        if given.out is not None:
            rows = [known[one] for one in sorted(known)]
            write_json(
                given.out, {"classes": rows, "provenance": record("make generic", dtype=torch.float32)}
            )
    counts = Counter(row["outcome"] for row in known.values())
    print(", ".join(f"{count} {outcome}" for outcome, count in counts.most_common()))
    return int(bool(counts["failed"]))


if __name__ == "__main__":
    sys.exit(main())
