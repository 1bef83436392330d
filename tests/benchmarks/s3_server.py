"""A read-only S3 server of a folder on loopback, with a fixed latency added to every request.

    python -m tests.benchmarks.s3_server FOLDER --port 9000 --latency 0.02

Objects are ``/<bucket>/<key>``, the files of the folder. It answers GET and HEAD with ranges, as
the protocol has them, and counts what it was asked, independently of the client: ``/-/count``.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import TracebackType

from aiohttp import web


def main() -> None:
    """Serve until stopped."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, default=9000)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds added to every request")
    asked = parser.parse_args()
    server = _Server(asked.folder, asked.latency)
    application = web.Application()
    application.router.add_get("/-/count", server.count)
    application.router.add_get("/{key:.*}", server.read)
    web.run_app(application, host="127.0.0.1", port=asked.port, print=None, access_log=None)


class _Server:
    def __init__(self, folder: Path, latency: float) -> None:
        self.folder = folder
        self.latency = latency
        self.requests = self.bytes = 0

    async def count(self, request: web.Request) -> web.Response:
        found = {"requests": self.requests, "bytes": self.bytes}
        self.requests = self.bytes = 0
        return web.json_response(found)

    async def read(self, request: web.Request) -> web.StreamResponse:
        self.requests += 1
        await asyncio.sleep(self.latency)
        path = self.folder / request.match_info["key"]
        if not path.is_file():
            body = "<Error><Code>NoSuchKey</Code></Error>"
            return web.Response(status=404, text=body, content_type="application/xml")
        size = path.stat().st_size
        part = request.http_range
        start, stop, _ = slice(part.start, part.stop).indices(size)
        headers = {
            "ETag": f'"{hashlib.md5(str(path).encode()).hexdigest()}"',
            "Accept-Ranges": "bytes",
            "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT",
        }
        if request.method == "HEAD":
            return web.Response(headers=headers | {"Content-Length": str(size)})
        with path.open("rb") as file:
            file.seek(start)
            body = file.read(stop - start)
        self.bytes += len(body)
        if "Range" not in request.headers:
            return web.Response(body=body, headers=headers)
        told = {"Content-Range": f"bytes {start}-{stop - 1}/{size}"}
        return web.Response(status=206, body=body, headers=headers | told)


class Server:
    """The server in another process, for the length of a with statement.

    Parameters
    ----------
    folder : Path
    latency : float
        [s]
    """

    def __init__(self, folder: Path, latency: float) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        module = [sys.executable, "-m", "tests.benchmarks.s3_server", str(folder)]
        options = ["--port", str(self.port), "--latency", str(latency)]
        self._command = [*module, *options]

    def __enter__(self) -> Server:
        self._process = subprocess.Popen(self._command, cwd=Path(__file__).parents[2])
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
            time.sleep(0.1)
        raise TimeoutError(f"no server at {self.url} after 30 s")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._process.terminate()
        self._process.wait(10)

    @property
    def options(self) -> dict[str, object]:
        """Options of s3fs that reach it."""
        return {"endpoint_url": self.url, "anon": True}

    def count(self) -> bytes:
        """Requests and bytes since the last call, as JSON."""
        with urllib.request.urlopen(f"{self.url}/-/count") as answer:
            return bytes(answer.read())


if __name__ == "__main__":
    main()
