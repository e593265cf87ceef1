"""
podman with layers of zstd:chunked, of which it fetches only the files that it lacks, by many ranges at once.

It counts the parts of responses, also those of adjacent files, and needs its overlay driver.
"""

from __future__ import annotations

import itertools
import random
import subprocess

import pytest
import requests

from tests.interop.test_s3 import environment
from tests.support.clients.programs import Tool, missing, require, require_root
from tests.support.clients.v2 import Client
from tests.support.images import make_tar
from tests.support.servers.registry import Server
from tests.support.timing import wait_until

#: podman 4.3 cannot write larger files that do not compress ("short write").
FILE_BYTES = 2000


@pytest.fixture(params=["file", pytest.param("s3", marks=pytest.mark.slow)])
def server(request, tmp_path):
    options = environment(request.getfixturevalue("seaweedfs").options()) if request.param == "s3" else {}
    with Server(tmp_path / "store", **options) as server:
        yield server


@pytest.fixture
def podman_of(containers_environment, tmp_path):
    """Create independent podmans."""
    require_root()
    made = []

    def make(name):
        home = tmp_path / name
        home.mkdir()
        (home / "storage.conf").write_text(
            f'[storage]\ndriver = "overlay"\ngraphroot = "{home}/storage"\nrunroot = "{home}/run"\n'
            '[storage.options]\npull_options = {enable_partial_images = "true"}\n'
        )
        variables = {**containers_environment, "CONTAINERS_STORAGE_CONF": str(home / "storage.conf")}
        podman = Tool([require("podman", "podman")], variables)
        try:
            podman("info")
        except AssertionError as error:
            missing(f"podman has no overlay driver here: {str(error)[-200:]}")
        made.append(home / "storage/overlay")
        return podman

    yield make
    for place in made:
        subprocess.run(["umount", place], check=False, capture_output=True)


def sent_bytes(server, since, digest):
    """The bytes of a blob that were sent, from the access log, once a further request adds no more."""
    found = []
    numbers = itertools.count()

    def is_known():
        last = f"/v2/last-{since}-{next(numbers)}"
        requests.get(f"{server.url}{last}", timeout=60)
        wait_until(lambda: last in server.log.read_text())  # lines are written after the responses
        lines = [line.split('"') for line in server.log.read_text()[since:].splitlines() if f"/blobs/{digest} " in line]
        found.append(sum(int(fields[2].split()[1]) for fields in lines if fields[1].startswith("GET ")))
        return found[-1] and found[-2:-1] == found[-1:]

    wait_until(is_known)
    return found[-1]


def test_fetches_only_the_changed_part_of_a_layer(server, podman_of, policy):
    source = random.Random(5)
    files = {f"d{number % 10}/f{number}": source.randbytes(FILE_BYTES) for number in range(1000)}
    changed = files | {name: source.randbytes(FILE_BYTES) for name in source.sample(sorted(files), 50)}
    options = ["--tls-verify=false", f"--signature-policy={policy}"]
    image = f"127.0.0.1:{server.port}/lab/chunked"
    pushing = podman_of("pushing")
    for tag, tree in (("v1", files), ("v2", changed)):
        pushing("import", "-", f"{image}:{tag}", stdin=make_tar(tree))
        pushing("push", *options, "--compression-format=zstd:chunked", "--format=oci", f"{image}:{tag}")
    with Client(server.url) as client:
        (layer,) = client.get_manifest("lab/chunked", "v2").document["layers"]
    # podman 4.3 fetches the whole layer if it does not find a file in a folder that it is creating, now and then.
    for attempt in range(8):
        pulling = podman_of(f"pulling-{attempt}")
        pulling("pull", *options, f"{image}:v1")
        since = len(server.log.read_text())
        pulling("pull", *options, f"{image}:v2")
        sent = sent_bytes(server, since, layer["digest"])
        if sent < layer["size"]:
            break
    assert 0 < sent < layer["size"] / 10
    place = pulling("image", "mount", f"{image}:v2")
    assert changed == {name: read(f"{place}/{name}") for name in changed}
    pulling("image", "umount", f"{image}:v2")


def read(path):
    with open(path, "rb") as file:
        return file.read()
