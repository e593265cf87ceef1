"""A WSGI application that reports whether its request is the only one of its worker, optionally after a delay."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from docker_registry.alone import answering


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    if environ["PATH_INFO"] == "/slow":
        time.sleep(1.5)
    said = str(answering.is_one_alone).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(said)))])
    return [said]
