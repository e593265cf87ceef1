"""
The description of the HTTP surface, docs/openapi.yaml, held to the application and to what a running server answers.

Requests are generated from the description by Schemathesis: what fits it, and what deliberately does not. CI sends a
few thousand of them; `pytest -m slow` tens of thousands.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest

from docker_registry import __version__
from docker_registry.api import errors
from docker_registry.app import create_app
from docker_registry.config.schema import Config
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.services import build
from tests.api import description
from tests.support.clients.v2 import OCI_MANIFEST, Client, digest_of, encoded
from tests.support.images import descriptor, make_image, make_index, push
from tests.support.servers.registry import Server

FILE = "openapi.yaml"
DOCUMENT = description.read(FILE)

#: The parts of the surface that are described.
PREFIXES = ("/v2/",)

#: Described once for all URLs (`info.description`).
GENERAL_METHODS = {"HEAD", "OPTIONS"}

#: Long lists are to be generated from short ones.
PAGE_ENTRIES = 2


def described():
    """Every operation of the description, as (URL, method, name of the view)."""
    return {(path, method, operation["operationId"]) for path, method, operation, _ in description.operations(DOCUMENT)}


def routes(config=None):
    """Every route of the application, in the same form, and the methods that it has without being asked."""
    app = create_app(build(config or Config(), MemoryDriver()))
    for rule in app.url_map.iter_rules():
        if rule.rule.startswith(PREFIXES):
            path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)
            yield path, rule.methods, rule.endpoint.rpartition(".")[2]


class TestTheDescription:
    def test_is_valid(self):
        from tests.api import generated

        schema = generated.load(FILE)
        schema.validate()
        assert generated.kinds(schema) == [*description.kinds(DOCUMENT)]

    def test_is_of_this_version(self):
        assert __version__ == DOCUMENT["info"]["version"]

    def test_has_every_route_and_no_other(self):
        known = {(path, method, view) for path, methods, view in routes() for method in methods - GENERAL_METHODS}
        assert known == described()

    def test_describes_common_responses_for_every_url(self):
        for path, methods, view in routes():
            assert "OPTIONS" in methods, path
            assert ("GET" in methods) == ("HEAD" in methods), view

    def test_names_every_code_of_errors(self):
        # Errors of API V1 alone have a row, and never get out below /v2/; their codes are among these too.
        codes = {code for _, code in errors.RESPONSES.values()} | set(errors._HTTP_CODES.values())
        assert codes == set(DOCUMENT["components"]["schemas"]["Code"]["enum"])

    def test_explains_every_code_of_errors(self):
        code = DOCUMENT["components"]["schemas"]["Code"]
        assert code["enum"] == re.findall(r"^\| `(\w+)` \|", code["description"], re.MULTILINE)


# ------------------------------------------------------------------------------------------- generated requests


@dataclass(frozen=True)
class Stock:
    """What is in the registry, by the names that parameters have in the description."""

    parameters: dict[str, list[str]]
    manifests: list[bytes]


def fill(client):
    """Push a little of everything; requests that name it get further than those that name nothing."""
    name, image, index = "acme/web", make_image("openapi", layer_bytes=100), make_index("openapi", layer_bytes=100)
    for number in range(PAGE_ENTRIES + 1):
        push(client, name, f"v{number}", image)
        client.push_blob(f"acme/other{number}", b"other")
    push(client, name, "latest", index)
    about = {"schemaVersion": 2, "subject": descriptor(image.manifest, OCI_MANIFEST), "artifactType": "text/x"}
    empty = client.push_blob(name, b"{}")
    manifests = [image.manifest, index.manifest]
    for number in range(PAGE_ENTRIES + 1):
        config = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": empty, "size": 2}
        payload = encoded({**about, "config": config, "layers": [], "annotations": {"number": f"{number}"}})
        client.put_manifest(name, digest_of(payload), payload)
        manifests.append(payload)
    digests = [image.digest, index.digest, *image.blobs]
    return Stock(
        parameters={
            "name": [name, name, name, "acme/other0", "acme/none"],
            "reference": ["v0", "latest", image.digest, index.digest],
            "upload_id": [client.start_upload(name).rpartition("/")[2] for _ in range(3)],
            "digest": digests,
            "mount": digests,
            "from": [name, "acme/other0"],
            "tag": ["v0", "latest"],
            "last": ["v0", "acme/other0", digests[0]],
            "artifactType": ["text/x"],
            "If-Match": [f'"{image.digest}"', "*"],
            "If-None-Match": [f'"{digest}"' for digest in digests] + ["*"],
            "Content-Range": ["0-0", "1-1", "0-99"],
            "Range": ["bytes=0-0", "bytes=5-", "bytes=-7", "bytes=999999-", "bytes=0-0,2-3"],
        },
        manifests=manifests,
    )


@pytest.fixture(scope="module")
def surface(tmp_path_factory):
    from tests.api.generated import Surface, load

    store = tmp_path_factory.mktemp("openapi") / "store"
    with Server(store, workers=2, REGISTRY_MAX_PAGE_ENTRIES=str(PAGE_ENTRIES)) as server, Client(server.url) as client:
        surface = Surface(client, load(FILE), fill)
        yield surface
        for line, count in sorted(surface.statuses.items()):
            print(line, count)


@description.each_kind(DOCUMENT)
class TestGeneratedRequests:
    def test_are_answered_as_described(self, surface, label, kind):
        surface.send(label, kind, 10)

    @pytest.mark.slow
    def test_of_tens_of_thousands_are_answered_as_described(self, surface, label, kind):
        surface.send(label, kind, 800)
