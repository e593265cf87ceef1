"""Every store has a unique identity, the same for all processes."""

from __future__ import annotations

import logging

import pytest

from docker_registry.drivers.base import Capabilities
from docker_registry.drivers.file import FileDriver
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.drivers.store_identity import PATH, StoreIdentity
from docker_registry.drivers.testing.races import race
from docker_registry.errors import StorageUnavailable


class Unconditional(MemoryDriver):
    """A store that has no conditional puts."""

    capabilities = Capabilities()


class TestAStore:
    def test_has_the_same_identity_for_all_processes(self, tmp_path):
        (tmp_path / "elsewhere").symlink_to(tmp_path / "store")
        first = StoreIdentity(FileDriver(str(tmp_path / "store")))()
        assert first is not None
        assert first == StoreIdentity(FileDriver(str(tmp_path / "elsewhere")))()

    def test_differs_from_another_store(self):
        assert StoreIdentity(MemoryDriver())() != StoreIdentity(MemoryDriver())()

    def test_has_one_identity_after_concurrent_first_uses(self, tmp_path):
        seen = []
        assert [] == race(*[lambda: seen.append(StoreIdentity(FileDriver(str(tmp_path)))())] * 20)
        assert 1 == len(set(seen))

    def test_is_asked_once(self):
        driver = MemoryDriver()
        identity = StoreIdentity(driver)
        first = identity()
        driver.remove(PATH)
        assert first == identity()


class TestAStoreWithoutConditionalPuts:
    def test_has_no_identity_until_concurrent_writers_agree(self, monkeypatch):
        driver = Unconditional()
        identity = StoreIdentity(driver)
        assert None is identity()
        written = driver.get_content(PATH).decode()
        content, modified = driver._files[PATH]
        driver._files[PATH] = (content, modified - 11)
        assert None is identity()  # it is not asked again at once
        assert written == StoreIdentity(driver)()


class TestAnUnreachableStore:
    class Away(MemoryDriver):
        is_away = True

        def get_content(self, path):
            if self.is_away:
                raise StorageUnavailable
            return super().get_content(path)

    def test_has_an_identity_once_it_is_back(self, caplog):
        driver = self.Away()
        identity = StoreIdentity(driver)
        with caplog.at_level(logging.WARNING):
            assert [None] * 3 == [identity() for _ in range(3)]
        assert 1 == len(caplog.records)
        driver.is_away = False
        identity._ask_at = 0.0
        assert identity() is not None


@pytest.mark.parametrize(("expected", "content"), [("0123abcd", b" 0123abcd\n"), (None, b""), (None, b"\n")])
def test_an_identity_written_by_an_operator_is_used_unless_it_is_empty(expected, content):
    driver = MemoryDriver()
    driver.put_content(PATH, content)
    assert expected == StoreIdentity(driver)()
