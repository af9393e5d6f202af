"""Where a model's files are: a folder, or what the hub's client made of a hub id."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from saccade.opening.errors import first_line

REACH_S = 8.0
"""Seconds that one question to the hub may take before it counts as out of reach."""

SETTINGS = ("*.json", "*.jinja", "*.txt", "*.model")
"""Files of a repository that are read besides weights."""
WEIGHTS = ("model*.safetensors",)
"""Weights as the Auto classes name them; other formats often lie beside them."""
PICKLED = ("pytorch_model*.bin",)

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def files_of(
    name: str,
    hub: Mapping[str, Any],
    weights: bool = True,
    code: bool = False,
    kind: tuple[str, ...] = WEIGHTS,
) -> Path:
    """The folder with a model's files; those of a hub id are fetched first.

    Args:
        name: A folder, or a hub id.
        hub: Arguments of the hub's client: ``revision``, ``token``, ``cache_dir`` and the like.
        weights: Whether weights are wanted; without them only settings are fetched.
        code: Whether code that lies beside the weights is wanted.
        kind: What the files of weights are called.

    Raises:
        ValueError: If there is no such folder, or the hub does not give it, or a folder has no revisions.
    """
    check_name(name, hub.get("revision"))
    folder = Path(name)
    return folder if folder.is_dir() else _fetched(name, hub, weights, code, kind)


def check_name(name: str, revision: str | None = None) -> None:
    """Refuses what can be neither a folder nor a hub id, before anything is imported or fetched.

    Raises:
        ValueError: If it is neither, or a folder, of which there are no revisions.
    """
    if not name.strip():
        raise ValueError("the name of the model is empty; give a folder, or a hub id (owner/name)")
    folder = Path(name)
    if folder.is_dir():
        if revision is not None:
            raise ValueError(f"{name} is a folder, which has no revision {revision!r}; leave that out")
        return
    if folder.exists():
        raise ValueError(f"{name} is a file; give the folder of a model, which holds a config.json")
    path_like = name.startswith((".", "~", os.sep)) or name.endswith(os.sep)
    if path_like or not _HUB_ID.fullmatch(name):
        raise ValueError(f"no model {name!r}: not a folder, nor a hub id (owner/name)")


def _fetched(name: str, hub: Mapping[str, Any], weights: bool, code: bool, kind: tuple[str, ...]) -> Path:
    from huggingface_hub import snapshot_download

    where = dict(hub)
    patterns = [*SETTINGS, *(["*.py"] if code else [])]
    with _telling(name, where):
        found = None if where.get("local_files_only") else _ask(name, where)
        if found is None:
            where["local_files_only"] = True
        if weights:
            listed = [file.rfilename for file in found.siblings or ()] if found else []
            pickled = kind == WEIGHTS and bool(listed) and not any(fnmatch(f, WEIGHTS[0]) for f in listed)
            patterns += PICKLED if pickled else kind
        return Path(snapshot_download(name, **where, allow_patterns=patterns))


def _ask(name: str, where: Mapping[str, Any]) -> Any:
    """What the hub says of a repository; None where it cannot be reached but files are at hand."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import OfflineModeIsEnabled

    api = HfApi(endpoint=where.get("endpoint"), token=where.get("token"))
    try:
        return api.model_info(name, revision=where.get("revision"), timeout=REACH_S)
    except Exception as error:
        if not (_out_of_reach(error) or isinstance(error, OfflineModeIsEnabled)):
            raise
        if _cached(name, where):
            return None
        raise ValueError(
            f"no folder {name!r}, and the hub ({api.endpoint}) cannot be reached for a repository of that "
            f"name: {first_line(error)}"
        ) from error


def _cached(name: str, where: Mapping[str, Any]) -> bool:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(
        name, "config.json", cache_dir=where.get("cache_dir"), revision=where.get("revision")
    )
    return isinstance(found, str)


def _out_of_reach(error: BaseException) -> bool:
    """Whether an error of the hub's client means that nobody answered, or not in time."""
    names = {cls.__name__ for cls in type(error).__mro__}
    # By name: the client's HTTP library has changed twice.
    return bool(names & {"TransportError", "ConnectionError", "Timeout", "TimeoutException", "ConnectError"})


@contextmanager
def _telling(name: str, where: Mapping[str, Any]) -> Iterator[None]:
    """Turns what the hub's client raises into one line."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except GatedRepoError as error:
        raise ValueError(
            f"{name} is gated: ask for access on its page, then log in with 'hf auth login'"
        ) from error
    except RepositoryNotFoundError as error:
        raise ValueError(
            f"no folder {name!r}, and the hub has no repository of that name that you may see; if it is "
            "private, log in with 'hf auth login'"
        ) from error
    except RevisionNotFoundError as error:
        raise ValueError(f"{name} has no revision {where.get('revision')!r}") from error
    except LocalEntryNotFoundError as error:
        cause = error.__cause__
        if isinstance(cause, GatedRepoError):
            raise ValueError(
                f"{name} is gated: ask for access on its page, then log in with 'hf auth login'"
            ) from error
        raise ValueError(
            f"{name} is not whole in the hub's cache and cannot be fetched now: {first_line(error)}"
        ) from error
    except HfHubHTTPError as error:
        raise ValueError(f"the hub does not give {name}: {first_line(error)}") from error
    except OSError as error:
        raise ValueError(f"cannot fetch {name}: {first_line(error)}") from error
    except Exception as error:
        if not _out_of_reach(error):
            raise
        raise ValueError(f"the connection broke while {name} was fetched: {first_line(error)}") from error
