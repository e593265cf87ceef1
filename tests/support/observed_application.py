"""The registry's WSGI application with an observer that appends each exchange to the file ``OBSERVED``, as JSON."""

from __future__ import annotations

import json
import os

from docker_registry.wsgi import application


def observe(exchange):
    with open(os.environ["OBSERVED"], "a") as observed:
        observed.write(json.dumps(exchange._asdict()) + "\n")


def fail(_):
    raise RuntimeError("an observer failed")


application.observers = (*application.observers, fail, observe)
