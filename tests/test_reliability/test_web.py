"""A release behind a web server: read and verified; led elsewhere, or left waiting, it is named."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from skyfold import open_release
from skyfold.access import connection
from skyfold.errors import StoreUnavailableError


class _Handler(SimpleHTTPRequestHandler):
    """Files of a folder; ``/elsewhere`` redirects, ``/silent`` never answers."""

    def do_GET(self) -> None:
        if self.path.startswith("/elsewhere"):
            self.send_response(302)
            self.send_header("Location", f"http://{self.server.elsewhere}/zarr.json")
            self.end_headers()
        elif self.path.startswith("/silent"):
            self.server.ended.wait(20)
        else:
            super().do_GET()

    do_HEAD = do_GET

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def served(whole_url: str) -> Iterator[str]:
    handler = functools.partial(_Handler, directory=whole_url)
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for _ in range(2)]
    first, second = servers
    first.elsewhere = "{}:{}".format(*second.server_address)
    first.ended = threading.Event()
    for one in servers:
        threading.Thread(target=one.serve_forever, daemon=True).start()
    yield "http://{}:{}".format(*first.server_address)
    first.ended.set()
    for one in servers:
        one.shutdown()
        one.server_close()


def test_a_release_on_the_web_is_read_and_verified(served, whole_url):
    release = open_release(served)
    met = release.images.read("night1/a", "bounded").values
    assert (met == open_release(whole_url).images.read("night1/a", "bounded").values).all()
    assert release.verify() == {}


def test_it_leads_to_no_other_host(served):
    with pytest.raises(StoreUnavailableError, match="sends its readers to"):
        open_release(f"{served}/elsewhere")


def test_silence_ends(served, monkeypatch):
    monkeypatch.setattr(connection, "_WEB_SILENCE", 0.5)
    with pytest.raises(StoreUnavailableError, match="cannot read"):
        open_release(f"{served}/silent")
