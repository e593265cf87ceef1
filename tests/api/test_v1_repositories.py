"""API V1: users, lists of images, tags and whole repositories over HTTP."""

from __future__ import annotations

import json
import re
import time

import pytest

from tests.api.conftest import unique
from tests.support.clients.v1 import DOCKER, Docker, done, error
from tests.support.v1_images import make

IMAGE = make(500)
NO_REPOSITORY = (404, "Repository not found")


@pytest.fixture(scope="module")
def docker(server):
    with Docker(server.url) as docker:
        docker.push("v1/shared", "latest", IMAGE)
        yield docker


@pytest.fixture
def name(docker):
    """A repository with one tag."""
    name = unique("v1")
    docker.push(name, "v1", IMAGE)
    return name


def token_of(answer):
    """What the token of an answer says; it is duplicated, beside the place of the registry."""
    token = answer.headers["X-Docker-Token"]
    assert token == answer.headers["WWW-Authenticate"]
    return re.fullmatch(r'Token signature=[0-9a-f.]+,repository="([^"]+)",access=(\w+)', token).groups()


class TestALogin:
    @pytest.mark.parametrize("slash", ["", "/"])
    def test_succeeds_for_all_credentials(self, docker, slash):
        user = json.dumps({"username": "me", "password": "p", "auth": "", "email": "me@example.com"})
        created = docker.ask("POST", f"/users{slash}", data=user)
        assert (201, '"User Created"') == (created.status_code, created.text)
        for options in ({}, {"auth": ("me", "p")}):
            answer = docker.get(f"/users{slash}", **options)
            assert (200, '"OK"', "application/json") == (
                answer.status_code, answer.text, answer.headers["Content-Type"],
            )  # fmt: skip
        updated = docker.put(f"/users/me{slash}", user)
        assert (204, b"") == (updated.status_code, updated.content)

    @pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 10_000])
    def test_must_be_json(self, docker, body):
        assert (400, "Error Decoding JSON") == error(docker.ask("POST", "/users/", data=body))


class TestAPush:
    @pytest.mark.parametrize("slash", ["", "/"])
    def test_begins_with_a_list_and_gets_a_token(self, docker, server, slash):
        name = unique("v1")
        answer = docker.put(f"/repositories/{name}{slash}", json.dumps([{"id": IMAGE.text, "Tag": "v1"}]))
        assert (200, '""', "application/json") == (answer.status_code, answer.text, answer.headers["Content-Type"])
        assert (name, "write") == token_of(answer)
        assert server.url.removeprefix("http://") == answer.headers["X-Docker-Endpoints"]

    @pytest.mark.parametrize("slash", ["", "/"])
    def test_ends_with_a_list_and_creates_no_other_repository(self, docker, name, slash):
        answer = docker.put(f"/repositories/{name}/images{slash}", "[]")
        assert (204, b"", "application/json") == (answer.status_code, answer.content, answer.headers["Content-Type"])
        assert (name, "write") == token_of(answer)
        assert NO_REPOSITORY == error(docker.get(f"/repositories/{name}/images/tags"))

    def test_to_a_name_without_a_slash_goes_to_the_library(self, docker):
        name = unique("v1").replace("/", "-")
        answer = docker.put(f"/repositories/{name}/", "[]")
        assert (f"library/{name}", "write") == token_of(answer)
        docker.push(name, "v1", IMAGE)
        assert {"v1": IMAGE.text} == docker.get(f"/repositories/library/{name}/tags").json()

    def test_to_a_name_with_two_slashes_has_a_token_in_two_parts(self, docker):
        name = unique("a/b")
        assert (name.replace("a/b/", "a/b%2F"), "write") == token_of(docker.put(f"/repositories/{name}/", "[]"))
        docker.push(name, "v1", IMAGE)
        assert {"v1": IMAGE.text} == docker.get(f"/repositories/{name}/tags").json()

    @pytest.mark.parametrize("word", ["auth", "json", "properties2", "library"])
    def test_may_go_to_a_repository_with_the_name_of_a_route(self, docker, word):
        name = f"{unique('v1').partition('/')[2]}/{word}"
        docker.push(name, "v1", IMAGE)
        assert {"v1": IMAGE.text} == docker.get(f"/repositories/{name}/tags").json()

    @pytest.mark.parametrize("path", ["", "/images"])
    def test_requires_an_image_list(self, docker, path):
        name = unique("v1")
        for body in (b"", b"{", b"\xff", b"[" * 10_000):
            assert (400, "Error Decoding JSON") == error(docker.put(f"/repositories/{name}{path}", body))
        for body in (b"{}", b"null", b"[1]", b"[{}]", b'[{"id": "x"}]', b'[{"id": 1}]'):
            assert (400, "Invalid data") == error(docker.put(f"/repositories/{name}{path}", body))
        assert NO_REPOSITORY == error(docker.get(f"/repositories/{name}/tags"))

    @pytest.mark.parametrize(
        "name",
        ["a%2f..%2fb", "%2e%2e%2f%2e%2e/etc", "a%20b", "a/b%00", ".a/b", "%C3%BC/x", "a" * 256, "a/" + "b" * 250],
    )
    def test_requires_a_valid_name(self, docker, name):
        answer = docker.ask("PUT", f"/repositories/{name}/images", data="[]")
        assert (400, "The repository name is invalid.") == error(answer)


class TestTheListOfImages:
    def test_begins_a_pull(self, docker, name, server):
        answer = done(docker.get(f"/repositories/{name}/images"), 200)
        assert [{"id": IMAGE.text}] == answer.json()
        assert (name, "read") == token_of(answer)
        assert server.url.removeprefix("http://") == answer.headers["X-Docker-Endpoints"]

    def test_is_initially_the_exact_bytes_that_were_sent(self, docker):
        name, body = unique("v1"), b'[{"id":"%s", "Tag":"v1"}]' % IMAGE.text.encode()
        docker.put(f"/repositories/{name}/", body)
        assert body == docker.get(f"/repositories/{name}/images").content

    def test_is_merged_with_checksums(self, docker, name):
        docker.put(f"/repositories/{name}/images", json.dumps([{"id": IMAGE.text, "checksum": "a"}]))
        docker.put(f"/repositories/{name}/images", json.dumps([{"id": IMAGE.text}]))
        expected = f'[{{"checksum": "a", "id": "{IMAGE.text}"}}]'
        assert expected == docker.get(f"/repositories/{name}/images").text

    def test_of_a_missing_repository_is_not_found(self, docker):
        answer = docker.get(f"/repositories/{unique('v1')}/images")
        assert (404, "images not found") == error(answer)

    def test_may_be_read_by_pages_of_other_origins(self, docker, name):
        for path in (name, unique("v1")):
            headers = docker.get(f"/repositories/{path}/images").headers
            assert ("*", "GET") == (headers["Access-Control-Allow-Origin"], headers["Access-Control-Allow-Methods"])
        assert "Access-Control-Allow-Origin" not in docker.get(f"/repositories/{name}/tags").headers

    def test_can_be_requested_before_a_deletion(self, docker, name):
        answer = docker.ask("DELETE", f"/repositories/{name}/images")
        assert (204, (name, "delete")) == (answer.status_code, token_of(answer))
        assert 200 == docker.get(f"/repositories/{name}/images").status_code

    def test_has_an_authorization_route_that_always_succeeds(self, docker, name):
        assert '"OK"' == done(docker.put(f"/repositories/{name}/auth"), 200).text


class TestATag:
    def test_names_an_image(self, docker, name):
        answer = docker.get(f"/repositories/{name}/tags/v1")
        assert (200, f'"{IMAGE.text}"') == (answer.status_code, answer.text)
        assert (200, f'{{"v1": "{IMAGE.text}"}}') == (
            docker.get(f"/repositories/{name}/tags").status_code,
            docker.get(f"/repositories/{name}/tags").text,
        )

    @pytest.mark.parametrize("slash", ["", "/"])
    def test_supports_head_wherever_it_has_a_body(self, docker, name, slash):
        for path in ("/tags", "/tags/v1", "/tags/v1/json", "/json", "/images", "/properties"):
            answer = docker.ask("HEAD", f"/repositories/{name}{path}{slash}")
            assert (200, b"") == (answer.status_code, answer.content)

    def test_is_put_and_deleted(self, docker, name):
        path = f"/repositories/{name}/tags/v2"
        assert "true" == done(docker.put(path, f'"{IMAGE.text}"'), 200).text
        assert "true" == done(docker.ask("DELETE", path), 200).text
        for method in ("GET", "DELETE"):
            assert (404, "Tag not found") == error(docker.ask(method, path))
        assert {"v1": IMAGE.text} == docker.get(f"/repositories/{name}/tags").json()

    @pytest.mark.parametrize("body", [b"", b"{", b"7", b"[]", b"null", b"\xff", b"[" * 500])
    def test_requires_a_string(self, docker, name, body):
        assert (400, "Invalid data") == error(docker.put(f"/repositories/{name}/tags/v2", body))

    @pytest.mark.parametrize("text", ["0" * 64, "x", ""])
    def test_requires_an_existing_image(self, docker, name, text):
        answer = docker.put(f"/repositories/{name}/tags/v2", json.dumps(text))
        assert (404, "Image not found") == error(answer)

    @pytest.mark.parametrize("tag", [".x", "-x", "a%20b", "%2e%2e", "a%00", "x" * 129, "%C3%BC"])
    @pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
    def test_requires_a_valid_tag_name(self, docker, name, tag, method):
        answer = docker.ask(method, f"/repositories/{name}/tags/{tag}", data=f'"{IMAGE.text}"')
        assert (400, "The tag is invalid.") == error(answer)

    def test_of_a_missing_repository_is_not_found(self, docker):
        name = unique("v1")
        assert NO_REPOSITORY == error(docker.get(f"/repositories/{name}/tags"))
        assert (404, "Tag not found") == error(docker.get(f"/repositories/{name}/tags/v1"))

    def test_is_not_found_in_a_repository_without_tags(self, docker):
        name = unique("v1")
        docker.put(f"/repositories/{name}/", "[]")
        assert "{}" == done(docker.get(f"/repositories/{name}/tags"), 200).text


class TestTheRecordedClientOfATag:
    def test_comes_from_the_user_agent_of_docker(self, docker, name):
        before = int(time.time())
        docker.put(f"/repositories/{name}/tags/latest", f'"{IMAGE.text}"')
        note = docker.get(f"/repositories/{name}/tags/latest/json").json()
        assert before <= note.pop("last_update") <= time.time()
        assert {
            "docker_version": "1.5.0",
            "docker_go_version": "go1.4.1",
            "kernel": "3.13.0-24-generic",
            "os": "linux",
            "arch": "amd64",
        } == note
        assert note.items() <= docker.get(f"/repositories/{name}/json").json().items()

    @pytest.mark.parametrize(
        ("user_agent", "known"),
        [
            ("curl/8.0", {}),
            ("docker/20.10.24+dfsg1", {"docker_version": "20.10.24+dfsg1"}),
            ("x docker OS/Linux os/LINUX arch/ARM", {"os": "linux", "arch": "arm"}),
            ("docker/", {"docker_version": ""}),
        ],
    )
    def test_comes_from_the_user_agent_of_any_other_client(self, docker, name, user_agent, known):
        path = f"/repositories/{name}/tags/v1"
        done(docker.put(path, f'"{IMAGE.text}"', headers={"User-Agent": user_agent}), 200)
        note = docker.get(f"{path}/json").json()
        note.pop("last_update")
        assert known == note

    def test_is_empty_without_a_user_agent(self, docker):
        expected = (
            '{"arch": "amd64", "docker_go_version": null, "docker_version": null, '
            '"kernel": null, "last_update": null, "os": "linux"}'
        )
        assert expected == docker.get(f"/repositories/{unique('v1')}/json").text

    def test_is_not_found_without_the_tag(self, docker, name):
        assert (404, "Tag not found") == error(docker.get(f"/repositories/{name}/tags/none/json"))

    def test_describes_the_client_of_these_tests(self):
        assert DOCKER.startswith("docker/1.5.0 ")


class TestADeletedRepository:
    @pytest.mark.parametrize("path", ["", "/", "/tags", "/tags/"])
    def test_loses_its_tags_while_its_images_stay(self, docker, name, path):
        assert "true" == done(docker.ask("DELETE", f"/repositories/{name}{path}"), 200).text
        assert NO_REPOSITORY == error(docker.ask("DELETE", f"/repositories/{name}{path}"))
        assert NO_REPOSITORY == error(docker.get(f"/repositories/{name}/tags"))
        assert (404, "images not found") == error(docker.get(f"/repositories/{name}/images"))
        assert 200 == docker.get(f"/images/{IMAGE.text}/json").status_code


class TestAWrongMethod:
    @pytest.mark.parametrize(
        ("method", "path"), [("POST", "/images"), ("PATCH", "/tags"), ("POST", "/tags/v1"), ("POST", "/tags/v1/json")]
    )
    def test_is_rejected_in_json(self, docker, name, method, path):
        answer = docker.ask(method, f"/repositories/{name}{path}")
        assert 405 == error(answer)[0]
        assert "GET" in answer.headers["Allow"]
