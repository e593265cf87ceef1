"""Blobs over real HTTP (OCI Distribution Specification, "Pulling blobs", "Deleting blobs"; RFC 9110, section 14)."""

from __future__ import annotations

import random

import pytest

from docker_registry.api.downloads import MAX_RANGES
from tests.api.conftest import code, unique
from tests.support.multipart import parts_of

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

    def test_is_served_to_a_client_with_a_token_of_another_registry(self, session, url):
        """Homebrew sends the same one to every registry."""
        assert CONTENT == session.get(url, headers={"Authorization": "Bearer QQ=="}).content

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
    def test_is_served_as_requested(self, session, url, text, first, last):
        answer = session.get(url, headers={"Range": f"bytes={text}"})
        assert (206, CONTENT[first : last + 1]) == (answer.status_code, answer.content)
        assert f"bytes {first}-{last}/1024" == answer.headers["Content-Range"]

    @pytest.mark.parametrize("text", ["1024-", "1024-2000", "99999-", "-0", "9-5"])
    def test_beyond_the_end_cannot_be_satisfied(self, session, url, text):
        answer = session.get(url, headers={"Range": f"bytes={text}"})
        assert (416, "bytes */1024") == (answer.status_code, answer.headers["Content-Range"])

    @pytest.mark.parametrize("text", ["bytes=", "bytes=-", "bytes=a-b", "lines=0-5", "bytes=0-1,x", "5-9"])
    def test_that_is_malformed_is_ignored(self, session, url, text):
        answer = session.get(url, headers={"Range": text})
        assert (200, CONTENT) == (answer.status_code, answer.content)

    def test_of_another_content_is_ignored(self, session, url):
        answer = session.get(url, headers={"Range": "bytes=0-4", "If-Range": '"sha256:other"'})
        assert 200 == answer.status_code

    def test_of_this_content_is_served(self, session, url):
        answer = session.get(url, headers={"Range": "bytes=0-4", "If-Range": session.head(url).headers["ETag"]})
        assert 206 == answer.status_code


class TestSeveralRanges:
    """RFC 9110, sections 14.6 and 15.3.7.2."""

    def test_are_served_as_the_parts_of_one_response(self, session, url):
        answer = session.get(url, headers={"Range": "bytes=0-1,5-6, -3,2000-"})
        assert 206 == answer.status_code
        assert "Content-Range" not in answer.headers
        assert session.head(url).headers["ETag"] == answer.headers["ETag"]
        expected = [(0, CONTENT[:2]), (5, CONTENT[5:7]), (1021, CONTENT[-3:])]
        assert expected == parts_of(answer.headers["Content-Type"], answer.content)

    def test_that_overlap_are_joined_and_the_others_keep_their_order(self, session, url):
        answer = session.get(url, headers={"Range": "bytes=900-901,7-9,0-5,3-8,10-10,8-8"})
        parts = parts_of(answer.headers["Content-Type"], answer.content)
        assert [(900, CONTENT[900:902]), (0, CONTENT[:10]), (10, CONTENT[10:11])] == parts

    def test_of_which_one_remains_are_served_as_one(self, session, url):
        for text in ("0-5,3-9", "0-9,5000-6000"):
            answer = session.get(url, headers={"Range": f"bytes={text}"})
            assert (206, CONTENT[:10]) == (answer.status_code, answer.content)
            assert "bytes 0-9/1024" == answer.headers["Content-Range"]

    @pytest.mark.parametrize("text", ["1024-,2000-3000", "0-1,9-5"])
    def test_that_cannot_be_satisfied_are_refused(self, session, url, text):
        answer = session.get(url, headers={"Range": f"bytes={text}"})
        assert (416, "bytes */1024") == (answer.status_code, answer.headers["Content-Range"])

    def test_more_than_the_limit_are_ignored(self, session, url):
        answer = session.get(url, headers={"Range": "bytes=" + "0-0," * (MAX_RANGES + 1)})
        assert (200, CONTENT) == (answer.status_code, answer.content)

    def test_a_thousand_of_a_large_blob_are_all_served(self, session, server):
        content = random.Random(7).randbytes(4_000_000)
        name = unique("blobs")
        session.post(f"{server.url}/v2/{name}/blobs/uploads/?digest={digest_of(content)}", data=content)
        starts = range(0, 1024 * 3900, 3900)
        text = ",".join(f"{start}-{start + 99}" for start in starts)
        answer = session.get(f"{server.url}/v2/{name}/blobs/{digest_of(content)}", headers={"Range": f"bytes={text}"})
        expected = [(start, content[start : start + 100]) for start in starts]
        assert expected == parts_of(answer.headers["Content-Type"], answer.content)


class TestARangeOfNothing:
    @pytest.mark.parametrize("text", ["0-", "0-99", "-5", "5-6,0-1"])
    def test_is_the_empty_blob(self, session, server, text):
        name = unique("blobs")
        session.post(f"{server.url}/v2/{name}/blobs/uploads/?digest={digest_of(b'')}", data=b"")
        url = f"{server.url}/v2/{name}/blobs/{digest_of(b'')}"
        answer = session.get(url, headers={"Range": f"bytes={text}"})
        assert (200, b"") == (answer.status_code, answer.content)


class TestDeleting:
    def test_a_blob_removes_it_from_its_repository_only(self, session, server):
        names = unique("delete"), unique("delete")
        for name in names:
            session.post(f"{server.url}/v2/{name}/blobs/uploads/?digest={digest_of(b'x')}", data=b"x")
        first, second = (f"{server.url}/v2/{name}/blobs/{digest_of(b'x')}" for name in names)
        assert 202 == session.delete(first).status_code
        assert (404, 200) == (session.get(first).status_code, session.get(second).status_code)
        assert 404 == session.delete(first).status_code
