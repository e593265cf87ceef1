"""API V1 with a separate Index (``standalone: false``), against a small Index server."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from docker_registry.app import create_app
from docker_registry.auth.external import https_documents
from docker_registry.auth.external import index as index_client
from docker_registry.config.schema import Config
from docker_registry.config.sections import Auth
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.errors import ConfigError
from docker_registry.services import build
from tests.support.timing import PATIENCE_SECONDS
from tests.support.v1_images import chain, make

BASE, TOP, OTHER, PARENT = make(9300), make(9301, make(9300)), make(9302), make(9303)


class Index:
    """
    Knows which images a repository has, and which tokens are good.

    Attributes:
        images: ids by quoted repository.
        tokens: the headers that are accepted.
        status: what it answers instead, if it fails.
        answers: cleared while it does not answer.
        requests: the paths that were requested.
    """

    def __init__(self):
        self.images = {"acme/web": [BASE.text, TOP.text], "acme/other": [OTHER.text], "a/b%2Fc": []}
        self.shared = {PARENT.text}
        self.tokens, self.requests, self.status, self.body = set(), [], None, None
        self.answers = threading.Event()
        self.answers.set()
        index = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                index.requests.append(self.path)
                assert index.answers.wait(PATIENCE_SECONDS)
                status, body = index.answer(self.path, self.headers["Authorization"])
                content = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def answer(self, path, header):
        if self.status is not None:
            return self.status, self.body or b""
        repository, _, what = path.removeprefix("/v1/repositories/").rpartition("/")
        if header not in self.tokens:
            return 401, ""
        if what == "access":
            image_id = repository.rpartition("/")[2]
            return 200, {"access": image_id in self.shared}
        return 200, [{"id": image_id, "checksum": "x"} for image_id in self.images[repository]]

    def token(self, repository, access):
        header = f'Token signature=ABCDEFGHIJ{len(self.tokens)},repository="{repository}",access={access}'
        self.tokens.add(header)
        return {"Authorization": header}

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def index():
    with Index() as index:
        yield index


def make_app(index, **settings):
    config = Config(storage="memory", **{"standalone": False, "v2": False, "index_endpoint": index.url, **settings})
    return create_app(build(config, MemoryDriver())).test_client()


@pytest.fixture
def app(index):
    return make_app(index)


def push(app, headers, *images):
    """Push images, and return the statuses that differ from 200."""
    answers = []
    for image in images:
        path = f"/v1/images/{image.text}"
        sum_header = {"X-Docker-Checksum-Payload": image.payload_sum}
        answers.append(app.put(f"{path}/json", data=image.payload, headers=headers))
        answers.append(app.put(f"{path}/layer", data=image.layer, headers=headers))
        answers.append(app.put(f"{path}/checksum", headers={**headers, **sum_header}))
    return [(answer.status_code, answer.get_json()["error"]) for answer in answers if answer.status_code != 200]


def set_tag(app, headers, image, repository="acme/web"):
    path = f"/v1/repositories/{repository}/tags/v1"
    return app.put(path, data=json.dumps(image.text), headers=headers).status_code


class TestAToken:
    def test_pushes_pulls_and_deletes_in_its_repository(self, app, index):
        write, read = index.token("acme/web", "write"), index.token("acme/web", "read")
        index.tokens.add(f"Token {write['Authorization']}")
        assert [] == push(app, {"Authorization": f"Token {write['Authorization']}"}, BASE)  # Docker repeats the word
        assert [] == push(app, write, TOP)
        assert 200 == app.get(f"/v1/images/{BASE.text}/json", headers=write).status_code
        assert 200 == set_tag(app, write, TOP)
        assert {"v1": TOP.text} == app.get("/v1/repositories/acme/web/tags", headers=read).get_json()
        answer = app.get(f"/v1/images/{TOP.text}/layer", headers=read)
        assert TOP.layer == answer.data
        assert 200 == app.head(f"/v1/images/{TOP.text}/ancestry", headers=read).status_code
        delete = index.token("acme/web", "delete")
        assert 200 == app.delete("/v1/repositories/acme/web/tags/v1", headers=delete).status_code

    def test_is_good_for_its_repository_and_access_only(self, app, index):
        write, read = index.token("acme/web", "write"), index.token("acme/web", "read")
        other = index.token("acme/other", "write")
        index.tokens.add(1000 * "Token " + read["Authorization"])
        tags = "/v1/repositories/acme/web/tags"
        for method, path, headers in (
            ("GET", tags, write),
            ("PUT", f"{tags}/v1", read),
            ("DELETE", f"{tags}/v1", write),
            ("GET", "/v1/repositories/acme/other/tags", read),
            ("PUT", f"/v1/images/{BASE.text}/json", read),
            ("GET", f"/v1/images/{BASE.text}/layer", write),
            ("GET", tags, {}),
            ("GET", tags, {"Authorization": "Basic YTpi"}),
            ("GET", tags, {"Authorization": read["Authorization"].replace("signature=A", "signature=B")}),
            ("GET", tags, {"Authorization": read["Authorization"].replace("read", "all")}),
            ("GET", tags, {"Authorization": read["Authorization"].replace("acme/web", "../x")}),
            ("GET", tags, {"Authorization": read["Authorization"].replace("acme/web", "a/b/c")}),
            ("GET", tags, {"Authorization": "Token " * 3000}),
            ("GET", tags, {"Authorization": 1000 * "Token " + read["Authorization"]}),
        ):
            answer = app.open(path, method=method, headers=headers, data=b"x")
            assert (401, "Token") == (answer.status_code, answer.headers["WWW-Authenticate"]), (method, path, headers)
            assert "Requires authorization" == answer.get_json()["error"]
        assert [] == push(app, other, OTHER)
        assert 404 == app.get(f"/v1/images/{OTHER.text}/layer", headers=read).status_code
        assert 404 == set_tag(app, write, OTHER)

    def test_of_a_deep_name_is_good_for_it(self, app, index):
        read = index.token("a/b%2Fc", "read")
        assert 404 == app.get("/v1/repositories/a/b/c/tags", headers=read).status_code

    def test_pushes_no_image_that_is_not_listed_and_no_foreign_parent(self, app, index):
        write = index.token("acme/web", "write")
        assert (400, "This image does not belong to the repository") == push(app, write, OTHER)[0]
        assert [] == push(app, index.token("acme/other", "write"), OTHER)
        index.images["acme/web"] += [make(9304).text, make(9305).text]
        write = index.token("acme/web", "write")
        assert (400, "Image depends on an unauthorized parent") == push(app, write, make(9304, OTHER))[0]
        index.images["acme/other"].append(PARENT.text)
        assert [] == push(app, index.token("acme/other", "write"), PARENT)
        assert [] == push(app, write, make(9305, PARENT))  # which the index allows


class TestTheIndex:
    def test_is_asked_once_for_a_push_and_may_stop_during_it(self, app, index):
        images = chain(40, first=9310)
        index.images["acme/web"] = [image.text for image in images]
        write = index.token("acme/web", "write")
        assert [] == push(app, write, *images[:20])
        index.status = 503
        assert [] == push(app, write, *images[20:])
        assert 200 == set_tag(app, write, images[-1])
        assert ["/v1/repositories/acme/web/images"] == index.requests

    def test_is_asked_again_about_unused_tokens_when_its_answers_take_too_much_memory(self, index, monkeypatch):
        monkeypatch.setattr(index_client, "MAX_REMEMBERED_BYTES", 500_000)
        app, tags = make_app(index), "/v1/repositories/acme/web/tags"
        index.images["acme/web"] = [f"{number:064x}" for number in range(1000)]
        tokens = [index.token("acme/web", "read") for _ in range(4)]
        for asked, token in ((1, 0), (2, 1), (2, 0), (3, 2), (4, 3), (4, 0), (5, 1)):
            assert 404 == app.get(tags, headers=tokens[token]).status_code
            assert asked == len(index.requests)

    @pytest.mark.parametrize(
        ("status", "body"),
        [(500, None), (503, None), (429, None), (200, b"{"), (200, b"[" * 100_000), (200, b" " * 5_000_000)],
        ids=["500", "503", "429", "damaged", "deep", "large"],
    )  # fmt: skip
    def test_that_fails_is_a_503(self, app, index, status, body):
        read = index.token("acme/web", "read")
        index.status, index.body = status, body
        answer = app.get("/v1/repositories/acme/web/tags", headers=read)
        assert 503 == answer.status_code
        assert answer.headers["Retry-After"]
        index.status = None
        assert 404 == app.get("/v1/repositories/acme/web/tags", headers=read).status_code

    def test_that_does_not_answer_is_a_503(self, app, index, monkeypatch):
        read = index.token("acme/web", "read")
        monkeypatch.setattr(https_documents, "STEP_SECONDS", 0.2)
        index.answers.clear()
        try:
            answer = app.get("/v1/repositories/acme/web/tags", headers=read)
        finally:
            index.answers.set()
        assert (503, True) == (answer.status_code, "Retry-After" in answer.headers)

    def test_that_is_absent_is_a_503(self, index):
        app = make_app(index, index_endpoint="http://127.0.0.1:1")
        headers = index.token("acme/web", "read")
        assert 503 == app.get("/v1/repositories/acme/web/tags", headers=headers).status_code

    @pytest.mark.parametrize("body", [b"{}", b'"x"', b"null"])
    def test_that_answers_with_no_list_refuses_the_token(self, app, index, body):
        read = index.token("acme/web", "read")
        index.status, index.body = 200, body
        assert 401 == app.get("/v1/repositories/acme/web/tags", headers=read).status_code


class TestARegistryWithAnIndex:
    def test_leaves_the_routes_of_the_index_to_it(self, app):
        for method, path in (
            ("GET", "/v1/users"), ("POST", "/v1/users"), ("PUT", "/v1/users/x"), ("PUT", "/v1/repositories/acme/web"),
            ("GET", "/v1/repositories/acme/web/images"), ("PUT", "/v1/repositories/acme/web/images"),
            ("DELETE", "/v1/repositories/acme/web/images"), ("PUT", "/v1/repositories/acme/web/auth"),
        ):  # fmt: skip
            assert 404 == app.open(path, method=method, data="[]").status_code
        assert "False" == app.get("/v1/_ping").headers["X-Docker-Registry-Standalone"]
        assert 200 == app.get("/v1/search?q=x").status_code
        assert 200 == app.options("/v1/repositories/acme/web/tags").status_code

    def test_checks_no_tokens_where_a_proxy_does(self, index):
        app = make_app(index, disable_token_auth=True)
        assert 404 == app.get("/v1/repositories/acme/web/tags").status_code
        assert 404 == app.get("/v1/users").status_code
        assert [] == push(app, {}, BASE, TOP)
        assert [] == index.requests

    def test_needs_a_url_and_neither_api_v2_nor_users(self, index, tmp_path):
        for settings in ({"v2": True}, {"auth": Auth(htpasswd=tmp_path / "users")}, {"index_endpoint": "index:80"}):
            (tmp_path / "users").write_text("")
            with pytest.raises(ConfigError, match=r"v2: false|index_endpoint"):
                make_app(index, **settings)
