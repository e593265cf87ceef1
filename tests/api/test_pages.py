"""Paged lists on each kind of store: one with folder versions and two without."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import chain

import pytest

from docker_registry.app import create_app
from docker_registry.config.schema import Config
from docker_registry.drivers.file import FileDriver
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.services import build
from tests.support.clients.v2 import OCI_MANIFEST, digest_of, encoded
from tests.support.images import descriptor

EMPTY = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest_of(b"{}"), "size": 2}


class FarAway(MemoryDriver):
    """Whose files come by pages, and whose folders have no versions: an object store."""

    capabilities = replace(MemoryDriver.capabilities, pages=True)


@pytest.fixture(params=["file", "memory", "objects"])
def client(request, tmp_path):
    if request.param == "file":
        driver = FileDriver(str(tmp_path / "store"))
    else:
        driver = MemoryDriver() if request.param == "memory" else FarAway()
    config = Config(max_page_entries=10, search_backend=None)
    return create_app(build(config, driver)).test_client()


def manifest(**more):
    return encoded({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": EMPTY, "layers": [], **more})


def push(client, name, reference, payload=None):
    payload = payload or manifest()
    assert 201 == client.post(f"/v2/{name}/blobs/uploads/?digest={EMPTY['digest']}", data=b"{}").status_code
    answer = client.put(f"/v2/{name}/manifests/{reference}", data=payload, content_type=OCI_MANIFEST)
    assert 201 == answer.status_code, answer.text


def pages(client, url, key):
    """Return all pages of a list."""
    while url:
        answer = client.get(url)
        assert 200 == answer.status_code
        yield [entry if isinstance(entry, str) else entry["digest"] for entry in answer.get_json(force=True)[key]]
        link = answer.headers.get("Link")
        url = re.fullmatch(r'<(.+)>; rel="next"', link)[1] if link else None


def joined(pages):
    return list(chain.from_iterable(pages))


#: In ASCII order, which is not the order of people.
TAGS = sorted(["1.0", "1.10", "1.9", "A", "B", "_", "a", "a-b", "a.b", "a_b", "b"])


class TestTags:
    @pytest.fixture(autouse=True)
    def tags(self, client):
        for tag in reversed(TAGS):
            push(client, "acme/web", tag)

    @pytest.mark.parametrize("count", [1, 2, 3, 10])
    def test_are_listed_in_order_page_by_page(self, client, count):
        found = list(pages(client, f"/v2/acme/web/tags/list?n={count}", "tags"))
        assert TAGS == joined(found)
        assert all(count == len(page) for page in found[:-1])

    def test_never_exceed_the_maximum_page_size(self, client):
        for url in ("/v2/acme/web/tags/list", "/v2/acme/web/tags/list?n=1000"):
            assert [TAGS[:10], TAGS[10:]] == list(pages(client, url, "tags"))

    def test_are_empty_when_n_is_0(self, client):
        assert [[]] == list(pages(client, "/v2/acme/web/tags/list?n=0", "tags"))

    @pytest.mark.parametrize("last", ["", "0", "A", "Az", "a.c", "zzz"])
    def test_continue_after_any_given_name(self, client, last):
        found = joined(pages(client, f"/v2/acme/web/tags/list?n=3&last={last}", "tags"))
        assert [tag for tag in TAGS if tag > last] == found

    def test_reflect_changes_between_two_pages(self, client):
        found = pages(client, "/v2/acme/web/tags/list?n=4", "tags")
        first = next(found)
        for gone in (first[1], TAGS[5]):
            assert 202 == client.delete(f"/v2/acme/web/manifests/{gone}").status_code
        push(client, "acme/web", "Zz")
        assert sorted({*TAGS[4:], "Zz"} - {TAGS[5]}) == joined(found)

    def test_of_a_repository_without_tags_are_empty(self, client):
        push(client, "acme/none", digest_of(manifest()))
        assert [[]] == list(pages(client, "/v2/acme/none/tags/list", "tags"))
        assert 404 == client.get("/v2/acme/nobody/tags/list").status_code


class TestRepositories:
    NAMES = sorted(f"{name}/{number}" for name in ("a", "a-b", "b/c") for number in range(5))

    @pytest.fixture(autouse=True)
    def repositories(self, client):
        for name in reversed(self.NAMES):
            push(client, name, "v1")

    @pytest.mark.parametrize("count", [1, 4, 10])
    def test_are_listed_in_order_page_by_page(self, client, count):
        found = list(pages(client, f"/v2/_catalog?n={count}", "repositories"))
        assert self.NAMES == joined(found)
        assert all(count == len(page) for page in found[:-1])

    def test_continue_after_any_given_name(self, client):
        for last in ("a-", "a/2", "b", "z"):
            found = joined(pages(client, f"/v2/_catalog?n=3&last={last}", "repositories"))
            assert [name for name in self.NAMES if name > last] == found


class TestReferrers:
    def test_are_listed_page_by_page(self, client):
        subject = manifest()
        push(client, "acme/web", "v1", subject)
        about = descriptor(subject, OCI_MANIFEST)
        payloads = [manifest(subject=about, annotations={"number": f"{number}"}) for number in range(25)]
        for payload in payloads:
            push(client, "acme/web", digest_of(payload), payload)
        found = list(pages(client, f"/v2/acme/web/referrers/{about['digest']}", "manifests"))
        assert [10, 10, 5] == list(map(len, found))
        assert sorted(map(digest_of, payloads)) == joined(found)
