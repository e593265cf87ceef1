from __future__ import annotations

import pytest

from docker_registry.errors import NameUnknown
from docker_registry.registry import layout
from docker_registry.registry.intake import Content
from docker_registry.registry.names import Digest, RepositoryName
from tests.registry.conftest import NAME


def push(registry, name):
    registry.uploads.put(RepositoryName.parse(name), Digest.of(b"x"), Content(b"x"))


class TestRepositories:
    def test_are_listed_in_ascii_order_however_deep_they_nest(self, registry):
        names = ["a", "a/b/c", "a-b", "z/tags/list", "library/busybox"]
        for name in names:
            push(registry, name)
        assert sorted(names) == [str(name) for name in registry.repositories.list()]

    def test_are_none_in_an_empty_store(self, registry):
        assert () == registry.repositories.list()

    def test_are_not_made_by_an_upload_that_never_ended(self, registry):
        registry.uploads.start(NAME)
        assert () == registry.repositories.list()
        with pytest.raises(NameUnknown):
            registry.repositories.check(NAME)

    def test_are_not_made_by_folders_that_no_name_can_have(self, registry, driver):
        driver.put_content(f"{layout.REPOSITORIES}/Upper/_layers/sha256/x/link", b"x")
        assert () == registry.repositories.list()

    def test_whose_uploads_only_are_purged_are_found_for_it(self, registry):
        registry.uploads.start(NAME)
        assert 0 == registry.purge_uploads(3600)
        assert 1 == registry.purge_uploads(-3600)
