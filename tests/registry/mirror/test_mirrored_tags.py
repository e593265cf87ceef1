"""When the target of a mirrored tag is asked for, and what is served meanwhile."""

from __future__ import annotations

import gc
import json
import time
import weakref
from dataclasses import replace
from io import BytesIO

import pytest

from docker_registry import dependencies
from docker_registry.app import create_app
from docker_registry.drivers.file import FileDriver
from docker_registry.registry.leases import this_process
from docker_registry.registry.mirror.tag_records import TagRecords
from docker_registry.registry.names import RepositoryName, Tag
from tests.registry.mirror.conftest import NAME, THERE, Mirrored
from tests.registry.mirror.test_authentication import Hub
from tests.support.images import make_image
from tests.support.servers.upstream import Answer
from tests.support.timing import wait_until

OLD, NEW = make_image("old", layer_bytes=10), make_image("new", layer_bytes=10)
PATH = f"{THERE}/manifests/v1"


@pytest.fixture(autouse=True)
def image(upstream):
    upstream.add(THERE, "v1", OLD)


@pytest.fixture
def pulled(mirrored, upstream):
    """A mirror that has the tag; nothing was asked since."""
    assert OLD.manifest == mirrored.get("manifests/v1").data
    upstream.requests.clear()
    return mirrored


def age(mirrored, seconds):
    """Make the record of the tag older."""
    registry = mirrored.services.registry
    records, name, tag = TagRecords(registry.driver, registry.listings), RepositoryName(NAME), Tag("v1")
    record = records.find(name, tag)
    records.put(name, tag, replace(record, checked=record.checked - seconds))


def questions(upstream):
    return [(method, path.removeprefix("/v2/")) for method, path, _ in upstream.requests]


class TestATag:
    def test_is_not_asked_for_within_its_ttl(self, pulled, upstream):
        age(pulled, 200)
        assert OLD.manifest == pulled.get("manifests/v1").data
        assert [] == questions(upstream)

    def test_has_a_response_that_may_be_repeated_until_then(self, upstream, tmp_path):
        with Mirrored(FileDriver(str(tmp_path)), upstream.url).services as services:
            client = create_app(services).test_client()

            def repeatable():
                with dependencies.collected() as found:
                    assert OLD.manifest == client.get(f"/v2/{NAME}/manifests/v1").data
                return found if found.is_complete else None

            found = wait_until(repeatable)  # its files must be a little older
        assert found.is_cacheable
        assert 0 < found.until - time.monotonic() <= 300

    def test_is_asked_for_once_by_head_when_it_is_older(self, pulled, upstream):
        age(pulled, 301)
        for _ in range(3):
            answer = pulled.get("manifests/v1")
            assert (200, OLD.manifest) == (answer.status_code, answer.data)
            assert "Warning" not in answer.headers
        assert [("HEAD", PATH)] == questions(upstream)

    def test_is_asked_for_on_one_connection(self, pulled, upstream):
        for _ in range(3):
            age(pulled, 301)
            assert OLD.manifest == pulled.get("manifests/v1").data
        assert [("HEAD", PATH)] * 3 == questions(upstream)
        assert 1 == len(upstream._connections)

    def test_is_asked_for_under_a_lease_that_ends_with_its_process(self, pulled, upstream, driver):
        age(pulled, 301)
        contents = []
        upstream.guard = lambda path, headers: contents.extend(
            driver.get_content(lease.path) for lease in driver.walk("docker/registry/v2/_leases")
        )
        assert 200 == pulled.get("manifests/v1").status_code
        assert [this_process()] == [json.loads(content).get("process") for content in contents]

    def test_that_moved_is_fetched(self, pulled, upstream):
        upstream.add(THERE, "v1", NEW)
        age(pulled, 301)
        assert NEW.manifest == pulled.get("manifests/v1").data
        assert [("HEAD", PATH), ("GET", PATH)] == questions(upstream)

    @pytest.mark.parametrize("status", [405, 501])
    def test_is_asked_for_by_get_where_head_is_not_supported(self, pulled, upstream, status):
        content = upstream.contents[PATH]
        upstream.contents[PATH] = lambda headers: (
            content if upstream.requests[-1][0] == "GET" else Answer(status=status)
        )
        age(pulled, 301)
        assert OLD.manifest == pulled.get("manifests/v1").data
        assert [("HEAD", PATH), ("GET", PATH)] == questions(upstream)

    def test_that_was_deleted_is_gone(self, pulled, upstream):
        del upstream.contents[PATH]
        age(pulled, 301)
        assert 404 == pulled.get("manifests/v1").status_code
        assert [] == pulled.get("tags/list").json["tags"]
        assert OLD.manifest == pulled.get(f"manifests/{OLD.digest}").data

    def test_whose_record_is_damaged_is_asked_for(self, pulled, upstream, driver):
        (record,) = (each.path for each in driver.walk("docker/registry/v2/_mirror") if each.path.endswith("/v1"))
        endless = b'{"digest": "%b", "checked": NaN}' % str(NEW.digest).encode()
        for damage in (b"", b"[]", b'{"digest": 1, "checked": 2}', b'{"digest": "sha256:1", "checked": 2}', endless):
            driver.put_content(record, damage)
            assert OLD.manifest == pulled.get("manifests/v1").data


class TestAKnownTag:
    @pytest.mark.parametrize(
        ("seconds", "words"),
        [(3 * 3600, "3 hours"), (301, "5 minutes"), (90 * 86400, "90 days")],
        ids=["hours", "minutes", "days"],
    )
    def test_is_served_with_a_warning_while_the_upstream_is_away(self, pulled, upstream, seconds, words):
        upstream.stop()
        age(pulled, seconds)
        answer = pulled.get("manifests/v1")
        assert (200, OLD.manifest) == (answer.status_code, answer.data)
        assert f'299 - "up.example is not reachable; this tag was checked {words} ago"' == answer.headers["Warning"]

    @pytest.mark.parametrize(
        ("status", "reason"),
        [(429, "allows few or no more pulls for now"), (500, "does not answer correctly")],
        ids=["limit", "error"],
    )
    def test_is_served_with_a_warning_after_an_error_and_not_asked_for_at_once(self, pulled, upstream, status, reason):
        upstream.contents[PATH] = Answer(status=status)
        age(pulled, 3600)
        for _ in range(3):
            answer = pulled.get("manifests/v1")
            assert OLD.manifest == answer.data
            assert f'"up.example {reason}; this tag' in answer.headers["Warning"]
        assert [("HEAD", PATH)] == questions(upstream)

    def test_leaves_nothing_of_a_request_in_memory_that_could_not_ask_for_it(self, pulled, upstream):
        upstream.contents[PATH] = Answer(status=500)
        age(pulled, 3600)
        body = BytesIO()
        gone = weakref.ref(body)
        path = f"/v2/{NAME}/manifests/v1"
        assert OLD.manifest == pulled.client.get(path, environ_overrides={"test.body": body}).data
        assert "Warning" in pulled.get("manifests/v1").headers
        del body
        gc.collect()
        assert gone() is None

    @pytest.mark.parametrize("is_token_server", [False, True])
    def test_is_not_served_to_anyone_when_the_upstream_denies_access(self, pulled, upstream, is_token_server):
        if is_token_server:
            Hub(upstream).issue = lambda headers: Answer(status=401)
        else:
            upstream.contents[PATH] = Answer(status=403)
        age(pulled, 3600)
        assert 502 == pulled.get("manifests/v1").status_code

    def test_is_not_asked_for_while_few_pulls_are_left(self, pulled, upstream):
        content = upstream.contents[PATH]
        few = {**content.headers, "ratelimit-limit": "100;w=21600", "ratelimit-remaining": "9;w=21600"}
        upstream.contents[PATH] = replace(content, headers=few)
        age(pulled, 301)
        assert "Warning" not in pulled.get("manifests/v1").headers
        age(pulled, 301)
        assert OLD.manifest == pulled.get("manifests/v1").data
        assert "few or no more pulls" in pulled.get("manifests/v1").headers["Warning"]
        assert [("HEAD", PATH)] == questions(upstream)
        upstream.add(THERE, "other", NEW)
        assert NEW.manifest == pulled.get("manifests/other").data, "what is not here is asked for"

    def test_is_served_by_a_registry_that_is_offline(self, pulled, upstream, open_mirror):
        age(pulled, 3600)
        offline = open_mirror(mirroring={"offline": True})
        assert "Warning" in offline.get("manifests/v1").headers
        assert 503 == offline.get("manifests/other").status_code
        assert 503 == offline.get(f"blobs/{next(iter(OLD.blobs))}").status_code
        assert [] == questions(upstream)
