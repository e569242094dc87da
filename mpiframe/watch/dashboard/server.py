"""The web server of the dashboard: on this host's loopback alone, and for whoever has the token.

The token stands in the address that is printed. The page it opens gets a cookie instead, which no other site
can have a browser send, and takes the token out of the address. The name by which the server is called is
checked too, or a foreign name that is made to lead here would pass for the same site.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hmac
import json
import logging
import secrets
import threading
from collections.abc import Callable
from importlib import resources
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from mpiframe.errors import WorldError
from mpiframe.watch.dashboard import metrics
from mpiframe.watch.dashboard.feed import Feed
from mpiframe.watch.source import Source

log = logging.getLogger("mpiframe.watch.dashboard")

HOST = "127.0.0.1"
_NAMES = ("127.0.0.1", "localhost", "[::1]")  # an SSH tunnel keeps the name and changes the port
_LAST_WORDS_SECONDS = 2.0  # for the pages to hear that the world is gone
_START_SECONDS = 30.0
_ASSETS = {"page.css": "text/css", "page.js": "text/javascript", "timeline.js": "text/javascript"}
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Dashboard:
    """A web page of what `source` shows.

    port: 0 takes a free one. token: None makes one. url: where to look, with the token, once it serves.
    `start` and `stop` run it in a thread; `serve` is for an event loop of one's own.
    """

    def __init__(self, source: Source, port: int = 0, token: str | None = None) -> None:
        self._source, self._port = source, port
        self.token = token or secrets.token_urlsafe(32)
        self._cookie = secrets.token_urlsafe(32)
        self._feed: Feed | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._over: asyncio.Event | None = None
        self._thread: threading.Thread | None = None
        self.url = ""
        self.gone: str | None = None

    # -- life --------------------------------------------------------------------------------------

    async def serve(self, ready: Callable[[str], object] = str) -> None:
        """Serve until `stop`, or until the world is gone and the pages know. Raises WorldError."""
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        self._feed = feed = Feed(self._source)

        async def guard(request: web.Request, handler: Any) -> Any:
            return await self._guard(request, handler)

        app = web.Application(middlewares=[web.middleware(guard)])
        app.add_routes(
            [
                web.get("/", self._page),
                web.get("/events", self._events),
                web.get("/metrics", self._metrics),
                web.get("/{asset}", self._asset),
            ]
        )
        app.on_response_prepare.append(_with_headers)
        runner = web.AppRunner(app, access_log=None, logger=log, handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        try:
            site = web.TCPSite(runner, HOST, self._port)
            try:
                await site.start()
            except OSError as error:
                raise _no_port(self._port, error) from error
            self._port = runner.addresses[0][1]
            self.url = f"http://{HOST}:{self._port}/?token={self.token}"
            ready(self.url)
            polling = asyncio.create_task(feed.run())
            over = asyncio.create_task(self._over.wait())
            await asyncio.wait([polling, over], return_when=asyncio.FIRST_COMPLETED)
            if polling.done():
                polling.result()
                self.gone = feed.gone
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(feed.nobody(), _LAST_WORDS_SECONDS)
            over.cancel()
            polling.cancel()
        finally:
            await runner.cleanup()

    def start(self) -> str:
        """Serve in a thread; the address to open. Raises WorldError."""
        started = threading.Event()
        failure: list[BaseException] = []

        def run() -> None:
            try:
                asyncio.run(self.serve(lambda _: started.set()))
            except BaseException as error:
                failure.append(error)
                started.set()

        self._thread = threading.Thread(target=run, name="mpiframe-dashboard", daemon=True)
        self._thread.start()
        if not started.wait(_START_SECONDS):
            raise WorldError(f"the dashboard did not start within {_START_SECONDS:g} s")
        if failure:
            raise failure[0]
        return self.url

    def stop(self) -> None:
        """End it; from any thread, also where it has ended."""
        loop, over = self._loop, self._over
        if loop is not None and over is not None and not loop.is_closed():
            with contextlib.suppress(RuntimeError):  # it has closed meanwhile
                loop.call_soon_threadsafe(over.set)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(_START_SECONDS)

    # -- who may -----------------------------------------------------------------------------------

    async def _guard(self, request: web.Request, handler: Any) -> Any:
        if _name_of(request.headers.get("Host", "")) not in _NAMES:
            return _refusal("This server answers to the name 127.0.0.1 or localhost only.")
        if request.path.lstrip("/") in _ASSETS:
            return await handler(request)
        if request.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none") and (
            request.path != "/"
        ):
            return _refusal("Another site asked for this.")
        if not self._is_let_in(request):
            return _refusal("The token is missing, or it is not this dashboard's.")
        return await handler(request)

    def _is_let_in(self, request: web.Request) -> bool:
        scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
        return (
            _same(request.query.get("token"), self.token)
            or (scheme.lower() == "bearer" and _same(bearer.strip(), self.token))
            or _same(request.cookies.get(self._cookie_name), self._cookie)
        )

    @property
    def _cookie_name(self) -> str:
        return f"mpiframe_{self._port}"  # cookies of all ports of a host lie together

    # -- what there is -------------------------------------------------------------------------------

    async def _page(self, _request: web.Request) -> Any:
        answer = web.Response(body=_read("index.html"), content_type="text/html", charset="utf-8")
        answer.set_cookie(self._cookie_name, self._cookie, httponly=True, samesite="Strict", path="/")
        return answer

    async def _asset(self, request: web.Request) -> Any:
        kind = _ASSETS.get(request.match_info["asset"])
        if kind is None:
            return web.Response(status=404, text="There is no such page.\n")
        return web.Response(body=_read(request.match_info["asset"]), content_type=kind, charset="utf-8")

    async def _metrics(self, _request: web.Request) -> Any:
        assert self._feed is not None
        await self._feed.poll()
        if self._feed.gone is not None:
            return web.Response(status=503, text=f"The world has gone: {self._feed.gone}\n")
        return web.Response(
            body=metrics.exposition(self._feed.last), headers={"Content-Type": metrics.CONTENT_TYPE}
        )

    async def _events(self, request: web.Request) -> Any:
        assert self._feed is not None
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        last = request.headers.get("Last-Event-ID", "0")
        with contextlib.suppress(ConnectionError):
            async with contextlib.aclosing(self._feed.follow(int(last) if last.isdecimal() else 0)) as news:
                async for snapshot in news:
                    await answer.write(_event("snapshot", snapshot, snapshot["seq"]))
            await answer.write(_event("gone", {"message": self._feed.gone}))
            await answer.write_eof()
        return answer


def _is_ours(record: logging.LogRecord) -> bool:
    """Not what is said of a request that cannot be read: it cites the request, maybe with the token."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError)


log.addFilter(_is_ours)


def _event(kind: str, content: dict[str, Any], seq: int | None = None) -> bytes:
    # JSON has no line breaks of its own, so one line of data it is.
    number = f"id: {seq}\n" if seq is not None else ""
    return f"event: {kind}\n{number}data: {json.dumps(content)}\n\n".encode()


async def _with_headers(_request: web.Request, answer: web.StreamResponse) -> None:
    answer.headers.update(_HEADERS)


def _same(given: str | None, right: str) -> bool:
    """Whether they are the same, in a time that does not tell how much of it is."""
    return hmac.compare_digest((given or "").encode(), right.encode())


def _name_of(host: str) -> str:
    """A Host header without its port."""
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0].lower()


def _refusal(why: str) -> web.Response:
    page = _read("refused.html").replace(b"{why}", why.encode())
    return web.Response(status=403, body=page, content_type="text/html", charset="utf-8")


def _read(name: str) -> bytes:
    return resources.files("mpiframe.watch.dashboard").joinpath("page").joinpath(name).read_bytes()


def _no_port(port: int, error: OSError) -> WorldError:
    if error.errno == errno.EADDRINUSE:
        return WorldError(
            f"port {port} of {HOST} is taken; name another by --port, or none and get one that is free"
        )
    return WorldError(f"the dashboard cannot listen on port {port} of {HOST}: {error.strerror or error}")
