"""Faults of docker-registry 0.7.1 under failures and concurrency, which this registry must not have."""

from __future__ import annotations

import itertools
import json
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from docker_registry import __version__
from tests.api.conftest import unique
from tests.support import processes
from tests.support.clients import programs, raw_http
from tests.support.clients.v1 import Docker, done, error
from tests.support.servers.registry import COMMAND, Server
from tests.support.timing import wait_until
from tests.support.v1_images import make

UNFINISHED = (400, "Image is being uploaded, retry later")
CHUNKED = "Transfer-Encoding: chunked"

#: No file may be larger than one megabyte: the nearest that a test without root comes to a full disk.
SMALL_DISK = ("sh", "-c", 'ulimit -f 2048; exec "$0" "$@"', *COMMAND)

_numbers = itertools.count(3_000_000)


def fresh(**more):
    """Return an image that no other test uses."""
    return make(next(_numbers), **more)


def large(size=3_000_000):
    return random.Random(size).randbytes(size)


def finish(docker, image, status=200):
    headers = {"X-Docker-Checksum-Payload": image.payload_sum}
    return done(docker.put(f"/images/{image.text}/checksum", headers=headers), status)


@pytest.fixture(scope="module")
def docker(server):
    with Docker(server.url) as docker:
        yield docker


def is_large(path):
    return path.is_file() and path.stat().st_size > 50_000


class TestATruncatedLayer:
    """gunicorn ends such a body like a complete one, and 0.7.1 wrote in place and so served the truncated layer."""

    @pytest.mark.parametrize("line", [CHUNKED, "Content-Length: 200000"])
    def test_is_never_served_and_may_be_pushed_again_at_once(self, server, docker, line):
        image = fresh(layer=large(200_000))
        path = f"/images/{image.text}"
        done(docker.put(f"{path}/json", image.payload), 200)
        half = image.layer[:100_000]
        with raw_http.connect(server) as connection:
            body = raw_http.chunked(half) if line == CHUNKED else half
            raw_http.send(connection, "PUT", f"/v1{path}/layer", line, body=body)
        for part in ("json", "layer", "ancestry", "files", "diff"):
            assert UNFINISHED == error(docker.get(f"{path}/{part}"))
        for image_or_half in (image, make(layer=half)):
            headers = {"X-Docker-Checksum-Payload": image_or_half.payload_sum}
            assert (400, "Checksum mismatch") == error(docker.put(f"{path}/checksum", headers=headers))
        docker.push_images(image)
        assert image.layer == docker.get(f"{path}/layer").content

    def test_leaves_nothing_in_the_store(self, tmp_path):
        image = fresh(layer=large(200_000))
        with Server(tmp_path / "store") as server, Docker(server.url) as docker:
            done(docker.put(f"/images/{image.text}/json", image.payload), 200)
            before = set(server.store.rglob("*"))
            with raw_http.connect(server) as connection:
                body = raw_http.chunked(image.layer[:100_000])
                raw_http.send(connection, "PUT", f"/v1/images/{image.text}/layer", CHUNKED, body=body)
            time.sleep(0.5)  # what it has received comes first, then the end

            def left():
                return [path for path in set(server.store.rglob("*")) - before if is_large(path)]

            wait_until(lambda: not left(), left)


class TestAnInterruptedPush:
    """0.7.1 never removed its marker and answered every pull with 400."""

    @pytest.mark.parametrize("steps", [1, 2, 3, 4])
    def test_can_be_repeated_immediately_by_any_client(self, docker, server, steps):
        image = fresh()
        path = f"/images/{image.text}"
        for step in [
            lambda: done(docker.put(f"{path}/json", image.payload), 200),
            lambda: done(docker.put(f"{path}/layer", b"another layer"), 200),
            lambda: done(docker.put(f"{path}/json", image.payload), 200),
            lambda: done(docker.put(f"{path}/layer", image.layer), 200),
        ][:steps]:
            step()
            assert UNFINISHED == error(docker.get(f"{path}/json"))
        name = unique("failures")
        with Docker(server.url, "docker/17.05.0-ce") as other:
            other.push(name, "v1", image)
            assert [(image.text, image.payload, image.layer)] == other.pull(name, "v1")

    def test_keeps_the_json_that_was_pushed_last(self, docker):
        number = next(_numbers)
        first, second = make(number, comment="first"), make(number, comment="second")
        done(docker.put(f"/images/{first.text}/json", first.payload), 200)
        done(docker.put(f"/images/{first.text}/layer", first.layer), 200)
        docker.push_images(second)
        assert second.payload == docker.get(f"/images/{first.text}/json").content

    def test_may_be_the_parent_of_another_image(self, docker):
        base = fresh()
        above = fresh(parent=base)
        done(docker.put(f"/images/{base.text}/json", base.payload), 200)
        docker.push_images(above)
        docker.push_images(base)
        assert [above.text, base.text] == docker.get(f"/images/{above.text}/ancestry").json()

    def test_does_not_block_pulls_when_only_its_marker_is_left(self, docker, server):
        image = fresh()
        docker.push_images(image)
        mark = server.store / "images" / image.text / "_inprogress"
        mark.write_text("true")
        assert image.layer == done(docker.get(f"/images/{image.text}/layer"), 200).content
        assert not mark.exists()


class TestAnImageThatAnOldServerLeftIncomplete:
    def write(self, server, image, **files):
        folder = server.store / "images" / image.text
        folder.mkdir(parents=True)
        for name, content in {"json": image.payload, "ancestry": json.dumps(image.ancestry).encode(), **files}.items():
            (folder / name).write_bytes(content)

    def test_has_no_size_without_a_layer(self, docker, server):
        image = fresh()
        self.write(server, image)
        answer = done(docker.get(f"/images/{image.text}/json"), 200)
        assert image.payload == answer.content
        names = {"X-Docker-Size", "X-Docker-Payload-Checksum", "X-Docker-Checksum-Payload"}
        assert names.isdisjoint(answer.headers)
        assert (404, "Image not found") == error(docker.get(f"/images/{image.text}/layer"))

    def test_has_a_checksum_stored_as_plain_text(self, docker, server):
        image = fresh()
        self.write(server, image, layer=image.layer, _checksum=json.dumps(image.payload_sum).encode())
        answer = done(docker.get(f"/images/{image.text}/json"), 200)
        assert (str(len(image.layer)), image.payload_sum) == (
            answer.headers["X-Docker-Size"], answer.headers["X-Docker-Payload-Checksum"],
        )  # fmt: skip
        assert image.layer == docker.get(f"/images/{image.text}/layer").content

    def test_is_not_served_with_a_truncated_layer(self, docker, server):
        image = fresh(layer=large(200_000))
        checksum = json.dumps([image.payload_sum]).encode()
        self.write(server, image, layer=image.layer[:100_000], _checksum=checksum)
        assert UNFINISHED == error(docker.get(f"/images/{image.text}/layer"))
        docker.push_images(image)
        assert image.layer == docker.get(f"/images/{image.text}/layer").content


class TestTwoPushesOfOneImage:
    """0.7.1 wrote both into one file."""

    @pytest.mark.parametrize("is_same", [True, False])
    def test_result_in_one_intact_image(self, docker, server, is_same):
        number = next(_numbers)
        one = make(number, layer=large(300_000))
        two = one if is_same else make(number, layer=large(300_001))
        path = f"/v1/images/{one.text}"
        done(docker.put(f"/images/{one.text}/json", one.payload), 200)
        with raw_http.connect(server) as first, raw_http.connect(server) as second:
            sent = ((first, one.layer), (second, two.layer))
            for connection, layer in sent:
                raw_http.send(connection, "PUT", f"{path}/layer", CHUNKED, body=raw_http.chunked(layer[:100_000]))
            for connection, layer in sent:
                connection.sendall(raw_http.chunked(layer[100_000:200_000]))
                time.sleep(0.1)
            for connection, layer in sent:
                connection.sendall(raw_http.chunked(layer[200_000:]) + raw_http.END)
            assert [200, 200] == [raw_http.receive(connection).status for connection, _ in sent]
        headers = {"X-Docker-Checksum-Payload": two.payload_sum}
        done(docker.put(f"/images/{two.text}/checksum", headers=headers), 200)
        assert two.layer == docker.get(f"/images/{two.text}/layer").content
        assert two.payload_sum == docker.get(f"/images/{two.text}/json").headers["X-Docker-Checksum-Payload"]


class TestAnImageList:
    """0.7.1 read, extended and rewrote the list without checking for concurrent changes."""

    def test_loses_nothing_under_concurrent_pushes(self, server, docker):
        name, ids = unique("failures"), [fresh().text for _ in range(24)]
        done(docker.put(f"/repositories/{name}/", "[]"), 200)

        def add(text):
            with Docker(server.url) as other:
                done(other.put(f"/repositories/{name}/images", json.dumps([{"id": text, "checksum": "x"}])), 204)

        with ThreadPoolExecutor(len(ids)) as pool:
            list(pool.map(add, ids))
        listed = docker.get(f"/repositories/{name}/images").json()
        assert sorted(ids) == sorted(entry["id"] for entry in listed)
        assert {"x"} == {entry["checksum"] for entry in listed}


class TestAFullDisk:
    """0.7.1 reported success and served the truncated layer."""

    @pytest.fixture(scope="class")
    @staticmethod
    def server(tmp_path_factory):
        with Server(tmp_path_factory.mktemp("small") / "store", workers=2, command=SMALL_DISK) as server:
            yield server

    @pytest.mark.parametrize("is_chunked", [True, False])
    def test_fails_the_push_and_serves_nothing(self, server, is_chunked):
        image = fresh(layer=large())
        path = f"/images/{image.text}"
        with Docker(server.url) as docker:
            done(docker.put(f"{path}/json", image.payload), 200)
            line = CHUNKED if is_chunked else raw_http.length(image.layer)
            body = raw_http.chunked(image.layer) + raw_http.END if is_chunked else image.layer
            answer = raw_http.ask(server, "PUT", f"/v1{path}/layer", line, body=body)
            assert answer.status >= 500
            assert answer.error[1]
            assert __version__ == answer.headers["X-Docker-Registry-Version"]
            for part in ("json", "layer"):
                assert UNFINISHED == error(docker.get(f"{path}/{part}"))
            headers = {"X-Docker-Checksum-Payload": image.payload_sum}
            assert (400, "Checksum mismatch") == error(docker.put(f"{path}/checksum", headers=headers))
        assert [] == [path for path in server.store.rglob("*") if path.stat().st_size > 500_000]

    def test_does_not_affect_pushes_that_fit(self, server):
        image = fresh()
        with Docker(server.url) as docker:
            docker.push("lab/x", "v1", image)
            assert [(image.text, image.payload, image.layer)] == docker.pull("lab/x", "v1")


class TestAMissingStore:
    def test_is_answered_with_a_json_error_without_internals(self, tmp_path):
        image = fresh()
        with Server(tmp_path / "store") as server, Docker(server.url) as docker:
            docker.push("lab/x", "v1", image)
            server.store.rename(tmp_path / "elsewhere")
            server.store.write_text("no folder")
            for path in (f"/images/{image.text}/json", f"/images/{image.text}/layer", "/repositories/lab/x/tags"):
                answer = docker.get(path)
                assert answer.status_code in (404, 500, 503)
                assert "Traceback" not in error(answer)[1]
                assert str(tmp_path) not in answer.text
                assert __version__ == answer.headers["X-Docker-Registry-Version"]


class TestRedis:
    """0.7.1 answered every request with 500 when Redis was down, and logged its password."""

    PASSWORD = "correct-horse"

    @pytest.fixture
    def redis(self, tmp_path):
        program = programs.require("redis-server", "redis-server")
        port = processes.free_port()
        command = [
            program, "--port", str(port), "--bind", "127.0.0.1", "--requirepass", self.PASSWORD, "--save", "",
            "--appendonly", "no", "--dir", str(tmp_path),
        ]  # fmt: skip
        with processes.running(command, tmp_path / "redis.log", lambda: processes.listens(port)) as redis:
            redis.port = port
            yield redis
            redis.send_signal(signal.SIGCONT)

    @pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP], ids=["is gone", "says nothing"])
    def test_may_fail_without_failing_requests(self, tmp_path, redis, end):
        environment = {
            "CACHE_REDIS_HOST": "127.0.0.1",
            "CACHE_REDIS_PORT": str(redis.port),
            "CACHE_REDIS_PASSWORD": self.PASSWORD,
        }
        before, after = fresh(), fresh()
        with Server(tmp_path / "store", workers=2, **environment) as server, Docker(server.url) as docker:
            docker.push("lab/x", "v1", before)
            redis.send_signal(end)
            docker.push("lab/x", "v2", after)
            for tag, image in (("v1", before), ("v2", after)):
                assert [(image.text, image.payload, image.layer)] == docker.pull("lab/x", tag)
            assert 200 == docker.get(f"/images/{after.text}/diff").status_code
            assert ["redis"] == list(docker.get("/_status").json()["failures"])
        assert self.PASSWORD not in server.log.read_text()


class TestASearchIndex:
    """With 0.7.1 a push failed when a repository's row was there already, or the database was not."""

    def test_accepts_a_repository_that_it_already_has(self, tmp_path):
        image = fresh()
        with Server(tmp_path / "store", SEARCH_BACKEND="sqlalchemy") as server, Docker(server.url) as docker:
            for _ in range(3):
                docker.push("lab/again", "v1", image)
            done(docker.ask("DELETE", "/repositories/lab/again/"), 200)
            docker.push("lab/again", "v1", image)
            wait_until(lambda: 1 == docker.get("/search?q=again").json()["num_results"])

    def test_may_fail_without_failing_pushes(self, tmp_path):
        image, late = fresh(), fresh()
        with Server(tmp_path / "store", workers=2, SEARCH_BACKEND="sqlalchemy") as server, Docker(server.url) as docker:
            docker.push("lab/x", "v1", image)
            for database in tmp_path.glob("store.search.db*"):
                with database.open("r+b") as file:  # not truncated: SQLite has mapped the one of its locks (SIGBUS)
                    file.write(b"no database" * 1000)
            docker.push("lab/x", "v2", late)
            docker.push("lab/y", "v1", late)
            assert late.layer == docker.pull("lab/y", "v1")[0][2]
            done(docker.ask("DELETE", "/repositories/lab/y/"), 200)
            answer = docker.get("/search?q=lab")
            assert answer.status_code in (200, 500, 503)
            assert "Traceback" not in answer.text
