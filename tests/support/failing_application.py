"""The registry's WSGI application with a route ``/fail`` whose view raises an error that quotes its request."""

from __future__ import annotations

from flask import request

from docker_registry.wsgi import application


def fail():
    headers = dict(request.headers)
    raise LookupError(f"{headers} {request.authorization.password} {request.full_path} {request.args['note']}")


application.add_url_rule("/fail", view_func=fail)
