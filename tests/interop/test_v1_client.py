"""
64 concurrent clients of API V1 on four workers: each pulls, finds and deletes its pushes.

The real clients of API V1 are no longer available; `recordings` has their requests, this module tests concurrency.
"""

from __future__ import annotations

import itertools
import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.clients.v1 import Docker, done
from tests.support.servers.registry import Server
from tests.support.timing import wait_until
from tests.support.v1_images import make

CLIENTS = 64
IMAGES = 3

_numbers = itertools.count(5_000_000)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    store = tmp_path_factory.mktemp("v1-clients") / "store"
    with Server(store, workers=4, SEARCH_BACKEND="sqlalchemy") as server:
        yield server


def irregular(layer, seed):
    """Cut a layer into chunks of one byte to some ten thousand."""
    sizes, start = random.Random(seed), 0
    while start < len(layer):
        end = start + sizes.choice([1, 7, 511, 4096, sizes.randint(1, 50_000)])
        yield layer[start:end]
        start = end


def chain(seed, base=None):
    """A chain of images with layers of irregular sizes, one of them empty."""
    sizes, images = random.Random(seed), []
    for size in [*(sizes.randint(1, 400_000) for _ in range(IMAGES - 1)), 0]:
        parent = images[-1] if images else base
        images.append(make(next(_numbers), parent, layer=sizes.randbytes(size)))
    return images


def push(docker, name, images, seed, tag="v1"):
    """Push the missing images, each layer in chunks of irregular sizes."""
    done(docker.put(f"/repositories/{name}/", "[]"), 200)
    for image in images:
        path = f"/images/{image.text}"
        if docker.get(f"{path}/json").status_code == 200:
            continue
        begun = docker.put(f"{path}/json", image.payload)
        if begun.status_code == 409:  # another client was faster
            continue
        done(begun, 200)
        received = docker.put(f"{path}/layer", irregular(image.layer, seed))
        assert received.status_code in (200, 409)
        ended = docker.put(f"{path}/checksum", headers={"X-Docker-Checksum-Payload": image.payload_sum})
        assert ended.status_code in (200, 409), ended.text
    done(docker.put(f"/repositories/{name}/tags/{tag}", f'"{images[-1].text}"'), 200)
    done(docker.put(f"/repositories/{name}/images", "[]"), 204)


def resume(docker, image, seed):
    """Get a layer in parts, each of which is interrupted, as Docker does."""
    sizes, size, received = random.Random(seed), len(image.layer), b""
    while len(received) < size:
        headers = {"Range": f"bytes={len(received)}-{size}"}
        answer = docker.get(f"/images/{image.text}/layer", headers=headers, stream=True)
        assert 206 == answer.status_code
        received += answer.raw.read(sizes.randint(1, size))
        answer.close()
    return received


def everyone(work):
    """Run a function for all clients at the same time; the first error is raised."""
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(work, range(CLIENTS)))


class TestConcurrentV1Clients:
    def test_pull_everything_that_they_pushed(self, server):
        def work(number):
            name, images = f"many/client-{number}", chain(number)
            with Docker(server.url) as docker:
                push(docker, name, images, number)
                assert [(i.text, i.payload, i.layer) for i in images] == docker.pull(name, "v1")
                assert images[0].layer == resume(docker, images[0], number)

        everyone(work)

    def test_that_push_one_image_pull_it_complete(self, server):
        images = chain("one")

        def work(number):
            with Docker(server.url) as docker:
                push(docker, f"same/client-{number}", images, number)
                assert [(i.text, i.payload, i.layer) for i in images] == docker.pull(f"same/client-{number}", "v1")

        everyone(work)

    def test_that_share_a_repository_lose_no_tag(self, server):
        image = make(next(_numbers))

        def work(number):
            with Docker(server.url) as docker:
                push(docker, "shared/all", [image], number, f"v{number}")

        everyone(work)
        with Docker(server.url) as docker:
            expected = {f"v{number}": image.text for number in range(CLIENTS)}
            assert expected == docker.get("/repositories/shared/all/tags").json()

    def test_search_and_delete_their_repositories(self, server):
        image = make(next(_numbers))

        def work(number):
            with Docker(server.url) as docker:
                push(docker, f"gone/client-{number}", [image], number)

        everyone(work)
        with Docker(server.url) as docker:
            assert_found(docker, "gone", CLIENTS)

        def remove(number):
            with Docker(server.url) as docker:
                done(docker.ask("DELETE", f"/repositories/gone/client-{number}/"), 200)
                assert 404 == docker.get(f"/repositories/gone/client-{number}/tags").status_code

        everyone(remove)
        with Docker(server.url) as docker:
            assert_found(docker, "gone", 0)
            assert image.layer == docker.get(f"/images/{image.text}/layer").content

    def test_leave_no_error_in_the_log(self, server):
        assert "Traceback" not in server.log.read_text()


def assert_found(docker, query, number):
    """Wait until the index, which is updated asynchronously, has the expected entries."""
    wait_until(lambda: number == docker.get(f"/search?q={query}").json()["num_results"])
