"""Private repositories are hidden from all clients, or served to all if configured, and never cached."""

from __future__ import annotations

import json

import pytest

from tests.support import v1_trees
from tests.support.clients.v1 import Docker, done, error
from tests.support.clients.v2 import Client, Refused
from tests.support.images import make_image, push
from tests.support.servers.registry import Server
from tests.support.timing import wait_until
from tests.support.v1_images import chain, make

BASE, OWN = chain(2, first=700)
LATE = make(800)


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    """Two servers of one store: one with the default setting, one that serves private repositories."""
    store = tmp_path_factory.mktemp("private") / "store"
    with Server(store, workers=2, SEARCH_BACKEND="sqlalchemy") as closed, Docker(closed.url) as docker:
        docker.push("acme/web", "v1", BASE)
        docker.push("acme/secret", "v1", BASE, OWN)
        push(Client(closed.url), "acme/secret", "v2", make_image(5))
        done(docker.put("/repositories/acme/secret/properties", '{"access": "private"}'), 200)
        with Server(store, workers=1, REGISTRY_SERVE_PRIVATE="true") as opened:
            yield closed, opened


@pytest.fixture(scope="module")
def docker(servers):
    with Docker(servers[0].url) as docker:
        yield docker


@pytest.fixture(scope="module")
def insider(servers):
    with Docker(servers[1].url) as docker:
        yield docker


class TestAPrivateRepository:
    @pytest.mark.parametrize(
        ("method", "path", "status", "sentence"),
        [
            ("GET", "/images", 404, "images not found"),
            ("DELETE", "", 404, "Repository not found"),
            ("GET", "/tags", 404, "Repository not found"),
            ("DELETE", "/tags", 404, "Repository not found"),
            ("GET", "/tags/v1", 404, "Tag not found"),
            ("PUT", "/tags/v1", 404, "Image not found"),
            ("DELETE", "/tags/v1", 404, "Tag not found"),
            ("GET", "/tags/v1/json", 404, "Tag not found"),
        ],
    )
    def test_is_missing_in_api_v1(self, docker, method, path, status, sentence):
        answer = docker.ask(method, f"/repositories/acme/secret{path}", data=json.dumps(LATE.text))
        assert (status, sentence) == error(answer)

    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [("PUT", "", 200), ("PUT", "/images", 204), ("PUT", "/properties", 200)],
    )
    def test_is_not_changed_by_requests_that_succeed_for_a_new_one(self, docker, insider, method, path, status):
        body = '{"access": "public"}' if path == "/properties" else json.dumps([{"id": LATE.text}])
        done(docker.ask(method, f"/repositories/acme/secret{path}", data=body), status)
        assert {"access": "public"} == docker.get("/repositories/acme/secret/properties").json()
        assert {"access": "private"} == insider.get("/repositories/acme/secret/properties").json()
        assert LATE.text not in insider.get("/repositories/acme/secret/images").text

    def test_is_missing_in_api_v2(self, servers):
        client = Client(servers[0].url)
        for path, code in (
            ("tags/list", "NAME_UNKNOWN"),
            ("manifests/v2", "MANIFEST_UNKNOWN"),
            (f"blobs/{next(iter(make_image(5).blobs))}", "BLOB_UNKNOWN"),
        ):
            answer = client.session.get(f"{servers[0].url}/v2/acme/secret/{path}")
            assert (404, code) == (answer.status_code, answer.json()["errors"][0]["code"])
        with pytest.raises(Refused) as refused:
            push(client, "acme/secret", "v3", make_image(6))
        assert (404, "MANIFEST_BLOB_UNKNOWN") == (refused.value.status, refused.value.code)
        assert "acme/secret" not in client.session.get(f"{servers[0].url}/v2/_catalog").json()["repositories"]

    def test_is_not_a_source_of_mounts(self, servers):
        digest = next(iter(make_image(5).blobs))
        url = f"{servers[0].url}/v2/acme/web/blobs/uploads/?mount={digest}&from=acme/secret"
        assert 202 == Client(servers[0].url).session.post(url).status_code

    def test_is_not_found_by_a_search(self, docker, insider):
        wait_until(lambda: docker.get("/search?q=acme").json()["num_results"] == 1)
        names = [result["name"] for result in docker.get("/search?q=acme").json()["results"]]
        assert ["acme/web"] == names

    @pytest.mark.parametrize("part", ["json", "layer", "ancestry", "files", "diff"])
    def test_hides_its_own_images_and_none_of_a_public_one(self, docker, part):
        assert (404, "Image not found") == error(docker.get(f"/images/{OWN.text}/{part}"))
        assert 200 == docker.get(f"/images/{BASE.text}/{part}").status_code
        if part in ("json", "layer", "files"):
            assert (404, "Image not found") == error(docker.get(f"/private_images/{OWN.text}/{part}"))

    def test_is_reported_at_startup(self, servers):
        assert "1 private repository, visible to everyone (serve_private)" in servers[1].log.read_text()

    def test_has_no_images_that_other_repositories_could_tag(self, docker):
        answer = docker.put("/repositories/acme/web/tags/stolen", json.dumps(OWN.text))
        assert (404, "Image not found") == error(answer)


class TestServingPrivateRepositories:
    def test_they_are_served(self, insider):
        assert [OWN.text] == [text for text, *_ in insider.pull("acme/secret", "v1")][1:]
        assert {"access": "private"} == insider.get("/repositories/acme/secret/properties").json()
        assert {"access": "public"} == insider.get("/repositories/acme/web/properties").json()

    @pytest.mark.parametrize("part", ["json", "layer", "files"])
    def test_they_are_served_on_both_paths_and_never_cached(self, insider, part):
        for path in ("images", "private_images"):
            answer = done(insider.get(f"/{path}/{OWN.text}/{part}"), 200)
            assert "no-cache" == answer.headers["Cache-Control"]
            assert "Last-Modified" not in answer.headers

    def test_public_images_are_not_private(self, insider):
        assert (404, "Image not found") == error(insider.get(f"/private_images/{BASE.text}/json"))
        assert "public" in insider.get(f"/images/{BASE.text}/json").headers["Cache-Control"]

    def test_pushes_to_them_are_hidden_elsewhere(self, insider, docker):
        insider.push("acme/secret", "late", LATE)
        assert (404, "Image not found") == error(docker.get(f"/images/{LATE.text}/json"))

    @pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"access": "x"}', b'{"access": 7}', b"\xff"])
    def test_only_these_values_make_one_private(self, insider, body):
        assert (400, "Invalid data") == error(insider.put("/repositories/acme/web/properties", body))


class TestATreeOf071:
    def test_hides_its_private_repository(self, tmp_path):
        store = v1_trees.copy("registry-0.7.1", tmp_path / "store")
        with Server(store) as server, Docker(server.url) as docker:
            assert "1 private repository, visible to no client (serve_private)" in server.log.read_text()
            assert (404, "Repository not found") == error(docker.get(f"/repositories/{v1_trees.SECRET}/tags"))
            for text in v1_trees.SECRET_IMAGES:
                assert (404, "Image not found") == error(docker.get(f"/images/{text}/layer"))
