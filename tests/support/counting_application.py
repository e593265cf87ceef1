"""The registry's WSGI application, which counts its calls: it appends a byte to the file ``COUNTED`` for each."""

from __future__ import annotations

import os

from docker_registry import wsgi


def application(environ, start_response):
    with open(os.environ["COUNTED"], "ab") as counted:
        counted.write(b".")
    return wsgi.application(environ, start_response)
