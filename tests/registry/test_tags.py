from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from docker_registry.drivers.file import FileDriver
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.errors import ConditionUnsupported, LinkBroken, ManifestUnknown, TagChanged, TagImmutable
from docker_registry.registry import layout, store_removal
from docker_registry.registry.names import Digest, ImageRepositoryName, RepositoryName, Tag
from tests.registry.bridge.both import push_v1
from tests.registry.conftest import NAME
from tests.support.registries import Registry
from tests.support.v1_images import make

LATEST, ONE, TWO = Tag("latest"), Digest.of(b"1"), Digest.of(b"2")


class TestAChange:
    def test_returns_the_previous_target(self, registry):
        assert [None, ONE, ONE] == [registry.tags.put(NAME, LATEST, digest) for digest in (ONE, ONE, TWO)]
        assert TWO == registry.tags.delete(NAME, LATEST)


class TestAConditionalChange:
    def test_succeeds_if_the_condition_holds(self, registry):
        registry.tags.put(NAME, LATEST, ONE, lambda current: current is None)
        registry.tags.put(NAME, LATEST, TWO, lambda current: current == ONE)
        assert TWO == registry.tags.get(NAME, LATEST)

    def test_fails_if_the_condition_does_not_hold(self, registry):
        registry.tags.put(NAME, LATEST, ONE)
        with pytest.raises(TagChanged):
            registry.tags.put(NAME, LATEST, TWO, lambda current: current is None)
        assert ONE == registry.tags.get(NAME, LATEST)

    def test_detects_a_concurrent_change(self, registry):
        registry.tags.put(NAME, LATEST, ONE)

        def condition(current):
            registry.tags.put(NAME, LATEST, TWO)
            return True

        with pytest.raises(TagChanged):
            registry.tags.put(NAME, LATEST, ONE, condition)
        assert TWO == registry.tags.get(NAME, LATEST)

    def test_is_rejected_without_conditional_puts(self, driver):
        driver.capabilities = replace(driver.capabilities, if_match=False)
        with pytest.raises(ConditionUnsupported):
            Registry(driver).tags.put(NAME, LATEST, ONE, lambda current: True)


class TestAnImmutableTag:
    @pytest.fixture
    def tags(self, driver):
        return Registry(driver, immutable_tags=["v*", "acme/*:stable"]).tags

    @pytest.mark.parametrize("tag", ["v1", "v", "stable"])
    def test_never_changes_once_it_exists(self, tags, tag):
        tags.put(NAME, Tag(tag), ONE)
        tags.put(NAME, Tag(tag), ONE)
        with pytest.raises(TagImmutable):
            tags.put(NAME, Tag(tag), TWO)
        with pytest.raises(TagImmutable):
            tags.delete(NAME, Tag(tag))
        assert ONE == tags.get(NAME, Tag(tag))

    def test_is_selected_by_a_pattern_only(self, tags):
        for name, tag in ((NAME, "latest"), (RepositoryName("other"), "stable")):
            tags.put(name, Tag(tag), ONE)
            tags.put(name, Tag(tag), TWO)
            tags.delete(name, Tag(tag))


class TestTagsOfAManifest:
    def test_are_found_without_reading_every_tag(self, registry, driver):
        for tag in ("a", "b"):
            registry.tags.put(NAME, Tag(tag), ONE)
        registry.tags.put(NAME, Tag("c"), TWO)
        read = []
        driver.get_content = lambda path: read.append(path) or MemoryDriver.get_content(driver, path)
        assert (Tag("a"), Tag("b")) == registry.tags.pointing_at(NAME, ONE)
        assert layout.tag_link(NAME, Tag("c")) not in read

    def test_are_only_those_that_still_point_at_it(self, registry):
        registry.tags.put(NAME, LATEST, ONE)
        registry.tags.put(NAME, LATEST, TWO)
        assert () == registry.tags.pointing_at(NAME, ONE)

    def test_are_found_if_another_server_created_them(self, registry, driver):
        driver.put_content(layout.tag_link(NAME, LATEST), str(ONE).encode())
        registry.tags.put(NAME, Tag("ours"), ONE)
        assert (LATEST, Tag("ours")) == registry.tags.pointing_at(NAME, ONE)

    def test_are_found_after_distribution_has_written_too(self, registry, driver):
        registry.tags.put(NAME, Tag("ours"), ONE)
        driver.put_content(layout.tag_link(NAME, LATEST), str(TWO).encode())
        driver.put_content(layout.tag_history_entry(NAME, LATEST, TWO), str(TWO).encode())
        assert (LATEST,) == registry.tags.pointing_at(NAME, TWO)
        assert () == registry.tags.pointing_at(NAME, ONE)[1:]

    def test_leave_nothing_that_distribution_would_list(self, registry, driver):
        driver.put_content(layout.tag_link(NAME, LATEST), str(ONE).encode())
        driver.put_content(layout.tag_history_entry(NAME, LATEST, ONE), str(ONE).encode())
        assert ONE == registry.tags.delete(NAME, LATEST)
        assert not driver.exists(layout.tag(NAME, LATEST))


class TestADamagedLink:
    def test_points_at_nothing(self, registry, driver):
        driver.put_content(layout.tag_link(NAME, LATEST), b"\xff")
        with pytest.raises(ManifestUnknown):
            registry.tags.get(NAME, LATEST)


class Walked(MemoryDriver):
    """A store whose listings return many files per request, while each lookup costs a request."""

    capabilities = replace(MemoryDriver.capabilities, pages=True)
    asked = 0

    def exists(self, path):
        self.asked += 1
        return super().exists(path)

    def find(self, path):
        self.asked += 1
        return super().find(path)


class TestAnAbandonedReservation:
    @pytest.mark.parametrize("driver", [MemoryDriver(), Walked()])
    def test_is_no_tag(self, driver):
        registry = Registry(driver)  # without the pattern of immutable tags of the process that died
        registry.tags.put(NAME, LATEST, ONE)
        driver.put_content(layout.tag_link(NAME, LATEST), str(ONE).encode() + store_removal.new_mark())
        driver.put_content(layout.tag_link(NAME, Tag("reserved")), store_removal.new_mark())
        assert (LATEST,) == registry.tags.list(NAME)
        assert ("latest",) == registry.tags.page(NAME, 10).names
        with pytest.raises(ManifestUnknown):
            registry.tags.get(NAME, Tag("reserved"))


class TestATagBehindABrokenLink:
    def test_is_listed_with_the_others(self, tmp_path):
        registry = Registry(FileDriver(tmp_path))
        for tag in (LATEST, Tag("lost")):
            registry.tags.put(NAME, tag, ONE)
        shutil.rmtree(tmp_path / layout.tags(NAME) / "lost")
        (tmp_path / layout.tags(NAME) / "lost").symlink_to("nothing")
        assert ("latest", "lost") == registry.tags.page(NAME, 10).names
        with pytest.raises(LinkBroken):
            registry.tags.get(NAME, Tag("lost"))


class TestAListOnAPagedStore:
    @pytest.fixture
    def driver(self):
        return Walked()

    def test_reads_no_tag_individually(self, registry, driver):
        for number in range(20):
            registry.tags.put(NAME, Tag(f"t{number:02}"), ONE)
        driver.asked = 0
        page = registry.tags.page(NAME, 10, "t04")
        assert (tuple(f"t{number:02}" for number in range(5, 15)), True) == (page.names, page.more)
        assert 0 == driver.asked

    def test_omits_a_tag_removed_during_the_listing(self, registry, driver):
        registry.tags.put(NAME, LATEST, ONE)
        registry.tags.put(NAME, Tag("gone"), ONE)
        driver.remove(layout.tag_link(NAME, Tag("gone")))
        assert (LATEST,) == registry.tags.list(NAME)

    def test_contains_existing_repositories(self, registry, driver):
        push_v1(registry, [make(1)], name=ImageRepositoryName.parse("old"))
        registry.blobs.link(NAME, ONE)
        assert (str(NAME), "old") == registry.repositories.page(10).names
        registry.image_tags.delete_repository(ImageRepositoryName.parse("old"))
        assert (str(NAME),) == registry.repositories.page(10).names
