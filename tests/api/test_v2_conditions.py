"""Changes on conditions, many tags in one push, what may not be deleted (RFC 9110, section 13; end-7b; end-9)."""

from __future__ import annotations

import json

import pytest

from tests.api.conftest import code, unique
from tests.api.test_v2_blobs import digest_of
from tests.api.test_v2_manifests import DOCKER, INDEX, OCI, image
from tests.support.servers.registry import Server


def prepare(session, url, name):
    for content in (b"{}", b"layer"):
        session.post(f"{url}/v2/{name}/blobs/uploads/?digest={digest_of(content)}", data=content)
    return name


@pytest.fixture
def name(session, server):
    return prepare(session, server.url, unique("conditions"))


@pytest.fixture
def put(session, server, name):
    def put(reference="latest", note="", **headers):
        url = f"{server.url}/v2/{name}/manifests/{reference}"
        return session.put(url, data=image(note), headers={"Content-Type": OCI, **headers})

    return put


@pytest.fixture
def get(session, server, name):
    return lambda reference="latest", **headers: session.get(
        f"{server.url}/v2/{name}/manifests/{reference}", headers=headers
    )


class TestATagThatIsReplacedOnACondition:
    def test_is_replaced_when_it_is_what_the_client_saw(self, put, get):
        etag = put(note="1") and get().headers["ETag"]
        assert 201 == put(note="2", **{"If-Match": etag}).status_code
        assert image("2") == get().content

    def test_is_not_replaced_when_it_has_changed(self, put, get):
        etag = put(note="1") and get().headers["ETag"]
        put(note="2")
        answer = put(note="3", **{"If-Match": etag})
        assert (412, "DENIED") == (answer.status_code, code(answer))
        assert image("2") == get().content

    def test_is_not_replaced_when_the_client_names_no_version(self, put, get):
        put(note="1")
        assert 412 == put(note="2", **{"If-Match": ""}).status_code
        assert image("1") == get().content

    def test_is_created_only_if_it_is_missing(self, put, get):
        assert 201 == put(note="1", **{"If-None-Match": "*"}).status_code
        assert 412 == put(note="2", **{"If-None-Match": "*"}).status_code
        assert image("1") == get().content

    def test_is_replaced_only_if_it_exists(self, put, get):
        assert 412 == put(**{"If-Match": "*"}).status_code
        assert 404 == get().status_code


class TestAPushByDigest:
    def test_may_bring_many_tags(self, session, server, put, get, name):
        tags = [f"v1.{number}" for number in range(12)]
        query = "&".join(f"tag={tag}" for tag in tags)
        answer = put(f"{digest_of(image())}?{query}")
        assert (201, ", ".join(tags)) == (answer.status_code, answer.headers["OCI-Tag"])
        assert sorted(tags) == session.get(f"{server.url}/v2/{name}/tags/list").json()["tags"]

    def test_with_a_bad_tag_changes_nothing(self, session, server, put, get, name):
        answer = put(f"{digest_of(image())}?tag=good&tag=.bad")
        assert 400 == answer.status_code
        assert (404, 404) == (get("good").status_code, get(digest_of(image())).status_code)


class TestAPullByTag:
    @pytest.mark.parametrize(
        "accept", [OCI, f"{DOCKER}, {OCI}", "*/*", "application/*", "application/json", f"{OCI};q=0.5"]
    )
    def test_is_served_to_clients_that_accept_it(self, put, get, accept):
        put()
        assert 200 == get(Accept=accept).status_code

    @pytest.mark.parametrize("accept", [DOCKER, f"{DOCKER}, application/json", INDEX])
    def test_is_not_found_by_clients_that_do_not_accept_it(self, put, get, accept):
        put()
        answer = get(Accept=accept)
        assert (404, "MANIFEST_UNKNOWN") == (answer.status_code, code(answer))

    def test_by_digest_is_served_to_everyone(self, put, get):
        put()
        assert 200 == get(digest_of(image()), Accept=DOCKER).status_code


class TestAnIndexWithoutItsChildren:
    def test_is_stored_with_a_warning(self, session, server, name):
        child = {"mediaType": OCI, "digest": digest_of(b"child"), "size": 5}
        answer = session.put(
            f"{server.url}/v2/{name}/manifests/x",
            data=json.dumps({"schemaVersion": 2, "manifests": [child]}),
            headers={"Content-Type": INDEX},
        )
        assert (201, True) == (answer.status_code, answer.headers["Warning"].startswith('299 - "'))


@pytest.fixture(scope="module")
def strict(tmp_path_factory):
    environment = {
        "REGISTRY_DELETE_TAGS": "false",
        "REGISTRY_DELETE_MANIFESTS": "false",
        "REGISTRY_DELETE_BLOBS": "false",
        "REGISTRY_IMMUTABLE_TAGS": "v*",
        "REGISTRY_CHECK_INDEX_CHILDREN": "true",
    }
    with Server(tmp_path_factory.mktemp("strict") / "store", **environment) as server:
        yield server


class TestAStrictRegistry:
    @pytest.mark.parametrize("path", ["manifests/latest", f"manifests/{digest_of(b'x')}", f"blobs/{digest_of(b'x')}"])
    def test_deletes_nothing(self, session, strict, path):
        answer = session.delete(f"{strict.url}/v2/a/{path}")
        assert (405, "UNSUPPORTED") == (answer.status_code, code(answer))

    def test_keeps_immutable_tags(self, session, strict):
        prepare(session, strict.url, "a")
        url = f"{strict.url}/v2/a/manifests"
        assert 201 == session.put(f"{url}/v1", data=image("1"), headers={"Content-Type": OCI}).status_code
        answer = session.put(f"{url}/v1", data=image("2"), headers={"Content-Type": OCI})
        assert (409, "DENIED") == (answer.status_code, code(answer))
        assert 404 == session.get(f"{url}/{digest_of(image('2'))}").status_code
        assert image("1") == session.get(f"{url}/v1").content

    def test_requires_the_children_of_an_index(self, session, strict):
        prepare(session, strict.url, "a")
        payload = json.dumps({"schemaVersion": 2, "manifests": [{"digest": digest_of(b"child"), "size": 1}]})
        answer = session.put(f"{strict.url}/v2/a/manifests/x", data=payload, headers={"Content-Type": INDEX})
        assert (404, "MANIFEST_BLOB_UNKNOWN") == (answer.status_code, code(answer))


class TestTheNamespaceParameter:
    def test_chooses_nothing_and_says_so(self, session, server, put, name):
        put()
        answer = session.get(f"{server.url}/v2/{name}/manifests/latest?ns=docker.io")
        assert (200, False) == (answer.status_code, "OCI-Namespace" in answer.headers)
