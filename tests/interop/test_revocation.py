"""Two servers share a store: a revocation on one is in force on the other within five seconds."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time

import pytest
import requests

from tests.interop.test_store_faults import environment
from tests.support.access import settings
from tests.support.clients.v2 import Client
from tests.support.images import make_image, push
from tests.support.servers.redis import redis_server
from tests.support.servers.registry import COMMAND, Server
from tests.support.timing import wait_until

__all__ = ["redis_server"]

pytestmark = pytest.mark.slow

USERS = ("root", "amy", "ben", "cleo", "dan", "eve", "finn")

RULES = """rules:
  - {repositories: ["acme/*"], who: [amy, ben, cleo, dan, eve, finn, "robot:ci", "robot:job"], allow: [pull]}
  - {repositories: ["**"], who: [root], allow: [pull, push]}
"""

#: Changes of rules, users and tokens hold on all hosts within this time.
MOST_SECONDS = 5.0

#: A worker may still accept something as long as others do, so the requests go on for a while after the last one.
QUIET_SECONDS = 6.0


@pytest.fixture(scope="module", params=["file", "s3"])
def hosts(request, tmp_path_factory):
    """Two servers with the same store, users and rules; and the folder with the files of the operator."""
    folder = tmp_path_factory.mktemp("hosts")
    variables = {**settings(folder, RULES, USERS)}
    if request.param == "s3":
        redis = request.getfixturevalue("redis_server")
        port = request.getfixturevalue("seaweedfs").port
        variables |= {**environment(port, f"/{folder.name}"), **redis.environment, **redis.cache_environment}
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(Server(folder / "store", workers=2, **variables)) for _ in range(2)]
        with Client(servers[0].url) as root:
            root.session.auth = ("root", "pw-root")
            push(root, "acme/web", "v1", make_image(1))
        yield folder, *servers


def command(server, *arguments):
    """Run a command on a host."""
    variables = {**os.environ, "STORAGE_PATH": str(server.store), **server.environment}
    done = subprocess.run(
        [*COMMAND, *arguments], cwd=server.root, env=variables, capture_output=True, text=True, timeout=60
    )
    assert 0 == done.returncode, done.stderr
    return done.stdout.strip()


def status(server, method, path, **options):
    """Send a request over a connection of its own, so that any worker may get it."""
    return requests.request(method, f"{server.url}{path}", timeout=60, **options).status_code


def access_token(server, name, password):
    query = {"scope": "repository:acme/web:pull"}
    return requests.get(f"{server.url}/v2/token", params=query, auth=(name, password), timeout=60).json()["token"]


class TestARevocation:
    def assert_seen(self, revoke, ask, refused, *, at_once):
        """
        Revoke something that is accepted, and assert when it was accepted for the last time.

        Args:
            ask: sends a request to the other host and returns the status.
            at_once: whether the next request must be refused, as the host checks the file or the store for each.
        """
        assert {200} == {ask() for _ in range(12)}  # the last ones from the caches of the workers
        revoke()
        revoked = last = time.monotonic()

        def is_over():
            nonlocal last
            began = time.monotonic()
            found = ask()
            assert found in (200, refused)
            if found == 200:
                last = began
            return began - last > QUIET_SECONDS

        wait_until(is_over)
        assert last - revoked <= (0 if at_once else MOST_SECONDS)

    def test_of_a_rule(self, hosts):
        folder, _, there = hosts
        rules = folder / "rules.yml"

        def revoke():
            rules.write_text(rules.read_text().replace("amy, ", ""))

        get = ("GET", "/v2/acme/web/manifests/v1")
        self.assert_seen(revoke, lambda: status(there, *get, auth=("amy", "pw-amy")), 403, at_once=True)

    def test_of_a_user(self, hosts):
        _, here, there = hosts
        get = ("GET", "/v2/acme/web/manifests/v1")
        self.assert_seen(
            lambda: command(here, "user", "remove", "ben"),
            lambda: status(there, *get, auth=("ben", "pw-ben")), 401, at_once=True,
        )  # fmt: skip

    def test_of_the_user_of_an_access_token(self, hosts):
        _, here, there = hosts
        headers = {"Authorization": f"Bearer {access_token(here, 'cleo', 'pw-cleo')}"}
        self.assert_seen(
            lambda: command(here, "user", "remove", "cleo"),
            lambda: status(there, "GET", "/v2/acme/web/manifests/v1", headers=headers), 401, at_once=True,
        )  # fmt: skip

    def test_of_a_refresh_token(self, hosts):
        _, here, there = hosts
        query = {"offline_token": "true", "client_id": "test"}
        answer = requests.get(f"{here.url}/v2/token", params=query, auth=("dan", "pw-dan"), timeout=60).json()
        form = {"grant_type": "refresh_token", "refresh_token": answer["refresh_token"]}
        self.assert_seen(
            lambda: command(here, "token", "revoke", "--user", "dan"),
            lambda: status(there, "POST", "/v2/token", data=form), 401, at_once=True,
        )  # fmt: skip

    def test_of_the_user_of_a_token_of_api_v1(self, hosts):
        _, here, there = hosts
        answer = requests.get(f"{here.url}/v1/repositories/acme/web/images", auth=("eve", "pw-eve"), timeout=60)
        headers = {"Authorization": f"Token {answer.headers['X-Docker-Token']}"}
        self.assert_seen(
            lambda: command(here, "user", "remove", "eve"),
            lambda: status(there, "GET", "/v1/repositories/acme/web/tags", headers=headers), 401, at_once=True,
        )  # fmt: skip

    @pytest.mark.parametrize("name", ["ci", "job"])
    def test_of_a_robot(self, hosts, name):
        _, here, there = hosts
        token = command(here, "robot", "add", name, "--scope", "acme/*:pull", "--days", "1")
        wait_until(lambda: 200 == status(there, "GET", "/v2/", auth=("x", token)))
        options = {"auth": ("x", token)}
        if name == "job":
            options = {"headers": {"Authorization": f"Bearer {access_token(here, 'x', token)}"}}
        get = ("GET", "/v2/acme/web/manifests/v1")
        wait_until(lambda: {200} == {status(there, *get, **options) for _ in range(12)})
        self.assert_seen(
            lambda: command(here, "robot", "revoke", name), lambda: status(there, *get, **options), 401, at_once=False
        )
