"""Routes below the repositories of API V2, which are found without Werkzeug's matcher."""

from __future__ import annotations

import itertools
from functools import partial

import pytest
from werkzeug.exceptions import HTTPException
from werkzeug.routing import MapAdapter
from werkzeug.test import create_environ

from docker_registry.app import create_app
from docker_registry.config.schema import Config
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.services import build

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
NAMES = ("a", "a/b", "blobs/uploads", "a/manifests/t", "a\nb", "", "/a")
WORDS = ("blobs/uploads", "blobs", "manifests", "referrers", "tags", "blobs/uploads/uploads", "other")
LASTS = ("x", "uploads", "list", "", "x/y", "x\n")


@pytest.fixture
def app():
    return create_app(build(Config(storage="memory", search_backend=None), MemoryDriver()))


def found(match):
    """Return what is found for the path of an adapter: a route and its values, or the error."""
    try:
        rule, values = match(return_rule=True)
    except HTTPException as error:
        return type(error), sorted(getattr(error, "valid_methods", None) or ())
    return rule.endpoint, values


def test_are_those_that_werkzeug_finds(app):
    assert len(app.v2_routes) > 12
    for method in METHODS:
        adapter = app.create_url_adapter(app.request_class(create_environ(method=method)))
        for name, words, last in itertools.product(NAMES, WORDS, LASTS):
            adapter.path_info = f"/v2/{name}/{words}/{last}"
            assert found(partial(MapAdapter.match, adapter)) == found(adapter.match), (method, adapter.path_info)


def test_of_an_extension_take_precedence(app):
    app.add_url_rule("/v2/special/<path:rest>", "special", lambda rest: "special")
    app.add_url_rule("/extension/<word>", "extension", lambda word: word)
    client = app.test_client()
    assert "special" == client.get("/v2/special/blobs/x").text
    assert "x" == client.get("/extension/x").text
    assert 404 == client.get("/v2/common/blobs/sha256:" + 64 * "0").status_code
