"""Responses that are sent as they are, and the hooks and signals of Flask around every request."""

from __future__ import annotations

import io

import pytest
from flask import Response, abort, request, signals
from werkzeug.test import create_environ, run_wsgi_app

from docker_registry.api.flask_app import PlainResponse
from docker_registry.app import create_app
from docker_registry.config.schema import Config
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.registry.names import RepositoryName
from docker_registry.services import build
from tests.support.clients.v2 import digest_of

ABSENT = f"/v2/team/app/blobs/{digest_of(b'absent')}"

SENT = {
    "created": (201, {"Content-Length": "0", "Location": "/v2/a/blobs/b", "Docker-Content-Digest": "sha256:0"}, ()),
    "accepted": (202, {"Content-Length": "0", "Location": "/v2/a/blobs/uploads/b", "Range": "0-0"}, ()),
    "error": (404, {"Content-Type": "application/json", "Content-Length": "2"}, (b"{}",)),
    "part": (206, {"Content-Type": "a/b", "Content-Length": "4", "Content-Range": "bytes 0-3/9"}, (b"ab", b"cd")),
}


def sent(response, method):
    """Return what the server receives, after two hooks have added headers."""
    (getattr(response.headers, "add_all", None) or response.headers.extend)([("X-One", "1"), ("X-Two", "2")])
    response.headers["X-One"] = "one"
    blocks, status, headers = run_wsgi_app(response, create_environ(method=method))
    return status, list(headers), b"".join(blocks)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("name", SENT)
def test_a_plain_response_is_sent_as_werkzeug_sends_it(name, method):
    status, headers, content = SENT[name]
    for direct in (False, True):
        expected = Response(iter(content), status, headers, direct_passthrough=direct)
        if "Content-Type" not in headers:
            del expected.headers["Content-Type"]
        plain = PlainResponse(status, headers, iter(content), direct_passthrough=direct)
        assert sent(expected, method) == sent(plain, method)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_plain_response_closes_its_content(method):
    for direct in (False, True):
        content, closed = io.BytesIO(b"content"), []
        response = PlainResponse(200, {"Content-Length": "7"}, content, direct_passthrough=direct)
        if not direct:
            response.call_on_close(lambda closed=closed: closed.append(True))
        blocks, _, _ = run_wsgi_app(response, create_environ(method=method))
        blocks.close()
        assert content.closed
        assert closed == [True] * (not direct)


def test_names_of_headers_have_no_case():
    headers = PlainResponse(200, {"Content-Length": "0", "Vary": "Accept"}).headers
    assert "vary" in headers
    assert "Accept" not in headers


class TestExtensionsOfTheApplication:
    def test_run_around_every_request(self):
        app = create_app(build(Config(storage="memory", search_backend=None), MemoryDriver()))
        seen = []

        @app.before_request
        def refuse_some():
            seen.append("before")
            return ("refused", 418) if "refuse" in request.path else None

        @app.after_request
        def change(response):
            seen.append("after")
            response.headers["X-Added"] = "1"
            response.vary.add("Cookie")
            if response.status_code == 404:
                response.set_data(b"changed")
            return response

        app.teardown_request(lambda error: seen.append("teardown"))
        app.teardown_appcontext(lambda error: seen.append("end"))
        names = ("request_started", "request_finished", "request_tearing_down", "appcontext_tearing_down")
        receivers = []
        for name in names:

            def receive(sender, name=name, **values):
                seen.append(name)

            receivers.append(receive)
            getattr(signals, name).connect(receive, app)

        client = app.test_client()
        answer = client.get(ABSENT)
        assert (404, b"changed", "1", "7") == (
            answer.status_code,
            answer.data,
            answer.headers["X-Added"],
            answer.headers["Content-Length"],
        )
        assert seen == [
            "request_started",
            "before",
            "after",
            "request_finished",
            "teardown",
            "request_tearing_down",
            "end",
            "appcontext_tearing_down",
        ]
        answer = client.get("/v2/refuse/tags/list")
        assert (418, ["Cookie, User-Agent"]) == (answer.status_code, answer.headers.getlist("Vary"))
        assert 200 == client.options("/v2/").status_code
        assert 405 == client.post("/v2/").status_code

    def test_may_refuse_requests_and_change_what_views_receive(self):
        app = create_app(build(Config(storage="memory", search_backend=None), MemoryDriver()))

        def refuse(sender, **values):
            if request.method == "POST":
                abort(403)

        @app.before_request
        def rename():
            request.view_args = {**(request.view_args or {}), "name": RepositoryName.parse("renamed")}

        signals.request_started.connect(refuse, app)
        client = app.test_client()
        answer = client.post("/v2/named/blobs/uploads/")
        assert (403, "DENIED") == (answer.status_code, answer.json["errors"][0]["code"])
        answer = client.get("/v2/named/tags/list")
        assert {"name": "renamed"} == answer.json["errors"][0]["detail"]
