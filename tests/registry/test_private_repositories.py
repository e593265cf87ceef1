"""Private repositories of a store that is served without API V1 stay hidden."""

from __future__ import annotations

import pytest

from docker_registry.drivers.memory import MemoryDriver
from docker_registry.errors import BlobUnknown
from docker_registry.registry.access import Action
from docker_registry.registry.actor import ANONYMOUS
from docker_registry.registry.ingest import Content
from docker_registry.registry.names import Digest, RepositoryName
from docker_registry.registry.oci_registry import OciRegistry
from tests.support.registries import Registry

SECRET, OPEN, NEW = (RepositoryName.parse(text) for text in ("acme/secret", "acme/open", "acme/new"))
CONTENT = b"seen by all"


@pytest.fixture
def driver():
    """A store with a private repository of API V1, as docker-registry 0.7 wrote it."""
    driver = MemoryDriver()
    driver.put_content("repositories/acme/secret/_private", b"")
    OciRegistry(driver).uploads.put(OPEN, Digest.of(CONTENT), Content(CONTENT))
    return driver


def names(registry):
    return registry.repositories.page(10).names


class TestAStoreServedWithoutApiV1:
    def test_hides_its_private_repositories(self, driver):
        registry = OciRegistry(driver)
        registry.uploads.put(SECRET, Digest.of(b"secret"), Content(b"secret"))
        assert registry.access.resolve(ANONYMOUS, Action.PULL, SECRET).is_hidden
        assert not registry.access.resolve(ANONYMOUS, Action.PULL, OPEN).is_hidden
        assert ["acme/open"] == list(names(registry))
        with pytest.raises(BlobUnknown):
            registry.blobs.mount(NEW, Digest.of(b"secret"), SECRET)

    def test_shows_them_where_that_is_set(self, driver):
        registry = OciRegistry(driver, serve_private=True)
        assert not registry.access.resolve(ANONYMOUS, Action.PULL, SECRET).is_hidden

    def test_mounts_by_digest_alone_only_after_api_v1_has_marked_private_layers(self, driver):
        with pytest.raises(BlobUnknown):
            OciRegistry(driver).blobs.mount(NEW, Digest.of(CONTENT))
        Registry(driver).private_repositories.adopt()
        assert len(CONTENT) == OciRegistry(driver).blobs.mount(NEW, Digest.of(CONTENT)).size
