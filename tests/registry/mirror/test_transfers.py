"""Blobs of upstreams whose transfers break, are continued, or are read in parts."""

from __future__ import annotations

import json
import random
import re
import time
from contextlib import nullcontext

import gevent
import pytest

from docker_registry.drivers.base import Capabilities
from docker_registry.drivers.file import FileDriver
from docker_registry.errors import PathNotFound, StorageError, StorageUnavailable
from docker_registry.registry import layout
from docker_registry.registry.ingest import BufferPool
from docker_registry.registry.mirror import responses, transfer, transfers
from docker_registry.registry.mirror.arriving_content import NEAR_BYTES
from docker_registry.registry.mirror.mirrored_blobs import work_of
from docker_registry.registry.mirror.pieces import PIECE_SECONDS, Pieces, StoredPieces
from docker_registry.registry.mirror.transfer import MAX_RESUMES
from docker_registry.registry.names import Digest, RepositoryName
from tests.registry.mirror.conftest import NAME, THERE
from tests.support.clients.v2 import digest_of
from tests.support.clock import Clock
from tests.support.servers.upstream import Answer
from tests.support.timing import wait_until

LARGE = random.Random(2).randbytes(2 * NEAR_BYTES + 1)
DIGEST = digest_of(LARGE)
BLOB = f"blobs/{DIGEST}"
ETAG = {"ETag": f'"{DIGEST}"'}


def part_of(content, headers):
    """Return the answer of an upstream that supports ranges."""
    match = re.fullmatch(r"bytes=([0-9]+)-([0-9]*)", headers.get("range", ""))
    if match is None:
        return Answer(content, headers=ETAG)
    first, last = int(match[1]), int(match[2] or len(content) - 1)
    whole = {**ETAG, "Content-Range": f"bytes {first}-{last}/{len(content)}"}
    return Answer(content[first : last + 1], status=206, headers=whole)


def breaking(answers):
    """Return an upstream that breaks its first answers after half of their bytes, and how it was asked."""
    ranges = []

    def answer(headers):
        ranges.append((headers.get("range"), headers.get("if-range")))
        whole = answers(headers)
        if len(ranges) == 1:
            return Answer(whole.body[: len(LARGE) // 2], whole.status, whole.headers, announced=len(whole.body))
        return whole

    return answer, ranges


#: Answers that do not continue the blob.
OTHER_RESTS = {
    "nothing": Answer(status=404),
    "a longer blob": Answer(LARGE + b"more"),
    "another part": Answer(b"x", 206, {"Content-Range": "bytes 0-0/1"}),
    "an unnamed part": Answer(b"x", 206),
}


class TestABrokenTransfer:
    @pytest.fixture(autouse=True)
    def _short_pause(self, monkeypatch):
        monkeypatch.setattr(transfer, "RESUME_PAUSE_SECONDS", 0.1)

    def test_is_continued_where_it_ended(self, mirrored, upstream):
        upstream.contents[f"{THERE}/{BLOB}"], ranges = breaking(lambda headers: part_of(LARGE, headers))
        assert LARGE == mirrored.get(BLOB).data
        assert [(None, None), (f"bytes={len(LARGE) // 2}-", ETAG["ETag"])] == ranges

    def test_is_continued_by_a_later_attempt_if_the_upstream_restarts(self, mirrored, upstream):
        answers, ranges = breaking(lambda headers: part_of(LARGE, headers))
        asked = []

        def answer(headers):
            asked.append(time.monotonic())
            is_away = asked[0] < asked[-1] < asked[0] + transfer.RESUME_PAUSE_SECONDS
            return Answer(raw=b"") if is_away else answers(headers)

        upstream.contents[f"{THERE}/{BLOB}"] = answer
        assert LARGE == mirrored.get(BLOB).data
        assert 2 == len(ranges)

    def test_is_continued_by_an_upstream_without_ranges(self, mirrored, upstream):
        upstream.contents[f"{THERE}/{BLOB}"], ranges = breaking(lambda headers: Answer(LARGE))
        assert LARGE == mirrored.get(BLOB).data
        assert 2 == len(ranges)

    @pytest.mark.parametrize("rest", OTHER_RESTS)
    def test_ends_when_the_rest_is_something_else(self, mirrored, upstream, rest):
        bad = OTHER_RESTS[rest]
        upstream.contents[f"{THERE}/{BLOB}"], _ = breaking(lambda headers: bad if "range" in headers else Answer(LARGE))
        with pytest.raises(Exception, match=r"changed the content|another part|more than it announced"):
            assert mirrored.get(BLOB).data
        assert set() == mirrored.paths()

    def test_ends_after_three_attempts(self, mirrored, upstream):
        upstream.contents[f"{THERE}/{BLOB}"] = lambda headers: Answer(LARGE[:100_000], announced=len(LARGE))
        with pytest.raises(Exception, match="cannot be reached"):
            assert mirrored.get(BLOB).data
        assert 1 + MAX_RESUMES == len(upstream.requests)
        assert set() == mirrored.paths()
        wait_until(lambda: gevent.sleep(0) or not list(mirrored.driver.walk(layout.TRANSFERS)))

    def test_of_a_process_that_died_is_continued(self, mirrored, upstream, driver):
        upstream.contents[f"{THERE}/{BLOB}"] = lambda headers: part_of(LARGE, headers)
        work = work_of(RepositoryName(NAME), Digest.parse(DIGEST))
        for start, end in ((0, 65536), (65536, 1_000_000), (900_000, 1_000_100)):
            driver.put_content(f"{layout.transfer(work)}/{start}", LARGE[start:end])
        driver.put_content(layout.lease(work), json.dumps({"holder": "another", "until": 1}).encode())
        assert LARGE == mirrored.get(BLOB).data
        assert ["bytes=1000100-"] == [headers["range"] for _, _, headers in upstream.requests]
        assert [] == list(driver.walk(layout.TRANSFERS))
        assert not driver.exists(layout.lease(work))

    @pytest.mark.parametrize("is_size_known", [True, False])
    def test_whose_bytes_have_all_arrived_starts_anew(self, mirrored, upstream, driver, is_size_known):
        content = random.Random(3).randbytes(100_000)
        blob = f"blobs/{digest_of(content)}"
        upstream.contents[f"{THERE}/{blob}"] = lambda headers: (
            Answer(status=416) if headers.get("range") == f"bytes={len(content)}-" else part_of(content, headers)
        )
        work = work_of(RepositoryName(NAME), Digest.parse(digest_of(content)))
        driver.put_content(f"{layout.transfer(work)}/0", content)
        if is_size_known:
            driver.put_content(f"{layout.transfer(work)}/size", str(len(content)).encode())
        assert content == mirrored.get(blob).data
        assert (1 if is_size_known else 2) == len(upstream.requests)

    def test_whose_pieces_are_damaged_is_not_served_and_starts_anew(self, mirrored, upstream, driver):
        upstream.contents[f"{THERE}/{BLOB}"] = lambda headers: part_of(LARGE, headers)
        work = work_of(RepositoryName(NAME), Digest.parse(DIGEST))
        for start in (0, 65536):
            driver.put_content(f"{layout.transfer(work)}/{start}", bytes(65536))
        with pytest.raises(Exception, match="other content"):
            assert mirrored.get(BLOB).data
        assert set() == mirrored.paths()
        assert LARGE == mirrored.get(BLOB).data

    @pytest.mark.parametrize("failing", ["all", layout.TRANSFERS, layout.lease("")], ids=["all", "pieces", "leases"])
    def test_ends_although_the_store_fails(self, open_mirror, upstream, driver, monkeypatch, failing):
        """Neither its lease nor its connection may be kept, and no client may wait for ever."""
        mirrored = open_mirror(max_connections=1, timeout=1)
        upstream.contents[f"{THERE}/{BLOB}"] = lambda headers: part_of(LARGE, headers)
        other = random.Random(4).randbytes(100_000)
        upstream.contents[f"{THERE}/blobs/{digest_of(other)}"] = Answer(other)
        remove, move = driver.remove, driver.move

        def fail_to_remove(path):
            if failing == "all" or path.startswith(failing):
                raise StorageUnavailable
            remove(path)

        def fail_to_move(source, target):
            if failing == "all":
                raise StorageUnavailable
            move(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(driver, "remove", fail_to_remove)
            patch.setattr(driver, "move", fail_to_move)
            blocks = mirrored.client.get(f"/v2/{NAME}/{BLOB}", buffered=False).iter_encoded()
            with pytest.raises(StorageUnavailable) if failing == "all" else nullcontext(), gevent.Timeout(60):
                assert LARGE == b"".join(blocks)
        assert LARGE == mirrored.get(BLOB).data
        assert other == mirrored.get(f"blobs/{digest_of(other)}").data, "the connection is free"
        wait_until(lambda: gevent.sleep(0) or not mirrored.services.mirror.transfers._arriving)

    def test_is_stopped_with_the_registry_and_left_to_another_process(self, open_mirror, upstream, driver):
        mirrored = open_mirror()
        upstream.contents[f"{THERE}/{BLOB}"] = Answer(LARGE, pause_seconds=0.01)
        blocks = mirrored.client.get(f"/v2/{NAME}/{BLOB}", buffered=False).iter_encoded()
        assert next(blocks)
        mirrored.services.close()
        with pytest.raises(Exception, match="stopping"):
            list(blocks)
        assert set() == mirrored.paths()
        upstream.contents[f"{THERE}/{BLOB}"] = lambda headers: part_of(LARGE, headers)
        begin(driver, until=1)
        assert LARGE == open_mirror().get(BLOB).data
        assert re.fullmatch("bytes=[1-9][0-9]*-", upstream.requests[1][2]["range"])

    def test_leaves_no_pieces_in_a_store_without_leases_where_no_process_finds_them(
        self, open_mirror, upstream, driver, monkeypatch
    ):
        monkeypatch.setattr(driver, "capabilities", Capabilities())
        mirrored = open_mirror()
        upstream.contents[f"{THERE}/{BLOB}"] = Answer(LARGE, pause_seconds=0.01)
        assert next(mirrored.client.get(f"/v2/{NAME}/{BLOB}", buffered=False).iter_encoded())
        assert list(driver.walk(layout.TRANSFERS))
        mirrored.services.close()
        assert [] == list(driver.walk(layout.TRANSFERS))

    def test_that_nobody_continues_is_purged(self, mirrored, driver, monkeypatch):
        unreadable, *others = folders = [layout.transfer(name) for name in "abc"]
        for folder in folders:
            driver.put_content(f"{folder}/0", b"a")
        walk, transfers = driver.walk, mirrored.services.mirror.transfers
        assert 0 == transfers.purge(3600)
        with monkeypatch.context() as patch:
            patch.setattr(driver, "walk", lambda path: walk(path) if path in others else iter(driver.get_content("x")))
            with pytest.raises(StorageError):
                transfers.purge(-1)
        assert [f"{unreadable}/0"] == [piece.path for piece in driver.walk(layout.TRANSFERS)]
        assert 1 == transfers.purge(-1)


def begin(driver, *pieces, until=2**40):
    """Have a transfer of another process, with some pieces, that lives until a time."""
    work = work_of(RepositoryName(NAME), Digest.parse(DIGEST))
    driver.put_content(f"{layout.transfer(work)}/size", str(len(LARGE)).encode())
    for start, end in pieces:
        driver.put_content(f"{layout.transfer(work)}/{start}", LARGE[start:end])
    driver.put_content(layout.lease(work), json.dumps({"holder": "another", "until": until}).encode())
    return work


class TestATransferOfACommand:
    def test_keeps_its_lease_although_reading_blocks_all_greenlets(self, mirrored, upstream, monkeypatch):
        monkeypatch.setattr(transfers, "_EXTEND_SECONDS", 0.05)
        upstream.contents[f"{THERE}/{BLOB}"] = Answer(LARGE, pause_seconds=0.05)
        registry = mirrored.services.registry
        registry.blobs.fetch(RepositoryName(NAME), Digest.parse(DIGEST))
        assert registry.leases.counts["mirror", "taken"] > 4


class TestATransferOfAnotherProcess:
    def test_is_followed_by_all_clients_together_and_continued_when_its_lease_expires(self, mirrored, upstream, driver):
        upstream.contents[f"{THERE}/{BLOB}"] = lambda headers: part_of(LARGE, headers)
        begin(driver, (0, 65536))
        clients = [mirrored.client.get(f"/v2/{NAME}/{BLOB}", buffered=False).iter_encoded() for _ in range(3)]
        received = [next(blocks) for blocks in clients]
        assert {LARGE[:65536]} == set(received)
        assert 1 == mirrored.services.registry.leases.counts["mirror", "busy"], "one looks for all"
        begin(driver, (65536, 1_000_000))
        received = [part + next(blocks) for part, blocks in zip(received, clients, strict=True)]
        assert {LARGE[:1_000_000]} == set(received)
        assert [] == upstream.requests
        begin(driver, until=1)
        for part, blocks in zip(received, clients, strict=True):
            assert LARGE == part + b"".join(blocks)
        assert ["bytes=1000000-"] == [headers["range"] for _, _, headers in upstream.requests]

    def test_is_an_error_when_it_fails(self, mirrored, driver):
        work = begin(driver, (0, 65536))
        blocks = mirrored.client.get(f"/v2/{NAME}/{BLOB}", buffered=False).iter_encoded()
        assert LARGE[:65536] == next(blocks)
        driver.remove(layout.lease(work))
        with pytest.raises(ConnectionResetError, match="transfer from the upstream registry failed"):
            next(blocks)

    def test_is_followed_by_later_clients_if_the_store_fails_at_first(self, mirrored, driver, monkeypatch):
        walk = driver.walk

        def fail(path=""):
            if path.startswith(layout.TRANSFERS):
                raise StorageUnavailable
            return walk(path)

        begin(driver, (0, 65536))
        with monkeypatch.context() as patch:
            patch.setattr(driver, "walk", fail)
            assert 503 == mirrored.get(BLOB).status_code
        blocks = mirrored.client.get(f"/v2/{NAME}/{BLOB}", buffered=False).iter_encoded()
        assert LARGE[:65536] == next(blocks)

    def test_is_not_waited_for_by_a_client_of_a_later_part(self, mirrored, upstream, driver):
        upstream.contents[f"{THERE}/{BLOB}"] = lambda headers: part_of(LARGE, headers)
        begin(driver, (0, 65536))
        first = 65536 + NEAR_BYTES + 1
        assert LARGE[first : first + 10] == mirrored.get(BLOB, Range=f"bytes={first}-{first + 9}").data
        assert [f"bytes={first}-{first + 9}"] == [headers["range"] for _, _, headers in upstream.requests]


class TestATransferThatAnotherProcessHasTakenOver:
    def test_is_left_to_that_process_when_it_fails(self, mirrored, upstream, driver):
        def answer(headers):
            if len(upstream.requests) == 1:
                begin(driver)  # this process was delayed, so that another one could take the lease
                return Answer(LARGE[: len(LARGE) // 2], announced=len(LARGE))
            return Answer(status=404) if len(upstream.requests) == 2 else part_of(LARGE, headers)

        upstream.contents[f"{THERE}/{BLOB}"] = answer
        blocks = mirrored.client.get(f"/v2/{NAME}/{BLOB}", buffered=False).iter_encoded()
        received = next(blocks)
        counts = mirrored.services.registry.leases.counts
        wait_until(lambda: gevent.sleep(0.001) or counts["mirror", "busy"])
        begin(driver, until=1)
        assert LARGE == received + b"".join(blocks)
        assert re.fullmatch("bytes=[1-9][0-9]*-", upstream.requests[2][2]["range"]), "the pieces are kept"

    def test_ends_well_when_that_process_has_stored_the_blob(self, mirrored, upstream, driver):
        digest = Digest.parse(DIGEST)
        work = begin(driver, (0, 65536), (65536, 1_000_000), until=1)

        def answer(headers):
            driver.put_content(layout.blob_data(digest), LARGE)
            driver.put_content(layout.layer_link(RepositoryName(NAME), digest), DIGEST.encode())
            driver.scratch.discard(layout.transfer(work))
            return part_of(LARGE, headers)

        upstream.contents[f"{THERE}/{BLOB}"] = answer
        assert LARGE == mirrored.get(BLOB).data


class TestPieces:
    @pytest.mark.parametrize("is_file", [False, True])
    def test_that_have_become_shorter_are_not_served(self, driver, tmp_path, is_file):
        driver = FileDriver(str(tmp_path)) if is_file else driver
        work = begin(driver, (0, 65536), (65536, 200_000))
        pieces = StoredPieces(driver, work)
        pieces.find_all()
        begin(driver, (65536, 100_000))  # of the process that continues
        with pytest.raises(PathNotFound), pieces.segment(65536, 200_000, as_file=is_file):
            pass

    def test_that_overlap_are_found(self, driver):
        work = begin(driver, (0, 65536), (65536, 131072))
        pieces = StoredPieces(driver, work)
        assert (True, 131072) == (pieces.find_all(), pieces.end)
        begin(driver, (65536, 200_000), (200_000, 200_001))  # of the process that continues
        assert (False, True, 200_001) == (pieces.find_next(), pieces.find_all(), pieces.end)
        for offset in (0, 65535, 65536, 131072, 199_999, 200_000):
            with pieces.segment(offset, offset + 1, as_file=False) as segment:
                assert LARGE[offset : offset + 1] == segment

    def test_of_bytes_that_arrive_slowly_are_short(self, driver):
        clock = Clock()
        pieces = Pieces(driver, "slow", BufferPool(), clock)
        pieces.append(b"a")
        assert not pieces.store()
        clock.now += PIECE_SECONDS
        pieces.append(b"b")
        assert pieces.store()
        assert b"ab" == driver.get_content(f"{layout.transfer('slow')}/0")


class TestAPart:
    def test_is_waited_for_if_clients_use_up_the_connections_for_parts(self, open_mirror, upstream, driver):
        mirrored = open_mirror(max_connections=1)
        upstream.contents[f"{THERE}/{BLOB}"] = lambda headers: part_of(LARGE, headers)
        begin(driver, (0, 65536))
        first = 65536 + NEAR_BYTES + 1
        headers = {"Range": f"bytes={first}-"}
        slow = mirrored.client.get(f"/v2/{NAME}/{BLOB}", headers=headers, buffered=False).iter_encoded()
        received = next(slow)
        begin(driver, until=1)
        assert LARGE[first:] == mirrored.get(BLOB, **headers).data
        assert LARGE[first:] == received + b"".join(slow)
        ranges = [headers.get("range") for _, _, headers in upstream.requests]
        assert [f"bytes={first}-{len(LARGE) - 64 * 1024 - 1}", "bytes=65536-"] == ranges

    @pytest.mark.parametrize(
        "bad",
        [Answer(LARGE), Answer(status=429), None],
        ids=["whole", "limited", "broken"],
    )
    def test_is_waited_for_if_the_upstream_does_not_send_it(self, mirrored, upstream, driver, bad):
        """The whole blob is being received anyway."""

        def answer(headers):
            if len(upstream.requests) > 1:
                return part_of(LARGE, headers)
            begin(driver, until=1)  # this process is to continue the transfer
            part = part_of(LARGE, headers)
            return bad or Answer(part.body[:1000], 206, part.headers, announced=len(part.body))

        upstream.contents[f"{THERE}/{BLOB}"] = answer
        begin(driver, (0, 65536))
        first = 65536 + NEAR_BYTES + 1
        assert LARGE[first:] == mirrored.get(BLOB, Range=f"bytes={first}-").data
        assert "bytes=65536-" == upstream.requests[1][2]["range"]
        received = mirrored.services.mirror.pulled_bytes()["blob", "up.example"]
        assert received <= len(LARGE) - 65536 + len(LARGE) - first, "the rest, and the part while that is far away"

    def test_is_waited_for_if_the_upstream_sends_it_too_slowly(self, mirrored, upstream, driver, monkeypatch):
        monkeypatch.setattr(responses, "PROGRESS_SECONDS", 0.2)
        monkeypatch.setattr(responses, "MIN_BYTES_PER_SECOND", 16 * 1024 * 1024)

        def answer(headers):
            part = part_of(LARGE, headers)
            if len(upstream.requests) > 1:
                return part
            begin(driver, until=1)  # this process is to continue the transfer
            return Answer(part.body, 206, part.headers, pause_seconds=0.4)

        upstream.contents[f"{THERE}/{BLOB}"] = answer
        begin(driver, (0, 65536))
        first = 65536 + NEAR_BYTES + 1
        assert LARGE[first:] == mirrored.get(BLOB, Range=f"bytes={first}-").data
        received = mirrored.services.mirror.pulled_bytes()["blob", "up.example"]
        is_ended = received < len(LARGE) - 65536 + 3 * 1024 * 1024
        assert is_ended or len(upstream.requests) > 2, "its rest may be requested again before the transfer gets there"

    def test_of_a_cold_blob_is_requested_by_itself(self, mirrored, upstream):
        upstream.contents[f"{THERE}/{BLOB}"] = lambda headers: part_of(LARGE, headers)
        first, last = NEAR_BYTES + 1000, len(LARGE) - 1
        answer = mirrored.get(BLOB, Range=f"bytes={first}-{last}")
        assert (206, LARGE[first:]) == (answer.status_code, answer.data)
        ranges = [headers.get("range") for _, _, headers in upstream.requests]
        assert [None, f"bytes={first}-{last - 64 * 1024}"] == ranges, "the end is served when it is verified"
        assert LARGE == mirrored.get(BLOB).data
        assert 2 == len(upstream.requests)
