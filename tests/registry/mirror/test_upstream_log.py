"""What an operator sees of an upstream: a line in the log for each request, and why it does not answer."""

from __future__ import annotations

import logging
import re
import socket

import pytest
import requests
from urllib3.exceptions import MaxRetryError, NameResolutionError

from docker_registry.drivers.memory import MemoryDriver
from docker_registry.errors import StorageError, UpstreamTimeout, UpstreamUnavailable
from docker_registry.registry.mirror import responses, upstream_connection
from docker_registry.registry.mirror.responses import MIN_BYTES_PER_SECOND, PROGRESS_SECONDS, Progress
from tests.registry.mirror.conftest import NAME, THERE, Mirrored
from tests.registry.mirror.test_authentication import BASIC, LOGIN, Hub
from tests.support.clock import Clock
from tests.support.images import make_image
from tests.support.servers.upstream import Answer, Upstream

IMAGE = make_image("logged", layers=1, layer_bytes=100)

_SECONDS = re.compile(r" [0-9]+\.[0-9]{3} s$")


def lines(caplog):
    """Return the lines about requests, without their durations."""
    texts = [record.getMessage() for record in caplog.records if record.name == upstream_connection.__name__]
    assert all(_SECONDS.search(text) for text in texts)
    return [_SECONDS.sub("", text) for text in texts]


@pytest.fixture(autouse=True)
def _log(caplog):
    caplog.set_level(logging.INFO)


class TestTheLog:
    def test_has_one_line_for_each_request_and_no_secret(self, open_mirror, upstream, caplog):
        upstream.add(THERE, "v1", IMAGE)
        Hub(upstream)
        with Upstream() as storage:
            for digest, content in IMAGE.blobs.items():
                storage.contents[f"/{digest}"] = Answer(content)
                location = {"Location": f"{storage.url}/{digest}?signature=s1gned"}
                upstream.contents[f"{THERE}/blobs/{digest}"] = Answer(status=307, headers=location)
            mirrored = open_mirror(**LOGIN)
            for path in ("manifests/v1", "manifests/none", *(f"blobs/{digest}" for digest in IMAGE.blobs)):
                mirrored.get(path)
        expected = [
            "token of 127.0.0.1 200",
            f"GET {THERE}/manifests/v1 200",
            f"GET {THERE}/manifests/none 404",
            *(f"GET {THERE}/blobs/{digest} 200" for digest in IMAGE.blobs),
        ]
        assert [f"upstream up.example: {line}" for line in expected] == lines(caplog)
        for secret in ("s3cret", BASIC, "token1", "s1gned"):
            assert secret not in caplog.text

    def test_says_why_an_upstream_could_not_be_asked(self, mirrored, upstream, caplog):
        upstream.contents[f"{THERE}/manifests/v1"] = Answer(raw=b"")
        upstream.contents[f"{THERE}/manifests/v2"] = Answer(
            status=302, headers={"Location": "http://169.254.169.254/secret"}
        )
        for tag in ("v1", "v2"):
            assert mirrored.get(f"manifests/{tag}").status_code in (502, 503)
        upstream.stop()
        assert 503 == mirrored.get("manifests/v1").status_code
        reasons = [line.partition(" failed ")[2] for line in lines(caplog)]
        unsafe = "(The upstream registry redirects to an address that is not safe.)"
        assert ["(the connection was closed too early)", unsafe, "(connection refused)"] == reasons
        assert "169.254" not in caplog.text
        assert "connection refused" == mirrored.services.mirror.client("up.example").connection.reachability.reason


@pytest.mark.parametrize("is_token_server", [False, True])
@pytest.mark.parametrize(("status", "refusal"), [(429, "limits pulls"), (403, "denies access"), (401, "denies access")])
def test_an_upstream_that_refuses_requests_is_reported(mirrored, upstream, status, refusal, is_token_server):
    if is_token_server:
        Hub(upstream).issue = lambda headers: Answer(status=status)
    else:
        upstream.guard = lambda path, headers: Answer(status=status)
    mirrored.get("manifests/v1")
    mirrored.services.mirror.publish_status({})
    state = mirrored.services.mirror.status()["up.example"]
    assert (True, f"it {refusal} (status {status})") == (state.is_reachable, state.refusal)
    assert state.refused > 0


class FailingDriver(MemoryDriver):
    """A store that may fail."""

    is_away = False

    def put_content(self, *arguments, **options):
        if self.is_away:
            raise StorageError
        super().put_content(*arguments, **options)


def test_what_could_not_be_published_is_published_later(upstream):
    driver, counts = FailingDriver(), {("hits", "blob", "up.example"): 1}
    with Mirrored(driver, upstream.url).services as services:
        driver.is_away = True
        with pytest.raises(StorageError):
            services.mirror.publish_status(counts)
        driver.is_away = False
        for _ in range(2):
            services.mirror.publish_status(counts)
        assert 1 == services.mirror.status()["up.example"].hits


@pytest.mark.parametrize("is_token_server", [False, True])
def test_a_host_that_an_upstream_names_and_that_cannot_be_resolved_is_reported(mirrored, upstream, is_token_server):
    url = f"http://{'.'.join(['a' * 60] * 5)}/"  # too long for DNS, so that no name server has to answer
    if is_token_server:
        Hub(upstream).realm = url
    else:
        upstream.contents[f"{THERE}/manifests/v1"] = Answer(status=307, headers={"Location": url})
    assert 503 == mirrored.get("manifests/v1").status_code
    reason = mirrored.services.mirror.client("up.example").connection.reachability.reason
    assert "its name cannot be resolved" == reason


def test_a_name_that_cannot_be_resolved_is_reported():
    failure = socket.gaierror(-3, "Temporary failure")
    reason = NameResolutionError("up.example", None, failure)
    reason.__cause__ = failure
    try:
        with responses.network_errors("up.example"):
            raise requests.ConnectionError(MaxRetryError(None, "/v2/x?secret", reason))
    except UpstreamUnavailable as error:
        assert "its name cannot be resolved" == responses.cause_of(error)


def test_an_upstream_that_sends_a_few_bytes_now_and_then_is_too_slow():
    clock = Clock()
    progress = Progress(clock)

    def receive(size, seconds):
        clock.now += PROGRESS_SECONDS  # in which nothing is wanted

        def wait():
            clock.now += seconds
            return bytes(size)

        return progress.watch(wait)

    for _ in range(3):
        assert receive(MIN_BYTES_PER_SECOND * int(PROGRESS_SECONDS), PROGRESS_SECONDS)
    assert receive(1, PROGRESS_SECONDS - 1)
    with pytest.raises(UpstreamTimeout, match="too slowly"):
        receive(1, 1)


def test_the_name_of_a_repository_is_logged_on_one_line(mirrored, upstream, caplog):
    assert mirrored.get("manifests/v1", name=f"{NAME}%0Aupstream up.example: forged").status_code in (400, 404)
    assert [] == [line for line in lines(caplog) if "forged" in line]
