"""Repositories of API V1: lists of images, in the folders of either old server."""

from __future__ import annotations

import json

import gevent
import pytest

from docker_registry.drivers.memory import MemoryDriver
from docker_registry.errors import BodyInvalid, ImageRepositoryUnknown, ImagesUnknown, JsonInvalid, Overloaded, TooLarge
from docker_registry.registry import events
from docker_registry.registry.listing_cache import ListingCache
from docker_registry.registry.names import ImageRepositoryName
from docker_registry.registry.repositories import Catalog
from docker_registry.registry.v1.repositories import ImageRepositories
from docker_registry.resources.memory_budget import JsonBudget, MemoryBudget
from docker_registry.resources.time_slices import TimeSlices

NAME = ImageRepositoryName.parse("acme/web")
DEEP = ImageRepositoryName.parse("a/b/c")
ONCE, TWICE = "repositories/a/b%2Fc", "repositories/a/b%252Fc"

FIRST, SECOND, THIRD = ({"id": digit * 64} for digit in "123")


@pytest.fixture
def repositories(driver):
    return ImageRepositories(driver, Catalog(driver, ListingCache(driver)))


def dumped(*entries):
    return json.dumps(entries).encode()


class TestAListOfImages:
    def test_that_was_never_pushed_is_unknown(self, repositories):
        with pytest.raises(ImagesUnknown):
            repositories.list_images(NAME)
        assert set() == repositories.image_ids(NAME)

    def test_that_is_first_is_stored_unchanged(self, repositories):
        payload = b' [{"id":"%s","Tag":"v1"}]\n' % (b"1" * 64)
        repositories.put_images(NAME, payload)
        assert payload == repositories.list_images(NAME)

    def test_is_merged_with_those_that_follow(self, repositories):
        repositories.put_images(NAME, dumped(FIRST | {"Tag": "v1"}, SECOND))
        repositories.put_images(NAME, dumped(THIRD, FIRST))
        assert dumped(FIRST, SECOND, THIRD) == repositories.list_images(NAME)

    def test_adds_new_checksums_and_keeps_old_ones(self, repositories):
        repositories.put_images(NAME, dumped(FIRST | {"checksum": "a"}, SECOND | {"checksum": "b"}))
        repositories.put_images(NAME, dumped(FIRST, SECOND | {"checksum": "c"}))
        assert [FIRST | {"checksum": "a"}, SECOND | {"checksum": "c"}] == json.loads(repositories.list_images(NAME))

    def test_is_not_changed_by_an_empty_list(self, repositories):
        repositories.put_images(NAME, dumped(FIRST))
        repositories.put_images(NAME, b"[]")
        assert dumped(FIRST) == repositories.list_images(NAME)

    @pytest.mark.parametrize("payload", [b"", b"[", b"\xff", b"[" * 10_000])
    def test_must_be_json(self, repositories, payload):
        with pytest.raises(JsonInvalid, match="Error Decoding JSON"):
            repositories.put_images(NAME, payload)

    @pytest.mark.parametrize(
        "payload", [b"{}", b'"x"', b"null", b"[1]", b"[{}]", b'[{"id": 7}]', b'[{"id": "x"}]', b'[{"checksum": "a"}]']
    )
    @pytest.mark.parametrize("is_first", [True, False])
    def test_must_be_a_list_of_images(self, repositories, payload, is_first):
        if not is_first:
            repositories.put_images(NAME, dumped(FIRST))
        with pytest.raises(BodyInvalid, match="Invalid data"):
            repositories.put_images(NAME, payload)

    @pytest.mark.parametrize("content", [b"", b"{", b"{}", b'[{"id": 7}, 8]'])
    def test_that_is_damaged_does_not_block_pushes(self, repositories, driver, content):
        driver.put_content("repositories/acme/web/_index_images", content)
        repositories.put_images(NAME, dumped(FIRST))
        assert dumped(FIRST) == repositories.list_images(NAME)

    def test_loses_nothing_in_concurrent_changes(self):
        class Slow(MemoryDriver):
            def get_content(self, path):
                content = super().get_content(path)
                gevent.sleep(0)
                return content

        slow = Slow()
        repositories = ImageRepositories(slow, Catalog(slow, ListingCache(slow)))
        ids = [f"{number:064x}" for number in range(50)]
        repositories.put_images(NAME, b"[]")
        changes = [gevent.spawn(repositories.put_images, NAME, dumped({"id": text})) for text in ids]
        gevent.joinall(changes, raise_error=True)
        assert set(ids) == repositories.image_ids(NAME)

    def test_is_changed_by_a_list_that_needs_the_rest_of_the_memory_budget(self, driver):
        payload = dumped(*({"id": f"{number:064x}"} for number in range(1000)))
        budget = JsonBudget(TimeSlices(), limit_bytes=10 * len(payload))  # each of both counts six times
        repositories = ImageRepositories(driver, Catalog(driver, ListingCache(driver)), budget)
        for _ in range(2):
            repositories.put_images(NAME, payload)
        assert 1000 == len(repositories.image_ids(NAME))

    def test_is_not_read_before_there_is_memory_for_it(self, driver, monkeypatch):
        budget = JsonBudget(TimeSlices())
        budget.memory = MemoryBudget(1_000_000, wait_seconds=0.01)
        repositories = ImageRepositories(driver, Catalog(driver, ListingCache(driver)), budget)
        repositories.put_images(NAME, dumped(*({"id": f"{number:064x}"} for number in range(1000))))
        monkeypatch.setattr(driver, "find_versioned", None)
        for ask in (repositories.list_images, repositories.image_ids):
            with budget.memory.reserve(1_000_000), pytest.raises(Overloaded):
                ask(NAME)

    def test_has_a_bounded_length(self, driver):
        repositories = ImageRepositories(driver, Catalog(driver, ListingCache(driver)), max_images=100)
        images = [{"id": f"{number:064x}"} for number in range(1, 101)]
        repositories.put_images(NAME, dumped(*images))
        repositories.put_images(NAME, dumped(*images[:3]))
        with pytest.raises(TooLarge):
            repositories.put_images(NAME, dumped(FIRST))
        with pytest.raises(TooLarge):
            repositories.put_images(DEEP, dumped(*images, FIRST))
        assert dumped(*images) == repositories.list_images(NAME)
        assert dumped(*images, SECOND) == repositories.list_images(NAME, [SECOND["id"], images[0]["id"]] * 2)

    def test_of_an_earlier_version_may_be_longer(self, repositories, driver):
        repositories.put_images(NAME, dumped(FIRST, SECOND))
        strict = ImageRepositories(driver, Catalog(driver, ListingCache(driver)), max_images=1)
        strict.put_images(NAME, dumped(SECOND | {"checksum": "a"}))
        assert dumped(FIRST, {"checksum": "a"} | SECOND) == strict.list_images(NAME)

    def test_sends_an_event(self, repositories, driver):
        heard = []

        def hear(sender, name):
            heard.append((sender, name))

        with events.repository_created.connected_to(hear):
            repositories.put_images(NAME, b"[]")
        with events.repository_updated.connected_to(hear):
            repositories.put_images(NAME, dumped(FIRST))
        with events.repository_deleted.connected_to(hear):
            repositories.delete(NAME)
        assert [(driver, NAME)] * 3 == heard


class TestANameWithFurtherSlashes:
    def test_is_quoted_once_in_a_new_repository(self, repositories, driver):
        repositories.put_images(DEEP, b"[]")
        assert [ONCE] == list(driver.list_directory("repositories/a"))

    def test_stays_quoted_twice_in_an_existing_repository(self, repositories, driver):
        driver.put_content(f"{TWICE}/_index_images", dumped(FIRST))
        repositories.put_images(DEEP, dumped(SECOND))
        assert [TWICE] == list(driver.list_directory("repositories/a"))
        assert {FIRST["id"], SECOND["id"]} == repositories.image_ids(DEEP)

    def test_is_one_repository_if_both_folders_exist(self, repositories, driver):
        driver.put_content(f"{ONCE}/_index_images", dumped(FIRST))
        driver.put_content(f"{TWICE}/_index_images", dumped(SECOND))
        assert {FIRST["id"], SECOND["id"]} == repositories.image_ids(DEEP)
        assert [DEEP] == list(repositories.names())
        repositories.delete(DEEP)
        assert not repositories.exists(DEEP)


class TestARepository:
    def test_exists_after_its_first_list(self, repositories):
        assert not repositories.exists(NAME)
        with pytest.raises(ImageRepositoryUnknown, match="Repository not found"):
            repositories.check(NAME)
        repositories.put_images(NAME, b"[]")
        repositories.check(NAME)

    def test_does_not_exist_after_its_deletion(self, repositories):
        repositories.put_images(NAME, b"[]")
        repositories.delete(NAME)
        assert not repositories.exists(NAME)
        with pytest.raises(ImageRepositoryUnknown):
            repositories.delete(NAME)

    def test_is_found_among_all_others(self, repositories, driver):
        names = [ImageRepositoryName.parse(text) for text in ("a/b/c", "acme/db", "acme/web", "library/foo")]
        for name in names:
            repositories.put_images(name, b"[]")
        driver.put_content("repositories/acme/.hidden/x", b"")
        driver.put_content("repositories/stray", b"")
        assert names == list(repositories.names())

    def test_may_be_missing(self, repositories):
        assert [] == list(repositories.names())
