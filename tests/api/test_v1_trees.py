"""Trees of old servers are served completely and accept pushes before, during and after migration."""

from __future__ import annotations

import json
import os
import tempfile

import pytest

from tests.support import v1_trees
from tests.support.clients.v1 import Docker, done
from tests.support.servers.registry import Server
from tests.support.servers.template import template
from tests.support.timing import wait_until
from tests.support.v1_images import make


@pytest.fixture(scope="module", params=v1_trees.NAMES)
def tree(request):
    return request.param


@pytest.fixture(scope="module")
def server(tree, tmp_path_factory):
    store = v1_trees.copy(tree, tmp_path_factory.mktemp("tree") / "store")
    with Server(store, workers=2) as server:
        yield server


@pytest.fixture(scope="module")
def docker(server):
    with Docker(server.url) as docker:
        yield docker


def assert_served(docker, tree):
    """Pull everything as Docker does and compare it with the fixture."""
    layers = v1_trees.images(tree)
    seen = set()
    for name, tags in v1_trees.REPOSITORIES[tree].items():
        listed = {entry["id"] for entry in done(docker.get(f"/repositories/{name}/images"), 200).json()}
        assert tags == set(done(docker.get(f"/repositories/{name}/tags"), 200).json())
        for tag in tags:
            for text, payload, layer in docker.pull(name, tag):
                assert (v1_trees.FIXTURES / tree / "images" / text / "json").read_bytes() == payload
                assert layers[text] == layer
                seen.add(text)
        for text in listed:
            assert layers[text] == done(docker.get(f"/images/{text}/layer"), 200).content
            seen.add(text)
    assert layers.keys() == seen


class TestATreeOfAnOldServer:
    def test_is_served_whole(self, docker, tree):
        assert_served(docker, tree)

    def test_keeps_the_client_that_pushed_a_tag(self, docker, tree):
        for name, tags in v1_trees.REPOSITORIES[tree].items():
            for tag in tags:
                note = docker.get(f"/repositories/{name}/tags/{tag}/json").json()
                assert note["docker_version"] in {"1.5.0", "1.12.6"}

    def test_is_found_by_a_search(self, docker, tree):
        def found():
            return {result["name"] for result in docker.get("/search?n=100").json()["results"]}

        wait_until(
            lambda: len(found()) >= len(v1_trees.REPOSITORIES[tree]), found
        )  # the index is built after the start
        assert set(v1_trees.REPOSITORIES[tree]) == found()

    def test_is_migrated_while_it_is_served(self, docker, tree, server):
        environment = {**os.environ, "STORAGE_PATH": str(server.store)}
        before = v1_trees.digests_on_disk(server.store)
        for _ in range(2):
            with tempfile.TemporaryFile() as output:
                migration = template("command").start(["migrate"], environment, output)
                while migration.poll() is None:
                    assert_served(docker, tree)
                output.seek(0)
                told = output.read().decode()
            assert 0 == migration.wait(), told
        assert f"{len(before)} layers were blobs before" in told
        assert_served(docker, tree)
        assert before == v1_trees.digests_on_disk(server.store)
        assert {2} == {path.stat().st_nlink for path in server.store.glob("images/*/layer")}

    def test_is_pushed_to_where_its_repositories_are(self, docker, tree, server):
        folders = sorted(path for path in server.store.glob("repositories/*/*"))
        image = make(900)
        for name in v1_trees.REPOSITORIES[tree]:
            docker.push(name, "new", image)
            assert image.layer == docker.pull(name, "new")[-1][2]
        assert folders == sorted(path for path in server.store.glob("repositories/*/*"))

    def test_returns_its_tags(self, docker, tree):
        for name, tags in v1_trees.REPOSITORIES[tree].items():
            for tag in {*tags, "new"}:
                done(docker.ask("DELETE", f"/repositories/{name}/tags/{tag}"), 200)
            assert {} == docker.get(f"/repositories/{name}/tags").json()
            done(docker.ask("DELETE", f"/repositories/{name}/"), 200)

    def test_can_still_be_read_by_the_old_server(self, server):
        """Everything that 0.7.1 reads is there, in the form that it writes."""
        for folder in (server.store / "images").iterdir():
            assert {"json", "ancestry", "layer", "_checksum"} <= {path.name for path in folder.iterdir()}
            assert folder.name == json.loads((folder / "ancestry").read_text())[0]
            assert not (folder / "_inprogress").exists()
