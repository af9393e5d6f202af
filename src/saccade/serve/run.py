"""Listens, serves until it is told to end, and answers by then what it has taken."""

from __future__ import annotations

import errno
import signal
import socket
from collections.abc import Callable, Mapping
from contextlib import closing

import uvicorn

from saccade.models import Loaded
from saccade.plans.plan import Plan
from saccade.serve.app import build
from saccade.serve.settings import ServeSettings
from saccade.serve.worker import Worker


def listen(settings: ServeSettings) -> socket.socket:
    """A socket at the address of a server.

    Raises:
        ValueError: If it cannot be had.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=256)
    except (OSError, OverflowError, UnicodeError) as error:
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            raise ValueError(
                f"port {settings.port} of {settings.host} is taken by another program; give another --port"
            ) from None
        raise ValueError(f"cannot listen at {settings.host}, port {settings.port}: {error}") from None


def address(at: socket.socket) -> str:
    """The address of a listening socket, for a browser."""
    host, port = at.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def serve(
    loaded: Loaded,
    plans: Mapping[str, Plan],
    settings: ServeSettings,
    at: socket.socket,
    ready: Callable[[Worker], None],
    threads: int | None = None,
) -> None:
    """Serves a model until SIGTERM or SIGINT; what was taken by then is answered.

    Args:
        loaded: The model.
        plans: The plans that requests may name.
        settings: What is allowed.
        at: Where to listen (`listen`).
        ready: Called once requests are answered.
        threads: CPU threads to compute with.

    Raises:
        ValueError: If a plan does not fit the model.
        KeyboardInterrupt: At the end, if SIGINT was what ended it.
    """
    with closing(at):
        worker = Worker(loaded, plans, settings.limits, threads)
        config = uvicorn.Config(
            build(worker, settings),
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=int(settings.limits.seconds) + 1,
            h11_max_incomplete_event_size=64 * 1024,
        )
        server = uvicorn.Server(config)
        # The server raises again what had ended it; a termination is the wanted end, also before it listens
        # to signals itself.
        before = signal.signal(signal.SIGTERM, server.handle_exit)
        try:
            ready(worker)
            server.run(sockets=[at])
        finally:
            worker.close()
            signal.signal(signal.SIGTERM, before)
