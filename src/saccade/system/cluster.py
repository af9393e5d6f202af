"""A Ray cluster: reached within seconds or refused, and what an actor takes of a node."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

REACHED_WITHIN = 10
"""Seconds in which a cluster's address must answer."""


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """The ``ray`` module, connected to a cluster; to the one that it is connected to already, if it is.

    Args:
        address: As ``ray.init`` takes it (``auto``, ``HOST:PORT``, ``ray://HOST:PORT``); or ``local``, for a
            cluster that is started here.

    Raises:
        ValueError: If Ray is missing, or no cluster is there.
    """
    try:
        import ray
    except ImportError:
        raise ValueError("a Ray cluster needs the ray package: pip install 'ray[data]'") from None
    if ray.is_initialized():
        yield ray  # by whoever calls this
        return
    if not address.strip():
        raise ValueError("the address of the Ray cluster is empty: auto, HOST:PORT, or local for one here")
    check_reached(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level="error")
    except Exception as error:  # each kind of address fails by an exception of its own
        first = str(error).strip().split("\n")[0]
        raise ValueError(f"no Ray cluster at {address!r}: {first}") from None
    try:
        yield ray
    finally:
        ray.shutdown()


def check_reached(address: str) -> None:
    """Refuses a host and port where nobody listens, for which Ray itself waits for many minutes.

    Raises:
        ValueError: If nobody does.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return  # a word such as auto, or nothing that is an address: Ray says so itself
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACHED_WITHIN).close()
    except (OSError, OverflowError) as error:
        raise ValueError(f"no Ray cluster at {address!r}: {error}") from None


def needs(ray: Any, cpus: int, accelerators: int) -> dict[str, Any]:
    """What an actor takes of a node, as its options say it.

    Args:
        ray: The connected module.
        cpus: CPUs; as many as the largest node has where none has so many, for it would never be placed.
        accelerators: GPUs, where the cluster has some.
    """
    most = max((int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]), default=0)
    cpus = min(cpus, most) if most else cpus
    has_some = bool(accelerators and ray.cluster_resources().get("GPU"))
    return {"num_cpus": cpus} | ({"num_gpus": accelerators} if has_some else {})


def room_for(ray: Any, each: dict[str, Any]) -> int:
    """How many actors that take so much the cluster has room for now, as far as sums over nodes tell."""
    free = ray.available_resources()
    kinds = {"num_cpus": "CPU", "num_gpus": "GPU"}
    return int(min(free.get(kinds[name], 0) / much for name, much in each.items()))


def this_node() -> str:
    """The node that an actor runs on, in words."""
    import ray

    return f"node {ray.util.get_node_ip_address()}"
