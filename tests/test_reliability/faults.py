"""An S3 server that fails on purpose: moto behind a proxy that plays faults on chosen requests."""

from __future__ import annotations

import asyncio
import gc
import gzip
import threading
import warnings
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import aiohttp
from aiohttp import web

STALL = 30.0  # seconds that a stalled answer waits: longer than any timeout in the tests
_HOP = {"transfer-encoding", "connection", "keep-alive", "content-length", "date", "server"}


@dataclass
class Answer:
    """What the real server said."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Fault:
    """One kind of fault, as an answer in place of the real one.

    Attributes
    ----------
    name : str
    play : callable
        Coroutine of (request, answer or None) that gives the answer sent, or None after it has
        cut the connection itself.
    reaches_server : bool
        Whether the request takes effect before the answer is lost.
    is_lasting : bool
        What no retry can mend: it must be told by name.
    """

    name: str
    play: Callable[[web.Request, Answer | None], Awaitable[Answer | None]]
    reaches_server: bool = False
    is_lasting: bool = False

    @property
    def changes_body(self) -> bool:
        """Whether the fault lies in the body of an answer."""
        return "body" in self.name or "content length" in self.name


def _error(status: int, code: str, message: str = "") -> Callable[..., Awaitable[Answer | None]]:
    inside = f"<Code>{code}</Code><Message>{message or code}</Message>"
    text = f"<?xml version='1.0'?><Error>{inside}</Error>"

    async def play(request: web.Request, answer: Answer | None) -> Answer:
        return Answer(status, {"Content-Type": "application/xml"}, text.encode())

    return play


def _page(status: int) -> Callable[..., Awaitable[Answer | None]]:
    async def play(request: web.Request, answer: Answer | None) -> Answer:
        return Answer(status, {"Content-Type": "text/html"}, b"<html>Bad gateway</html>")

    return play


async def _stall(request: web.Request, answer: Answer | None) -> None:
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(STALL)
    _cut(request)


async def _reset(request: web.Request, answer: Answer | None) -> None:
    _cut(request)


def _cut(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


def _partial(share: float) -> Callable[..., Awaitable[None]]:
    """Headers and a part of the body, as promised in full; then the connection breaks."""

    async def play(request: web.Request, answer: Answer | None) -> None:
        assert answer is not None
        length = len(answer.body) or 64
        response = web.StreamResponse(status=answer.status, headers=answer.headers)
        response.content_length = length
        await response.prepare(request)
        with suppress(ConnectionError):
            await response.write(answer.body[: int(share * len(answer.body))])
        _cut(request)

    return play


def _changed(change: Callable[[bytes], bytes]) -> Callable[..., Awaitable[Answer | None]]:
    async def play(request: web.Request, answer: Answer | None) -> Answer:
        assert answer is not None
        return Answer(answer.status, answer.headers, change(answer.body))

    return play


async def _too_long(request: web.Request, answer: Answer | None) -> None:
    """A Content-Length beyond the body; the connection stays open a while, then ends."""
    assert answer is not None
    response = web.StreamResponse(status=answer.status, headers=answer.headers)
    response.content_length = len(answer.body) + 1000
    await response.prepare(request)
    with suppress(ConnectionError):
        await response.write(answer.body)
    await asyncio.sleep(0.05)
    _cut(request)


async def _gzip(request: web.Request, answer: Answer | None) -> Answer:
    """A middle box that compresses."""
    assert answer is not None
    headers = answer.headers | {"Content-Encoding": "gzip"}
    return Answer(answer.status, headers, gzip.compress(answer.body))


async def _elsewhere(request: web.Request, answer: Answer | None) -> Answer:
    target = "http://169.254.169.254/latest/meta-data"  # what a server must not lead to
    return Answer(307, {"Location": target}, b"")


def _flip(body: bytes) -> bytes:
    at = len(body) // 2
    return body[:at] + bytes(255 - one for one in body[at : at + 1]) + body[at + 1 :]


FAULTS = {
    one.name: one
    for one in (
        Fault("500 internal error", _error(500, "InternalError")),
        Fault("502 bad gateway", _page(502)),
        Fault("503 unavailable", _error(503, "ServiceUnavailable")),
        Fault("503 slow down", _error(503, "SlowDown", "Reduce your request rate")),
        Fault("504 gateway timeout", _page(504)),
        Fault("429 too many requests", _error(429, "TooManyRequests")),
        Fault("400 request timeout", _error(400, "RequestTimeout")),
        Fault("stalled before the answer", _stall),
        Fault("stalled after taking effect", _stall, reaches_server=True),
        Fault("connection reset", _reset),
        Fault("reset after taking effect", _reset, reaches_server=True),
        Fault("no body", _partial(0.0), reaches_server=True),
        Fault("half a body", _partial(0.5), reaches_server=True),
        Fault("content length too long", _too_long, reaches_server=True),
        Fault("body cut, length too", _changed(lambda b: b[: len(b) // 2]), reaches_server=True),
        Fault("body empty, length too", _changed(lambda b: b""), reaches_server=True),
        Fault("body with a flipped byte", _changed(_flip), reaches_server=True),
        Fault("body with bytes added", _changed(lambda b: b + b"\0" * 9), reaches_server=True),
        Fault("body compressed on the way", _gzip, reaches_server=True),
        Fault("error page with status 200", _error(200, "InternalError"), reaches_server=True),
        Fault("redirect to another host", _elsewhere, is_lasting=True),
        Fault("403 access denied", _error(403, "AccessDenied"), is_lasting=True),
        Fault("400 expired token", _error(400, "ExpiredToken"), is_lasting=True),
        Fault("403 clock skew", _error(403, "RequestTimeTooSkewed"), is_lasting=True),
        Fault("403 unknown key", _error(403, "InvalidAccessKeyId"), is_lasting=True),
        Fault("403 wrong secret", _error(403, "SignatureDoesNotMatch"), is_lasting=True),
        Fault("404 no bucket", _error(404, "NoSuchBucket"), is_lasting=True),
        Fault("507 disk full", _error(507, "XMinioStorageFull"), is_lasting=True),
        Fault("409 operation aborted", _error(409, "OperationAborted"), is_lasting=True),
    )
}


@dataclass
class Plan:
    """Which requests fail, and how often.

    Attributes
    ----------
    fault : Fault or None
    matches : callable
        Of (method, path with query).
    times : int
        How many requests fail before it is well again.
    seen : list of (str, str)
        Requests that came, in order.
    """

    fault: Fault | None = None
    matches: Callable[[str, str], bool] = lambda method, path: True
    times: int = 1
    seen: list[tuple[str, str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next(self, method: str, path: str) -> Fault | None:
        """The fault to play on a request."""
        with self.lock:
            self.seen.append((method, path))
            if self.fault is None or self.times <= 0 or not self.matches(method, path):
                return None
            self.times -= 1
            return self.fault


class FaultyServer:
    """S3 on loopback at `url`, with faults as `plan` says; without them at `behind`."""

    def __init__(self) -> None:
        from moto.moto_api._internal.models import moto_api_backend
        from moto.server import ThreadedMotoServer

        moto_api_backend.reset()  # what an earlier server of this process kept
        self.plan = Plan()
        self._moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._moto.start()
        host, port = self._moto.get_host_and_port()
        self.behind = f"http://{host}:{port}"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.url = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(30)

    async def _start(self) -> str:
        self._client = aiohttp.ClientSession(auto_decompress=False)
        application = web.Application(client_max_size=2**30)
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(application, access_log=None, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
        return f"http://127.0.0.1:{port}"

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        fault = self.plan.next(request.method, request.path_qs)
        if request.method == "HEAD" and fault is not None and fault.changes_body:
            fault = None  # it has no body
        answer = None
        if fault is None or fault.reaches_server:
            answer = await self._forward(request)
        if fault is not None:
            answer = await fault.play(request, answer)
        if answer is None:
            return web.Response(status=500)  # nobody hears it: the connection is cut
        return web.Response(status=answer.status, headers=answer.headers, body=answer.body)

    async def _forward(self, request: web.Request) -> Answer:
        body = await request.read()
        headers = {k: v for k, v in request.headers.items() if k.lower() != "content-length"}
        async with self._client.request(
            request.method, self.behind + request.raw_path, headers=headers, data=body
        ) as response:
            content = await response.read()
            kept = {k: v for k, v in response.headers.items() if k.lower() not in _HOP}
            if request.method == "HEAD":
                kept["Content-Length"] = response.headers.get("Content-Length", "0")
            return Answer(response.status, kept, content)

    def options(self, **config: Any) -> dict[str, Any]:
        """Options of a store on this server, with timeouts that suit a test."""
        return {
            "key": "test",
            "secret": "test",
            "endpoint_url": self.url,
            "use_listings_cache": False,
            "skip_instance_cache": True,
            "config_kwargs": {"connect_timeout": 1, "read_timeout": 1} | config,
        }

    def close(self) -> None:
        """Stop everything."""

        async def stop() -> None:
            await self._client.close()
            await self._runner.cleanup()

        asyncio.run_coroutine_threadsafe(stop(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        self._moto.stop()


@contextmanager
def faulty_server() -> Iterator[FaultyServer]:
    """A server whose clients wait but shortly before another try."""
    # the first wait of botocore's exponential backoff is a random share of a second
    quick = SimpleNamespace(random=lambda: 0.01)
    with patch("botocore.retryhandler.random", quick):
        one = FaultyServer()
        try:
            yield one
        finally:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # sockets that were cut are closed when collected
                one.close()
                gc.collect()
