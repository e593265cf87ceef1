"""The services over a store in memory, with a clock that tests control."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from docker_registry.drivers.memory import MemoryDriver
from docker_registry.registry.names import RepositoryName
from tests.support.registries import Registry
from tests.support.servers.databases_and_stores import mariadb, postgresql, sqlite  # noqa: F401 - fixtures

NAME = RepositoryName.parse("acme/web")
OTHER = RepositoryName.parse("acme/other")


class Clock:
    """A clock that stands still until a test sets it."""

    def __init__(self) -> None:
        self.time = datetime(2026, 1, 1, tzinfo=timezone.utc)

    def __call__(self) -> datetime:
        return self.time

    def turn(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


@pytest.fixture
def driver() -> MemoryDriver:
    return MemoryDriver()


@pytest.fixture
def registry(driver: MemoryDriver) -> Registry:
    return Registry(driver)
