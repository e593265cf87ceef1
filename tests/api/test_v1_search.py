"""Searching over HTTP, as `docker search` does it: what either API pushes is found."""

from __future__ import annotations

import pytest

from tests.support.clients.v1 import Docker, done, error
from tests.support.clients.v2 import Client
from tests.support.images import make_image, push
from tests.support.servers.registry import Server
from tests.support.timing import wait_until
from tests.support.v1_images import make

IMAGE = make(600)
NAMES = ["lab/multi-a", "lab/multi-b", "lab/multi-c", "lab/single", "library/multi"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("search") / "store", workers=2, SEARCH_BACKEND="sqlalchemy") as server:
        yield server


@pytest.fixture(scope="module")
def docker(server):
    with Docker(server.url) as docker:
        for name in ("lab/multi-a", "lab/single", "multi"):
            docker.push(name, "v1", IMAGE)
        with Client(server.url) as client:
            for name in ("lab/multi-b", "lab/multi-c"):
                push(client, name, "v1", make_image(7))
        wait_for(docker, NAMES)
        yield docker


def names(answer):
    return [result["name"] for result in done(answer, 200).json()["results"]]


def wait_for(docker, expected, query=""):
    """Wait until the index, which is updated asynchronously, has the expected entries."""

    def found():
        return sorted(names(docker.get(f"/search?q={query}")))

    wait_until(lambda: found() == sorted(expected), found)


class TestASearch:
    @pytest.mark.parametrize("slash", ["", "/"])
    def test_finds_what_either_api_has_pushed(self, docker, slash):
        assert ["library/multi", "lab/multi-a", "lab/multi-b", "lab/multi-c"] == names(
            docker.get(f"/search{slash}?q=multi")
        )

    def test_answers_in_the_form_that_docker_prints(self, docker):
        answer = docker.get("/search?q=lab%2Fsingle&n=25", headers={"X-Docker-Token": "true"})
        assert (
            '{"num_results": 1, "query": "lab/single", "results": [{"description": "", "is_automated": false, '
            '"is_official": false, "name": "lab/single", "star_count": 0}]}'
        ) == answer.text
        assert ("application/json", "no-cache") == (answer.headers["Content-Type"], answer.headers["Cache-Control"])

    @pytest.mark.parametrize("query", ["nothing", "%25", "_", "multi_a", "%27%3B"])
    def test_takes_the_text_literally(self, docker, query):
        assert [] == names(docker.get(f"/search?q={query}"))

    def test_for_an_empty_text_finds_everything(self, docker):
        for path in ("/search", "/search?q="):
            assert NAMES == sorted(names(docker.get(path)))

    def test_returns_at_most_the_requested_number(self, docker):
        answer = docker.get("/search?q=multi&n=2").json()
        assert (2, 4) == (len(answer["results"]), answer["num_results"])
        assert "num_pages" not in answer

    def test_returns_pages(self, docker):
        pages = [docker.get(f"/search?q=multi&page={page}&page_size=3").json() for page in (1, 2, 3)]
        assert [3, 1, 0] == [len(page["results"]) for page in pages]
        assert [(1, 3, 2), (2, 3, 2), (3, 3, 2)] == [(p["page"], p["page_size"], p["num_pages"]) for p in pages]

    @pytest.mark.parametrize("query", ["n=x", "n=-1", "page=1.5", "page_size=%C2%B2", "n=99999999999999999999"])
    def test_requires_whole_numbers(self, docker, query):
        assert 400 == error(docker.get(f"/search?q=multi&{query}"))[0]

    @pytest.mark.parametrize("query", ["n=0", "n=101", "page=0", "page=999999999", "page_size=0"])
    def test_clamps_numbers_beyond_the_bounds(self, docker, query):
        assert 4 == docker.get(f"/search?q=multi&{query}").json()["num_results"]

    def test_may_be_read_by_pages_of_other_origins(self, docker):
        headers = docker.get("/search?q=multi").headers
        assert ("*", "GET") == (headers["Access-Control-Allow-Origin"], headers["Access-Control-Allow-Methods"])

    def test_does_not_find_deleted_repositories(self, docker):
        docker.push("lab/gone", "v1", IMAGE)
        wait_for(docker, ["lab/gone"], "gone")
        done(docker.ask("DELETE", "/repositories/lab/gone/"), 200)
        wait_for(docker, [], "gone")


class TestARegistryWithoutAnIndex:
    def test_finds_nothing_and_accepts_every_push(self, tmp_path):
        with Server(tmp_path / "store", SEARCH_BACKEND="") as server, Docker(server.url) as docker:
            docker.push("lab/multi", "v1", IMAGE)
            assert [] == names(docker.get("/search?q=multi"))


class TestAnIndexThatCannotBeReached:
    def test_does_not_fail_pushes(self, tmp_path):
        url = "postgresql://nobody@127.0.0.1:1/nothing"
        with (
            Server(tmp_path / "store", SEARCH_BACKEND="sqlalchemy", SQLALCHEMY_INDEX_DATABASE=url) as server,
            Docker(server.url) as docker,
        ):
            docker.push("lab/multi", "v1", IMAGE)
            assert [IMAGE.text] == [text for text, *_ in docker.pull("lab/multi", "v1")]
            answer = docker.get("/search?q=multi")
            assert 503 == error(answer)[0]
            assert answer.headers["Retry-After"]
