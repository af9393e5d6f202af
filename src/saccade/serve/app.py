"""The server's addresses: OpenAI's, those of operators, and the page."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from saccade._version import __version__
from saccade.serve import page
from saccade.serve.asked import ChatTask
from saccade.serve.chat import Channel, Completion, EventStream, collect, stream
from saccade.serve.compare import compare, told
from saccade.serve.conversation import Catalogue, Conversations
from saccade.serve.errors import CLIENT_LEFT, RequestRefused
from saccade.serve.guards import Guards
from saccade.serve.metrics import CONTENT_TYPE
from saccade.serve.pictures import picture
from saccade.serve.schema import ChatRequest, CompareRequest, parse
from saccade.serve.settings import ServeSettings
from saccade.serve.worker import Worker

LOG = logging.getLogger(__name__)


class Service:
    """Answers requests by a worker.

    Attributes:
        worker: Who has the model.
        catalogue: What requests may name.
        settings: What is allowed.
        guards: Who may ask.
    """

    def __init__(self, worker: Worker, settings: ServeSettings) -> None:
        """Serves a worker's model."""
        self.worker, self.settings, self.guards = worker, settings, Guards(settings)
        names = tuple(name for name in worker.reader.plans if name)
        self.catalogue = Catalogue(worker.loaded.name, names)
        self._conversations = Conversations(worker.loaded, self.catalogue, settings)
        self._since = int(time.time())

    async def chat(self, request: Request) -> Response:
        """``POST /v1/chat/completions``."""
        begun = time.monotonic()
        self.guards.check(request)
        self.guards.take()
        freed = False
        try:
            wanted: ChatRequest = parse(await self.guards.body(request), ChatRequest)
            channel = Channel()
            asked = await asyncio.to_thread(self._conversations.asked, wanted, channel.tell, begun)
            self.worker.submit(asked)
            counted = bool(wanted.stream_options and wanted.stream_options.include_usage)
            completion = Completion(wanted.model, counted)
            try:
                if not wanted.stream:
                    text, ended = await collect(channel, functools.partial(left, request))
                    return JSONResponse(completion.whole(text, ended))
                # Until the first token an error has a status of its own.
                first = await watched(channel.next(), functools.partial(left, request))
            except BaseException:
                asked.gone = True
                raise
            freed = True
            return EventStream(stream(channel, completion, first), functools.partial(self._over, asked))
        finally:
            if not freed:
                self.guards.free()

    def _over(self, asked: ChatTask) -> None:
        """The end of a stream: whatever of it is still being written is for nobody."""
        asked.gone = True
        self.guards.free()

    async def compare(self, request: Request) -> Response:
        """``POST /compare``: what the page asks."""
        self.guards.check(request)
        with self.guards.place():
            wanted: CompareRequest = parse(await self.guards.body(request), CompareRequest)
            if wanted.plan not in self.catalogue.plans:
                raise RequestRefused(f"there is no plan {wanted.plan!r} here", 404, param="plan")
            longest = min(wanted.max_tokens, self.settings.limits.tokens)
            image = await asyncio.to_thread(
                picture, wanted.image, "image", self.settings, self.settings.limits.pixels
            )
            plan = self.worker.reader.plans[wanted.plan]
            gone = threading.Event()
            job = functools.partial(
                compare, self.worker.loaded, image, wanted.question, plan, longest, gone.is_set
            )
            try:
                done = asyncio.wrap_future(self.worker.alone(job))
                coming = asyncio.wait_for(done, self.settings.limits.seconds)
                shown, seconds = await watched(coming, functools.partial(left, request))
            finally:
                # Left or out of time; a job that has begun is not cancelled with what waits for it.
                gone.set()
            return JSONResponse(await asyncio.to_thread(told, shown, seconds))

    async def models(self, request: Request) -> Response:
        """``GET /v1/models``."""
        self.guards.check(request)
        return JSONResponse({"object": "list", "data": [self._card(name) for name in self.catalogue.names]})

    async def model(self, request: Request) -> Response:
        """``GET /v1/models/NAME``."""
        self.guards.check(request)
        name = request.path_params["name"]
        self.catalogue.plan(name)
        return JSONResponse(self._card(name))

    def _card(self, name: str) -> dict[str, Any]:
        plan = self.catalogue.plan(name)
        return {
            "id": name,
            "object": "model",
            "created": self._since,
            "owned_by": "saccade",
            "plan": self.worker.reader.plans[plan].spec,
        }

    async def health(self, request: Request) -> Response:
        """``GET /health``."""
        self.guards.check_host(request)
        alive = self.worker.alive
        return JSONResponse({"status": "ok" if alive else "closing"}, status_code=200 if alive else 503)

    async def metrics(self, request: Request) -> Response:
        """``GET /metrics``."""
        self.guards.check(request)
        return Response(self.worker.metrics.page(), media_type=CONTENT_TYPE)

    async def page(self, request: Request) -> Response:
        """``GET /``."""
        self.guards.check_host(request)
        html, policy = page.render(
            self.catalogue, self.worker.reader.plans, keyed=self.settings.key is not None
        )
        return HTMLResponse(html, headers={"Content-Security-Policy": policy, "X-Frame-Options": "DENY"})


def build(worker: Worker, settings: ServeSettings) -> FastAPI:
    """The application.

    Args:
        worker: Who answers.
        settings: What is allowed.
    """
    service = Service(worker, settings)
    app = FastAPI(title="saccade", version=__version__, openapi_url=None, docs_url=None, redoc_url=None)
    routes: Sequence[tuple[str, str, Callable[[Request], Awaitable[Response]]]] = (
        ("POST", "/v1/chat/completions", service.chat),
        ("GET", "/v1/models", service.models),
        ("GET", "/v1/models/{name:path}", service.model),
        ("GET", "/health", service.health),
        ("GET", "/metrics", service.metrics),
        ("GET", "/", service.page),
        ("POST", "/compare", service.compare),
    )
    for method, path, handler in routes:
        app.add_route(path, _guarded(handler, service), methods=[method])

    async def missing(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        response = refused(
            RequestRefused(f"{request.method} {request.url.path} is not served here", status), service
        )
        # What may be asked there instead.
        response.headers.update(getattr(error, "headers", None) or {})
        return response

    app.add_exception_handler(HTTPException, missing)
    return app


def _guarded(
    handler: Callable[[Request], Awaitable[Response]], service: Service
) -> Callable[[Request], Awaitable[Response]]:
    """A handler whose errors have OpenAI's form."""

    async def guarded(request: Request) -> Response:
        try:
            return await handler(request)
        except RequestRefused as error:
            return refused(error, service)
        except (ConnectionError, ClientDisconnect):
            return Response(status_code=CLIENT_LEFT)
        except TimeoutError:
            return refused(RequestRefused("no answer in time", 504, "timeout"), service)
        except Exception:
            LOG.exception("a request failed")
            return refused(
                RequestRefused("the server failed at this request; its log says why", 500), service
            )

    return guarded


def refused(error: RequestRefused, service: Service) -> Response:
    """The response to a request that is refused."""
    service.worker.metrics.refused.labels(str(error.status)).inc()
    headers = {} if error.retry is None else {"Retry-After": str(error.retry)}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(error.body(), status_code=error.status, headers=headers)


async def left(request: Request) -> None:
    """Waits until the client has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def watched(coming: Any, gone: Callable[[], Any]) -> Any:
    """What is awaited, unless the client leaves before.

    Raises:
        ConnectionError: If it does.
    """
    found, away = asyncio.ensure_future(coming), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({found, away}, return_when=asyncio.FIRST_COMPLETED)
        if not found.done():
            raise ConnectionError("the client has left")
        return found.result()
    finally:
        found.cancel()
        away.cancel()
