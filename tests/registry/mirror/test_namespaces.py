"""Which upstream a request means: by `ns`, by the Host header, or by the name alone."""

from __future__ import annotations

import pytest

from docker_registry.errors import ConfigError
from docker_registry.registry.mirror.namespaces import Namespaces
from docker_registry.registry.mirror.upstream import Upstreams, parse_upstream
from tests.registry.mirror.conftest import NAME, THERE
from tests.support.clients.v2 import OCI_MANIFEST, digest_of
from tests.support.images import make_image

PUBLIC, PRIVATE = make_image("public", layer_bytes=10), make_image("private", layer_bytes=10)
PATH = f"/v2/{THERE}/manifests/v1"

#: Namespaces that are refused without any connection, and the status.
BAD = {
    "docker.io/library": 400,
    "https://up.example": 400,
    "up.example:0": 400,
    "up.example:65536": 400,
    "up.example:port": 400,
    "up.example ": 400,
    "a@up.example": 400,
    "-": 400,
    "x" * 300: 400,
    "169.254.169.254": 404,
    "metadata.google.internal": 404,
    "localhost": 404,
    "localhost:5001": 404,
    "127.0.0.1": 404,
    "[::1]:5000": 404,
    "quay.io": 404,
    "sub.up.example": 404,
}


@pytest.fixture(scope="module")
def both(shared):
    """A mirror that also has a pushed repository of the upstream's name, with another image."""
    mirrored, upstream = shared
    upstream.add(THERE, "v1", PUBLIC)
    for digest, content in PRIVATE.blobs.items():
        assert 201 == mirrored.client.post(f"/v2/{THERE}/blobs/uploads/?digest={digest}", data=content).status_code
    assert 201 == mirrored.client.put(PATH, data=PRIVATE.manifest, content_type=OCI_MANIFEST).status_code
    return mirrored, upstream


class TestARequest:
    def test_gets_what_it_means(self, both):
        mirrored, _ = both
        assert PRIVATE.manifest == mirrored.client.get(PATH).data
        assert PUBLIC.manifest == mirrored.get("manifests/v1").data
        answer = mirrored.client.get(f"{PATH}?ns=up.example")
        assert (PUBLIC.manifest, "up.example") == (answer.data, answer.headers["OCI-Namespace"])
        for digest, content in PUBLIC.blobs.items():
            assert content == mirrored.client.get(f"/v2/{THERE}/blobs/{digest}?ns=UP.example").data
        assert PRIVATE.manifest == mirrored.client.get(f"{PATH}?ns=").data

    def test_for_a_namespace_that_is_named_like_its_upstream_has_that_name_twice(self, both):
        mirrored, upstream = both
        upstream.add(NAME, "v1", PRIVATE)
        for name, image in {NAME: PUBLIC, f"up.example/{NAME}": PRIVATE}.items():
            for query in ("", "?ns=up.example"):
                assert image.manifest == mirrored.client.get(f"/v2/{name}/manifests/v1{query}").data

    def test_by_namespace_may_name_the_address_of_the_upstream(self, both):
        mirrored, upstream = both
        assert PUBLIC.manifest == mirrored.client.get(f"{PATH}?ns=127.0.0.1:{upstream.port}").data

    def test_by_namespace_may_name_an_address_of_ipv6(self):
        urls = {"six": "https://[2001:DB8::1]", "port": "http://[::1]:5"}
        namespaces = Namespaces(Upstreams(parse_upstream(*each) for each in urls.items()), {}, (), None)
        for text, name in {"[2001:db8::1]": "six", "[::1]:5": "port"}.items():
            assert name == namespaces.find(text, "").name

    def test_by_namespace_goes_to_the_next_page_with_it(self, both):
        mirrored, upstream = both
        upstream.add(THERE, "v2", PUBLIC)
        assert [200] * 2 == [mirrored.get(f"manifests/{tag}").status_code for tag in ("v1", "v2")]
        first = mirrored.client.get(f"/v2/{THERE}/tags/list?n=1&ns=up.example")
        assert ["v1"] == first.json["tags"]
        following = mirrored.client.get(first.headers["Link"].partition(">")[0].lstrip("<"))
        assert ["v2"] == following.json["tags"]

    def test_cannot_change_an_upstream(self, both):
        mirrored, _ = both
        answer = mirrored.client.post(f"/v2/{THERE}/blobs/uploads/?ns=up.example")
        assert 405 == answer.status_code
        pushed = mirrored.client.put(f"{PATH}?ns=up.example", data=PRIVATE.manifest, content_type=OCI_MANIFEST)
        assert 405 == pushed.status_code

    @pytest.mark.parametrize("namespace", BAD, ids=lambda text: text[:30])
    def test_with_another_namespace_is_refused(self, both, namespace):
        mirrored, upstream = both
        upstream.requests.clear()
        answer = mirrored.client.get(PATH, query_string={"ns": namespace})
        assert BAD[namespace] == answer.status_code
        assert "errors" in answer.json
        assert [] == upstream.requests

    def test_with_two_namespaces_is_refused(self, both):
        assert 400 == both[0].client.get(f"{PATH}?ns=up.example&ns=quay.io").status_code


class TestARegistryThatIsNamedInRequests:
    @pytest.fixture
    def named(self, open_mirror, upstream):
        upstream.add(THERE, "v1", PUBLIC)
        section = {"hosts": {"hub.example:5000": "up.example"}, "own_names": ("localhost:5001",)}
        return open_mirror(mirroring=section, external_url="https://registry.example:444/")

    def test_is_itself_by_its_own_names(self, named):
        for namespace in ("localhost:5001", "registry.example:444", "REGISTRY.example:444"):
            pushed = named.client.post(f"/v2/{THERE}/blobs/uploads/?ns={namespace}&digest={digest_of(b'a')}", data=b"a")
            assert 201 == pushed.status_code
            assert b"a" == named.client.get(f"/v2/{THERE}/blobs/{digest_of(b'a')}?ns={namespace}").data
        assert 404 == named.client.get(f"{PATH}?ns=localhost").status_code

    def test_is_an_upstream_by_the_host_of_the_request(self, named):
        answer = named.client.get(PATH, base_url="http://hub.example:5000")
        assert (200, PUBLIC.manifest) == (answer.status_code, answer.data)
        assert "OCI-Namespace" not in answer.headers
        assert PUBLIC.manifest == named.client.get(PATH, base_url="http://HUB.example.:5000").data
        assert 404 == named.client.get(PATH, base_url="http://other.example").status_code
        digest = next(iter(PUBLIC.blobs))
        blob = named.client.get(f"/v2/{THERE}/blobs/{digest}", base_url="http://hub.example:5000")
        again = named.client.get(blob.headers["Location"], base_url="http://hub.example:5000")
        assert blob.data == again.data == PUBLIC.blobs[digest]
        refused = named.client.post(f"/v2/{THERE}/blobs/uploads/", base_url="http://hub.example:5000")
        assert 405 == refused.status_code

    def test_does_not_serve_api_v1_by_the_host_of_the_upstream(self, open_mirror):
        """Otherwise old Dockers, which turn to it after a 404, would get a repository that was pushed here."""
        mirrored = open_mirror(mirroring={"hosts": {"hub.example": "up.example"}}, v1=True)
        tag = f"/v1/repositories/{THERE}/tags/v1"
        for digest, content in PRIVATE.blobs.items():
            mirrored.client.post(f"/v2/{THERE}/blobs/uploads/?digest={digest}", data=content)
        mirrored.client.put(PATH, data=PRIVATE.manifest, content_type=OCI_MANIFEST)
        assert [200, 200] == [mirrored.client.get(path).status_code for path in (tag, "/v1/search")]
        for method, path in (
            ("GET", tag),
            ("GET", f"/v1/repositories/{THERE}/images"),
            ("GET", "/v1/search"),
            ("PUT", tag),
            ("DELETE", tag),
        ):
            answer = mirrored.client.open(path, method=method, base_url="http://hub.example:5000", data=b"x")
            assert (404, True) == (answer.status_code, "not served under this host" in answer.json["error"]), path
        assert 200 == mirrored.client.get("/v1/_ping", base_url="http://hub.example").status_code

    def test_is_called_by_the_name_of_the_upstream_in_lists(self, named):
        assert 200 == named.client.get(f"{PATH}?ns=up.example").status_code
        assert [NAME] == named.client.get("/v2/_catalog").json["repositories"]

    def test_is_a_mirror_as_a_whole(self, named, open_mirror):
        pushed = named.client.post(f"/v2/{THERE}/blobs/uploads/?digest={digest_of(b'a')}", data=b"a")
        assert 201 == pushed.status_code
        mirrored = open_mirror(mirroring={"default": "up.example", "own_names": ("localhost:5001",)})
        for query in ("", "?ns=up.example", "?ns=localhost:5001"):
            assert PUBLIC.manifest == mirrored.client.get(f"{PATH}{query}").data
        assert PUBLIC.manifest == mirrored.get("manifests/v1").data  # by the name here
        assert THERE == mirrored.client.get(f"/v2/{THERE}/tags/list").json["name"]
        assert 404 == mirrored.client.get(f"{PATH}?ns=quay.io").status_code
        assert 404 == mirrored.client.get(f"/v2/{THERE}/blobs/{digest_of(b'a')}").status_code
        assert [NAME] == mirrored.client.get("/v2/_catalog").json["repositories"], "what was pushed is not served"
        assert [THERE, NAME] == named.client.get("/v2/_catalog").json["repositories"]
        by_host = named.client.get("/v2/_catalog?n=1", base_url="http://hub.example:5000")
        assert ([NAME], False) == (by_host.json["repositories"], "Link" in by_host.headers)
        for method, path in (
            ("POST", f"{THERE}/blobs/uploads/"),
            ("PUT", f"{THERE}/manifests/v2"),
            ("DELETE", f"{THERE}/manifests/v1"),
            ("DELETE", f"{THERE}/blobs/{next(iter(PUBLIC.blobs))}"),
        ):
            refused = mirrored.client.open(f"/v2/{path}", method=method, data=PUBLIC.manifest)
            assert (405, "UNSUPPORTED") == (refused.status_code, refused.json["errors"][0]["code"])
        with pytest.raises(ConfigError, match="set v1: false"):
            open_mirror(mirroring={"default": "up.example"}, v1=True)

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"hosts": {"hub.example": "quay.io"}}, "no upstream"),
            ({"hosts": {"http://hub": "up"}}, "is not HOST"),
            ({"default": "quay.io"}, "no upstream"),
            ({"own_names": ["a/b"]}, "is not HOST"),
            ({"own_names": ["up"]}, "is this registry and an upstream"),
            ({"external_url": "https://h"}, "is this registry and an upstream"),
        ],
        ids=["unknown", "URL", "default", "path", "own name", "external URL"],
    )
    def test_has_valid_names(self, given, message):
        values = {"hosts": {}, "own_names": (), "external_url": None} | given
        with pytest.raises(ConfigError, match=message):
            Namespaces(Upstreams([parse_upstream("up", "https://h")]), **values)


class TestARegistryWithoutUpstreams:
    def test_ignores_namespaces(self):
        from docker_registry.app import create_app
        from docker_registry.config.schema import Config
        from docker_registry.services import build

        client = create_app(build(Config(storage="memory"))).test_client()
        assert 201 == client.post(f"/v2/a/blobs/uploads/?ns=quay.io&digest={digest_of(b'a')}", data=b"a").status_code
        assert b"a" == client.get(f"/v2/a/blobs/{digest_of(b'a')}?ns=docker.io/x").data
