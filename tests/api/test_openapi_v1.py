"""The description of API V1 and of the status pages, docs/openapi-v1.yaml, held to the application and to a server."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import dataclass

import pytest

from docker_registry import __version__
from docker_registry.app import create_app
from docker_registry.config.schema import Config
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.services import build
from tests.api import description
from tests.support.clients.v1 import Docker, done
from tests.support.clients.v2 import Client
from tests.support.servers.registry import Server
from tests.support.v1_images import make

FILE = "openapi-v1.yaml"
DOCUMENT = description.read(FILE)

#: Described once for all URLs (`info.description`).
GENERAL_METHODS = {"HEAD", "OPTIONS"}

#: What differs from answer to answer.
UNLIKE = {"x-docker-token", "www-authenticate", "expires"}


def routes():
    """Every route of the application outside of API V2: URL, methods, endpoint."""
    app = create_app(build(Config(), MemoryDriver()))
    for rule in app.url_map.iter_rules():
        if not rule.rule.startswith("/v2"):
            yield re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule), rule.methods, rule.endpoint


class TestTheDescription:
    def test_is_valid(self):
        from tests.api import generated

        schema = generated.load(FILE)
        schema.validate()
        assert generated.kinds(schema) == [*description.kinds(DOCUMENT)]

    def test_is_of_this_version(self):
        assert __version__ == DOCUMENT["info"]["version"]

    def test_has_every_route_and_no_other(self):
        described = {
            (path, method): operation["operationId"] for path, method, operation, _ in description.operations(DOCUMENT)
        }
        known = {(path, method): view for path, methods, view in routes() for method in methods - GENERAL_METHODS}
        assert known.keys() == described.keys()
        # An operation has the name of its view; what has two URLs says which one after it.
        assert known == {key: ".".join(name.split(".")[:2]) for key, name in described.items()}
        assert len(described) == len(set(described.values()))

    def test_describes_common_responses_for_every_url(self):
        for path, methods, view in routes():
            assert "OPTIONS" in methods, path
            assert ("GET" in methods) == ("HEAD" in methods), view


@dataclass(frozen=True)
class Stock:
    """What is in the registry, by the names that parameters have in the description."""

    parameters: dict[str, list[str]]
    manifests: list[object]


_numbers = itertools.count(900, 4)


def fill(client):
    """Push a little of everything: what has become private is private for good, so each time under other names."""
    number = next(_numbers)
    name, hidden = f"acme/web{number}", f"acme/hidden{number}"
    base = make(number)
    top, secret, unfinished = make(number + 1, base), make(number + 2), make(number + 3)
    with Docker(client.url) as docker:
        docker.push(name, "latest", base, top)
        docker.push(name, "v1", base)
        docker.push(hidden, "latest", secret)
        done(docker.put(f"/repositories/{hidden}/properties", json.dumps({"access": "private"})), 200)
        done(docker.put(f"/images/{unfinished.text}/json", unfinished.payload), 200)
    return Stock(
        parameters={
            "repository": [name, name, hidden, "acme/none"],
            "tag": ["latest", "v1", "none"],
            "image_id": [base.text, base.text, top.text, top.text, secret.text, unfinished.text],
            "q": ["web", "acme", ""],
            "X-Docker-Checksum-Payload": [top.payload_sum, unfinished.payload_sum],
            "If-Modified-Since": ["Thu, 01 Jan 1970 00:00:00 GMT"],
            "Range": ["bytes=0-0", "bytes=5-", "bytes=-7", "bytes=999999-", "bytes=0-0,2-3"],
        },
        manifests=[json.loads(top.payload), json.loads(unfinished.payload)],
    )


@pytest.fixture(scope="module")
def surface(tmp_path_factory):
    from tests.api.generated import Surface, load

    store = tmp_path_factory.mktemp("openapi-v1") / "store"
    with Server(store, workers=2) as server, Client(server.url) as client:
        surface = Surface(client, load(FILE), fill, UNLIKE)
        yield surface
        for line, count in sorted(surface.statuses.items()):
            print(line, count)


@description.each_kind(DOCUMENT)
class TestGeneratedRequests:
    def test_are_answered_as_described(self, surface, label, kind):
        surface.send(label, kind, 8)

    @pytest.mark.slow
    def test_of_tens_of_thousands_are_answered_as_described(self, surface, label, kind):
        surface.send(label, kind, 500)
