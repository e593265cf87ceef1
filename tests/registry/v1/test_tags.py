"""Tags of API V1."""

from __future__ import annotations

import json

import pytest

from docker_registry.drivers.memory import MemoryDriver
from docker_registry.errors import ImageRepositoryUnknown, ImageTagUnknown, ImageUnknown, TagImmutable
from docker_registry.registry import events
from docker_registry.registry.names import ImageId, ImageRepositoryName, Tag
from tests.support.registries import Registry
from tests.support.v1_images import chain, push

NAME = ImageRepositoryName.parse("acme/web")
DEEP = ImageRepositoryName.parse("a/b/c")
V1, LATEST = Tag("v1"), Tag("latest")
OLD, NEW = chain(2)

UNKNOWN_CLIENT = {
    "last_update": None,
    "docker_version": None,
    "docker_go_version": None,
    "arch": "amd64",
    "os": "linux",
    "kernel": None,
}


@pytest.fixture
def timed(registry, driver):
    """A registry whose clock stands still."""
    push(registry, OLD, NEW)
    return Registry(driver, now=lambda: 1400000000.9)


@pytest.fixture
def tags(timed):
    return timed.image_tags


@pytest.fixture
def pushes(timed):
    return timed.image_tag_pushes


class Interrupted(MemoryDriver):
    """A store in which another request writes a file once it was read with its version."""

    def __init__(self, driver, path, content):
        super().__init__()
        self._files = driver._files
        self._pending = {path: content}

    def get_versioned(self, path):
        found = super().get_versioned(path)
        if path in self._pending:
            self.put_content(path, self._pending.pop(path))
        return found


class TestATag:
    def test_names_the_image_that_was_pushed_last(self, tags, pushes):
        for image in (OLD, NEW):
            pushes.put(NAME, V1, image.id, {})
        assert NEW.id == tags.get(NAME, V1)
        assert {"v1": NEW.text} == tags.list(NAME)

    def test_is_stored_where_0_7_1_stores_it(self, pushes, driver):
        pushes.put(NAME, V1, OLD.id, {"docker_version": "1.5.0"})
        assert OLD.text.encode() == driver.get_content("repositories/acme/web/tag_v1")
        note = json.loads(driver.get_content("repositories/acme/web/tagv1_json"))
        assert {"last_update": 1400000000, "docker_version": "1.5.0"} == note

    def test_is_unknown_before_its_push(self, tags):
        for ask in (tags.get, tags.delete, tags.get_json):
            with pytest.raises(ImageTagUnknown, match="Tag not found"):
                ask(NAME, V1)

    def test_returns_its_previous_target(self, tags, pushes):
        assert [None, None, OLD.id] == [pushes.put(NAME, V1, image.id, {}) for image in (OLD, OLD, NEW)]
        assert NEW.id == tags.delete(NAME, V1)

    def test_changes_by_compare_and_swap(self, pushes, driver):
        """The previous target is that which the change replaces, not one that was read before."""
        pushes.put(NAME, V1, OLD.id, {})
        found = Interrupted(driver, "repositories/acme/web/tag_v1", NEW.text.encode())
        assert NEW.id == Registry(found).image_tag_pushes.put(NAME, V1, OLD.id, {})

    def test_requires_a_stored_image(self, pushes):
        with pytest.raises(ImageUnknown, match="Image not found"):
            pushes.put(NAME, V1, ImageId("0" * 64), {})

    def test_is_deleted_with_its_json(self, tags, pushes, driver):
        for tag in (V1, LATEST):
            pushes.put(NAME, tag, OLD.id, {})
            tags.delete(NAME, tag)
        assert [] == [stat.path for stat in driver.walk("repositories")]

    @pytest.mark.parametrize("content", [b"", b"junk", b"\xff", b"../../etc/passwd"])
    def test_that_is_damaged_does_not_exist(self, tags, driver, content):
        driver.put_content("repositories/acme/web/tag_v1", content)
        assert {} == tags.list(NAME)

    def test_may_end_with_a_newline(self, tags, driver):
        driver.put_content("repositories/acme/web/tag_v1", OLD.text.encode() + b"\n")
        assert OLD.id == tags.get(NAME, V1)

    def test_sends_an_event(self, tags, pushes, driver):
        heard = []

        def hear(sender, name, tag):
            heard.append((sender, name, tag))

        with events.tag_created.connected_to(hear), events.tag_deleted.connected_to(hear):
            pushes.put(NAME, V1, OLD.id, {})
            tags.delete(NAME, V1)
        assert [(driver, NAME, V1)] * 2 == heard


class TestTheJsonOfATag:
    def test_describes_the_client_that_pushed_it(self, tags, pushes):
        pushes.put(NAME, V1, OLD.id, {"docker_version": "1.5.0", "os": "linux"})
        assert {"last_update": 1400000000, "docker_version": "1.5.0", "os": "linux"} == tags.get_json(NAME, V1)

    def test_of_latest_is_that_of_the_repository(self, tags, pushes):
        assert UNKNOWN_CLIENT == tags.get_repository_json(NAME)
        pushes.put(NAME, V1, OLD.id, {"arch": "arm"})
        assert UNKNOWN_CLIENT == tags.get_repository_json(NAME)
        pushes.put(NAME, LATEST, OLD.id, {"arch": "arm"})
        assert {"last_update": 1400000000, "arch": "arm"} == tags.get_repository_json(NAME)

    @pytest.mark.parametrize("content", [b"", b"{", b"[]"])
    def test_that_is_damaged_is_empty(self, tags, pushes, driver, content):
        pushes.put(NAME, V1, OLD.id, {})
        driver.put_content("repositories/acme/web/tagv1_json", content)
        assert UNKNOWN_CLIENT == tags.get_json(NAME, V1)

    def test_never_overwrites_another_tag(self, tags, pushes):
        """0.7.1 stores the metadata of ``_x`` under the path of the tag ``x_json``."""
        pushes.put(NAME, Tag("v1_json"), OLD.id, {})
        pushes.put(NAME, Tag("_v1"), NEW.id, {})
        assert {"v1_json": OLD.text, "_v1": NEW.text} == tags.list(NAME)
        assert UNKNOWN_CLIENT == tags.get_json(NAME, Tag("_v1"))


class TestTheListOfTags:
    def test_is_empty_in_a_repository_without_any(self, tags, registry):
        registry.image_repositories.put_images(NAME, b"[]")
        assert {} == tags.list(NAME)

    def test_requires_a_repository(self, tags):
        with pytest.raises(ImageRepositoryUnknown, match="Repository not found"):
            tags.list(NAME)


class TestARepositoryInTwoFolders:
    @pytest.fixture
    def both(self, tags, driver):
        driver.put_content("repositories/a/b%2Fc/tag_old", OLD.text.encode())
        driver.put_content("repositories/a/b%252Fc/tag_new", NEW.text.encode())
        for folder in ("b%2Fc", "b%252Fc"):
            driver.put_content(f"repositories/a/{folder}/tag_v1", OLD.text.encode())
        return tags

    def test_has_the_tags_of_both_folders(self, both):
        assert {"old": OLD.text, "new": NEW.text, "v1": OLD.text} == both.list(DEEP)

    def test_deletes_a_tag_in_both_folders(self, both):
        both.delete(DEEP, V1)
        assert {"old", "new"} == set(both.list(DEEP))

    def test_shows_the_last_push(self, both, pushes):
        pushes.put(DEEP, V1, NEW.id, {})
        pushes.put(DEEP, Tag("new"), OLD.id, {})
        assert {"old": OLD.text, "new": OLD.text, "v1": NEW.text} == both.list(DEEP)


class TestAnImmutableTag:
    @pytest.fixture
    def timed(self, driver):
        registry = Registry(driver, immutable_tags=["acme/*:v*"])
        push(registry, OLD, NEW)
        return registry

    def test_may_be_pushed_once(self, tags, pushes):
        pushes.put(NAME, V1, OLD.id, {})
        pushes.put(NAME, V1, OLD.id, {})
        with pytest.raises(TagImmutable):
            pushes.put(NAME, V1, NEW.id, {})
        with pytest.raises(TagImmutable):
            tags.delete(NAME, V1)
        assert OLD.id == tags.get(NAME, V1)

    def test_is_one_that_matches_a_pattern(self, tags, pushes):
        for image in (OLD, NEW):
            pushes.put(NAME, LATEST, image.id, {})
        tags.delete(NAME, LATEST)
