"""Updates of the search index after changes of the registry."""

from __future__ import annotations

import logging
import threading

import pytest

from docker_registry.drivers.memory import MemoryDriver
from docker_registry.errors import StorageUnavailable
from docker_registry.registry import events
from docker_registry.registry.actor import ANONYMOUS_PUSH
from docker_registry.registry.names import RepositoryName, Tag
from docker_registry.registry.search.backends import open_index
from docker_registry.registry.search.index import Entry, SearchIndex
from docker_registry.registry.search.missed_updates import MissedUpdates
from docker_registry.registry.search.updates import SearchUpdates
from tests.registry.conftest import NAME, OTHER
from tests.support.gevent_program import under_gevent
from tests.support.timing import wait_until


class SlowIndex(SearchIndex):
    """An index that blocks or fails on request."""

    def __init__(self):
        self.told = []
        self.free = threading.Event()
        self.free.set()
        self.errors = []

    def put(self, entry):
        self.free.wait(60)
        if self.errors:
            raise self.errors.pop()
        self.told.append(entry)

    def delete(self, name):
        self.told.append(name)

    def search(self, query, *, page=1, page_size=25, private=False):
        raise NotImplementedError


@pytest.fixture
def store():
    """The entry of each name in the store."""
    return {}


@pytest.fixture
def index(tmp_path):
    index = open_index("sqlalchemy", f"sqlite:///{tmp_path}/search.db")
    yield index
    index.close()


@pytest.fixture
def slow():
    return SlowIndex()


def listen(index, store, sender):
    updates = SearchUpdates(index, store.get, MissedUpdates(sender, "index"), retry_seconds=0.01)
    updates.connect(sender)
    return updates


def happens(store, signal, driver, name=NAME, **entry):
    """Change the store, and send the event."""
    if signal is events.repository_deleted:
        del store[str(name)]
    else:
        store[str(name)] = Entry(str(name), **entry)
    tag = {"tag": Tag.parse("latest")} if signal is events.tag_created else {}
    events.announce(signal, driver, ANONYMOUS_PUSH, name=name, **tag)


class TestARepository:
    @pytest.mark.parametrize("signal", [events.repository_created, events.repository_updated, events.tag_created])
    def test_is_found_after_its_push(self, index, store, driver, signal):
        updates = listen(index, store, driver)
        happens(store, signal, driver)

        assert updates.flush()
        assert 1 == index.search("acme/web").num_results

    def test_is_not_found_after_its_deletion(self, index, store, driver):
        updates = listen(index, store, driver)
        happens(store, events.repository_created, driver)
        assert updates.flush()
        happens(store, events.repository_deleted, driver)

        assert updates.flush()
        assert 0 == index.search("acme/web").num_results

    def test_is_hidden_after_it_becomes_private(self, index, store, driver):
        updates = listen(index, store, driver)
        happens(store, events.repository_created, driver)
        happens(store, events.repository_updated, driver, private=True)

        assert updates.flush()
        assert 0 == index.search("acme/web").num_results
        assert 1 == index.search("acme/web", private=True).num_results

    def test_of_another_registry_is_ignored(self, index, store, driver):
        updates = listen(index, store, driver)
        happens(store, events.repository_created, MemoryDriver())

        assert updates.flush()
        assert 0 == index.search("").num_results


class TestAPush:
    def test_does_not_wait_for_the_index(self, slow, store, driver):
        slow.free.clear()
        updates = listen(slow, store, driver)
        for _ in range(1000):
            happens(store, events.repository_created, driver)
        assert [] == slow.told
        slow.free.set()

        assert updates.flush()
        assert 2 >= len(slow.told)  # while the first was sent, all others were merged into one

    def test_soon_after_another_is_indexed_together_with_later_ones(self, slow, store, driver):
        updates = SearchUpdates(slow, store.get, MissedUpdates(driver, "index"), min_interval_seconds=0.5)
        updates.connect(driver)
        for number in range(50):
            happens(store, events.tag_created, driver, description=str(number))
            if number == 0:
                wait_until(lambda: slow.told)
        wait_until(lambda: slow.told[-1].description == "49")

        assert ["0", "49"] == [entry.description for entry in slow.told]

    def test_never_fails_because_of_the_index(self, slow, store, driver, caplog):
        slow.errors = [ZeroDivisionError("their mistake")]
        updates = listen(slow, store, driver)
        happens(store, events.repository_created, driver)
        assert updates.flush()
        happens(store, events.repository_created, driver, OTHER)

        assert updates.flush()
        assert [Entry(str(OTHER))] == slow.told
        (record,) = caplog.records
        assert "the search index missed the change of acme/web" == record.getMessage()


class TestAnUnreachableIndex:
    def test_receives_all_changes_once_it_is_back(self, slow, store, driver, caplog):
        caplog.set_level(logging.INFO)
        slow.errors = [StorageUnavailable() for _ in range(5)]
        updates = listen(slow, store, driver)
        happens(store, events.repository_created, driver)
        happens(store, events.repository_created, driver, OTHER)

        assert updates.flush()
        assert {Entry(str(NAME)), Entry(str(OTHER))} == set(slow.told)
        assert ["WARNING", "INFO"] == [record.levelname for record in caplog.records]

    def test_is_noted_in_the_store_until_it_has_caught_up(self, slow, store, driver):
        slow.errors = [StorageUnavailable() for _ in range(10_000)]
        updates, others = listen(slow, store, driver), [MissedUpdates(driver, name) for name in ("index", "another")]
        happens(store, events.repository_created, driver)
        wait_until(others[0].all)
        others[0].forget(others[0].all())  # as a rebuild does that began before the next failure
        wait_until(others[0].all)
        assert () == others[1].all()
        slow.errors.clear()
        assert updates.flush()
        assert [] == list(others[0].all())

    def test_is_noted_in_the_store_when_the_process_ends(self, slow, store, driver):
        slow.free.clear()
        updates = listen(slow, store, driver)
        updates.finish()
        assert () == updates.missed.all()
        happens(store, events.repository_created, driver)
        updates.finish(0.05)
        assert 1 == len(updates.missed.all())
        slow.errors = [StorageUnavailable() for _ in range(10_000)]
        slow.free.set()
        wait_until(lambda: updates.failures)
        updates.missed.forget(updates.missed.all())
        updates.finish()
        assert 1 == len(updates.missed.all())
        slow.errors.clear()
        assert updates.flush()

    def test_does_not_delay_the_end_of_a_worker_if_the_store_does_not_respond_either(self):
        program = """
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.registry.search.index import NullIndex
from docker_registry.registry.search.missed_updates import MissedUpdates
from docker_registry.registry.search.updates import SearchUpdates

class Store(MemoryDriver):
    def has_file(self, path):
        gevent.sleep(50)

updates = SearchUpdates(NullIndex(), lambda name: gevent.sleep(50), MissedUpdates(Store(), "index"))
updates.queue("acme/web")
with gevent.Timeout(10):
    updates.finish(0.05)
print("ended")
"""
        assert ["ended"] == under_gevent(program, errors=True)

    def test_is_noted_later_if_the_store_is_unreachable_too(self, slow, store, driver, monkeypatch, caplog):
        def fail(_):
            raise StorageUnavailable

        slow.errors = [StorageUnavailable() for _ in range(10_000)]
        updates = listen(slow, store, driver)
        with monkeypatch.context() as patch:
            patch.setattr(driver, "has_file", fail)
            happens(store, events.repository_created, driver)
            wait_until(lambda: updates.failures > 2)
        first, second = (record.getMessage() for record in caplog.records)
        assert ("will be updated" in first, "could not record" in second) == (True, True)
        wait_until(updates.missed.all)
        slow.errors.clear()
        assert updates.flush()

    def test_is_reported_as_updated_only_after_an_update(self, slow, store, driver, caplog):
        caplog.set_level(logging.INFO)
        slow.errors = [ZeroDivisionError("their mistake"), StorageUnavailable()]
        updates = listen(slow, store, driver)
        happens(store, events.repository_created, driver)
        assert updates.flush()
        assert ["WARNING", "WARNING"] == [record.levelname for record in caplog.records]
        happens(store, events.repository_created, driver, OTHER)
        assert updates.flush()
        assert "the search index is updated again" == caplog.records[-1].getMessage()

    def test_receives_the_current_state(self, slow, store, driver):
        slow.errors = [StorageUnavailable()]
        slow.free.clear()
        updates = listen(slow, store, driver)
        happens(store, events.repository_created, driver)
        happens(store, events.repository_deleted, driver)
        slow.free.set()

        assert updates.flush()
        assert str(NAME) == slow.told[-1]

    def test_uses_bounded_memory(self, slow, store, driver, monkeypatch, caplog):
        monkeypatch.setattr("docker_registry.registry.search.updates._MAX_WAITING", 3)
        slow.free.clear()
        updates = listen(slow, store, driver)
        for number in range(20):
            happens(store, events.repository_created, driver, RepositoryName.parse(f"acme/n{number}"))
        slow.free.set()

        assert updates.flush()
        assert 4 >= len(slow.told)
        (record,) = caplog.records
        assert "it will be rebuilt" in record.getMessage()
        assert 1 == len(updates.missed.all())
        updates.missed.forget(updates.missed.all())  # as the rebuild does
        slow.errors = [StorageUnavailable()]
        happens(store, events.repository_created, driver)
        assert updates.flush()
        assert [] == list(updates.missed.all())

    def test_is_waited_for_no_longer_than_requested(self, slow, store, driver):
        slow.free.clear()
        updates = listen(slow, store, driver)
        happens(store, events.repository_created, driver)

        assert not updates.flush(0.05)
        slow.free.set()
        assert updates.flush()
