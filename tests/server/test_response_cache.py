"""The response cache: responses that are sent again, and those that must not be."""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import socket
import time

import pytest
import requests

from docker_registry import dependencies
from docker_registry.dependencies import Dependencies, signature_of
from docker_registry.errors import PathNotFound
from docker_registry.server import response_cache
from docker_registry.server.response_cache import (
    ENTRY_BYTES,
    IRRELEVANT,
    REQUEST_BYTES,
    UNIQUE,
    ResponseCache,
    parse_head,
)
from docker_registry.server.sending_socket import FileSlice, StoredBody
from tests.support.clients.v1 import Docker
from tests.support.clients.v2 import Client, digest_of
from tests.support.images import make_image, push
from tests.support.servers.registry import Server
from tests.support.timing import PATIENCE_SECONDS, wait_until
from tests.support.v1_images import make

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nContent-Length: 2\r\n\r\nok"
#: Longer than the time in which a changed file cannot be a dependency.
SETTLED_SECONDS = 0.2


def offered():
    provenance = Dependencies()
    provenance.is_cacheable = True
    return provenance


class TestAResponse:
    def test_is_sent_again_with_a_new_date(self):
        kept = ResponseCache()
        kept.add(REQUEST, ANSWER, offered())
        again = kept.find(REQUEST).response.now()
        assert ANSWER[-23:] == again[-23:]
        assert ANSWER[:23] == again[:23]
        assert abs(time.time() - time.mktime(time.strptime(_date_of(again), "%a, %d %b %Y %H:%M:%S GMT"))) < 90000

    @pytest.mark.parametrize(
        ("request_bytes", "answer"),
        [
            (REQUEST + REQUEST, ANSWER),
            (REQUEST[:-2], ANSWER),
            (REQUEST + b"body", ANSWER),
            (REQUEST, ANSWER[:-1]),
            (REQUEST, ANSWER + b"x"),
            (REQUEST, ANSWER.replace(b"Content-Length: 2", b"Transfer-Encoding: chunked")),
            (REQUEST, ANSWER.replace(b"Date", b"Day")),
            (REQUEST.replace(b"GET", b"HEAD"), ANSWER),
        ],
    )
    def test_is_not_cached_if_it_or_its_request_is_incomplete(self, request_bytes, answer):
        kept = ResponseCache()
        kept.add(request_bytes, answer, offered())
        assert kept.find(request_bytes) is None

    def test_is_not_cached_unless_declared_cacheable(self):
        kept = ResponseCache()
        kept.add(REQUEST, ANSWER, Dependencies())
        spoiled = offered()
        spoiled.is_complete = False
        kept.add(REQUEST, ANSWER, spoiled)
        assert kept.find(REQUEST) is None

    def test_is_dropped_if_its_files_change(self, tmp_path):
        provenance, kept = offered(), ResponseCache()
        provenance.record(str(tmp_path / "a"), None)
        kept.add(REQUEST, ANSWER, provenance)
        assert kept.find(REQUEST) is not None
        (tmp_path / "a").write_bytes(b"")
        assert kept.find(REQUEST) is None
        (tmp_path / "a").unlink()
        assert kept.find(REQUEST) is None

    def test_is_dropped_if_a_version_changes(self):
        versions, kept = [1], ResponseCache()
        with dependencies.collected() as collected:
            dependencies.depend_on_version(lambda: versions[0])
            dependencies.declare_cacheable()
        kept.add(REQUEST, ANSWER, collected)
        assert kept.find(REQUEST) is not None
        versions[0] = 2
        assert kept.find(REQUEST) is None

    def test_is_dropped_when_it_expires(self):
        kept = ResponseCache()
        for seconds in (5, -1):
            with dependencies.collected() as collected:
                dependencies.expire(time.monotonic() + 100)
                dependencies.expire(time.monotonic() + seconds)
                dependencies.declare_cacheable()
            kept.add(REQUEST, ANSWER, collected)
            assert (seconds > 0) == (kept.find(REQUEST) is not None)

    def test_is_dropped_after_its_maximum_age(self, monkeypatch):
        kept = ResponseCache()
        kept.add(REQUEST, ANSWER, offered())
        now = time.monotonic()
        monkeypatch.setattr(
            "docker_registry.server.response_cache.time.monotonic", lambda: now + response_cache.MAX_SECONDS + 1
        )
        assert kept.find(REQUEST) is None

    def test_is_evicted_for_others(self):
        kept = ResponseCache(max_bytes=10 * (ENTRY_BYTES + REQUEST_BYTES + 2 * len(REQUEST) + len(ANSWER) + 10))
        requested = [REQUEST.replace(b"/ ", b"/%d " % number) for number in range(20)]
        for one in requested:
            kept.add(one, ANSWER, offered())
            kept.find(requested[0])
        found = [one for one in requested if kept.find(one) is not None]
        assert (requested[0], requested[-9:]) == (found[0], found[1:])

    def test_stays_in_bounds_when_it_is_requested_in_many_ways(self):
        kept = ResponseCache(max_bytes=20 * ENTRY_BYTES)
        for number in range(8):
            kept.add(head_of(f"/{number}"), ANSWER, offered())
        for number in range(64):
            kept.find(head_of(f"/{number % 8}", f"User-Agent: {str(number) * 2000}"))
        assert 0 < kept._bytes <= 20 * ENTRY_BYTES
        assert kept._bytes == sum(entry.size for entry in kept._entries.values())


class TestTheKeyOfARequest:
    def test_lacks_headers_that_cannot_change_the_response(self):
        kept = ResponseCache()
        kept.add(REQUEST, ANSWER, offered())
        for number in range(20):
            lines = [
                f"X-Request-ID: {number}", f"User-Agent: client/{number}", "traceparent: 00-1-2-3",
                "Accept-Encoding: gzip", f"X-Forwarded-For: 10.0.0.{number}", f"Forwarded: for=10.0.0.{number}",
            ]  # fmt: skip
            assert kept.find(head_of("/", *lines)) is not None
        assert len(kept._by_request) == 1

    @pytest.mark.parametrize(
        "line",
        [
            "Accept: */*", "Authorization: Bearer x", "Range: bytes=0-1", "If-None-Match: *", "Origin: http://x",
            "X-Unknown: 1", "X-Forwarded-Proto: https", "User-Agent: docker/1.9.1", "User-Agent: Go-http-client/1.1",
            "Cookie: a=b", "X-Request-Id: 1\n", "X-Request-Id: 1\nTransfer-Encoding: chunked", "X-Request-Id: \0",
            "X-Request-Id: 1\r\nX-Request-Id: 2", "X-Request-Id : 1", "X-Request-Id: 1\r\n continued",
            "X-Request-Id", "Content-Length: 0", "Connection: close",
        ],
    )  # fmt: skip
    def test_has_all_other_headers(self, line):
        kept = ResponseCache()
        kept.add(REQUEST, ANSWER, offered())
        assert kept.find(head_of("/")) is not None
        assert (kept.find(head_of("/", line)) is not None) == (line == "X-Request-Id")

    def test_separates_the_parts_of_the_request(self):
        first = parse_head(head_of("/", "Accept: a")).key
        others = [head_of("/", "Accept: a", method="HEAD"), head_of("/?"), head_of("/", "Accept:", "a"), REQUEST]
        assert first not in [parse_head(other).key for other in others]


class TestABodyInAFile:
    HEAD = ANSWER[: -len(b"ok")]

    @pytest.fixture
    def file(self, tmp_path):
        file = tmp_path / "file"
        file.write_bytes(b"ok")
        os.utime(file, (1, 1))
        time.sleep(SETTLED_SECONDS)
        return file

    @pytest.fixture
    def kept(self, file):
        kept, collected = ResponseCache(), offered()
        collected.record(str(file), file.stat())
        kept.add(REQUEST, self.HEAD, collected, body=FileSlice(signature_of(file.stat()), 0, 2))
        return kept

    def test_is_opened_again(self, kept):
        for _ in range(3):
            hit = kept.find(REQUEST)
            assert b"ok" == os.read(hit.fd, 9)
            os.close(hit.fd)

    @pytest.mark.parametrize("change", ["replace", "overwrite", "truncate", "remove", "touch", "fifo", "link"])
    def test_is_not_sent_after_a_change(self, kept, file, change):
        other = file.with_name("other")
        if change == "replace":
            other.write_bytes(b"OK")
            os.utime(other, (1, 1))
            other.replace(file)
        elif change in ("overwrite", "truncate"):
            with file.open("r+b") as opened:
                opened.write(b"OK")
                opened.truncate(2 if change == "overwrite" else 0)
            os.utime(file, (1, 1))
        elif change == "touch":
            os.utime(file)
        else:
            file.rename(other)
            if change == "fifo":
                os.mkfifo(file)
            elif change == "link":  # the same inode, but the rename has changed its change time
                file.symlink_to(other)
        before = len(os.listdir("/proc/self/fd"))
        assert (None, before) == (kept.find(REQUEST), len(os.listdir("/proc/self/fd")))
        assert not kept._entries and not kept._by_request and not kept._bytes

    def test_is_not_cached_if_the_file_was_not_recorded_or_its_length_differs(self, file):
        for records, length in ((False, 2), (True, 1)):
            kept, collected = ResponseCache(), offered()
            if records:
                collected.record(str(file), file.stat())
            kept.add(REQUEST, self.HEAD, collected, body=FileSlice(signature_of(file.stat()), 0, length))
            assert kept.find(REQUEST) is None


class TestABodyInARemoteStore:
    HEAD = ANSWER[: -len(b"ok")]

    def test_is_read_again(self):
        kept, reads = ResponseCache(), []
        kept.add(REQUEST, self.HEAD, offered(), body=StoredBody(lambda: reads.append(1) or iter([b"o", b"k"]), 2))
        for count in range(1, 4):
            hit = kept.find(REQUEST)
            assert (None, count - 1) == (hit.blocks, len(reads))
            assert [b"o", b"k"] == list(kept.open_stored(hit).blocks)

    @pytest.mark.parametrize("error", [PathNotFound, OSError, ValueError])
    def test_is_left_to_the_application_if_it_cannot_be_read(self, error):
        def fail():
            raise error

        kept = ResponseCache()
        kept.add(REQUEST, self.HEAD, offered(), body=StoredBody(fail, 2))
        assert kept.open_stored(kept.find(REQUEST)) is None

    def test_is_not_cached_if_its_length_differs(self):
        kept = ResponseCache()
        kept.add(REQUEST, self.HEAD, offered(), body=StoredBody(lambda: iter([b"o"]), 1))
        assert kept.find(REQUEST) is None


def _date_of(answer):
    return re.search(rb"Date: (.*?)\r\n", answer)[1].decode()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("repeats") / "store"


@pytest.fixture(scope="module")
def counted(store):
    return store.with_name("counted")


@pytest.fixture(scope="module")
def server(store, counted):
    """One worker, which counts the requests that reach the application."""
    with Server(store, COUNTED=str(counted), GUNICORN_OPTS="tests.support.counting_application:application") as server:
        yield server


@pytest.fixture(scope="module")
def slow(server, store):
    """Another server of the same store that never uses its response cache, because its log shows headers."""
    with Server(store, GUNICORN_OPTS="--access-logformat '%(r)s %({host}i)s'") as slow:
        yield slow


IMAGE = make_image("repeated", layers=2)
OLD = make(1, layer=b"layer of old" * 100)


@pytest.fixture(scope="module")
def pushed(server):
    """An image pushed by each API, old enough to be a dependency."""
    with Client(server.url) as client, Docker(server.url) as docker:
        push(client, "acme/web", "v1", IMAGE)
        docker.push("acme/old", "v1", OLD)
    time.sleep(SETTLED_SECONDS)


def head_of(path, *headers, method="GET"):
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode()


class Connection:
    """Sends bytes and receives complete responses."""

    def __init__(self, server):
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_SECONDS)
        self._received = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def ask(self, *requested):
        """Send requests at once, and return their responses without the date, which changes every second."""
        self.socket.sendall(b"".join(requested))
        return [self.receive(b"HEAD" in one[:4]) for one in requested]

    def receive(self, is_head=False):
        while b"\r\n\r\n" not in self._received:
            self._more()
        head, _, rest = self._received.partition(b"\r\n\r\n")
        length = re.search(rb"\r\nContent-Length: (\d+)", head, re.IGNORECASE)
        size = 0 if is_head or b" 304 " in head[:13] or length is None else int(length[1])
        while len(rest) < size:
            self._more()
            rest = self._received.partition(b"\r\n\r\n")[2]
        self._received = rest[size:]
        if b" 200 " not in head[:13]:  # an error has the id of its request
            head = re.sub(rb"\r\nX-Request-Id: [^\r]*", b"", head)
        return re.sub(rb"\r\n(Date|Expires): [^\r]*", b"", head), rest[:size]

    def _more(self):
        block = self.socket.recv(65536)
        assert block, "the server closed the connection"
        self._received += block


@pytest.fixture
def asked(counted):
    """Return the number of requests that reached the application since the test began."""
    before = counted.stat().st_size
    return lambda: counted.stat().st_size - before


@pytest.fixture
def connection(server, pushed):
    with Connection(server) as connection:
        yield connection


MANIFEST = "/v2/acme/web/manifests/v1"
DIGEST = digest_of(IMAGE.manifest)
LAYER = next(iter(IMAGE.blobs))

REPEATED = [
    head_of("/v2/"),
    head_of(MANIFEST),
    head_of(MANIFEST, method="HEAD"),
    head_of(MANIFEST, f"Accept: {IMAGE.media_type}"),
    head_of(MANIFEST, f'If-None-Match: "{DIGEST}"'),
    head_of(MANIFEST, "User-Agent: docker/1.9.1 go/go1.4.2"),
    head_of(f"/v2/acme/web/manifests/{DIGEST}"),
    head_of(f"/v2/acme/web/blobs/{LAYER}", method="HEAD"),
    head_of(f"/v2/acme/web/blobs/{LAYER}"),
    head_of(f"/v2/acme/web/blobs/{LAYER}", "Range: bytes=3-200"),
    head_of(f"/v2/acme/web/blobs/{LAYER}", "Range: bytes=-7"),
    head_of(f"/v2/acme/web/blobs/{LAYER}", "Range: bytes=1-", f'If-Range: "{LAYER}"'),
    head_of(f"/v2/acme/web/blobs/{LAYER}", "Range: bytes=1-", 'If-Range: "other"'),
    head_of(f"/v2/acme/web/blobs/{LAYER}", f'If-None-Match: "{LAYER}"'),
    head_of(f"/v1/images/{OLD.text}/json"),
    head_of(f"/v1/images/{OLD.text}/ancestry"),
    head_of("/v1/repositories/acme/old/tags"),
    head_of("/v1/repositories/acme/old/tags/v1"),
]
NOT_REPEATED = [
    head_of("/v2/acme/web/manifests/none"),
    head_of("/v2/acme/web/tags/list"),
    head_of(f"/v2/acme/web/blobs/{LAYER}", "Range: bytes=9999999-"),
    head_of("/v2/acme/web/blobs/sha256:" + 64 * "0"),
    head_of("/_ping"),
    head_of(MANIFEST, "Accept: application/vnd.docker.distribution.manifest.list.v2+json"),
]


class TestARepeatedRequest:
    @pytest.mark.parametrize("requested", REPEATED, ids=lambda requested: requested.partition(b" HTTP")[0].decode())
    def test_is_answered_again_without_the_application(self, connection, asked, slow, requested):
        for _ in range(2):  # the second time if a file changed a moment before, such as by a checkpoint of the journal
            began = asked()
            first = connection.ask(requested)
            assert first == connection.ask(requested)  # a list is remembered once it was read
            made = asked()
            assert [first] * 5 == [connection.ask(requested) for _ in range(5)]
            if made == asked():
                break
            time.sleep(SETTLED_SECONDS)
        assert made == asked() <= began + 2
        with Connection(slow) as other:
            assert first == other.ask(requested)

    @pytest.mark.parametrize("requested", NOT_REPEATED, ids=lambda one: one.partition(b" HTTP")[0].decode())
    def test_goes_to_the_application_if_the_response_may_differ(self, connection, asked, requested):
        answers = [connection.ask(requested) for _ in range(3)]
        assert ([answers[0]] * 3, 3) == (answers, asked())

    def test_is_answered_again_on_another_connection(self, connection, server, asked):
        first = connection.ask(head_of(MANIFEST, "X-Test: another connection"))
        with Connection(server) as other:
            assert first == other.ask(head_of(MANIFEST, "X-Test: another connection"))
        assert 1 == asked()

    def test_goes_to_the_application_if_a_byte_differs(self, connection, asked):
        for number in range(3):
            connection.ask(head_of(MANIFEST, f"X-Test: byte {number}"))
        assert 3 == asked()

    @pytest.mark.parametrize(
        "requested", [*REPEATED, *NOT_REPEATED], ids=lambda one: one.partition(b" HTTP")[0].decode()
    )
    def test_has_the_same_response_whatever_its_omitted_headers_are(self, slow, pushed, requested):
        """If the application reads one of them, it must become part of the key."""
        names = sorted(UNIQUE | IRRELEVANT - ({b"user-agent"} if b"User-Agent" in requested else set()))
        lines = b"".join(b"%b: 1\r\n" % name for name in names)
        with Connection(slow) as connection:
            assert connection.ask(requested) == connection.ask(requested[:-2] + lines + b"\r\n")

    def test_is_answered_again_behind_a_proxy(self, connection, asked):
        answers = [connection.ask(head_of(MANIFEST, f"X-Request-Id: {n}", f"User-Agent: a/{n}")) for n in range(5)]
        assert ([answers[0]] * 5, True) == (answers, asked() <= 1)

    def test_is_answered_in_order_among_pipelined_ones(self, connection):
        known, other = head_of(MANIFEST), head_of("/v2/")
        expected = {one: connection.ask(one)[0] for one in (known, other)}
        for requested in ([known, known, other], [other, known], [known, other, known, known]):
            assert [expected[one] for one in requested] == connection.ask(*requested)

    def test_is_answered_if_it_arrives_in_segments(self, connection):
        known = head_of(MANIFEST)
        expected = connection.ask(known)
        for cut in (1, 10, len(known) - 1):
            connection.socket.sendall(known[:cut])
            time.sleep(0.02)
            assert expected == connection.ask(known[cut:])

    def test_is_another_request_if_it_has_a_body(self, connection, asked):
        requested = head_of(MANIFEST, "Content-Length: 5")
        for _ in range(3):
            connection.socket.sendall(requested)
            time.sleep(0.02)
            connection.socket.sendall(b"hello")
            assert b" 200 " in connection.receive()[0][:13]
        assert 3 == asked()

    def test_closes_the_connection_if_it_asks_for_it(self, server, pushed):
        for _ in range(3):
            with Connection(server) as connection:
                connection.ask(head_of(MANIFEST, "Connection: close"))
                assert b"" == connection.socket.recv(1)

    def test_has_a_line_in_the_access_log_each_time(self, connection, server):
        for _ in range(4):
            connection.ask(head_of(MANIFEST, "User-Agent: test of the log"))

        def logged():
            return [line for line in server.log.read_text().splitlines() if "test of the log" in line]

        wait_until(lambda: len(logged()) >= 4)  # the line is written after the response
        lines = logged()
        assert 4 == len(lines)
        assert 1 == len({re.sub(r"\[.*?\]", "", line) for line in lines})
        assert f'127.0.0.1 - -  "GET {MANIFEST} HTTP/1.1" 200 ' in re.sub(r"\[.*?\]", "", lines[-1])


class TestAChange:
    """By any process: here by another one."""

    def test_is_seen_by_the_next_request(self, connection, slow, asked):
        other = make_image("another")
        for image in (other, IMAGE) * 3:
            with Client(slow.url) as client:
                push(client, "acme/web", "moving", image)
            for _ in range(3):
                assert image.manifest == connection.ask(head_of("/v2/acme/web/manifests/moving"))[0][1]
                time.sleep(SETTLED_SECONDS)
        assert 6 <= asked() <= 12  # twice for each where the files were too young the first time

    def test_that_removes_a_tag_is_seen(self, connection, slow):
        requested = head_of("/v2/acme/web/manifests/short-lived")
        for _ in range(3):
            with Client(slow.url) as client:
                client.put_manifest("acme/web", "short-lived", IMAGE.manifest, IMAGE.media_type)
                time.sleep(SETTLED_SECONDS)
                for _ in range(3):
                    assert b" 200 " in connection.ask(requested)[0][0][:13]
                client.request("DELETE", "/v2/acme/web/manifests/short-lived", 202)
                assert b" 404 " in connection.ask(requested)[0][0][:13]

    def test_that_removes_a_blob_or_damages_its_file_is_seen(self, connection, slow, store):
        content = os.urandom(300_000)
        digest = digest_of(content)
        requested = head_of(f"/v2/acme/blob/blobs/{digest}")
        file = store / f"docker/registry/v2/blobs/sha256/{digest[7:9]}/{digest[7:]}/data"
        with Client(slow.url) as client:
            for change in ("delete", "replace", "remove"):
                client.push_blob("acme/blob", content, "put")
                time.sleep(SETTLED_SECONDS)
                for _ in range(3):
                    assert content == connection.ask(requested)[0][1]
                if change == "delete":
                    client.request("DELETE", f"/v2/acme/blob/blobs/{digest}", 202)
                    assert b" 404 " in connection.ask(requested)[0][0][:13]
                elif change == "replace":
                    file.with_name("new").write_bytes(content[:-1])
                    file.with_name("new").replace(file)
                    assert content[:-1] == connection.ask(requested)[0][1]
                else:
                    file.unlink()
                    assert b" 404 " in connection.ask(requested)[0][0][:13]

    def test_that_makes_a_repository_private_is_seen(self, connection, slow):
        with Docker(slow.url) as docker:
            docker.push("acme/hidden", "v1", make(7))
            time.sleep(SETTLED_SECONDS)
            requested = [head_of("/v1/repositories/acme/hidden/tags"), head_of("/v2/acme/hidden/manifests/v1")]
            for _ in range(3):
                connection.ask(*requested)
                time.sleep(SETTLED_SECONDS)
            assert {b" 200 "} == {answer[0][8:13] for answer in connection.ask(*requested)}
            url = f"{slow.url}/v1/repositories/acme/hidden/properties"
            assert 200 == requests.put(url, json={"access": "private"}, timeout=20).status_code
            for _ in range(3):
                assert {b" 404 "} == {answer[0][8:13] for answer in connection.ask(*requested)}
                time.sleep(SETTLED_SECONDS)

    @pytest.mark.parametrize("steps", [15, pytest.param(300, marks=pytest.mark.slow)])
    def test_of_any_kind_is_seen_at_once(self, server, slow, pushed, steps):
        """A random walk of changes by either server; after each both have the same responses, byte for byte."""
        chance = random.Random(20)
        images = [make_image(f"walk {number}") for number in range(3)]
        old = [make(number, layer=b"%d" % number * 200) for number in range(20, 23)]
        tags = ["a", "b", "latest"]
        with Client(server.url) as client:
            for image in images:
                push(client, "walk/one", image.digest, image)
        requested = [head_of(f"/v2/walk/one/manifests/{tag}") for tag in tags]
        requested += [head_of(f"/v2/walk/one/manifests/{image.digest}", method="HEAD") for image in images]
        requested += [head_of("/v1/repositories/walk/one/tags")]
        requested += [head_of(f"/v1/repositories/walk/one/tags/{tag}") for tag in tags]
        requested += [head_of(f"/v1/images/{image.text}/json") for image in old]
        with Connection(server) as fast, Connection(slow) as whole:
            for step in range(steps):
                with Client(chance.choice([server, slow]).url) as client, Docker(client.url) as docker:
                    image, tag = chance.choice(images), chance.choice(tags)
                    change = chance.randrange(5)
                    if change < 2:
                        client.put_manifest("walk/one", tag, image.manifest, image.media_type)
                    elif change == 2:
                        client.request("DELETE", f"/v2/walk/one/manifests/{tag}", 202, 404)
                    elif change == 3:
                        docker.push("walk/one", tag, chance.choice(old))
                    else:
                        client.request("DELETE", f"/v2/walk/one/manifests/{image.digest}", 202, 404)
                        client.put_manifest("walk/one", image.digest, image.manifest, image.media_type)
                if chance.random() < 0.3:
                    time.sleep(SETTLED_SECONDS)
                for one in itertools.chain(requested, requested):
                    assert whole.ask(one) == fast.ask(one), (step, one)


class TestAnOperator:
    def test_sees_every_request_in_the_access_log(self, store, counted, tmp_path, pushed):
        hooks = tmp_path / "hooks.py"
        seen = tmp_path / "seen"
        hooks.write_text(
            f"exec(open({json.dumps(str(_config()))}).read())\n"
            f"def pre_request(worker, request): open({json.dumps(str(seen))}, 'a').write('.')\n"
        )
        with Server(store, GUNICORN_OPTS=f"-c {hooks}") as server, Connection(server) as connection:
            before = len(seen.read_text())
            for _ in range(4):
                connection.ask(head_of(MANIFEST))
            assert 4 == len(seen.read_text()) - before

    def test_sees_every_request_in_the_metrics_of_another_logger(self, store, tmp_path, pushed):
        settings = tmp_path / "settings.py"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as statsd:
            statsd.bind(("127.0.0.1", 0))
            statsd.settimeout(PATIENCE_SECONDS)
            settings.write_text(
                f"exec(open({json.dumps(str(_config()))}).read())\n"
                f"accesslog, statsd_host = None, '127.0.0.1:{statsd.getsockname()[1]}'\n"
                "logger_class = 'gunicorn.instrument.statsd.Statsd'\n"
            )
            with Server(store, GUNICORN_OPTS=f"-c {settings}") as server, Connection(server) as connection:
                for _ in range(4):
                    connection.ask(head_of(MANIFEST))
                connection.ask(head_of("/v2/acme/web/manifests/missing"))
                metrics = iter(lambda: statsd.recv(1000), b"gunicorn.request.status.404:1|c|@1.0")
                found = [metric for metric in metrics if metric.startswith(b"gunicorn.request.status.200:")]
        assert 5 == len(found)  # the first is of the start


def _config():
    return os.path.join(os.path.dirname(__file__), "..", "..", "config", "gunicorn.py")
