"""Images of a registry that speaks API V2 alone, pulled through by clients of API V1."""

from __future__ import annotations

import gzip
import json
import random
from contextlib import nullcontext
from contextvars import ContextVar

import pytest

from docker_registry.config.sections import MirrorUpstream
from docker_registry.errors import UpstreamUnavailable
from docker_registry.registry import layout
from docker_registry.registry.mirror.upstream import parse_source
from docker_registry.registry.mirror.upstream_content import WITHHELD_BYTES
from docker_registry.registry.names import Digest, RepositoryName
from docker_registry.registry.v1_mirror.bridged_images import MAX_TAGS
from tests.support.clients.v2 import digest_of, encoded
from tests.support.images import Image, make_image, make_index, make_tar
from tests.support.servers.upstream import Answer

INDEX = make_index("bridged")
IMAGE = INDEX.images[0]

#: The name at the source, which is the one that clients of API V1 use.
NAME = "library/app"


@pytest.fixture
def source(v2_source):
    v2_source.add(NAME, "single", make_image("single"))
    for image in INDEX.images:
        v2_source.add(NAME, image.digest, image)
    v2_source.put_manifest(NAME, "latest", INDEX.manifest, INDEX.media_type)
    serve_tags(v2_source, "latest", "single")
    return v2_source


def serve_tags(source, *tags):
    headers = {"Content-Type": "application/json"}
    answer = Answer(json.dumps({"name": NAME, "tags": sorted(tags)}).encode(), headers=headers)
    source.contents[f"{NAME}/tags/list"] = answer


def asked(source):
    """Return what was asked for, except what finds out which API the source speaks."""
    return [path for path in source.asked() if path not in ("/v1/_ping", "")]


class TestAnImageOfAV2Source:
    def test_is_pulled_with_the_ids_that_docker_computed(self, mirrored, source, open_mirror):
        pulled = mirrored.pull(NAME, "latest")
        assert [digest_of(IMAGE.config).partition(":")[2]] == list(pulled)[-1:]
        assert [*IMAGE.layers] == [layer for _, layer in pulled.values()]
        once = asked(source)
        assert not any(INDEX.images[1].digest in path for path in once), "only one platform is fetched"
        assert pulled == mirrored.pull(NAME, "latest")
        again = [path for path in asked(source)[len(once) :] if "tags/list" not in path]
        assert [] == again
        source.stop()
        assert pulled == open_mirror(url=source.url).pull(NAME, "latest")

    def test_is_here_under_the_name_of_its_upstream(self, mirrored, source):
        mirrored.pull(NAME, "latest")
        name = f"127.0.0.1-{source.port}/{NAME}"
        assert [name] == mirrored.client.get("/v2/_catalog").json["repositories"]
        assert INDEX.manifest == mirrored.client.get(f"/v2/{name}/manifests/latest").data

    def test_is_pulled_from_the_upstream_with_the_same_url(self, open_mirror, source):
        upstream = MirrorUpstream(name="up.example", url=source.url)
        mirrored = open_mirror(upstreams=(upstream,))
        mirrored.pull(NAME, "single")
        assert [f"up.example/{NAME}"] == mirrored.client.get("/v2/_catalog").json["repositories"]

    def test_is_not_fetched_while_the_registry_is_read_only(self, mirrored, source):
        mirrored.services.read_only.why = "moving"
        assert 503 == mirrored.get(f"/repositories/{NAME}/tags/single").status_code
        assert [] == asked(source)
        mirrored.services.read_only.why = None
        top = mirrored.get(f"/repositories/{NAME}/tags/single").json
        once = asked(source)
        mirrored.services.read_only.why = "moving"
        assert top == mirrored.get(f"/repositories/{NAME}/tags/single").json
        assert 503 == mirrored.get(f"/images/{top}/layer").status_code
        assert once == asked(source)
        name = RepositoryName(f"127.0.0.1-{source.port}/{NAME}")
        with pytest.raises(UpstreamUnavailable, match="fetches nothing"):
            mirrored.services.registry.blobs.fetch(name, Digest.parse(digest_of(make_image("single").layers[0])))
        assert ["HEAD"] == [method for method, _, _ in source.requests[-1:]], "it is not received"

    def test_is_unknown_without_the_tag(self, mirrored, source):
        assert 404 == mirrored.get(f"/repositories/{NAME}/tags/other").status_code
        assert 404 == mirrored.get("/repositories/acme/nothing/tags").status_code
        assert 404 == mirrored.get("/repositories/acme/nothing/images").status_code
        assert 404 == mirrored.get(f"/images/{'a' * 64}/json").status_code

    def test_that_is_no_image_has_no_tag(self, mirrored, source):
        artifact = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest_of(b"{}"), "size": 2},
                "layers": [],
            }
        ).encode()
        source.put_manifest(NAME, "artifact", artifact, "application/vnd.oci.image.manifest.v1+json")
        serve_tags(source, "artifact", "single")
        answer = mirrored.get(f"/repositories/{NAME}/tags/artifact")
        assert (404, "The tag refers to an artifact, not an image.") == (answer.status_code, answer.json["error"])
        assert ["single"] == list(mirrored.get(f"/repositories/{NAME}/tags").json)

    def test_is_listed_with_a_limited_number_of_tags(self, mirrored, source):
        image = make_image("single")
        tags = [f"t{number:03}" for number in range(2 * MAX_TAGS)]
        for tag in tags:
            source.put_manifest(NAME, tag, image.manifest, image.media_type)
        serve_tags(source, "latest", *tags)
        mirrored.get(f"/repositories/{NAME}/tags/{tags[-1]}")
        listed = mirrored.get(f"/repositories/{NAME}/tags").json
        assert MAX_TAGS == len(listed)
        assert {"latest", tags[0], tags[-1]} <= set(listed)

    def test_is_listed_in_the_context_of_the_request(self, mirrored, source, driver, monkeypatch):
        request, put_content, found = ContextVar("request", default=""), driver.put_content, {}

        def put(path, content, **options):
            found[path] = request.get()
            put_content(path, content, **options)

        monkeypatch.setattr(driver, "put_content", put)
        request.set("this one")
        assert {"latest", "single"} == set(mirrored.get(f"/repositories/{NAME}/tags").json)
        assert ["this one"] * 2 == [each for path, each in found.items() if "/_v1/tops/" in path]

    @pytest.mark.parametrize("part", ["config", "layer"])
    def test_with_a_wrong_part_is_a_bad_gateway(self, mirrored, source, part):
        digest = digest_of(IMAGE.config if part == "config" else IMAGE.layers[-1])
        source.contents[f"{NAME}/blobs/{digest}"] = Answer(gzip.compress(b"something else"))
        answer = mirrored.get(f"/repositories/{NAME}/tags/latest")
        if part == "layer":
            assert 200 == answer.status_code
            answer = mirrored.get(f"/images/{answer.json}/layer")
        assert 502 == answer.status_code
        assert digest.partition(":")[2] not in " ".join(mirrored.image_paths())

    @pytest.mark.parametrize("is_right", [True, False])
    def test_is_sent_while_its_layer_is_received(self, mirrored, source, driver, is_right):
        plain = make_tar({"file": random.Random(1).randbytes(3_000_000)})
        layer = gzip.compress(plain, 1)
        diff_id = digest_of(plain if is_right else b"of another layer")
        config = {"architecture": "amd64", "os": "linux", "rootfs": {"diff_ids": [diff_id]}}
        source.add(NAME, "large", Image("amd64", encoded(config), (layer,)))
        blob = f"{NAME}/blobs/{digest_of(layer)}"
        source.contents[blob] = Answer(layer, pause_seconds=0.01)
        top = mirrored.get(f"/repositories/{NAME}/tags/large").json
        assert [top] == mirrored.get(f"/images/{top}/ancestry").json
        assert f"/v2/{blob}" not in [path for _, path, _ in source.requests]
        assert str(len(layer)) == mirrored.get(f"/images/{top}/json").headers["X-Docker-Size"]
        blocks = mirrored.client.get(f"/v1/images/{top}/layer", buffered=False).iter_encoded()
        received = bytearray(next(blocks))
        assert not driver.exists(layout.blob_data(Digest.of(layer)))
        with nullcontext() if is_right else pytest.raises(ConnectionResetError, match="not that of the image"):
            for block in blocks:
                received += block
        assert (layer if is_right else layer[:-WITHHELD_BYTES]) == received

    def test_is_not_given_to_clients_that_may_not_see_its_repository(self, mirrored, source):
        legacy, registry = mirrored.services.require_legacy(), mirrored.services.registry
        mirrored.pull(NAME, "latest")
        from docker_registry.registry.names import ImageRepositoryName

        name = ImageRepositoryName.parse(f"127.0.0.1-{source.port}/{NAME}")
        legacy.private_images.set_private(name, private=True)
        registry.private_repositories.serve_private = False
        assert 404 == mirrored.get(f"/repositories/{NAME}/tags/latest").status_code


class TestTheNameOfASource:
    @pytest.mark.parametrize(
        ("url", "name"),
        [
            ("https://registry-1.docker.io", "docker.io"),
            ("https://index.docker.io/", "docker.io"),
            ("https://Registry.Example:443", "registry.example"),
            ("http://10.0.0.5:5000", "10.0.0.5-5000"),
            ("http://[::1]:5000", "1-5000"),
        ],
    )
    def test_is_that_of_its_host(self, url, name):
        assert name == parse_source("mirroring.source", url).name
