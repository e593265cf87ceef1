from __future__ import annotations

import pytest

from docker_registry.errors import RangeInvalid, UploadUnknown
from docker_registry.registry import layout
from docker_registry.registry.names import Digest
from docker_registry.registry.upload_sessions import Chunk, Upload, UploadSessions, parse_upload_id
from tests.registry.conftest import NAME, OTHER, Clock


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def sessions(driver, clock):
    return UploadSessions(driver, clock)


def begin(sessions):
    """Start a session and return it as the next request finds it."""
    return sessions.get(NAME, sessions.start(NAME).id)


def bring(sessions, upload, content, name="chunk"):
    """Write a chunk and enter it."""
    chunk = Chunk(f"{upload.size}-{name}", len(content), Digest.of(content))
    sessions.write(upload.path(chunk), [content])
    return sessions.enter(upload, chunk)


class TestASession:
    def test_begins_empty_and_is_found_again(self, sessions):
        upload = sessions.start(NAME)
        assert upload == sessions.get(NAME, upload.id)
        assert 0 == upload.size

    def test_remembers_how_its_chunks_are_hashed(self, sessions):
        upload = sessions.start(NAME, "sha512")
        assert "sha512" == sessions.get(NAME, upload.id).algorithm

    def test_grows_with_each_chunk(self, sessions):
        upload = begin(sessions)
        assert 5 == bring(sessions, upload, b"good ").size
        assert 10 == bring(sessions, sessions.get(NAME, upload.id), b"bytes").size
        assert 10 == sessions.get(NAME, upload.id).size

    def test_belongs_to_its_repository(self, sessions):
        upload = sessions.start(NAME)
        with pytest.raises(UploadUnknown):
            sessions.get(OTHER, upload.id)

    def test_may_belong_to_none(self, sessions):
        upload = sessions.start(None)
        assert upload == sessions.get(None, upload.id)

    def test_of_another_server_cannot_be_continued(self, sessions, driver):
        upload = Upload(NAME, "0b5c5b0e-0000-4000-8000-000000000000")
        for file in ("startedat", "data"):
            driver.put_content(f"{upload.folder}/{file}", b"")
        with pytest.raises(UploadUnknown):
            sessions.get(NAME, upload.id)

    def test_that_a_crash_of_the_host_has_cut_off_is_unknown(self, sessions, driver):
        upload = sessions.start(NAME)
        driver.put_content(f"{upload.folder}/state", b"")
        with pytest.raises(UploadUnknown):
            sessions.get(NAME, upload.id)

    def test_leaves_nothing_when_it_ends(self, sessions, driver):
        upload = bring(sessions, begin(sessions), b"x")
        sessions.end(upload)
        sessions.end(upload)
        assert [] == list(driver.walk())

    @pytest.mark.parametrize("text", ["", "x", "..", "0" * 32, "{0b5c5b0e-0000-4000-8000-000000000000}"])
    def test_has_an_id_that_this_registry_could_have_given(self, text):
        with pytest.raises(UploadUnknown):
            parse_upload_id(text)


class TestTwoRequestsThatEnterAChunkAtOnce:
    @pytest.mark.parametrize("before", [b"", b"a chunk before"])
    def test_end_with_the_chunk_of_one(self, sessions, driver, before):
        upload = begin(sessions)
        if before:
            bring(sessions, upload, before)
        seen = sessions.get(NAME, upload.id)
        bring(sessions, seen, b"first", "first")
        with pytest.raises(RangeInvalid):
            bring(sessions, seen, b"second", "second")

        assert len(before) + 5 == sessions.get(NAME, upload.id).size
        assert not [stat.path for stat in driver.walk() if stat.path.endswith("second")]


class TestARequestThatWakesUpAfterItsSession:
    def test_leaves_no_ghost_of_it(self, sessions, driver):
        upload = begin(sessions)
        sessions.end(upload)
        with pytest.raises(UploadUnknown):
            bring(sessions, upload, b"late")
        assert [] == list(driver.walk())


class TestPurging:
    def test_forgets_only_what_nobody_touched_for_long(self, sessions, driver, clock):
        bring(sessions, begin(sessions), b"x")
        newest = max(stat.modified for stat in driver.walk())
        clock.turn(newest - clock().timestamp() + 50)
        assert 0 == sessions.purge(NAME, 100)
        clock.turn(51)
        assert 1 == sessions.purge(NAME, 100)
        assert [] == list(driver.walk())

    def test_forgets_the_sessions_of_distribution_too(self, sessions, driver, clock):
        path = f"{layout.uploads(NAME)}/0b5c5b0e-0000-4000-8000-000000000000/data"
        driver.put_content(path, b"")
        clock.turn(driver.stat(path).modified)
        assert 1 == sessions.purge(NAME, 100)

    def test_of_a_repository_without_uploads_does_nothing(self, sessions):
        assert 0 == sessions.purge(NAME, 0)
