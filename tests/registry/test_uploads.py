from __future__ import annotations

from dataclasses import replace
from io import BytesIO

import pytest

from docker_registry.drivers.base import Capabilities
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.errors import (
    BlobUnknown,
    DigestInvalid,
    RangeInvalid,
    SizeInvalid,
    StorageFull,
    UploadUnknown,
)
from docker_registry.registry import ingest, layout
from docker_registry.registry.ingest import Content
from docker_registry.registry.names import Digest
from docker_registry.registry.upload_sessions import MAX_LISTED, Upload
from docker_registry.registry.uploads import Uploads
from tests.registry.conftest import NAME, OTHER
from tests.support.clock import Clock
from tests.support.full_driver import FullDriver
from tests.support.registries import Registry


class CutOff:
    """A body that ends before its announced length."""

    def __init__(self, content, length):
        self.length = length
        self.complete = False
        self._content = BytesIO(content)

    def readinto(self, buffer):
        return self._content.readinto(buffer)


NOTHING = Content(b"")
GOOD = Digest.of(b"good bytes")


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def blobs(driver):
    return Registry(driver).blobs


@pytest.fixture
def uploads(driver, blobs, clock):
    return Uploads(driver, blobs, clock)


@pytest.fixture
def nothing_is_short(monkeypatch):
    """Gives each chunk a file of its own."""
    monkeypatch.setattr(ingest, "INLINE_BYTES", 0)


def files(driver):
    """Return all files of the store except the catalog."""
    return sorted(stat.path for stat in driver.walk() if not stat.path.startswith(layout.CATALOG))


def test_many_chunks_become_one_blob(uploads, driver):
    upload = uploads.start(NAME)
    parts = [b"%d," % number for number in range(MAX_LISTED + 1)]
    for part in parts:
        uploads.append(NAME, upload.id, Content(part))
    assert b"".join(parts) == b"".join(uploads.read(NAME, upload.id))
    blob = uploads.commit(NAME, upload.id, Digest.of(b"".join(parts)), Content(b""))
    assert b"".join(parts) == driver.get_content(blob.path)
    assert [] == list(driver.walk(layout.uploads(NAME)))


class TestASession:
    def test_is_unknown_after_it_was_cancelled(self, uploads, driver):
        upload = uploads.start(NAME)
        uploads.append(NAME, upload.id, Content(b"x"))
        uploads.cancel(NAME, upload.id)
        assert [] == files(driver)
        with pytest.raises(UploadUnknown):
            uploads.cancel(NAME, upload.id)

    def test_of_another_server_takes_no_chunk(self, uploads, driver):
        upload = Upload(NAME, "0b5c5b0e-0000-4000-8000-000000000000")
        driver.put_content(f"{upload.folder}/startedat", b"")
        driver.put_content(f"{upload.folder}/data", b"")
        with pytest.raises(UploadUnknown):
            uploads.append(NAME, upload.id, Content(b"x"))


class TestAnEmptyChunk:
    def test_is_not_stored(self, uploads, driver):
        upload = uploads.start(NAME)
        uploads.append(NAME, upload.id, Content(b"x"))
        stored = files(driver)
        for _ in range(2):
            assert 1 == uploads.append(NAME, upload.id, NOTHING).size
        assert stored == files(driver)


class TestAChunkOutOfOrder:
    @pytest.mark.parametrize("start", [0, 4, 6])
    def test_is_rejected_with_the_current_size_and_changes_nothing(self, uploads, start):
        upload = uploads.start(NAME)
        uploads.append(NAME, upload.id, Content(b"good "))
        with pytest.raises(RangeInvalid) as refused:
            uploads.append(NAME, upload.id, Content(b"bytes"), start)
        assert 5 == refused.value.size
        assert 5 == uploads.get(NAME, upload.id).size


class TestATruncatedBody:
    def test_is_kept_so_that_the_client_can_resume(self, uploads):
        upload = uploads.start(NAME)
        with pytest.raises(SizeInvalid):
            uploads.append(NAME, upload.id, CutOff(b"good ", 10))
        assert 5 == uploads.get(NAME, upload.id).size
        blob = uploads.commit(NAME, upload.id, GOOD, Content(b"bytes"), 5)
        assert 10 == blob.size

    def test_of_the_last_chunk_is_kept_too(self, uploads):
        upload = uploads.start(NAME)
        with pytest.raises(SizeInvalid):
            uploads.commit(NAME, upload.id, GOOD, CutOff(b"good ", 10))
        assert 5 == uploads.get(NAME, upload.id).size

    def test_of_a_complete_upload_leaves_nothing(self, uploads, driver):
        with pytest.raises(SizeInvalid):
            uploads.put(NAME, GOOD, CutOff(b"good", 10))
        assert [] == files(driver)
        assert (1, 1) == (uploads.counts.started, uploads.counts.ended)


class TestABodyOfAnotherLengthThanItsRange:
    def test_is_refused_before_it_is_read(self, uploads):
        upload = uploads.start(NAME)
        with pytest.raises(SizeInvalid):
            uploads.append(NAME, upload.id, Content(b"good bytes"), 0, 5)
        assert 0 == uploads.get(NAME, upload.id).size

    def test_is_rejected_when_it_is_longer(self, uploads):
        upload = uploads.start(NAME)
        body = CutOff(b"good bytes", None)
        with pytest.raises(SizeInvalid):
            uploads.append(NAME, upload.id, body, 0, 5)
        assert 0 == uploads.get(NAME, upload.id).size


class TestACommit:
    def test_of_one_chunk_creates_a_blob_and_ends_the_session(self, uploads, blobs, driver):
        upload = uploads.start(NAME)
        uploads.append(NAME, upload.id, Content(b"good bytes"))
        uploads.commit(NAME, upload.id, GOOD, NOTHING)
        assert b"good bytes" == b"".join(blobs.file(blobs.stat(NAME, GOOD)).read())
        assert sorted([layout.blob_data(GOOD), layout.layer_link(NAME, GOOD)]) == files(driver)

    def test_joins_several_chunks(self, uploads, blobs, driver):
        upload = uploads.start(NAME)
        for piece in (b"go", b"od", b" bytes"):
            uploads.append(NAME, upload.id, Content(piece))
        uploads.commit(NAME, upload.id, GOOD, NOTHING)
        assert b"good bytes" == blobs.get(GOOD)
        assert 2 == len(files(driver))

    def test_appends_the_last_bytes(self, uploads, blobs):
        upload = uploads.start(NAME)
        uploads.append(NAME, upload.id, Content(b"good"))
        uploads.commit(NAME, upload.id, GOOD, Content(b" bytes"), 4, 6)
        assert b"good bytes" == blobs.get(GOOD)

    def test_accepts_all_bytes_at_once(self, uploads, blobs):
        uploads.commit(NAME, uploads.start(NAME).id, GOOD, Content(b"good bytes"))
        assert b"good bytes" == blobs.get(GOOD)

    def test_without_bytes_creates_the_empty_blob(self, uploads, blobs):
        uploads.commit(NAME, uploads.start(NAME).id, Digest.of(b""), NOTHING)
        assert b"" == blobs.get(Digest.of(b""))

    def test_works_with_sha512(self, uploads, blobs):
        digest = Digest.of(b"good bytes", "sha512")
        upload = uploads.start(NAME, "sha512")
        uploads.append(NAME, upload.id, Content(b"good bytes"))
        uploads.commit(NAME, upload.id, digest, NOTHING)
        assert b"good bytes" == blobs.get(digest)

    def test_works_with_sha512_that_was_not_announced(self, uploads, blobs):
        digest = Digest.of(b"good bytes", "sha512")
        uploads.commit(NAME, uploads.start(NAME).id, digest, Content(b"good bytes"))
        assert b"good bytes" == blobs.get(digest)

    def test_that_is_repeated_succeeds_again(self, uploads):
        upload = uploads.start(NAME)
        first = uploads.commit(NAME, upload.id, GOOD, Content(b"good bytes"))
        assert first == uploads.commit(NAME, upload.id, GOOD, NOTHING)

    def test_that_is_repeated_with_another_digest_is_unknown(self, uploads):
        upload = uploads.start(NAME)
        uploads.commit(NAME, upload.id, GOOD, Content(b"good bytes"))
        with pytest.raises(UploadUnknown):
            uploads.commit(NAME, upload.id, Digest.of(b"other"), NOTHING)

    def test_interrupted_between_move_and_link_is_completed_by_a_retry(self, uploads, blobs, driver, nothing_is_short):
        upload = uploads.start(NAME)
        chunk = uploads.append(NAME, upload.id, Content(b"good bytes")).chunks[0]
        driver.move(f"{layout.upload(NAME, upload.id)}/{chunk.object}", layout.blob_data(GOOD))
        uploads.commit(NAME, upload.id, GOOD, NOTHING)
        assert 10 == blobs.stat(NAME, GOOD).size
        assert 2 == len(files(driver))

    def test_with_lost_bytes_cannot_claim_a_blob_of_others(self, uploads, blobs, driver):
        secret = uploads.put(OTHER, Digest.of(b"secret"), Content(b"secret")).digest
        upload = uploads.start(NAME)
        uploads.append(NAME, upload.id, Content(b"a"))
        chunks = uploads.append(NAME, upload.id, Content(b"b")).chunks
        driver.remove(f"{layout.upload(NAME, upload.id)}/{chunks[0].object}")
        with pytest.raises(UploadUnknown):
            uploads.commit(NAME, upload.id, secret, NOTHING)
        with pytest.raises(BlobUnknown):
            blobs.stat(NAME, secret)

    def test_of_an_existing_blob_keeps_it_and_renews_its_time(self, uploads, driver):
        uploads.put(OTHER, GOOD, Content(b"good bytes"))
        before = driver.stat(layout.blob_data(GOOD))
        uploads.put(NAME, GOOD, Content(b"good bytes"))
        assert before.modified < driver.stat(layout.blob_data(GOOD)).modified

    def test_repairs_a_truncated_blob(self, uploads, blobs, driver):
        driver.put_content(layout.blob_data(GOOD), b"good")
        uploads.put(NAME, GOOD, Content(b"good bytes"))
        assert b"good bytes" == blobs.get(GOOD)


class TestCommitWithTheWrongDigest:
    @pytest.mark.parametrize("pieces", [[b"evil"], [b"ev", b"il"]])
    def test_publishes_nothing(self, uploads, driver, pieces):
        upload = uploads.start(NAME)
        for piece in pieces:
            uploads.append(NAME, upload.id, Content(piece))
        with pytest.raises(DigestInvalid):
            uploads.commit(NAME, upload.id, GOOD, NOTHING)
        assert [] == files(driver)

    def test_publishes_nothing_of_a_whole_blob(self, uploads, driver):
        with pytest.raises(DigestInvalid):
            uploads.put(NAME, GOOD, Content(b"evil"))
        assert [] == files(driver)

    def test_publishes_nothing_when_the_store_lost_bytes(self, uploads, driver, nothing_is_short):
        upload = uploads.start(NAME)
        chunk = uploads.append(NAME, upload.id, Content(b"good bytes")).chunks[0]
        driver.put_content(f"{layout.upload(NAME, upload.id)}/{chunk.object}", b"good")
        with pytest.raises(DigestInvalid):
            uploads.commit(NAME, upload.id, GOOD, NOTHING)
        assert [] == files(driver)


class Meanwhile:
    """A body during which something else happens to its session."""

    def __init__(self, content, event):
        self.length = None
        self.complete = True
        self._content = BytesIO(content)
        self._event = event

    def readinto(self, buffer):
        arrived = self._content.readinto(buffer)
        if not arrived:
            self._event()
        return arrived


class TestAStalledPatch:
    def test_loses_to_its_retry(self, uploads, blobs):
        upload = uploads.start(NAME)
        stalled = Meanwhile(b"evil bytes", lambda: uploads.append(NAME, upload.id, Content(b"good bytes")))
        with pytest.raises(RangeInvalid) as refused:
            uploads.append(NAME, upload.id, stalled)
        assert 10 == refused.value.size
        uploads.commit(NAME, upload.id, GOOD, NOTHING)
        assert b"good bytes" == blobs.get(GOOD)

    def test_finds_that_its_session_is_committed_and_leaves_nothing(self, uploads, blobs, driver):
        upload = uploads.start(NAME)
        stalled = Meanwhile(b"evil", lambda: uploads.commit(NAME, upload.id, GOOD, Content(b"good bytes")))
        with pytest.raises(UploadUnknown):
            uploads.append(NAME, upload.id, stalled)
        assert 2 == len(files(driver))
        assert b"good bytes" == blobs.get(GOOD)

    def test_finds_that_its_session_is_committed_after_other_chunks(self, uploads, driver):
        upload = uploads.start(NAME)
        uploads.append(NAME, upload.id, Content(b"good bytes"))
        stalled = Meanwhile(b"evil", lambda: uploads.commit(NAME, upload.id, GOOD, NOTHING))
        with pytest.raises(UploadUnknown):
            uploads.append(NAME, upload.id, stalled)
        assert 2 == len(files(driver))


class UnconditionalDriver(MemoryDriver):
    """A store that cannot compare before it writes, as Swift."""

    capabilities = Capabilities()

    def put_content(self, path, content, *, if_match=None):
        assert if_match is None
        super().put_content(path, content)


class TestAStalledPatchOnAStoreWithoutConditionalPuts(TestAStalledPatch):
    @pytest.fixture
    def driver(self):
        return UnconditionalDriver()


class TestAFullStore:
    def test_is_reported_and_keeps_nothing(self, clock, nothing_is_short):
        driver = FullDriver()
        uploads = Uploads(driver, Registry(driver).blobs, clock)
        driver.is_full = True
        with pytest.raises(StorageFull):
            uploads.put(NAME, GOOD, Content(b"good bytes"))
        assert [] == files(driver)


class Far(MemoryDriver):
    """A store that copies what it moves."""

    capabilities = replace(MemoryDriver.capabilities, move_copies=True)
    moved = 0

    def move(self, source, target):
        self.moved += 1
        super().move(source, target)


class TestAStoreThatCopiesWhatItMoves:
    """A blob that comes in one request is written to its place at once."""

    @pytest.fixture
    def driver(self):
        return Far()

    @pytest.fixture(params=["post", "put"])
    def whole(self, request, uploads):
        """Send a blob in one request."""

        def send(digest, body):
            if request.param == "post":
                return uploads.put(NAME, digest, body)
            return uploads.commit(NAME, uploads.start(NAME).id, digest, body)

        return send

    def test_moves_nothing(self, whole, driver, blobs):
        assert 10 == whole(GOOD, Content(b"good bytes")).size
        assert 0 == driver.moved
        assert b"good bytes" == blobs.get(GOOD)
        assert blobs.stat(NAME, GOOD)
        assert {layout.blob_data(GOOD), layout.layer_link(NAME, GOOD)} == set(files(driver))

    def test_stores_nothing_with_a_wrong_digest(self, whole, driver):
        with pytest.raises(DigestInvalid):
            whole(GOOD, Content(b"evil bytes"))
        assert [] == files(driver)

    def test_publishes_nothing_of_a_truncated_body(self, whole, blobs):
        with pytest.raises(SizeInvalid):
            whole(GOOD, CutOff(b"good", 10))
        with pytest.raises(BlobUnknown):
            blobs.stat_anywhere(GOOD)

    def test_accepts_a_retry_after_a_truncated_body(self, uploads):
        upload = uploads.start(NAME)
        with pytest.raises(SizeInvalid):
            uploads.commit(NAME, upload.id, GOOD, CutOff(b"good", 10))
        assert 10 == uploads.commit(NAME, upload.id, GOOD, Content(b"good bytes")).size
        assert 10 == uploads.commit(NAME, upload.id, GOOD, Content(b"good bytes")).size  # the answer was lost

    def test_moves_a_chunk(self, uploads, driver, nothing_is_short):
        upload = uploads.start(NAME)
        uploads.append(NAME, upload.id, Content(b"good bytes"))
        assert 10 == uploads.commit(NAME, upload.id, GOOD, NOTHING).size
        assert 1 == driver.moved

    def test_writes_a_short_chunk_directly(self, uploads, driver):
        upload = uploads.start(NAME)
        uploads.append(NAME, upload.id, Content(b"good bytes"))
        assert 10 == uploads.commit(NAME, upload.id, GOOD, NOTHING).size
        assert 0 == driver.moved

    def test_joins_a_chunk_with_the_last_bytes(self, uploads, blobs):
        upload = uploads.start(NAME)
        uploads.append(NAME, upload.id, Content(b"good "))
        uploads.commit(NAME, upload.id, GOOD, Content(b"bytes"))
        assert b"good bytes" == blobs.get(GOOD)
