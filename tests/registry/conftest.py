"""The services over a store in memory."""

from __future__ import annotations

import pytest

from docker_registry.drivers.memory import MemoryDriver
from docker_registry.registry.names import RepositoryName
from tests.support.registries import Registry
from tests.support.servers.databases_and_stores import mariadb, postgresql, sqlite  # noqa: F401 - fixtures

NAME = RepositoryName.parse("acme/web")
OTHER = RepositoryName.parse("acme/other")


@pytest.fixture
def driver() -> MemoryDriver:
    return MemoryDriver()


@pytest.fixture
def registry(driver: MemoryDriver) -> Registry:
    return Registry(driver)
