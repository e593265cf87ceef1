"""
Recordings of six real versions of Docker with docker-registry 0.7.1; this registry sends the same responses.

Every request is sent as recorded, in order, to one registry without API V2, like 0.7.1. Every header and
every byte of every response is compared. Intended differences are listed in `INTENDED`, each with its reason.
"""

from __future__ import annotations

import json
from collections import Counter
from urllib.parse import urlsplit

import pytest

from docker_registry import __version__
from tests.interop import recordings
from tests.interop.recordings import Replay
from tests.support.servers.registry import Server


def version(_request, answer):
    """The version differs."""
    return answer.having("X-Docker-Registry-Version", __version__)


def no_sniffing(_request, answer):
    """Browsers must not display pushed content as a page."""
    return answer.having("X-Content-Type-Options", "nosniff")


def unknown_url(_request, answer):
    """Errors are JSON, also those of unknown URLs: programs read them."""
    if answer.status != 404 or dict(answer.headers)["Content-Type"] != "text/html":
        return answer
    sentence = "The requested URL was not found on the server."
    advice = "If you entered the URL manually please check your spelling and try again."
    assert f"<p>{sentence}  {advice}</p>" in answer.body.decode()
    return answer.saying(json.dumps({"error": f"{sentence} {advice}"}).encode(), "application/json")


def checksum_header(_request, answer):
    """The payload sum is also sent under Docker's name for it, not only under that of 0.7.1."""
    sums = [value for name, value in answer.headers if name == "X-Docker-Payload-Checksum"]
    return answer.having("X-Docker-Checksum-Payload", sums[0]) if sums else answer


def no_content(_request, answer):
    """A response without a body has no Content-Length (RFC 9110, section 8.6); 0.7.1 announced two bytes."""
    return answer.without("Content-Length") if answer.status == 204 else answer


def search_results(request, answer):
    """Results have all fields that current ``docker search`` and ``podman search`` print."""
    if urlsplit(request.target).path != "/v1/search":
        return answer
    found = json.loads(answer.body)
    for result in found["results"]:
        result.update(star_count=0, is_official=False, is_automated=False)
    return answer.saying(json.dumps(found, sort_keys=True).encode())


def order_of_results(request, answer):
    """Results are sorted by name, because they are paged; 0.7.1 had neither order nor pages."""
    if urlsplit(request.target).path != "/v1/search":
        return answer
    found = json.loads(answer.body)
    found["results"].sort(key=lambda result: result["name"])
    return answer.saying(json.dumps(found, sort_keys=True).encode())


def order_of_images(request, answer):
    """A merged list keeps the order in which the images were pushed; 0.7.1 used the order of their hashes."""
    if request.method != "GET" or not request.target.endswith("/images") or answer.status != 200:
        return answer
    return answer.saying(json.dumps(sorted(json.loads(answer.body), key=lambda entry: entry["id"])).encode())


#: Intended differences: each turns a response of 0.7.1 into the required one of this registry.
INTENDED = (
    version, no_sniffing, unknown_url, checksum_header, no_content, search_results, order_of_results, order_of_images,
)  # fmt: skip

#: Those that do not follow from the recording alone, and are applied to both responses.
ON_BOTH_SIDES = (order_of_images,)

#: Two attempts were not recorded but had left unfinished pushes, which are begun here before these recordings.
UNRECORDED = {
    "03-docker-1.9.1": ("lab19/small", "baeca207bf1cb794058747b2c46c0207594934591f1547df58039aa2bfe79735"),
    "06-docker-1.10.3": ("lab110/small", "b8788a82d1b8428251ea006ac4acf124d14a3ed65d4e2e99163f96940587042a"),
}


def judge(request, recorded, answer):
    """Return the required response, the received one, and the differences that were applied."""
    if answer.status >= 400:
        answer = answer.without("X-Request-Id")  # differs in every error
    needed = []
    for intended in INTENDED:
        changed = intended(request, recorded)
        if changed != recorded:
            needed.append(intended)
        recorded = changed
        if intended in ON_BOTH_SIDES:
            answer = intended(request, answer)
    return recorded, answer, needed


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory):
    """All recordings, replayed once with one registry: for each its requests with both responses."""
    store = tmp_path_factory.mktemp("recordings") / "store"
    played = {}
    with Server(store, workers=2, REGISTRY_V2="false", SETTINGS_FLAVOR="local", SEARCH_BACKEND="sqlalchemy") as server:
        replay = Replay(server.port)
        for name in recordings.NAMES:
            if name in UNRECORDED:
                replay.list_image(*UNRECORDED[name])
            played[name] = [
                (exchange, *judge(exchange.request, *replay.play(exchange))) for exchange in recordings.read(name)
            ]
    return played


class TestARecording:
    @pytest.mark.parametrize("name", recordings.NAMES)
    def test_has_the_recorded_responses(self, verdicts, name):
        for exchange, expected, answer, _ in verdicts[name]:
            where = f"{exchange.command}: {exchange.request.method} {exchange.request.target}"
            assert expected.status == answer.status, where
            assert expected.headers == answer.headers, where
            assert expected.body == answer.body, where


class TestTheRecordings:
    def test_cover_six_docker_versions_and_their_fresh_pulls(self):
        versions = [name.split("-")[2] for name in recordings.NAMES]
        assert ["1.5.0", "1.6.2", "1.9.1", "1.12.6", "17.05.0", "1.10.3"] == versions[:6]
        assert ["1.5.0", "1.6.2", "1.9.1", "1.10.3", "1.12.6", "17.05.0"] == versions[6:]

    def test_push_pull_search_and_log_in(self):
        asked = Counter()
        for name in recordings.NAMES:
            for exchange in recordings.read(name):
                asked[exchange.request.method, exchange.request.target.split("/")[2].partition("?")[0]] += 1
        assert 911 == asked.total()
        assert {("PUT", "images"), ("GET", "images"), ("PUT", "repositories"), ("GET", "repositories")} <= set(asked)
        assert {("GET", "search"), ("GET", "users"), ("POST", "users"), ("GET", "_ping")} <= set(asked)

    def test_need_every_declared_difference(self, verdicts):
        needed = {intended for rows in verdicts.values() for *_, needed in rows for intended in needed}
        assert set(INTENDED) == needed


class TestARebuiltLayer:
    @pytest.mark.parametrize("size", [32, 116, 150, 1065536])
    def test_has_the_size_of_the_recorded_one(self, size):
        layer = recordings.build_layer("seed", size)
        assert size == len(layer)
        assert layer == recordings.build_layer("seed", size)
