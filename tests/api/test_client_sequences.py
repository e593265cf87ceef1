"""The sequences of requests with which clients authenticate, as their sources show them, replayed."""

from __future__ import annotations

import re

import pytest

from docker_registry.app import create_app
from docker_registry.config.schema import Config
from docker_registry.config.sections import Auth
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.services import build
from tests.support.access import settings
from tests.support.clients.v2 import OCI_MANIFEST, digest_of
from tests.support.images import make_image

IMAGE = make_image("sequence")
ROOT = ("root", "pw-root")


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sequences")
    settings(folder)
    section = Auth(htpasswd=folder / "users", rules=folder / "rules.yml")
    config = Config(storage="memory", auth=section, search_backend="sqlalchemy",
                    sqlalchemy_index_database=f"sqlite:///{folder}/search.db")  # fmt: skip
    with build(config, MemoryDriver()) as services:
        app = create_app(services).test_client()
        for name in ("acme/web", "public/web"):
            push(lambda method, path, scope, **options: app.open(path, method=method, auth=ROOT, **options), name)
        yield app


def push(ask, name):
    """Push the image; return the last status."""
    scope = f"repository:{name}:pull,push"
    for content in (IMAGE.config, *IMAGE.layers):
        digest = digest_of(content)
        assert ask("HEAD", f"/v2/{name}/blobs/{digest}", scope).status_code in (200, 404)
        location = ask("POST", f"/v2/{name}/blobs/uploads/", scope).headers["Location"]
        path = re.sub("^https?://[^/]*", "", location)
        separator = "&" if "?" in path else "?"
        assert 201 == ask("PUT", f"{path}{separator}digest={digest}", scope, data=content).status_code
    return ask("PUT", f"/v2/{name}/manifests/v1", scope, data=IMAGE.manifest, content_type=OCI_MANIFEST).status_code


class Containerd:
    """
    Docker 29 and containerd: a request is sent without credentials, a token is requested for the client's own scope and
    those of the challenge, sorted and not merged: by POST, or by GET without a password. A token is kept by scope and
    requested again for `error=`.
    """

    def __init__(self, app, user=None):
        self._app, self._user, self._tokens, self.posts = app, user, {}, 0

    def __call__(self, method, path, scope, **options):
        for _ in range(5):
            token = self._tokens.get(scope)
            headers = {} if token is None else {"Authorization": f"Bearer {token}"}
            answer = self._app.open(path, method=method, headers=headers, **options)
            if answer.status_code != 401 or (token is not None and "error=" not in answer.headers["WWW-Authenticate"]):
                return answer
            (challenge,) = answer.headers.getlist("WWW-Authenticate")
            wanted = dict(re.findall(r'(\w+)="([^"]*)"', challenge.removeprefix("Bearer ")))
            assert wanted["realm"].endswith("/v2/token")
            self._tokens[scope] = self._request(wanted["service"], sorted({scope, *wanted["scope"].split()}))
        return answer

    def _request(self, service, scopes):
        query = {"scope": scopes, "service": service, "client_id": "containerd-client"}
        if self._user is None:
            answer = self._app.get("/v2/token", query_string=query)
        else:
            self.posts += 1
            login = {"grant_type": "password", "username": self._user, "password": f"pw-{self._user}"}
            form = {**query, **login, "scope": " ".join(scopes), "access_type": "offline"}
            answer = self._app.post("/v2/token", data=form)
        assert answer.status_code == 200, answer.data
        return answer.get_json()["access_token"]


class TestDocker29:
    def test_pushes_and_pulls_with_a_token_for_each_scope(self, app):
        ask = Containerd(app, "alice")
        assert 201 == push(ask, "alice/new")
        pull = "repository:alice/new:pull"
        headers = ask("HEAD", "/v2/alice/new/manifests/v1", pull).headers
        digest = headers["Docker-Content-Digest"]
        assert IMAGE.manifest == ask("GET", f"/v2/alice/new/manifests/{digest}", pull).data
        assert 200 == ask("GET", f"/v2/alice/new/referrers/{digest}", pull).status_code
        assert 2 == ask.posts

    def test_mounts_with_a_scope_of_both_repositories(self, app):
        ask = Containerd(app, "alice")
        path = f"/v2/alice/mounted/blobs/uploads/?mount={digest_of(IMAGE.config)}&from=acme/web"
        answer = app.post(path)
        assert "repository:alice/mounted:pull,push repository:acme/web:pull" in answer.headers["WWW-Authenticate"]
        assert 201 == ask("POST", path, "repository:acme/web:pull").status_code

    def test_is_denied_a_push_after_one_token(self, app):
        ask = Containerd(app, "bob")
        answer = ask("POST", "/v2/alice/new/blobs/uploads/", "repository:alice/new:pull,push")
        assert (403, 1) == (answer.status_code, ask.posts)


class TestKubelet:
    """containerd without a password, or with that of an imagePullSecret; HEAD, manifest, then blobs."""

    @pytest.mark.parametrize(("user", "name"), [(None, "public/web"), ("bob", "acme/web")])
    def test_pulls(self, app, user, name):
        ask, scope = Containerd(app, user), f"repository:{name}:pull"
        digest = ask("HEAD", f"/v2/{name}/manifests/v1", scope).headers["Docker-Content-Digest"]
        assert IMAGE.manifest == ask("GET", f"/v2/{name}/manifests/{digest}", scope).data
        for content in (IMAGE.config, *IMAGE.layers):
            assert content == ask("GET", f"/v2/{name}/blobs/{digest_of(content)}", scope).data

    def test_is_refused_what_anonymous_clients_may_not_pull(self, app):
        answer = Containerd(app)("HEAD", "/v2/acme/web/manifests/v1", "repository:acme/web:pull")
        assert 401 == answer.status_code


class TestDockerSearch:
    """Docker pings `/v2/`, gets a token by its password or its refresh token, and searches by API V1."""

    @pytest.mark.parametrize("by", ["password", "refresh token"])
    def test_finds_what_the_user_may_pull(self, app, by):
        assert 401 == app.get("/v2/").status_code
        query = {"service": "docker-registry", "client_id": "docker", "scope": "registry:catalog:search"}
        if by == "password":
            found = {**query, "account": "bob", "offline_token": "true"}
            token = app.get("/v2/token", query_string=found, auth=("bob", "pw-bob")).get_json()["token"]
        else:
            login = {"service": "docker-registry", "client_id": "docker", "offline_token": "true", "account": "bob"}
            refresh = app.get("/v2/token", query_string=login, auth=("bob", "pw-bob")).get_json()["refresh_token"]
            form = {**query, "grant_type": "refresh_token", "refresh_token": refresh}
            token = app.post("/v2/token", data=form).get_json()["access_token"]
        answer = app.get("/v1/search?q=web&n=25", headers={"Authorization": f"Bearer {token}"})
        assert 200 == answer.status_code
        assert {"acme/web", "public/web"} == {each["name"] for each in answer.get_json()["results"]}
