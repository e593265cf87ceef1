"""A registry over a store in memory that mirrors an upstream on the loopback address as `up.example`."""

from __future__ import annotations

from functools import partial

import pytest

from docker_registry.app import create_app
from docker_registry.config.schema import Config
from docker_registry.config.sections import Mirroring, MirrorUpstream
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.services import build
from tests.support.registries import closing_services
from tests.support.servers.upstream import Upstream

#: A repository here, and there.
NAME, THERE = "up.example/library/app", "library/app"


class Mirrored:
    """
    A registry that mirrors an upstream.

    Attributes:
        client: sends requests to its application.
    """

    def __init__(self, driver, url, mirroring=None, external_url=None, v1=False, config=None, **options):
        self.driver = driver
        upstream = MirrorUpstream(name="up.example", url=url, **{"timeout": 60, **options})
        section = Mirroring(upstreams=(upstream,), **(mirroring or {}))
        values = {"storage": "memory", "mirroring": section, "external_url": external_url, "v1": v1, **(config or {})}
        self.services = build(Config(**values), driver)
        self.client = create_app(self.services).test_client()

    def get(self, path, name=NAME, **headers):
        return self.client.get(f"/v2/{name}/{path}", headers=headers)

    def head(self, path):
        return self.client.head(f"/v2/{NAME}/{path}")

    def paths(self):
        """The paths of all files in the store that hold content of repositories."""
        return {each.path for each in self.driver.walk("docker/registry/v2/blobs")} | {
            each.path for each in self.driver.walk("docker/registry/v2/repositories")
        }


@pytest.fixture
def upstream():
    with Upstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def shared():
    """A mirror and its upstream that several tests use, in repositories of their own."""
    with Upstream() as upstream:
        mirrored = Mirrored(MemoryDriver(), upstream.url)
        with mirrored.services:
            yield mirrored, upstream


@pytest.fixture
def driver():
    return MemoryDriver()


@pytest.fixture
def open_mirror(driver, upstream):
    """Opens a registry over the same store, as after a restart."""
    with closing_services(partial(Mirrored, driver, upstream.url)) as make:
        yield make


@pytest.fixture
def mirrored(open_mirror):
    return open_mirror()
