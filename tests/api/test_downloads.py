"""Files of a store that fails while they are sent."""

from __future__ import annotations

import pytest

from docker_registry.app import create_app
from docker_registry.config import Config
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.errors import StorageUnavailable
from docker_registry.registry import Registry
from docker_registry.registry.names import Digest, RepositoryName

NAME = RepositoryName.parse("lab/download")
CONTENT = b"two blocks"


class Failing(MemoryDriver):
    """A store that breaks off after some blocks of each file."""

    def __init__(self, blocks):
        super().__init__()
        self.blocks = blocks
        self.closed = 0

    def stream_read(self, path, offset=0, length=None):
        return self._read()

    def _read(self):
        try:
            yield from [b"two ", b"blocks"][: self.blocks]
            if self.blocks < 2:
                raise StorageUnavailable
        finally:
            self.closed += 1


@pytest.fixture
def get():
    """GET a blob of a store that gives so many blocks."""

    def get(blocks):
        driver = Failing(blocks)
        registry = Registry(driver)
        digest = Digest.of(CONTENT)
        registry.blobs.put(CONTENT, digest)
        registry.blobs.link(NAME, digest)
        return driver, create_app(Config(), registry).test_client().get(f"/v2/{NAME}/blobs/{digest}")

    return get


def test_a_file_is_sent_block_by_block(get):
    driver, answer = get(2)
    assert (200, CONTENT, 1) == (answer.status_code, answer.data, driver.closed)


def test_a_file_of_which_nothing_comes_is_an_error_like_all(get):
    driver, answer = get(0)
    assert (503, 1) == (answer.status_code, driver.closed)
    assert answer.json["errors"]


def test_a_file_that_breaks_off_later_is_cut_short(get):
    _, answer = get(1)
    assert 200 == answer.status_code
    with pytest.raises(StorageUnavailable):
        answer.get_data()
