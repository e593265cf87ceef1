"""Blobs over real HTTP (OCI Distribution Specification, "Pulling blobs", "Deleting blobs"; RFC 9110, section 14)."""

from __future__ import annotations

import pytest

from tests.api.conftest import code, unique

CONTENT = bytes(range(256)) * 4


@pytest.fixture(scope="module")
def url(server, session):
    """A blob of 1024 bytes that is in the registry."""
    name, digest = unique("blobs"), digest_of(CONTENT)
    pushed = session.post(f"{server.url}/v2/{name}/blobs/uploads/?digest={digest}", data=CONTENT)
    assert 201 == pushed.status_code
    return f"{server.url}/v2/{name}/blobs/{digest}"


def digest_of(content):
    from docker_registry.registry.names import Digest

    return str(Digest.of(content))


class TestABlob:
    def test_is_served_whole(self, session, url):
        answer = session.get(url)
        assert (200, CONTENT) == (answer.status_code, answer.content)
        assert digest_of(CONTENT) == answer.headers["Docker-Content-Digest"]
        assert "application/octet-stream" == answer.headers["Content-Type"]

    def test_is_described_without_its_bytes(self, session, url):
        answer = session.head(url)
        assert (200, "1024", b"") == (answer.status_code, answer.headers["Content-Length"], answer.content)
        assert digest_of(CONTENT) == answer.headers["Docker-Content-Digest"]

    def test_is_not_sent_to_a_client_that_has_it(self, session, url):
        for etag in (session.head(url).headers["ETag"], f'W/"x", "{digest_of(CONTENT)}"', "*"):
            answer = session.get(url, headers={"If-None-Match": etag})
            assert (304, b"") == (answer.status_code, answer.content)

    def test_that_is_not_there_is_unknown(self, session, url):
        missing = url.rpartition("/")[0] + "/" + digest_of(b"missing")
        answer = session.get(missing)
        assert (404, "BLOB_UNKNOWN") == (answer.status_code, code(answer))
        assert 404 == session.head(missing).status_code

    def test_of_another_repository_is_unknown(self, session, server):
        answer = session.get(f"{server.url}/v2/{unique('blobs')}/blobs/{digest_of(CONTENT)}")
        assert (404, "BLOB_UNKNOWN") == (answer.status_code, code(answer))


class TestARange:
    @pytest.mark.parametrize(
        ("text", "first", "last"),
        [
            ("0-0", 0, 0),
            ("0-1023", 0, 1023),
            ("5-9", 5, 9),
            ("1000-", 1000, 1023),
            ("1000-99999", 1000, 1023),
            ("-24", 1000, 1023),
            ("-99999", 0, 1023),
            ("1023-1023", 1023, 1023),
        ],
    )
    def test_is_served_as_asked(self, session, url, text, first, last):
        answer = session.get(url, headers={"Range": f"bytes={text}"})
        assert (206, CONTENT[first : last + 1]) == (answer.status_code, answer.content)
        assert f"bytes {first}-{last}/1024" == answer.headers["Content-Range"]

    @pytest.mark.parametrize("text", ["1024-", "1024-2000", "99999-", "-0", "9-5"])
    def test_beyond_the_end_cannot_be_satisfied(self, session, url, text):
        answer = session.get(url, headers={"Range": f"bytes={text}"})
        assert (416, "bytes */1024") == (answer.status_code, answer.headers["Content-Range"])

    @pytest.mark.parametrize("text", ["bytes=", "bytes=-", "bytes=a-b", "lines=0-5", "bytes=0-1,5-6", "5-9"])
    def test_that_says_nothing_is_ignored(self, session, url, text):
        answer = session.get(url, headers={"Range": text})
        assert (200, CONTENT) == (answer.status_code, answer.content)

    def test_of_another_content_is_ignored(self, session, url):
        answer = session.get(url, headers={"Range": "bytes=0-4", "If-Range": '"sha256:other"'})
        assert 200 == answer.status_code

    def test_of_this_content_is_served(self, session, url):
        answer = session.get(url, headers={"Range": "bytes=0-4", "If-Range": session.head(url).headers["ETag"]})
        assert 206 == answer.status_code


class TestDeleting:
    def test_a_blob_takes_it_from_its_repository_alone(self, session, server):
        names = unique("delete"), unique("delete")
        for name in names:
            session.post(f"{server.url}/v2/{name}/blobs/uploads/?digest={digest_of(b'x')}", data=b"x")
        first, second = (f"{server.url}/v2/{name}/blobs/{digest_of(b'x')}" for name in names)
        assert 202 == session.delete(first).status_code
        assert (404, 200) == (session.get(first).status_code, session.get(second).status_code)
        assert 404 == session.delete(first).status_code
