"""What is installed beside transformers: torchvision, which breaks every model where it is broken itself."""

from __future__ import annotations

import importlib
import importlib.util
from importlib import metadata

import torch


def has_torchvision() -> bool:
    """Whether torchvision is installed and works.

    Raises:
        ValueError: If it is installed but cannot be imported: every Auto class of transformers would fail.
    """
    if importlib.util.find_spec("torchvision") is None:
        return False
    try:
        importlib.import_module("torchvision")
    except Exception as error:  # a wheel that does not match torch fails in whatever it does first
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"torchvision {_version('torchvision')} is installed but broken beside torch {torch.__version__} "
            f"({reason}), and transformers opens no model with it; uninstall it (pip uninstall torchvision) "
            f"or install the build that matches (pip install {matching_torchvision()})"
        ) from error
    return True


def matching_torchvision() -> str:
    """What to tell pip for the torchvision that was made for this torch."""
    major, minor = torch.__version__.split(".")[:2]
    if major != "2" or not minor.isdigit():
        return "torchvision"
    # torchvision's minor version has been torch's plus 15 since torch 2.0.
    return f"'torchvision==0.{int(minor) + 15}.*'"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "of an unknown version"
