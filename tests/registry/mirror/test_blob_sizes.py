"""The sizes of blobs in manifests of upstreams."""

from __future__ import annotations

import json

import pytest

from docker_registry.errors import UpstreamError
from docker_registry.registry.mirror.blob_sizes import BlobSizes
from docker_registry.registry.names import Digest, RepositoryName
from docker_registry.resources.memory_budget import JsonBudget
from docker_registry.resources.time_slices import TimeSlices
from tests.registry.mirror.conftest import NAME as REPOSITORY
from tests.support.clients.v2 import digest_of

NAME = RepositoryName(REPOSITORY)


class CountingSlices(TimeSlices):
    """
    Time slices.

    Attributes:
        paced: items between which the event loop could run.
    """

    paced = 0

    def pace(self, items):
        for item in super().pace(items):
            self.paced += 1
            yield item


def manifest(*sizes, **more):
    """A manifest with blobs of some sizes; the last one is its configuration."""
    descriptors = [{"digest": digest_of(str(number).encode()), "size": size} for number, size in enumerate(sizes)]
    return json.dumps({"layers": descriptors[:-1], "config": descriptors[-1], **more}).encode()


def digest(number):
    return Digest.parse(digest_of(str(number).encode()))


@pytest.fixture
def slices():
    return CountingSlices()


@pytest.fixture
def sizes(slices):
    return BlobSizes(JsonBudget(slices))


def test_are_those_that_the_manifests_of_the_repository_agree_on(sizes):
    sizes.record(NAME, manifest(5, 7, True, -1, 9))
    assert [5, 7, None, None, 9] == [sizes.check(NAME, digest(number), None) for number in range(5)]
    with pytest.raises(UpstreamError):
        sizes.check(NAME, digest(0), 6)
    assert 6 == sizes.check(RepositoryName("up.example/other"), digest(0), 6), "it says nothing of other repositories"
    sizes.record(NAME, manifest(6, 7))
    assert 6 == sizes.check(NAME, digest(0), 6), "the manifests contradict each other"
    assert 7 == sizes.check(NAME, digest(1), None)


@pytest.mark.parametrize("key", ["layers", "config", "other"])
def test_of_a_large_manifest_are_read_without_blocking_the_event_loop(sizes, slices, key):
    items = {f"k{number}": [] for number in range(10_000)}
    large = manifest(5, 7, 9, **{key: items if key == "config" else [*items.values()]})
    sizes.record(NAME, large)
    assert slices.paced > len(items)


@pytest.mark.parametrize("bad", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b'{"a":[' + b"{}," * 300_000 + b"{}]}"])
def test_of_an_invalid_manifest_are_not_known(sizes, slices, bad):
    sizes.record(NAME, bad)
    assert slices.paced < 10
