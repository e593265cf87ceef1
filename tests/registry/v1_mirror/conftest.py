"""A registry over a store in memory that mirrors a V1 registry on the loopback address, for clients of API V1."""

from __future__ import annotations

import pytest

from docker_registry.app import create_app
from docker_registry.config.schema import Config
from docker_registry.config.sections import Auth, Mirroring
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.services import build
from tests.support import v1_trees
from tests.support.interleaving import copied
from tests.support.registries import closing_services
from tests.support.servers.upstream import Answer, Upstream
from tests.support.servers.v1_source import serve_tree

TREE = v1_trees.FIXTURES / "registry-0.7.1"


class Mirrored:
    """
    A registry that mirrors another one.

    Attributes:
        client: sends requests to its application.
    """

    def __init__(self, driver, url, upstreams=(), rules=None, **options):
        self.driver = driver
        auth = Auth(rules=rules) if rules is not None else Auth()
        section = Mirroring(source=url, upstreams=upstreams, **options)
        self.services = build(Config(storage="memory", mirroring=section, search_backend=None, auth=auth), driver)
        self.client = create_app(self.services).test_client()

    def get(self, path, **headers):
        return self.client.get(f"/v1{path}", headers=headers)

    def pull(self, name, tag):
        """Pull as Docker 1.5 does; return the JSON and the layer of each image by its id."""
        answer = self.get(f"/repositories/{name}/images", **{"X-Docker-Token": "true"})
        assert (200, "localhost") == (answer.status_code, answer.headers["X-Docker-Endpoints"]), answer.data
        token = {"Authorization": f"Token {answer.headers['X-Docker-Token']}"}
        tags = self.get(f"/repositories/{name}/tags", **token).json
        assert tags[tag] == self.get(f"/repositories/{name}/tags/{tag}", **token).json
        pulled = {}
        for text in reversed(self.get(f"/images/{tags[tag]}/ancestry", **token).json):
            answer = self.get(f"/images/{text}/json", **token)
            layer = self.get(f"/images/{text}/layer", **token)
            assert (200, 200) == (answer.status_code, layer.status_code), (answer.data, layer.data[:200])
            assert str(len(layer.data)) == answer.headers["X-Docker-Size"]
            pulled[text] = answer.data, layer.data
        return pulled

    def image_paths(self):
        """The paths of all files in the store that hold images, blobs or uploads."""
        folders = ("images", "docker/registry/v2/blobs", "docker/registry/v2/_uploads")
        return [each.path for folder in folders for each in self.driver.walk(folder)]


class Recording(MemoryDriver):
    """A store that remembers its contents after each write, which is what a process that dies then leaves."""

    def __init__(self):
        super().__init__()
        self.states = []

    def put_content(self, *arguments, **options):
        result = super().put_content(*arguments, **options)
        self.states.append(copied(self))
        return result


@pytest.fixture
def source():
    """A registry of API V1."""
    with Upstream() as upstream:
        serve_tree(upstream, TREE)
        yield upstream


@pytest.fixture
def v2_source():
    """A registry of API V2 alone."""
    with Upstream() as upstream:
        upstream.contents[""] = Answer(b"{}", headers={"Docker-Distribution-Api-Version": "registry/2.0"})
        yield upstream


@pytest.fixture
def driver():
    return MemoryDriver()


@pytest.fixture
def open_mirror(driver, request):
    """Opens a registry over the same store, as after a restart."""

    def make(url=None, **options):
        return Mirrored(driver, url or request.getfixturevalue("source").url, **options)

    with closing_services(make) as open_one:
        yield open_one


@pytest.fixture
def mirrored(open_mirror):
    return open_mirror()
