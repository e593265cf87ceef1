"""A WSGI application that reports whether its request is the only one of its worker, optionally after a delay."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from docker_registry.server.inflight import InflightRequests


class Application:
    """Its worker reports requests to :attr:`inflight`."""

    def __init__(self) -> None:
        self.inflight = InflightRequests()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/slow":
            time.sleep(4)
        said = str(self.inflight.has_lone_client).encode()
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(said)))])
        return [said]


application = Application()
