"""Manifests, tags and repositories over real HTTP (OCI Distribution Specification, "Pulling manifests" and on)."""

from __future__ import annotations

import json
import re

import pytest

from tests.api.conftest import code, unique
from tests.api.test_v2_blobs import digest_of

OCI = "application/vnd.oci.image.manifest.v1+json"
DOCKER = "application/vnd.docker.distribution.manifest.v2+json"
INDEX = "application/vnd.oci.image.index.v1+json"


def descriptor(content):
    return {"mediaType": "application/octet-stream", "digest": digest_of(content), "size": len(content)}


def image(note=""):
    document = {"schemaVersion": 2, "config": descriptor(b"{}"), "layers": [descriptor(b"layer")], "note": note}
    return json.dumps(document, indent=3).encode()


@pytest.fixture
def name(session, server):
    """A repository that has the blobs of an image."""
    name = unique("manifests")
    for content in (b"{}", b"layer"):
        session.post(f"{server.url}/v2/{name}/blobs/uploads/?digest={digest_of(content)}", data=content)
    return name


@pytest.fixture
def put(session, server, name):
    def put(reference="latest", payload=None, content_type=OCI):
        url = f"{server.url}/v2/{name}/manifests/{reference}"
        headers = {"Content-Type": content_type} if content_type else {}
        return session.put(url, data=image() if payload is None else payload, headers=headers)

    return put


@pytest.fixture
def get(session, server, name):
    return lambda reference="latest", **kwargs: session.get(f"{server.url}/v2/{name}/manifests/{reference}", **kwargs)


class TestAManifestThatClientsReadDifferently:
    @pytest.mark.parametrize("more", [b'"Manifests": []', b'"layers": []', b'"MediaType": "text/plain"'])
    def test_is_refused(self, put, get, more):
        answer = put(payload=image().rstrip(b"}") + b", " + more + b"}")
        assert (400, "MANIFEST_INVALID") == (answer.status_code, code(answer))
        assert 404 == get().status_code


class TestAManifest:
    @pytest.mark.parametrize("media_type", [OCI, DOCKER])
    def test_is_served_as_it_was_pushed(self, put, get, name, media_type):
        answer = put(content_type=media_type)
        digest = digest_of(image())
        assert (201, digest) == (answer.status_code, answer.headers["Docker-Content-Digest"])
        assert f"/v2/{name}/manifests/{digest}" == answer.headers["Location"]
        for reference in ("latest", digest):
            answer = get(reference)
            assert (200, image(), media_type) == (answer.status_code, answer.content, answer.headers["Content-Type"])
            assert digest == answer.headers["Docker-Content-Digest"]

    def test_is_described_without_its_bytes(self, session, server, put, name):
        put()
        answer = session.head(f"{server.url}/v2/{name}/manifests/latest")
        assert (200, str(len(image())), OCI) == (
            answer.status_code,
            answer.headers["Content-Length"],
            answer.headers["Content-Type"],
        )

    def test_is_not_sent_to_a_client_that_has_it(self, put, get):
        put()
        assert 304 == get(headers={"If-None-Match": get().headers["ETag"]}).status_code

    def test_has_a_content_type_whose_parameters_do_not_matter(self, put, get):
        assert 201 == put(content_type=f"{OCI}; charset=utf-8").status_code
        assert OCI == get().headers["Content-Type"]
        assert "Accept, User-Agent" == get().headers["Vary"]

    def test_may_be_of_four_mebibytes_and_no_more(self, put):
        payload = image(" " * (4 * 1024 * 1024 - len(image())))
        assert (201, 4 * 1024 * 1024) == (put(payload=payload).status_code, len(payload))
        answer = put(payload=payload + b" ")
        assert (413, "SIZE_INVALID") == (answer.status_code, code(answer))

    def test_that_is_endless_is_rejected(self, put):
        assert 413 == put(payload=iter([b" " * 65536] * 100)).status_code

    def test_of_an_index_is_stored_without_its_children(self, put):
        index = json.dumps({"schemaVersion": 2, "manifests": [descriptor(b"child")]})
        assert 201 == put(payload=index, content_type=INDEX).status_code


class TestAnUnacceptableManifest:
    def test_names_a_missing_blob(self, put):
        payload = image().replace(digest_of(b"layer").encode(), digest_of(b"missing").encode())
        answer = put(payload=payload)
        assert (404, "MANIFEST_BLOB_UNKNOWN") == (answer.status_code, code(answer))

    @pytest.mark.parametrize("payload", [b"", b"x", b"[" * 10000, b"\xff", b'{"schemaVersion": 1}'])
    def test_is_not_a_manifest(self, put, get, payload):
        answer = put(payload=payload)
        assert (400, "MANIFEST_INVALID") == (answer.status_code, code(answer))
        assert 404 == get().status_code

    def test_does_not_match_its_digest(self, put):
        answer = put(digest_of(b"other"))
        assert (400, "DIGEST_INVALID") == (answer.status_code, code(answer))

    @pytest.mark.parametrize("tag", [".x", "-x", "a" * 129, "%C3%A4"])
    def test_has_an_invalid_tag(self, put, tag):
        answer = put(tag)
        assert (400, "MANIFEST_INVALID") == (answer.status_code, code(answer))


class TestDeleting:
    def test_a_tag_leaves_the_manifest(self, session, server, put, get, name):
        put()
        assert 202 == session.delete(f"{server.url}/v2/{name}/manifests/latest").status_code
        assert (404, 200) == (get().status_code, get(digest_of(image())).status_code)

    def test_a_manifest_deletes_its_tags(self, session, server, put, get, name):
        put()
        assert 202 == session.delete(f"{server.url}/v2/{name}/manifests/{digest_of(image())}").status_code
        assert (404, 404) == (get().status_code, get(digest_of(image())).status_code)

    def test_missing_content_is_unknown(self, session, server, name):
        for reference in ("latest", digest_of(b"x")):
            answer = session.delete(f"{server.url}/v2/{name}/manifests/{reference}")
            assert (404, "MANIFEST_UNKNOWN") == (answer.status_code, code(answer))


class TestLists:
    @pytest.fixture
    def tags(self, put):
        for tag in ("b", "a", "C", "1"):
            put(tag)
        return ["1", "C", "a", "b"]

    def test_contain_all_tags_in_order(self, session, server, name, tags):
        answer = session.get(f"{server.url}/v2/{name}/tags/list")
        assert {"name": name, "tags": tags} == answer.json()

    def test_are_listed_page_by_page(self, session, server, name, tags):
        found, path = [], f"/v2/{name}/tags/list?n=3"
        while path:
            answer = session.get(server.url + path)
            found.append(answer.json()["tags"])
            match = re.fullmatch(r'<(.*)>; rel="next"', answer.headers.get("Link", ""))
            path = match and match[1]
        assert [tags[:3], tags[3:]] == found

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ("n=0", []),
            ("n=4", None),
            ("n=99999", None),
            ("last=C", ["a", "b"]),
            ("last=B", ["C", "a", "b"]),
            ("last=z", []),
        ],
    )
    def test_can_be_limited(self, session, server, name, tags, query, expected):
        answer = session.get(f"{server.url}/v2/{name}/tags/list?{query}")
        assert (tags if expected is None else expected) == answer.json()["tags"]
        assert "Link" not in answer.headers

    @pytest.mark.parametrize("n", ["-1", "x", "1.5", "", "9" * 30])
    def test_reject_an_invalid_page_size(self, session, server, name, tags, n):
        answer = session.get(f"{server.url}/v2/{name}/tags/list?n={n}")
        assert (400, "UNSUPPORTED") == (answer.status_code, code(answer))

    def test_of_an_unknown_repository_are_not_found(self, session, server):
        answer = session.get(f"{server.url}/v2/not/there/tags/list")
        assert (404, "NAME_UNKNOWN") == (answer.status_code, code(answer))

    def test_contain_the_repositories(self, session, server, name):
        assert name in session.get(f"{server.url}/v2/_catalog").json()["repositories"]
        first = session.get(f"{server.url}/v2/_catalog?n=1")
        assert 1 == len(first.json()["repositories"])


class TestARepositoryName:
    @pytest.mark.parametrize(
        "name", ["tags/list", "a/manifests/b", "blobs/uploads", "a/blobs/uploads/x", "manifests", "v2"]
    )
    def test_may_contain_words_of_the_api(self, session, server, name):
        for content in (b"{}", b"layer"):
            pushed = session.post(f"{server.url}/v2/{name}/blobs/uploads/?digest={digest_of(content)}", data=content)
            assert 201 == pushed.status_code
        url = f"{server.url}/v2/{name}/manifests/latest"
        assert 201 == session.put(url, data=image(), headers={"Content-Type": OCI}).status_code
        assert image() == session.get(url).content
        assert ["latest"] == session.get(f"{server.url}/v2/{name}/tags/list").json()["tags"]

    @pytest.mark.parametrize("name", ["Upper", "a//b", "%00", "%FF", "a%20b", "_x", "a/../b", "a" * 300])
    def test_outside_the_grammar_is_refused(self, session, server, name):
        import requests

        request = requests.Request("GET", f"{server.url}/v2/x/tags/list").prepare()
        request.url = f"{server.url}/v2/{name}/tags/list"
        answer = session.send(request)
        assert (400, "NAME_INVALID") == (answer.status_code, code(answer))


class TestTheEnvelope:
    def test_is_used_for_missing_content(self, session, server):
        for path in ("/v2/x", "/v2/x/y/z", "/v2/_catalog/x"):
            answer = session.get(server.url + path)
            assert 404 == answer.status_code
            assert code(answer)

    def test_is_used_for_an_unsupported_method(self, session, server):
        for method, path in (("POST", "/v2/"), ("DELETE", "/v2/_catalog"), ("PATCH", "/v2/x/manifests/latest")):
            answer = session.request(method, server.url + path)
            assert (405, "UNSUPPORTED") == (answer.status_code, code(answer))
            assert "GET" in answer.headers["Allow"]

    def test_elsewhere_is_that_of_v1(self, session, server):
        answer = session.get(f"{server.url}/nothing")
        assert (404, ["error"]) == (answer.status_code, list(answer.json()))


class TestTheVersionHeader:
    @pytest.mark.parametrize(
        "agent",
        [
            "docker/28.2.2 go/go1.24",
            "docker/1.12.6 go/go1.6.4",
            "docker/17.05.0-ce",
            "containers/5.23",
            "containerd/1.6",
            "Gopher",
            "",
        ],
    )
    def test_is_sent_to_current_clients(self, session, server, agent):
        answer = session.get(f"{server.url}/v2/", headers={"User-Agent": agent})
        assert (200, "registry/2.0") == (answer.status_code, answer.headers["Docker-Distribution-Api-Version"])
        assert "User-Agent" in answer.headers["Vary"]

    @pytest.mark.parametrize(
        "agent",
        ["Go 1.1 package http", "Go-http-client/1.1", "docker/1.6.2 go/go1.4.2", "docker/1.9.1", "docker/1.11.2"],
    )
    def test_is_not_sent_to_clients_that_it_misleads(self, session, server, agent):
        for path in ("/v2/", "/v2/x/manifests/latest"):
            answer = session.get(server.url + path, headers={"User-Agent": agent})
            assert "Docker-Distribution-Api-Version" not in answer.headers


class TestAMediaType:
    """RFC 6838, section 4.2; what anyone can push never becomes a page of the registry's site."""

    @pytest.mark.parametrize(
        "media_type",
        [
            "a\nX-Evil: 1",
            "a/b\r\nSet-Cookie: x",
            "日本/x",
            "a/\x7f",
            "a\0/b",
            "a/\ud800",
            "x/" + "x" * 70_000,
            "ab",
            "a/b c",
        ],
    )
    def test_that_is_invalid_is_rejected(self, put, get, media_type):
        answer = put(payload=json.dumps({"mediaType": media_type}).encode(), content_type=None)
        assert (400, "MANIFEST_INVALID") == (answer.status_code, code(answer))
        assert 404 == get().status_code

    def test_that_is_invalid_in_the_header_is_rejected(self, put):
        for text in ("x/\xe9", "text", "a b/c"):
            answer = put(payload=b"{}", content_type=text.encode("latin-1"))
            assert (400, "MANIFEST_INVALID") == (answer.status_code, code(answer))

    @pytest.mark.parametrize("media_type", ["text/html", "image/svg+xml", "application/xhtml+xml", "Text/HTML"])
    def test_of_a_web_page_is_stored_but_not_served(self, put, get, media_type):
        payload = json.dumps({"mediaType": media_type, "x": "<script>"}).encode()
        assert 201 == put(payload=payload, content_type=None).status_code
        answer = get()
        assert (200, payload) == (answer.status_code, answer.content)
        assert "application/octet-stream" == answer.headers["Content-Type"]
        assert "nosniff" == answer.headers["X-Content-Type-Options"]

    def test_is_kept_and_served_as_it_was_pushed(self, put, get):
        spelled = "application/vnd.OCI.image.Manifest.v1+JSON"
        document = json.loads(image()) | {"mediaType": spelled}
        for content_type in (spelled, OCI, OCI.upper(), None):
            payload = json.dumps(document).encode()
            assert 201 == put(payload=payload, content_type=content_type).status_code
            assert (payload, spelled) == (get().content, get().headers["Content-Type"])
        payload = image("in the header alone")
        assert 201 == put(payload=payload, content_type=spelled).status_code
        assert (payload, spelled) == (get().content, get().headers["Content-Type"])
        assert 200 == get(headers={"Accept": OCI}).status_code

    def test_is_case_insensitive(self, put):
        for document in ({"config": descriptor(b"{}")}, {"layers": []}):
            payload = json.dumps({"schemaVersion": 2, "mediaType": INDEX.upper(), "manifests": [], **document}).encode()
            assert (400, "MANIFEST_INVALID") == (put(payload=payload).status_code, code(put(payload=payload)))
        schema_1 = b'{"mediaType": "application/vnd.docker.distribution.manifest.V1+json"}'
        assert 400 == put(payload=schema_1, content_type=None).status_code

    def test_that_an_earlier_version_stored_is_served_as_a_safe_type(self, session, server, put, get, name):
        store = server.store / "docker/registry/v2"
        payload = b'{"mediaType": "a\\nX-Evil: 1"}'
        digest = digest_of(payload)
        algorithm, _, encoded = digest.partition(":")
        data = store / "blobs" / algorithm / encoded[:2] / encoded / "data"
        link = store / "repositories" / name / "_manifests/revisions" / algorithm / encoded / "link"
        for path, content in ((data, payload), (link, digest.encode())):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        for media_type in (None, "x/\xe9".encode(), b"a\nb", b"text/html"):
            if media_type is not None:
                (link.parent / "mediatype").write_bytes(media_type)
            answer = get(digest)
            assert (200, payload) == (answer.status_code, answer.content)
            assert answer.headers["Content-Type"] in {OCI, "application/octet-stream"}


class TestAnnotations:
    @pytest.mark.parametrize("value", ["1e999", "1", "{}", "true", "[]", '"\\ud800"'])
    def test_that_are_not_strings_are_rejected(self, put, value):
        payload = image()[:-1] + b', "annotations": {"x": %b}}' % value.encode()
        answer = put(payload=payload)
        assert (400, "MANIFEST_INVALID") == (answer.status_code, code(answer))

    def test_of_null_are_stored(self, put, get):
        payload = image()[:-1] + b', "annotations": {"x": null, "y": "z"}}'
        assert 201 == put(payload=payload).status_code
        assert payload == get().content

    def test_are_not_quoted_in_errors_about_invalid_json(self, put):
        answer = put(payload=b'{"schemaVersion": 1e999, "config": {}}')
        assert 400 == answer.status_code
        assert b"Infinity" not in answer.content
