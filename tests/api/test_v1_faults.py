"""Faults of docker-registry 0.7.1 in API V1; a test for each."""

from __future__ import annotations

import itertools
import json
import re

import pytest

from tests.api.conftest import unique
from tests.support.clients import raw_http
from tests.support.clients.v1 import Docker, done, error
from tests.support.layers import member, tar
from tests.support.servers.registry import Server
from tests.support.v1_images import Image, make

LAST_MODIFIED = "Thu, 01 Jan 1970 00:00:00 GMT"
FORM = "Content-Type: application/x-www-form-urlencoded"
UNFINISHED = (400, "Image is being uploaded, retry later")

_numbers = itertools.count(2_000_000)


def fresh(**more):
    """Return an image that no other test uses."""
    return make(next(_numbers), **more)


@pytest.fixture(scope="module")
def docker(server):
    with Docker(server.url) as docker:
        yield docker


@pytest.fixture(scope="module")
def image(docker):
    image = fresh()
    docker.push("faults/shared", "latest", image)
    return image


def files_around(server):
    """Every path in the store and beside it; without what the registry notes for itself."""
    own = {".docker-registry", "_probes", "_v1"}
    return {path for path in server.store.parent.rglob("*") if own.isdisjoint(path.parts)}


class TestPathTraversal:
    """Ids, tags and names were joined to paths as they came."""

    UP = ("..", "%2e%2e", "%252e%252e", "..%2f..%2f..", "..%5c..", "%c0%ae%c0%ae", "..;", "%00")

    @pytest.mark.parametrize(
        "path",
        [
            "/v1/images/{up}/json",
            "/v1/images/{up}/{up}/canary/json",
            "/v1/images/{id}{up}/layer",
            "/v1/images/{id}/{up}/{id}/json",
            "/v1/repositories/{up}/{up}/canary/tags",
            "/v1/repositories/lab/{up}/tags",
            "/v1/repositories/lab/{up}/tags/v1",
            "/v1/repositories/faults/shared/tags/{up}",
            "/v1/repositories/faults/shared/tags/x{up}/json",
        ],
    )  # fmt: skip
    def test_reads_and_writes_nothing_outside_of_the_store(self, server, image, path):
        canary = server.store.parent / "canary" / "tag_latest"
        canary.parent.mkdir(exist_ok=True)
        canary.write_text(image.text)
        before = files_around(server)
        body = json.dumps(image.text).encode()
        for up, method in itertools.product(self.UP, ("GET", "HEAD", "PUT", "DELETE")):
            target = path.format(up=up, id=image.text)
            answer = raw_http.ask(server, method, target, raw_http.length(body), body=body)
            assert answer.status in (400, 404, 405), (method, target)
            if method != "HEAD":
                assert answer.error[1]
        assert set() == before ^ files_around(server)
        assert image.text == canary.read_text()

    @pytest.mark.parametrize("name", [b"l\xc3\xa4b/x", b"l\xe4b/x", b"lab/%E2%82%AC", b"lab/x%0Ay", b"lab/%FF%00"])
    def test_with_invalid_characters_is_rejected(self, server, name):
        """0.7.1 crashed on names that are not ASCII; as bare bytes they are no HTTP at all."""
        for method, rest in (("GET", b"/tags"), ("PUT", b""), ("GET", b"/images"), ("DELETE", b"")):
            target = b"/v1/repositories/" + name + rest
            assert raw_http.ask(server, method, target, raw_http.length(b"[]"), body=b"[]").status in (400, 404)


class TestAnId:
    """0.7.1 accepted any text as an id."""

    @pytest.mark.parametrize("part", ["json", "layer", "checksum"])
    @pytest.mark.parametrize("text", ["x", "0" * 15, "0" * 17, "0" * 63, "0" * 65, "F" * 64, "g" * 64, "sha256:00"])
    def test_that_is_invalid_is_not_found_on_push(self, server, text, part):
        body = json.dumps({"id": text}).encode()
        answer = raw_http.ask(server, "PUT", f"/v1/images/{text}/{part}", raw_http.length(body), body=body)
        assert (404, "Image not found") == answer.error
        assert not (server.store / "images" / text).exists()

    def test_may_have_sixteen_digits_as_in_0_9_1(self, docker):
        text = f"{next(_numbers):016x}"
        short = Image(text, json.dumps({"id": text}).encode(), fresh().layer, (text,))
        name = unique("faults")
        docker.push(name, "v1", short)
        assert [(text, short.payload, short.layer)] == docker.pull(name, "v1")


class TestAClient:
    @pytest.mark.parametrize(
        "lines",
        [
            (),
            ("User-Agent:",),
            (b"User-Agent: \xff\xfe docker/",),
            ("User-Agent: docker/20.10.24+dfsg1 go/x",),
            ("User-Agent: docker/0.9.1",),
            ("User-Agent: docker/0.10.x-dev",),
            ("User-Agent: docker/9999999999999999999999",),
            ("User-Agent: Docker-Client/1.5.0 (linux)",),
            (f"User-Agent: {'docker/1 ' * 500}",),
        ],
    )
    def test_may_send_any_or_no_user_agent(self, server, lines):
        image, name = fresh(), unique("faults")
        path = f"/v1/images/{image.text}"
        tag = json.dumps(image.text).encode()
        for target, more, body in (
            (f"/v1/repositories/{name}/", (), b"[]"),
            (f"{path}/json", (), image.payload),
            (f"{path}/layer", (), image.layer),
            (f"{path}/checksum", (f"X-Docker-Checksum-Payload: {image.payload_sum}",), b""),
            (f"/v1/repositories/{name}/tags/v1", (), tag),
        ):
            answer = raw_http.ask(server, "PUT", target, *lines, *more, raw_http.length(body), body=body)
            assert 200 == answer.status, (target, answer.content)
        for target in (f"{path}/layer", f"/v1/repositories/{name}/tags/v1/json", "/v1/search", "/v1/users/"):
            assert 200 == raw_http.ask(server, "GET", target, *lines).status


class TestABody:
    """Flask parsed bodies declared as forms and did not read chunked ones."""

    @pytest.mark.parametrize("is_chunked", [False, True])
    @pytest.mark.parametrize("kind", ["", FORM, "Content-Type: multipart/form-data; boundary=x", "Content-Type: x"])
    def test_of_json_is_accepted_in_any_encoding(self, server, image, kind, is_chunked):
        new, name = fresh(), unique("faults")
        for method, target, text, statuses in (
            ("PUT", f"/v1/images/{new.text}/json", new.payload.decode(), {200}),
            ("PUT", f"/v1/repositories/{name}/", json.dumps([{"id": image.text}]), {200}),
            ("PUT", f"/v1/repositories/{name}/images", json.dumps([{"id": new.text}]), {204}),
            ("PUT", f"/v1/repositories/{name}/tags/v1", json.dumps(image.text), {200}),
            ("PUT", f"/v1/repositories/{name}/properties", '{"access": "public"}', {200}),
            ("POST", "/v1/users/", '{"username": "a=b&c"}', {201}),
        ):
            body = text.encode()
            framing, sent = raw_http.length(body), body
            if is_chunked:
                framing, sent = "Transfer-Encoding: chunked", raw_http.chunked(body[:3], body[3:]) + raw_http.END
            lines = [line for line in (kind, framing) if line]
            assert raw_http.ask(server, method, target, *lines, body=sent).status in statuses, target
        assert [image.text, new.text] == [
            entry["id"] for entry in json.loads(raw_http.ask(server, "GET", f"/v1/repositories/{name}/images").content)
        ]

    @pytest.mark.parametrize("kind", ["", FORM])
    def test_of_a_layer_is_stored_unchanged(self, server, docker, kind):
        new = fresh(layer=b"a=b&c=%20\r\n" * 100)
        done(docker.put(f"/images/{new.text}/json", new.payload), 200)
        body = raw_http.chunked(new.layer[:1], new.layer[1:]) + raw_http.END
        lines = [line for line in (kind, "Transfer-Encoding: chunked") if line]
        assert 200 == raw_http.ask(server, "PUT", f"/v1/images/{new.text}/layer", *lines, body=body).status
        headers = {"X-Docker-Checksum-Payload": new.payload_sum}
        done(docker.put(f"/images/{new.text}/checksum", headers=headers), 200)
        assert new.layer == docker.get(f"/images/{new.text}/layer").content


class TestIfModifiedSince:
    """0.7.1 answered 304 without checking that the image exists."""

    @pytest.mark.parametrize("part", ["json", "layer", "ancestry", "files", "diff"])
    @pytest.mark.parametrize("since", [LAST_MODIFIED, "Fri, 01 Jan 2100 00:00:00 GMT", "nonsense"])
    def test_is_ignored_for_a_missing_image(self, docker, part, since):
        for method in ("GET", "HEAD"):
            for text in (fresh().text, "x"):
                answer = docker.ask(method, f"/images/{text}/{part}", headers={"If-Modified-Since": since})
                assert (404, "no-cache") == (answer.status_code, answer.headers["Cache-Control"])
                assert "Last-Modified" not in answer.headers


class TestARange:
    @pytest.mark.parametrize("text", ["bytes=0-", "bytes=0-0", "bytes=-1", "bytes=0-99"])
    def test_of_an_empty_layer_does_not_break_its_pull(self, docker, text):
        """There is no byte to be sent: the whole layer, or 416 without a body, by which Docker knows the end."""
        new = fresh(layer=b"")
        docker.push_images(new)
        answer = docker.get(f"/images/{new.text}/layer", headers={"Range": text})
        assert (b"", "0") == (answer.content, answer.headers["Content-Length"])
        assert answer.status_code == 200 or (416, "bytes */0") == (answer.status_code, answer.headers["Content-Range"])

    @pytest.mark.parametrize("text", ["bytes=0-", "bytes=0-0", "bytes=-1", "bytes=0-1", "bytes=-9999"])
    def test_of_the_only_byte_returns_it(self, docker, text):
        new = fresh(layer=b"x")
        docker.push_images(new)
        answer = docker.get(f"/images/{new.text}/layer", headers={"Range": text})
        assert (206, b"x", "bytes 0-0/1") == (answer.status_code, answer.content, answer.headers["Content-Range"])

    def test_applies_to_get_only(self, docker, image):
        answer = docker.ask("HEAD", f"/images/{image.text}/layer", headers={"Range": "bytes=0-0"})
        assert (200, str(len(image.layer))) == (answer.status_code, answer.headers["Content-Length"])

    def test_header_of_any_length_is_parsed(self, docker, image):
        answer = docker.get(f"/images/{image.text}/layer", headers={"Range": f"bytes=0-{'9' * 5000}"})
        assert answer.content == image.layer
        beyond = docker.get(f"/images/{image.text}/layer", headers={"Range": f"bytes={'9' * 4000}-"})
        assert beyond.status_code in (200, 416)

    def test_resumes_docker_to_the_whole_layer(self, docker, image):
        size = len(image.layer)
        for start in range(0, size, max(size // 7, 1)):
            headers = {"Range": f"bytes={start}-{size}"}
            assert image.layer[start:] == docker.get(f"/images/{image.text}/layer", headers=headers).content


#: Paths of API V1 that can be read; {name} has the tag latest, {id} is its image.
READABLE = (
    "/v1/_ping",
    "/v1/users",
    "/v1/search",
    "/v1/search?q=faults",
    "/v1/repositories/{name}/images",
    "/v1/repositories/{name}/tags",
    "/v1/repositories/{name}/tags/latest",
    "/v1/repositories/{name}/tags/latest/json",
    "/v1/repositories/{name}/json",
    "/v1/repositories/{name}/properties",
    "/v1/images/{id}/json",
    "/v1/images/{id}/layer",
    "/v1/images/{id}/ancestry",
    "/v1/images/{id}/files",
    "/v1/images/{id}/diff",
)
#: Headers that differ from one answer to the next.
CHANGING = {"Date", "Expires", "X-Docker-Token", "X-Request-Id", "WWW-Authenticate"}


def lasting(headers):
    return sorted((name, value) for name, value in headers.items() if name not in CHANGING)


class TestEveryReadableResource:
    def test_has_the_same_response_with_a_trailing_slash(self, server, image):
        for path in READABLE:
            target, mark, query = path.format(name="faults/shared", id=image.text).partition("?")
            without, slashed = (raw_http.ask(server, "GET", f"{each}{mark}{query}") for each in (target, f"{target}/"))
            assert (path, 200, 200, without.content) == (path, without.status, slashed.status, slashed.content)
            assert lasting(without.headers) == lasting(slashed.headers), path

    def test_supports_head_with_the_same_headers(self, server, image):
        for path in (*READABLE, "/", "/_ping", "/_status", "/v1/_status", "/v1/nothing"):
            target = path.format(name="faults/shared", id=image.text)
            whole, head = (raw_http.ask(server, method, target) for method in ("GET", "HEAD"))
            assert (path, whole.status, b"") == (path, head.status, head.content)
            assert lasting(whole.headers) == lasting(head.headers), path

    def test_lists_its_methods(self, server, image):
        for path in READABLE:
            answer = raw_http.ask(server, "OPTIONS", path.format(name="faults/shared", id=image.text))
            assert (path, 200) == (path, answer.status)
            assert {"GET", "HEAD", "OPTIONS"} <= set(answer.headers["Allow"].split(", ")), path

    def test_sets_no_cookie_and_has_no_etag(self, server, image):
        for path in READABLE:
            headers = raw_http.ask(server, "GET", path.format(name="faults/shared", id=image.text)).headers
            assert not {"Set-Cookie", "ETag", "Vary"} & set(headers), path
            is_public = "public" in headers["Cache-Control"]
            assert ("/images/" in path and "/repositories/" not in path) == is_public, path


class TestAToken:
    def test_for_reading_allows_head(self, docker, image):
        token = docker.get("/repositories/faults/shared/images").headers["X-Docker-Token"]
        for method in ("GET", "HEAD"):
            for text in (token, f"Token {token}"):  # Docker repeats the word
                answer = docker.ask(method, f"/images/{image.text}/layer", headers={"Authorization": text})
                assert 200 == answer.status_code

    @pytest.mark.parametrize("text", ["Token", "Token x", "Basic", "Basic !!!", "Bearer x", "x" * 4000, "\xff", ""])
    def test_of_any_kind_is_accepted_by_an_open_registry(self, server, image, text):
        for method in ("GET", "HEAD"):
            assert 200 == raw_http.ask(server, method, f"/v1/images/{image.text}/json", f"Authorization: {text}").status

    def test_is_unique(self, docker):
        tokens = {docker.put("/repositories/faults/shared/", "[]").headers["X-Docker-Token"] for _ in range(20)}
        assert 20 == len(tokens)

    def test_grants_nothing_once_its_repository_is_private(self, docker):
        name, own = unique("faults"), fresh()
        docker.push(name, "v1", own)
        token = docker.get(f"/repositories/{name}/images").headers["X-Docker-Token"]
        done(docker.put(f"/repositories/{name}/properties", '{"access": "private"}'), 200)
        for text in (token, f"Token {token}"):
            for part in ("json", "layer", "ancestry", "files", "diff"):
                answer = docker.get(f"/images/{own.text}/{part}", headers={"Authorization": text})
                assert (404, "Image not found") == error(answer)


class TestTheLog:
    def test_contains_no_password_and_no_token(self, tmp_path):
        with Server(tmp_path / "store") as server, Docker(server.url) as docker:
            user = json.dumps({"username": "me", "password": "pass-in-body", "email": "me@example.com"})
            docker.ask("POST", "/users/", data=user)
            docker.ask("POST", "/users/", data=f"{user}}}")
            docker.get("/users/", auth=("me", "pass-in-header"))
            token = docker.put("/repositories/lab/x/", "[]", auth=("me", "pass-in-header")).headers["X-Docker-Token"]
            for path in ("/repositories/lab/x/images", "/images/x/json", "/nothing", "/repositories/.x/tags"):
                docker.get(path, headers={"Authorization": f"Token {token}"})
        said = server.log.read_text()
        assert said
        signature = re.search("signature=([^,]+)", token)[1]
        for secret in ("pass-in-body", "pass-in-header", "bWU6cGFzcy1pbi1oZWFkZXI", signature):
            assert secret not in said


@pytest.fixture(scope="module")
def both(docker):
    """An image, and one above it that removes files of it."""
    base = fresh(layer=tar("a/b/gone", "a/b/stays", "gone", "a/opaque/under"))
    more = fresh(parent=base, layer=tar("a/b/.wh.gone", ".wh.gone", "a/opaque/.wh..wh..opq", "a/opaque/new"))
    docker.push_images(base, more)
    return base, more


class TestAWhiteout:
    """0.7.1 recognized whiteouts only in the root directory."""

    def test_is_a_deleted_file_in_every_folder(self, docker, both):
        files = docker.get(f"/images/{both[1].text}/files").json()
        assert {"a/b/gone": True, "gone": True, "a/opaque/new": False} == {entry[0]: entry[2] for entry in files}

    def test_is_reported_in_the_diff(self, docker, both):
        diff = docker.get(f"/images/{both[1].text}/diff").json()
        assert {"a/b/gone", "gone", "a/opaque/under"} == diff["deleted"].keys()
        assert {"a/opaque/new"} == diff["created"].keys()

    def test_of_a_base_image_counts_as_created(self, docker):
        alone = fresh(layer=tar(".wh.x", member("y")))
        docker.push_images(alone)
        diff = docker.get(f"/images/{alone.text}/diff").json()
        assert ({"x", "y"}, {}) == (set(diff["created"]), diff["deleted"])


class TestATagThatIsDeleted:
    def test_also_deletes_what_was_recorded_about_the_repository(self, docker, image):
        name = unique("faults")
        docker.push(name, "latest", image)
        assert "1.5.0" == docker.get(f"/repositories/{name}/json").json()["docker_version"]
        done(docker.ask("DELETE", f"/repositories/{name}/tags/latest"), 200)
        assert docker.get(f"/repositories/{name}/json").json()["docker_version"] is None
        assert {} == docker.get(f"/repositories/{name}/tags").json()


class TestServingPrivateRepositories:
    def test_private_images_support_head_and_a_trailing_slash(self, tmp_path):
        own = fresh()
        with Server(tmp_path / "store", REGISTRY_SERVE_PRIVATE="true") as server, Docker(server.url) as docker:
            docker.push("lab/secret", "v1", own)
            done(docker.put("/repositories/lab/secret/properties", '{"access": "private"}'), 200)
            for part in ("json", "layer", "files"):
                path = f"/v1/private_images/{own.text}/{part}"
                whole, head, slashed = (
                    raw_http.ask(server, method, target)
                    for method, target in (("GET", path), ("HEAD", path), ("GET", f"{path}/"))
                )
                assert (200, 200, 200) == (whole.status, head.status, slashed.status)
                assert lasting(whole.headers) == lasting(head.headers) == lasting(slashed.headers)
                assert (b"", whole.content) == (head.content, slashed.content)
