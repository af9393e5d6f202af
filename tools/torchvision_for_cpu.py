"""Makes the torchvision of PyPI importable beside a CPU build of torch, in the environment that runs this.

The wheel's compiled operators need CUDA libraries. Without them it registers fake kernels for two operators
that were never declared, and its import fails, and with it that of every model of transformers. Declared
beforehand, the import works, and so does what is plain torch in torchvision (transforms); the operators
themselves stay away.
For test environments only: a torchvision that was built for the CPU declares them itself.

Run it as ``.venv-lmms/bin/python tools/torchvision_for_cpu.py``; it writes two files beside the packages.
"""

from __future__ import annotations

import sysconfig
from pathlib import Path

MODULE = "_torchvision_for_cpu"
SOURCE = '''"""Declares two operators when torchvision is first imported (tools/torchvision_for_cpu.py)."""

import sys


class Finder:
    """Finds nothing; looks at what is imported."""

    library = None

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name == "torchvision" and cls.library is None:
            import torch

            if torch.version.cuda is None and getattr(torch.version, "hip", None) is None:
                cls.library = torch.library.Library("torchvision", "FRAGMENT")
                for name in ("nms", "qnms"):
                    cls.library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return None


sys.meta_path.insert(0, Finder)
'''


def install(folder: Path) -> list[Path]:
    """Writes the module, and the line that Python runs at its start."""
    # Of several .pth files those late in the alphabet run last, when everything else can be found.
    files = {f"{MODULE}.py": SOURCE, f"zz{MODULE}.pth": f"import {MODULE}\n"}
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in files]


if __name__ == "__main__":
    for path in install(Path(sysconfig.get_paths()["purelib"])):
        print(f"wrote {path}")
