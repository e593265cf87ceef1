from __future__ import annotations

import time

import pytest

from docker_registry.drivers.file import FileDriver
from docker_registry.errors import RangeInvalid, TooLarge, UploadUnknown
from docker_registry.registry import layout
from docker_registry.registry.access import hide
from docker_registry.registry.names import Digest, parse_upload_id
from docker_registry.registry.upload_sessions import MAX_LISTED, Chunk, Upload, UploadSessions
from tests.registry.conftest import NAME, OTHER
from tests.support.clock import Clock


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def sessions(driver, clock):
    return UploadSessions(driver, clock)


def begin(sessions):
    """Start a session and load it as the next request does."""
    return sessions.get(NAME, sessions.start(NAME).id)


def bring(sessions, upload, content):
    """Write a chunk and add it to the session."""
    return sessions.enter(upload, Chunk(sessions.write(upload, [content]), len(content), Digest.of(content)))


def bring_short(sessions, upload, content):
    """Add a chunk that is held in memory."""
    return sessions.enter(upload, Chunk(None, len(content), Digest.of(content), content))


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

    def test_that_a_crash_of_the_host_has_truncated_is_unknown(self, sessions, driver):
        upload = sessions.start(NAME)
        driver.put_content(upload.state, b"")
        with pytest.raises(UploadUnknown):
            sessions.get(NAME, upload.id)

    def test_leaves_nothing_when_it_ends(self, sessions, driver):
        upload = bring(sessions, begin(sessions), b"x")
        sessions.end(upload)
        sessions.end(upload)
        assert [] == list(driver.walk())

    @pytest.mark.parametrize("text", ["", "x", "..", "0" * 32, "{0b5c5b0e-0000-4000-8000-000000000000}"])
    def test_requires_an_id_in_the_format_of_this_registry(self, text):
        with pytest.raises(UploadUnknown):
            parse_upload_id(text)


class TestAShortChunk:
    def test_is_stored_in_the_state(self, sessions, driver):
        upload = bring_short(sessions, begin(sessions), b"two\nlines")
        assert [upload.state] == [stat.path for stat in driver.walk()]
        found = sessions.get(NAME, upload.id)
        assert upload == found
        assert b"two\nlines" == found.chunks[0].content

    def test_gets_a_file_of_its_own_with_the_next_one(self, sessions, driver):
        upload = begin(sessions)
        bring_short(sessions, upload, b"short")
        bring(sessions, sessions.get(NAME, upload.id), b" and more")
        chunks = sessions.get(NAME, upload.id).chunks
        assert [b"short", b" and more"] == [driver.get_content(upload.path(chunk)) for chunk in chunks]
        assert [None, None] == [chunk.content for chunk in chunks]

    @pytest.mark.parametrize("left", [b"sho", b"s\0\0\0\0", b""])
    def test_that_a_crash_of_the_host_has_truncated_is_unknown(self, sessions, driver, left):
        upload = bring_short(sessions, begin(sessions), b"short")
        path = upload.state
        driver.put_content(path, driver.get_content(path).replace(b"short", left))
        with pytest.raises(UploadUnknown):
            sessions.get(NAME, upload.id)


@pytest.mark.parametrize("bring_one", [bring, bring_short])
class TestTwoRequestsThatEnterAChunkAtOnce:
    @pytest.mark.parametrize("before", [b"", b"a chunk before"])
    def test_keep_the_chunk_of_one(self, sessions, driver, before, bring_one):
        upload = begin(sessions)
        if before:
            bring(sessions, upload, before)
            bring_one = bring
        seen = sessions.get(NAME, upload.id)
        bring_one(sessions, seen, b"first")
        files = {stat.path for stat in driver.walk()}
        with pytest.raises(RangeInvalid):
            bring_one(sessions, seen, b"second")

        assert len(before) + 5 == sessions.get(NAME, upload.id).size
        assert files == {stat.path for stat in driver.walk()}


class TestARequestThatOutlivesItsSession:
    @pytest.mark.parametrize("bring_one", [bring, bring_short])
    def test_does_not_recreate_it(self, sessions, driver, bring_one):
        upload = begin(sessions)
        sessions.end(upload)
        with pytest.raises(UploadUnknown):
            bring_one(sessions, upload, b"late")
        assert [] == list(driver.walk())


class TestPurging:
    def test_deletes_only_abandoned_sessions(self, sessions, driver, clock):
        bring(sessions, begin(sessions), b"x")
        newest = max(stat.modified for stat in driver.walk())
        clock.now = newest + 50
        assert 0 == sessions.purge(NAME, 100)
        clock.now += 51
        assert 1 == sessions.purge(NAME, 100)
        assert [] == list(driver.walk())

    def test_deletes_sessions_of_distribution_too(self, sessions, driver, clock):
        path = f"{layout.uploads(NAME)}/0b5c5b0e-0000-4000-8000-000000000000/data"
        driver.put_content(path, b"")
        clock.now = driver.stat(path).modified + 101
        assert 1 == sessions.purge(NAME, 100)

    def test_deletes_each_session_of_a_hidden_repository_on_its_own(self, sessions, driver, clock):
        name = hide(NAME)
        old, new = (sessions.get(name, sessions.start(name).id) for _ in range(2))
        bring(sessions, old, b"x")
        clock.now = driver.stat(old.state).modified + 101
        driver._now = clock
        bring(sessions, new, b"x")
        assert (1, 1) == (sessions.purge(None, 100), sessions.counts.remaining)
        assert new.state in [stat.path for stat in driver.walk()]
        assert 1 == sessions.purge(None, -1)
        assert [] == list(driver.walk())

    def test_leaves_no_folder_for_the_name_of_a_hidden_repository(self, tmp_path):
        driver = FileDriver(str(tmp_path))
        sessions = UploadSessions(driver, time.time)
        bring(sessions, sessions.get(hide(NAME), sessions.start(hide(NAME)).id), b"x")
        assert 1 == sessions.purge(None, -1)
        assert [] == list((tmp_path / layout.uploads(None)).iterdir())

    def test_of_a_repository_without_uploads_does_nothing(self, sessions):
        assert 0 == sessions.purge(NAME, 0)


class TestASessionOfManyChunks:
    @pytest.fixture
    def upload(self, sessions):
        upload = begin(sessions)
        for number in range(2 * MAX_LISTED + 10):
            upload = bring(sessions, sessions.get(NAME, upload.id), b"%d," % number)
        return upload

    def test_keeps_its_state_short_and_its_chunks_in_order(self, sessions, driver, upload):
        stored = sessions.get(NAME, upload.id)
        expected = b"".join(b"%d," % number for number in range(2 * MAX_LISTED + 10))
        assert (upload, len(expected)) == (stored, stored.size)
        assert 200 * MAX_LISTED > driver.get_size(upload.state)
        assert expected == b"".join(driver.get_content(upload.path(chunk)) for chunk in sessions.chunks(stored))

    def test_that_a_crash_of_the_host_has_truncated_is_unknown(self, sessions, driver, upload):
        for left in (b"", b"\0" * 8, b'[{"object": "0-5f'):
            driver.put_content(f"{upload.folder}/{upload.lists[1].object}", left)
            with pytest.raises(UploadUnknown):
                list(sessions.chunks(sessions.get(NAME, upload.id)))

    def test_leaves_nothing_when_it_ends(self, sessions, driver, upload):
        sessions.end(sessions.get(NAME, upload.id))
        assert [] == list(driver.walk())

    def test_discards_late_chunks(self, sessions, driver):
        upload = begin(sessions)
        for number in range(MAX_LISTED - 1):
            upload = bring(sessions, sessions.get(NAME, upload.id), b"%d," % number)
        late = sessions.get(NAME, upload.id)
        bring(sessions, late, b"in time")
        files = {stat.path for stat in driver.walk()}
        with pytest.raises(RangeInvalid):
            bring(sessions, late, b"too late")
        assert files == {stat.path for stat in driver.walk()}

    def test_accepts_a_bounded_number(self, driver, clock):
        sessions = UploadSessions(driver, clock, max_chunks=3)
        upload = begin(sessions)
        for _ in range(3):
            sessions.check_chunk_count(upload)
            upload = bring(sessions, sessions.get(NAME, upload.id), b"x")
        with pytest.raises(TooLarge):
            sessions.check_chunk_count(upload)
