"""A WSGI application that reports whether its worker has a lone client, optionally after a delay."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from docker_registry.server.brief_calls import BriefCalls


class Application:
    """Its worker sets ``has_lone_client`` of :attr:`brief_calls`."""

    def __init__(self) -> None:
        self.brief_calls = BriefCalls()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/slow":
            time.sleep(4)
        said = str(self.brief_calls.has_lone_client()).encode()
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(said)))])
        return [said]


application = Application()
