"""
Six real Dockers talked to docker-registry 0.7.1; this registry gives them the same answers.

Every request goes out as it was recorded, in its order, to one registry without API V2, as 0.7.1 was. Every header and
every byte of every answer is compared. What is meant to differ stands in `ORDAINED`, each with its reason.
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
    """It is another version."""
    return answer.having("X-Docker-Registry-Version", __version__)


def no_sniffing(_request, answer):
    """No browser takes what was pushed for a page."""
    return answer.having("X-Content-Type-Options", "nosniff")


def unknown_url(_request, answer):
    """Errors are JSON, also those of URLs that nobody knows: programs read them."""
    if answer.status != 404 or dict(answer.headers)["Content-Type"] != "text/html":
        return answer
    sentence = "The requested URL was not found on the server."
    advice = "If you entered the URL manually please check your spelling and try again."
    assert f"<p>{sentence}  {advice}</p>" in answer.body.decode()
    return answer.saying(json.dumps({"error": f"{sentence} {advice}"}).encode(), "application/json")


def checksum_header(_request, answer):
    """The payload's sum is sent under the name that Docker sends, too, not only under the name that 0.7.1 made up."""
    sums = [value for name, value in answer.headers if name == "X-Docker-Payload-Checksum"]
    return answer.having("X-Docker-Checksum-Payload", sums[0]) if sums else answer


def no_content(_request, answer):
    """An answer without a body announces none (RFC 9110, section 8.6); 0.7.1 announced two bytes that never came."""
    return answer.without("Content-Length") if answer.status == 204 else answer


def search_results(request, answer):
    """Results have all that today's ``docker search`` and ``podman search`` print."""
    if urlsplit(request.target).path != "/v1/search":
        return answer
    found = json.loads(answer.body)
    for result in found["results"]:
        result.update(star_count=0, is_official=False, is_automated=False)
    return answer.saying(json.dumps(found, sort_keys=True).encode())


def order_of_results(request, answer):
    """Results are in the order of their names, for there are pages of them; 0.7.1 had no order, and no pages."""
    if urlsplit(request.target).path != "/v1/search":
        return answer
    found = json.loads(answer.body)
    found["results"].sort(key=lambda result: result["name"])
    return answer.saying(json.dumps(found, sort_keys=True).encode())


def order_of_images(request, answer):
    """A list that was merged keeps the order in which the images came; 0.7.1 used the order of their hashes."""
    if request.method != "GET" or not request.target.endswith("/images") or answer.status != 200:
        return answer
    return answer.saying(json.dumps(sorted(json.loads(answer.body), key=lambda entry: entry["id"])).encode())


#: What differs on purpose: each turns what 0.7.1 answered into what this registry has to answer.
ORDAINED = (
    version, no_sniffing, unknown_url, checksum_header, no_content, search_results, order_of_results, order_of_images,
)  # fmt: skip

#: Those that cannot be told from the recording alone, and are done to both answers.
ON_BOTH_SIDES = (order_of_images,)

#: Two attempts were not recorded, but what they had begun was still there: it is begun here before these recordings.
UNRECORDED = {
    "03-docker-1.9.1": ("lab19/small", "baeca207bf1cb794058747b2c46c0207594934591f1547df58039aa2bfe79735"),
    "06-docker-1.10.3": ("lab110/small", "b8788a82d1b8428251ea006ac4acf124d14a3ed65d4e2e99163f96940587042a"),
}


def judge(request, recorded, answer):
    """Return what had to be answered, what was, and which differences were needed."""
    if answer.status >= 400:
        answer = answer.without("X-Request-Id")  # differs in every error
    needed = []
    for ordained in ORDAINED:
        changed = ordained(request, recorded)
        if changed != recorded:
            needed.append(ordained)
        recorded = changed
        if ordained in ON_BOTH_SIDES:
            answer = ordained(request, answer)
    return recorded, answer, needed


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory):
    """All that was recorded, played once to one registry: per recording its requests and their two answers."""
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
        needed = {ordained for rows in verdicts.values() for *_, needed in rows for ordained in needed}
        assert set(ORDAINED) == needed


class TestARebuiltLayer:
    @pytest.mark.parametrize("size", [32, 116, 150, 1065536])
    def test_has_the_size_of_the_recorded_one(self, size):
        layer = recordings.build_layer("seed", size)
        assert size == len(layer)
        assert layer == recordings.build_layer("seed", size)
